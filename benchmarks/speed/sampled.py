"""Pre-training steps with sampled negatives as the catalog grows: row-sparse gradients and state against dense ones."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.speed.options import Options
from benchmarks.speed.timing import Action, Pair
from benchmarks.speed.world import LENGTH, loop, random_split
from latentloop.data.batch import Batch, batches
from latentloop.data.sequences import Samples, Sequences
from latentloop.depth import FixedDepth
from latentloop.fitting.accelerator import make_accelerator
from latentloop.fitting.optimizer import build_optimizer
from latentloop.fitting.step import StepModule, updates
from latentloop.objectives import SPT, SampledNextItem
from latentloop.objectives.contract import touches_few_items, views_of

__all__ = ["sampled"]

NEGATIVES, USERS, ACTIONS = 512, 5_000, 8.9
LIMIT = 2048.0
"""MiB beyond the table, its state and the data."""


def sampled(options: Options) -> Iterator[Pair]:
    """A step at each size of the catalog; only the dense one's work grows with it."""
    size = options.sizes
    for items in size.catalogs:
        make = partial(_steps, items, min(USERS, size.users), size.spt_batch)
        yield Pair(
            f"sampled SPT, {items:,} items", "samples", size.spt_batch, partial(make, densely=False),
            partial(make, densely=True), beside="dense gradients and state", memory=True, limit_above=LIMIT,
        )  # fmt: skip


class _Densely:
    """The same loss, that of an objective which does not say that it touches few items."""

    def __init__(self, objective: SPT) -> None:
        self.objective, self.views = objective, views_of(objective)

    def __call__(self, views: Any, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        return self.objective(views, batch)


def _steps(items: int, users: int, batch_size: int, *, densely: bool) -> Action:
    """One optimizer step at depth 4, as `fit` takes it."""
    known = random_split(users, min(1000, items), ACTIONS).train
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randint(1, items + 1, known.sequences.items.shape, dtype=torch.int32, generator=generator)
    samples = Samples(Sequences(drawn, known.sequences.offsets, items), known.user, known.end, LENGTH)
    batch = next(iter(batches(samples, batch_size, key=0, epoch=1, same_target=True)))
    counts = torch.bincount(drawn, minlength=items + 1)[1:]
    spt = SPT(next_item=SampledNextItem(NEGATIVES, item_counts=counts))
    objective: Any = _Densely(spt) if densely else spt
    model, accelerator = loop(items).train(), make_accelerator(device="cpu")
    model.encoder.depth_law = FixedDepth(4)
    optimizer = build_optimizer(model, learning_rate=1e-3, weight_decay=0.0, few_items=touches_few_items(objective))
    module, optimizer = accelerator.prepare(StepModule(model, objective), optimizer)

    def run() -> None:
        for _ in updates(module, model, objective, optimizer, accelerator, batch, None):
            pass

    return run
