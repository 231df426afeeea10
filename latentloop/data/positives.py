"""Positives for the alignment of trajectories: another sample that leads to the same item."""

from __future__ import annotations

import torch
from jaxtyping import Int, Int64
from torch import Tensor

from latentloop.checks import is_whole
from latentloop.data.sequences import Samples
from latentloop.errors import InputTypeError
from latentloop.randomness import keyed_uniform

__all__ = ["SameTarget"]


class SameTarget:
    """Draws, for a sample, another of the same target; it only ever sees the samples it is built from.

    Samples are sorted by target once; then a draw is one uniform number a row and no search through the group.

    Args:
        samples: the training part.
    """

    def __init__(self, samples: Samples) -> None:
        self.samples = samples
        index = torch.arange(len(samples), device=samples.device)
        target, self._order = samples.target(index).sort(stable=True)
        self._size = torch.bincount(target, minlength=samples.num_items + 1)
        self._start = torch.cumsum(self._size, 0) - self._size
        # within its group; target is sorted here, as the order is
        place = index - self._start.index_select(0, target)
        self._place = torch.empty_like(index).index_copy_(0, self._order, place)

    def draw(self, index: Int[Tensor, " B"], key: int | Int[Tensor, " B"]) -> Int64[Tensor, " B"]:
        """The place of another sample with the same target, uniformly; the sample's own where it is alone.

        Args:
            index: (B,) places in `samples`, not their numbers.
            key: what the draw is for, or one for each sample; the result depends on it, the samples' numbers and their
                targets only.

        Raises:
            InputTypeError: for a key that is no whole number.
        """
        if not isinstance(key, Tensor):
            if not is_whole(key):
                raise InputTypeError(f"key must be a whole number, or a tensor of one for each sample, got {key!r}")
            key = int(key)
        rows, target = self.samples.rows[index], self.samples.target(index)
        start, others, own = self._start[target], self._size[target] - 1, self._place[index]
        chosen = (keyed_uniform(key, rows) * others).long().clamp_max_(others.clone().sub_(1).clamp_min_(0))
        # skipping the sample itself keeps the others equally likely
        chosen = torch.where(others > 0, chosen + (chosen >= own), own)
        places: Tensor = self._order[start + chosen]
        return places
