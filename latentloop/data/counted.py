"""Numbers of tokens on the host, without waiting for an accelerator's training steps."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import islice

import torch
from torch import Tensor

from latentloop.data.batch import Batch

__all__ = ["counted"]


def counted(batches: Iterable[Batch], max_length: int, together: int = 1) -> Iterator[Batch]:
    """The same batches with their `tokens`.

    Some are made before the ones ahead of them are handed out, so their numbers are on the host before their steps begin.

    Args:
        batches: of one epoch.
        max_length: the newest columns that a model reads.
        together: how many are counted at once; twice as many wait at most.
    """
    source = iter(batches)
    ahead: _Counting | None = None
    while group := list(islice(source, together)):
        following = _Counting(group, max_length)
        if ahead is not None:
            yield from ahead.done()
        ahead = following
    if ahead is not None:
        yield from ahead.done()


class _Counting:
    """Batches whose numbers are on their way."""

    def __init__(self, group: list[Batch], max_length: int) -> None:
        self.group = group
        own = [batch.history for batch in group]
        same = [batch.same_target for batch in group if batch.same_target is not None]
        counts = _tokens(own, max_length)
        counts = torch.stack([counts, _tokens(same, max_length) if same else torch.zeros_like(counts)], 1)
        self.arrived: torch.cuda.Event | None = None
        if counts.device.type == "cuda":
            self.counts = torch.empty(counts.shape, dtype=counts.dtype, pin_memory=True)
            self.counts.copy_(counts, non_blocking=True)
            self.arrived = torch.cuda.Event()
            self.arrived.record()
        else:
            self.counts = counts.cpu()

    def done(self) -> Iterator[Batch]:
        if self.arrived is not None:
            self.arrived.synchronize()
        for batch, (own, same) in zip(self.group, self.counts.tolist(), strict=True):
            yield replace(batch, tokens=(own, same))


def _tokens(histories: list[Tensor], max_length: int) -> Tensor:
    """Of each of them, (n,)."""
    lengths = (torch.cat(histories)[:, -max_length:] != 0).sum(1).clamp_(min=1)
    return torch.stack([part.sum() for part in lengths.split([len(history) for history in histories])])
