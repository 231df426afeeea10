"""Keyed randomness: functions of (key, row, slot) alone, and normal or uniform ones."""

from __future__ import annotations

import math
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from latentloop.errors import InputTypeError
from latentloop.randomness import dropout_seed, fold, generator, keyed_normal, keyed_uniform, row_keys
from tests.core.worlds import seeds, unchecked

KEYS = st.integers(-(2**63), 2**63 - 1)
MASK = (1 << 64) - 1


def splitmix(bits: int) -> int:
    """The published finaliser in Python's unbounded integers."""
    bits = ((bits ^ (bits >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    bits = ((bits ^ (bits >> 27)) * 0x94D049BB133111EB) & MASK
    return bits ^ (bits >> 31)


@given(key=KEYS, row=KEYS)
def test_row_keys_are_splitmix64(key: int, row: int) -> None:
    golden = 0x9E3779B97F4A7C15
    wanted = splitmix(splitmix((row * golden + key) & MASK))
    assert int(row_keys(key, torch.tensor([row, 0]))[0]) & MASK == wanted


@pytest.mark.parametrize("seed", [1.5, 1.0, "1", None, True])
def test_a_seed_is_a_whole_number(seed: object) -> None:
    with unchecked(), pytest.raises(InputTypeError, match="seed must be a whole number, got"):
        fold(seed, "weights")  # type: ignore[arg-type]
    with unchecked():
        assert fold(np.int64(3), "weights") == fold(3, "weights")  # type: ignore[arg-type]


@given(key=st.integers(0, 2**62), number=st.integers(-10, 10**6))
def test_fold_tells_its_parts_apart(key: int, number: int) -> None:
    folded = [
        fold(key, number),
        fold(key, str(number)),
        fold(key, number, number),
        fold(key, f"{number}{number}"),
        fold(key, number, ""),
        fold(key),
        fold(key + 1, number),
        fold(key, "a", "b"),
        fold(key, "b", "a"),
    ]
    assert len(set(folded)) == len(folded)
    assert all(0 <= f < 2**63 for f in folded)


def test_fold_is_the_same_in_another_process() -> None:
    code = "from latentloop.randomness import fold; print(fold(7, 'state', 3))"
    paths = os.pathsep.join(p for p in sys.path if p)
    environment = {**os.environ, "PYTHONPATH": paths, "PYTHONHASHSEED": "12345"}
    printed = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert int(printed.stdout) == fold(7, "state", 3)


@given(seed=seeds)
def test_a_draw_does_not_depend_on_its_companions(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows = torch.from_numpy(rng.integers(0, 2**40, 9))
    slots = torch.from_numpy(rng.integers(0, 30, 9))
    order = torch.from_numpy(rng.permutation(9)[:5])
    keys = row_keys(seed, rows)
    together, picked = keyed_normal(keys, slots, 5), keyed_normal(keys[order], slots[order], 5)
    assert torch.equal(together[order], picked)
    assert torch.equal(keyed_uniform(seed, rows)[order], keyed_uniform(seed, rows[order]))


@given(seed=seeds)
def test_uniform_numbers_lie_in_the_unit_interval(seed: int) -> None:
    draws = keyed_uniform(seed, torch.arange(-50, 1000))
    assert draws.dtype == torch.float64
    assert bool(((draws >= 0) & (draws < 1)).all())


@pytest.mark.parametrize("key", [0, 1, 2**62 + 11])
def test_uniform_numbers_are_uniform(key: int) -> None:
    n = 100_000
    draws = np.sort(keyed_uniform(key, torch.arange(n)).numpy())
    distance = max(np.abs(draws - np.arange(n) / n).max(), np.abs(draws - np.arange(1, n + 1) / n).max())
    assert distance < 1.95 / math.sqrt(n)  # Kolmogorov-Smirnov, one in a thousand


@pytest.mark.parametrize(("key", "dim"), [(0, 64), (5, 7), (2**61 + 3, 1)])
def test_normal_numbers_are_normal(key: int, dim: int) -> None:
    rows = torch.arange(400_000 // dim)
    draws = keyed_normal(row_keys(key, rows), torch.zeros_like(rows), dim).double()
    n = draws.numel()
    flat = draws.flatten().sort().values
    assert abs(float(flat.mean())) < 4 / math.sqrt(n)
    assert abs(float(flat.pow(2).mean()) - 1) < 4 * math.sqrt(2 / n)
    assert abs(float(flat.pow(3).mean())) < 4 * math.sqrt(15 / n)
    assert abs(float(flat.pow(4).mean()) - 3) < 4 * math.sqrt(96 / n)
    expected = 0.5 * (1 + torch.erf(flat / math.sqrt(2)))
    steps = torch.arange(n, dtype=torch.float64) / n
    distance = torch.maximum((expected - steps).abs(), (expected - steps - 1 / n).abs()).max()
    assert float(distance) < 1.95 / math.sqrt(n)


def _correlation(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(np.corrcoef(a.flatten().numpy(), b.flatten().numpy())[0, 1])


def test_rows_slots_dimensions_and_keys_do_not_correlate() -> None:
    rows, slots = torch.arange(2001).repeat_interleave(21), torch.arange(21).repeat(2001)
    draws = keyed_normal(row_keys(3, rows), slots, 16).view(2001, 21, 16).double()
    other = keyed_normal(row_keys(4, rows), slots, 16).view(2001, 21, 16).double()
    pairs = {
        "rows": (draws[1:], draws[:-1]),
        "slots": (draws[:, 1:], draws[:, :-1]),
        "dims": (draws[..., 1:], draws[..., :-1]),
        "cosine and sine": (draws[..., :8], draws[..., 8:]),
        "keys": (draws, other),
        "next row's slot": (draws[1:, :-1], draws[:-1, 1:]),
        "key + 1 against row + 1": (draws[1:], other[:-1]),
    }
    for name, (a, b) in pairs.items():
        limit = 4.5 / math.sqrt(a.numel())
        assert abs(_correlation(a, b)) < limit, name
        assert abs(_correlation(a**2, b**2)) < limit, f"squares of {name}"


def test_generator_is_seeded_by_its_key() -> None:
    first, again, other = (torch.rand(4, generator=generator(key)) for key in (8, 8, 9))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@given(seed=seeds, key=st.integers(0, 2**63 - 1))
def test_dropout_seed_decides_dropout_and_leaves_the_global_stream_alone(seed: int, key: int) -> None:
    device, ones = torch.device("cpu"), torch.ones(64)
    masks = []
    for wander in (0, 3):
        torch.manual_seed(seed)
        torch.rand(wander)
        with dropout_seed(key, device):
            masks.append(torch.nn.functional.dropout(ones, 0.5))
        after = torch.rand(4)
        torch.manual_seed(seed)
        torch.rand(wander)
        assert torch.equal(after, torch.rand(4))
    assert torch.equal(masks[0], masks[1])
    with dropout_seed(fold(key, "another"), device):
        assert not torch.equal(masks[0], torch.nn.functional.dropout(ones, 0.5))


def test_dropout_seed_gives_the_stream_back_after_an_error() -> None:
    torch.manual_seed(1)
    wanted = torch.rand(3)
    torch.manual_seed(1)
    with pytest.raises(KeyError), dropout_seed(2, torch.device("cpu")):
        raise KeyError
    assert torch.equal(torch.rand(3), wanted)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_dropout_seed_on_the_cpu_leaves_the_accelerator_alone() -> None:
    torch.cuda.manual_seed(1)
    wanted = torch.rand(3, device="cuda")
    torch.cuda.manual_seed(1)
    with dropout_seed(2, torch.device("cpu")):
        torch.rand(3)
    assert torch.equal(torch.rand(3, device="cuda"), wanted)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_dropout_seed_on_the_accelerator() -> None:
    device = torch.device("cuda")
    ones, masks = torch.ones(64, device=device), []
    torch.cuda.manual_seed(1)
    wanted = torch.rand(3, device=device)
    torch.cuda.manual_seed(1)
    for _ in range(2):
        with dropout_seed(2, device):
            masks.append(torch.nn.functional.dropout(ones, 0.5))
    assert torch.equal(masks[0], masks[1])
    assert torch.equal(torch.rand(3, device=device), wanted)
