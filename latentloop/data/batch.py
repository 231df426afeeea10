"""Batches: slices of a keyed order, the same on every process and from any starting point."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from jaxtyping import Int64
from torch import Tensor

from latentloop.across_ranks import Share
from latentloop.checks import at_least
from latentloop.data.positives import SameTarget
from latentloop.data.sequences import Samples
from latentloop.data.windows import Windows
from latentloop.errors import InputError
from latentloop.randomness import fold, generator

__all__ = ["Batch", "at_once", "batches", "num_batches"]

_ROWS_TOGETHER = 2**14
"""Rows whose batches an accelerator makes at once: for a thousand rows it is launches that cost."""


@dataclass(frozen=True, eq=False)
class Batch:
    """What one step reads.

    Args:
        history: (B, L) int64, left-padded with 0.
        target: (B,) int64, 1..N.
        rows: (B,) int64 sample numbers.
        key: the step's key; all randomness of the step folds from it.
        same_target: (B, L) int64, the history of another sample with the same target, or None when not asked for.
        share: which of the step's rows these are, where several processes have the others; None has all of them.
        targets: (B, L) int64, the item that follows each position of `history`, 0 where none is learned; its newest
            column is `target`. None where only `target` is learned.
        tokens: items of `history` and of `same_target` that a model reads, a row without any counting one, where the host
            knows them.
    """

    history: Int64[Tensor, "B L"]
    target: Int64[Tensor, " B"]
    rows: Int64[Tensor, " B"]
    key: int
    same_target: Int64[Tensor, "B L"] | None = None
    share: Share | None = None
    targets: Int64[Tensor, "B L"] | None = None
    tokens: tuple[int, int] | None = None

    def __len__(self) -> int:
        return len(self.target)

    @property
    def total(self) -> int:
        """Rows of this step on all processes together."""
        return len(self) if self.share is None else self.share.total

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on `device`."""
        same = None if self.same_target is None else self.same_target.to(device)
        targets = None if self.targets is None else self.targets.to(device)
        return replace(
            self,
            history=self.history.to(device),
            target=self.target.to(device),
            rows=self.rows.to(device),
            same_target=same,
            targets=targets,
        )


def at_once(device: torch.device, batch_size: int) -> int:
    """How many batches are made at once there."""
    return 1 if device.type == "cpu" else max(1, _ROWS_TOGETHER // batch_size)


def num_batches(num_samples: int, batch_size: int) -> int:
    """How many batches an epoch has; every process sees as many.

    Args:
        num_samples: samples in the epoch.
        batch_size: rows of a batch on all processes together.

    Raises:
        InputError: for samples below 0 or a batch size below 1.
    """
    return -(-at_least("num_samples", num_samples, 0) // at_least("batch_size", batch_size, 1))


def batches(
    samples: Samples | Windows,
    batch_size: int,
    *,
    key: int,
    epoch: int,
    shuffle: bool = True,
    same_target: bool | SameTarget = False,
    rank: int = 0,
    world: int = 1,
    start: int = 0,
) -> Iterator[Batch]:
    """One epoch of batches on the samples' device, each sample exactly once, the short last batch included.

    A process that the last batch has no row for gets one that stands in, see `Share`.

    The order comes from fold(key, "order", epoch) and step i's key from fold(key, "step", epoch, i): neither depends
    on how many processes share the work or where an interrupted epoch continues.

    Args:
        samples: what to go through; of windows, batches have `targets` too.
        batch_size: rows of a batch on all processes together.
        key: the run's key.
        epoch: number of the epoch.
        shuffle: whether to permute; otherwise samples come in their order.
        same_target: whether to add a positive's history; pass a `SameTarget` to sort the samples once for all epochs,
            or to draw positives from more samples than these.
        rank: which of the processes this is; process r takes rows r, r + world, ... of each batch.
        world: number of processes.
        start: the first batch to hand out, for continuing within an epoch.

    Raises:
        InputError: a batch size below the number of processes, a rank out of range, or a number that is not whole.
    """
    world, rank = at_least("world", world, 1), at_least("rank", rank, 0)
    batch_size, start = at_least("batch_size", batch_size, 1), at_least("start", start, 0)
    epoch = at_least("epoch", epoch, 0)  # and a plain int: keys fold from a number's type too
    if rank >= world:
        raise InputError(f"rank: {rank} of world {world}, expected 0 <= rank < world")
    if batch_size < world:
        raise InputError(f"batch_size: {batch_size}, expected at least 1 row for each of {world} processes")
    windows = samples if isinstance(samples, Windows) else None
    rows = samples.samples if isinstance(samples, Windows) else samples
    return _batches(rows, windows, batch_size, key, epoch, shuffle, same_target, rank, world, start)


def _batches(
    samples: Samples,
    windows: Windows | None,
    batch_size: int,
    key: int,
    epoch: int,
    shuffle: bool,
    same_target: bool | SameTarget,
    rank: int,
    world: int,
    start: int,
) -> Iterator[Batch]:
    positives = SameTarget(samples) if same_target is True else same_target or None
    if shuffle:
        order = torch.randperm(len(samples), generator=generator(fold(key, "order", epoch))).to(samples.device)
    else:
        order = torch.arange(len(samples), device=samples.device)
    count = num_batches(len(samples), batch_size)
    together = at_once(samples.device, batch_size)
    for first in range(start, count, together):
        numbers = range(first, min(first + together, count))
        every = [order[number * batch_size : (number + 1) * batch_size] for number in numbers]
        parts = [part[rank::world] if rank < len(part) else part[:1] for part in every]
        steps, sizes = [fold(key, "step", epoch, number) for number in numbers], [len(part) for part in parts]
        index = torch.cat(parts)
        rows = samples.rows[index]
        same: tuple[Tensor | None, ...] = (None,) * len(parts)
        if positives is not None:
            places = index if positives.samples is samples else positives.samples.locate(rows)
            keys = [row.new_full(row.shape, fold(step, "same_target")) for row, step in zip(parts, steps, strict=True)]
            drawn = positives.draw(places, torch.cat(keys))
            same = positives.samples.history(drawn).split(sizes)
        targets = (None,) * len(parts) if windows is None else windows.targets(index).split(sizes)
        made = zip(
            samples.history(index).split(sizes), samples.target(index).split(sizes), rows.split(sizes), strict=True
        )
        for at, (history, target, row) in enumerate(made):
            share = None if world == 1 else Share.of(len(every[at]), rank=rank, world=world)
            yield Batch(history, target, row, steps[at], same[at], share, targets[at])
