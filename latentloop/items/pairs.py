"""Pairs of whole numbers, to take those whose first number is in a range."""

from __future__ import annotations

import torch
from jaxtyping import Int
from torch import Tensor

__all__ = ["Pairs"]


class Pairs:
    """Pairs of whole numbers in order of the first.

    Args:
        first: (n,) int64.
        second: (n,) int64.
    """

    def __init__(self, first: Int[Tensor, " n"], second: Int[Tensor, " n"]) -> None:
        self.first, order = first.sort(stable=True)
        self.second = second[order]

    def swapped(self) -> Pairs:
        """The same pairs with the second number first."""
        return Pairs(self.second, self.first)

    def between(self, start: int, stop: int) -> tuple[Int[Tensor, " m"], Int[Tensor, " m"]]:
        """The pairs whose first number is one of start..stop - 1; that number counts from `start`."""
        bounds = torch.tensor([start, stop], device=self.first.device)
        low, high = torch.searchsorted(self.first, bounds).tolist()
        return self.first[low:high] - start, self.second[low:high]

    def of(self, chosen: Int[Tensor, " m"]) -> Pairs:
        """The pairs whose first number is one of `chosen`, which rise; its place among them instead of it."""
        place = torch.searchsorted(chosen, self.first).clamp_(max=max(0, len(chosen) - 1))
        kept = chosen[place] == self.first
        return Pairs(place[kept], self.second[kept])
