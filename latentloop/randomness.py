"""Keyed randomness: every draw is a function of a key and of what it is for, so nothing has to be saved to repeat it.

A step's key comes from (seed, step). From it fold the depth, the positives, each view's start state and dropout, each
under its own name, so that drawing one never shifts another. Row-wise draws depend on (key, row) alone: the same
sample gets the same start state whatever batch, process or memory layout it is in.
"""

from __future__ import annotations

import hashlib
import math
import operator
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from latentloop.errors import InputTypeError

__all__ = ["dropout_seed", "fold", "generator", "keyed_normal", "keyed_uniform", "row_keys"]

# Constants of SplitMix64 (Steele, Lea, Flood 2014), as signed 64-bit integers because torch has no unsigned arithmetic.
_GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)
_MIX_1 = 0xBF58476D1CE4E5B9 - (1 << 64)
_MIX_2 = 0x94D049BB133111EB - (1 << 64)


def fold(key: int, *parts: int | str) -> int:
    """Derive a 63-bit key from `key` and `parts`; the same arguments give the same key on every machine.

    Args:
        key: the parent key or a user's seed (any integer).
        parts: names and counters that say what the new key is for.

    Raises:
        InputTypeError: for a seed that is no whole number.
    """
    try:
        whole = operator.index(key)
    except TypeError:
        whole = None
    if whole is None or isinstance(key, bool):
        raise InputTypeError(f"seed must be a whole number, got {key!r}") from None
    text = "\x1f".join([str(whole), *(f"{type(part).__name__}:{part}" for part in parts)])
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") & ((1 << 63) - 1)


def generator(key: int) -> torch.Generator:
    """A CPU generator seeded by `key`."""
    return torch.Generator().manual_seed(key)


def _shift(bits: Int[Tensor, "*n"], by: int) -> Int[Tensor, "*n"]:
    """Logical right shift: torch's is arithmetic and would drag the sign in."""
    return (bits >> by) & ((1 << (64 - by)) - 1)


def _mix(bits: Int[Tensor, "*n"]) -> Int[Tensor, "*n"]:
    """SplitMix64's finaliser: every input bit changes half of the output bits."""
    bits = (bits ^ _shift(bits, 30)) * _MIX_1
    bits = (bits ^ _shift(bits, 27)) * _MIX_2
    return bits ^ _shift(bits, 31)


def _signed(key: int) -> int:
    return ((key + (1 << 63)) % (1 << 64)) - (1 << 63)


def row_keys(key: int | Int[Tensor, " n"], rows: Int[Tensor, " n"]) -> Int[Tensor, " n"]:
    """One 64-bit key a row, a function of (key, row) only.

    Args:
        key: what the draw is for, see `fold`; or (n,) int64, one for each row.
        rows: (n,) int64 row numbers, such as sample numbers.
    """
    return _mix(_mix(rows.long() * _GOLDEN + (_signed(key) if isinstance(key, int) else key)))


def keyed_uniform(key: int | Int[Tensor, " n"], rows: Int[Tensor, " n"]) -> Float64[Tensor, " n"]:
    """Uniform numbers in [0, 1), one a row, that depend on (key, row) only.

    Args:
        key: what the draw is for, see `fold`; or (n,) int64, one for each row.
        rows: (n,) int64 row numbers.
    """
    return _shift(row_keys(key, rows), 11).double() * 2.0**-53


def keyed_normal(keys: Int[Tensor, " n"], slots: Int[Tensor, " n"], dim: int) -> Float[Tensor, "n dim"]:
    """Standard normal vectors that depend on (row key, slot) only, whatever else is drawn beside them.

    Counter-based: SplitMix64 of the counters, then Box-Muller. Bit-exact on one kind of device; across kinds the
    logarithm and the cosine may differ in the last place.

    Args:
        keys: (n,) int64 from `row_keys`.
        slots: (n,) int64 place within the row, such as the distance from the newest item.
        dim: length of each vector.
    """
    streams = _mix(keys + slots.long() * _GOLDEN)
    pairs = (dim + 1) // 2
    counters = torch.arange(1, pairs + 1, device=keys.device, dtype=torch.int64) * _GOLDEN
    bits = _mix(streams[:, None] + counters)
    # 32 bits each; the half keeps the radius' argument off 0, where the logarithm is infinite
    radius = (-2.0 * torch.log((_shift(bits, 32).float() + 0.5).mul_(2.0**-32).clamp_(max=1.0))).sqrt_()
    angle = (bits & 0xFFFFFFFF).float().mul_(2.0 * math.pi * 2.0**-32)
    return torch.cat([radius * angle.cos(), radius * angle.sin()], dim=1)[:, :dim]


@contextmanager
def dropout_seed(key: int, device: torch.device) -> Iterator[None]:
    """Seed torch's global generators (which dropout reads) by `key`, and give them back unchanged afterwards.

    Args:
        key: what the draw is for, see `fold`.
        device: the device whose generator dropout uses, beside the CPU's.
    """
    cuda = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        # not torch.manual_seed: it would also reseed accelerators whose state is not given back
        torch.default_generator.manual_seed(key)
        for forked in cuda:
            with torch.cuda.device(forked):
                torch.cuda.manual_seed(key)
        yield
