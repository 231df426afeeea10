"""Whether what a user's module declares of itself holds, tried on one row: a false promise would give silent nonsense."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from latentloop.blocks.facts import Facts
from latentloop.errors import InputError

__all__ = ["try_facts"]

Run = Callable[[Tensor, Tensor], Tensor]


def try_facts(name: str, run: Run, promised: Facts, x: Float[Tensor, "1 L d"], history: Int[Tensor, "1 L"]) -> None:
    """Refuse a module that is not causal, or not pad-invariant, though it says so.

    What one row of random numbers does not show is believed.

    Args:
        name: of the module.
        run: x (1, L, d) and history (1, L) to hidden states like x, as in evaluation.
        promised: what the module declares, or what the way of calling it should make true.
        x: one row, of at least two real positions.
        history: its items, the oldest of them padding.

    Raises:
        InputError: naming the fact that does not hold.
    """
    answer = run(x, history)
    if answer.dtype not in (torch.float32, torch.float64) or not _same(run(x, history), answer):
        return  # numbers of few digits, and a module that draws anew at each call, cannot be compared
    real = int((history > 0).sum())
    if promised.causal:
        later = x.clone()
        later[:, -1] = torch.randn_like(later[:, -1])
        if not _same(run(later, history)[:, :-1], answer[:, :-1]):
            raise InputError(
                f"{name} declares causal = True, but another newest item changes the answers before it: mask later "
                "positions inside it, or drop the declaration"
            )
    if promised.pad_invariant and not promised.fixed_length:
        alone = run(x[:, -real:], history[:, -real:])
        if not _same(alone, answer[:, -real:]):
            raise InputError(
                f"{name} declares pad_invariant = True, but padding to the left of a row changes its answers: mask "
                "padding inside it, or drop the declaration"
            )


def _same(found: Tensor, expected: Tensor) -> bool:
    return torch.allclose(found, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max().clamp_min(1e-3)))
