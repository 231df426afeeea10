"""Windows: rows that are learned from at every position, so that each target is learned exactly once.

Prefix samples give each target a row of its own, its history. A causal encoder answers every prefix of a row in one
pass, so a user's n - 1 targets need one row where they fit into L positions.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Int, Int64
from torch import Tensor

from latentloop.checks import at_least
from latentloop.data.sequences import Samples
from latentloop.errors import InputError

__all__ = ["Windows"]


@dataclass(frozen=True, eq=False)
class Windows:
    """Samples whose newest positions are all learned from.

    Args:
        samples: (W,) the newest sample of each window, which keeps its number.
        counts: (W,) int64, how many of the window's newest positions have a target to learn, 1..L.

    Raises:
        InputError: for counts out of range or not one a sample, or samples without targets.
    """

    samples: Samples
    counts: Int64[Tensor, " W"]

    def __post_init__(self) -> None:
        if len(self.counts) != len(self.samples):
            raise InputError(f"counts: {len(self.counts)}, expected one for each of {len(self.samples)} windows")
        if not self.samples.has_target:
            raise InputError(
                "samples: these reach to the newest item, no item follows; learn from a split's training part"
            )
        everything = torch.arange(len(self.samples), device=self.samples.device)
        positions = self.samples.lengths(everything).clamp_min(1)  # an empty history answers at its newest padding
        if bool(((self.counts < 1) | (self.counts > positions)).any()):
            raise InputError("counts: a window learns from none of its positions, or from more than it has")

    @classmethod
    def of(cls, samples: Samples, *, stride: int | None = None) -> Windows:
        """Windows that hold each of `samples` exactly once.

        A user's oldest L targets share one row, in which each has its whole past, as its prefix sample has. Every
        further row moves on by `stride`: it learns its newest `stride` targets, and each of them sees L - stride + 1
        items or more, where its prefix sample sees L. Where samples were left out (`select`), a row ends before the
        gap; the items are still read.

        Args:
            samples: prefix samples in any order, each at most once.
            stride: targets of a row that is not a user's oldest, 1..L; None is half of L, rounded up. 1 gives every
                target exactly the history of its prefix sample.

        Raises:
            InputError: for a stride out of range.
        """
        length = samples.max_length
        stride = (length + 1) // 2 if stride is None else at_least("stride", stride, 1)
        if stride > length:
            raise InputError(f"stride must be at most max_length = {length}, got {stride}")
        order = torch.argsort(samples.end)
        end = samples.end[order]
        place = end - samples.sequences.offsets[samples.user[order]]  # of the target, 1.. within its user
        # targets 1..L are window 0 of their user, then come `stride` a window; a first item has no position before it to
        # be learned at but the padding of a row of its own
        window = torch.div(place - 1 - length, stride, rounding_mode="floor").add_(1).clamp_min_(0)
        window.masked_fill_(place == 0, -1)
        follows = torch.zeros_like(end, dtype=torch.bool)
        follows[1:] = (end.diff() == 1) & (window.diff() == 0) & (samples.user[order].diff() == 0)
        number = torch.cumsum(~follows, 0) - 1
        counts = torch.bincount(number) if len(number) else torch.zeros_like(end)
        newest = order[torch.cumsum(counts, 0) - 1]
        return cls(samples.select(newest), counts)

    def __len__(self) -> int:
        return len(self.samples)

    def targets(self, index: Int[Tensor, " B"]) -> Int64[Tensor, "B L"]:
        """The item that follows each position of `samples.history(index)`, 0 where none is learned.

        Args:
            index: (B,) positions of windows.
        """
        slots = torch.arange(self.samples.max_length - 1, -1, -1, device=self.samples.device)
        places = self.samples.end[index, None] - slots
        items = self.samples.sequences.items[places.clamp_min(0)].long()
        return items.masked_fill_(slots >= self.counts[index, None], 0)

    def to(self, device: torch.device | str) -> Windows:
        """The same windows on `device`."""
        return replace(self, samples=self.samples.to(device), counts=self.counts.to(device))
