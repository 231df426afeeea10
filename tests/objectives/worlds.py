"""Small models and batches for the tests of the objectives."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from latentloop.across_ranks import Share
from latentloop.data.batch import Batch
from latentloop.depth import UniformDepth
from latentloop.recommender import Recommender
from latentloop.recurrence import RecurrentDepth, Thoughts
from latentloop.thinking.everywhere import Everywhere

NUM_ITEMS, DIM, LENGTH = 23, 6, 5

seeds = st.integers(0, 2**31 - 1)
T = TypeVar("T")


class Room:
    """Where threads, as if they were processes, wait for each other and see what the others have."""

    def __init__(self, world: int) -> None:
        self.barrier, self.values = threading.Barrier(world, timeout=60), [torch.zeros(())] * world

    def exchange(self, rank: int, value: Tensor) -> list[Tensor]:
        self.values[rank] = value
        self.barrier.wait()
        every = list(self.values)
        self.barrier.wait()
        return every


@dataclass(frozen=True)
class Beside(Share):
    """A share of a step whose other rows are in other threads."""

    room: Room = field(default_factory=lambda: Room(1))

    def add_up(self, values: Tensor) -> Tensor:
        parts = self.room.exchange(self.rank, values.detach() if self.own else torch.zeros_like(values))
        return torch.stack(parts).sum(0)

    def gather(self, rows: Tensor) -> Tensor:
        assert rows.dtype not in (torch.bfloat16, torch.float16)  # sums of what comes back want more digits
        return torch.cat(self.room.exchange(self.rank, rows[: self.own]))


def side_by_side(rows: int, work: Callable[[Share], T], world: int = 2) -> list[T]:
    """What `work` returns for each share of a step of so many rows, all at once."""
    room = Room(world)
    counts = Share.of(rows, rank=0, world=world).counts

    def run(rank: int) -> T:
        try:
            return work(Beside(rank, counts, room))
        except BaseException:
            room.barrier.abort()
            raise

    with ThreadPoolExecutor(world) as threads:
        running = [threads.submit(run, rank) for rank in range(world)]
    failed = [error for each in running if (error := each.exception()) is not None]
    if failed:  # the first cause, not those who waited for it
        raise min(failed, key=lambda error: isinstance(error, threading.BrokenBarrierError))
    return [each.result() for each in running]


def part_of(batch: Batch, share: Share) -> Batch:
    """The rows of a batch that one process has; one that has none holds the first as a stand-in."""
    mine = torch.arange(len(batch))[share.rank :: len(share.counts)] if share.own else torch.arange(1)
    same = None if batch.same_target is None else batch.same_target[mine]
    targets = None if batch.targets is None else batch.targets[mine]
    return Batch(batch.history[mine], batch.target[mine], batch.rows[mine], batch.key, same, share, targets)


class Core(nn.Module):
    """A core with dropout as a module and as a function."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.linear, self.dropout, self.p = nn.Linear(DIM, DIM), nn.Dropout(dropout), dropout

    def forward(self, x: Tensor) -> Tensor:
        mixed = torch.tanh(self.linear(self.dropout(x)) + x.cumsum(1) / 4)
        return nn.functional.dropout(mixed, self.p, self.training)


def recommender(
    seed: int, *, dropout: float = 0.3, loop: bool = True, num_items: int = NUM_ITEMS, **kwargs: Any
) -> Recommender:
    """In train mode and float64, with tables large enough that start states move ranks."""
    torch.manual_seed(seed)
    pre = nn.GRU(DIM, DIM, num_layers=2, dropout=dropout, batch_first=True)
    own = {"depth_law": UniformDepth(1, 4)} | {
        name: kwargs.pop(name) for name in ("checkpoint_steps",) if name in kwargs
    }
    encoder = RecurrentDepth(pre, Core(dropout), **own) if loop else pre
    model = Recommender(num_items, encoder, DIM, LENGTH, dropout=dropout, init_std=0.7, **kwargs)
    return model.double().train()


def batch_of(seed: int, rows: int | None = None, *, num_items: int = NUM_ITEMS, few_targets: bool = True) -> Batch:
    """Ragged left-padded histories; with few targets, so that some rows share one."""
    rng = np.random.default_rng(seed)
    rows = int(rng.integers(2, 8)) if rows is None else rows

    def histories() -> Tensor:
        made = np.zeros((rows, LENGTH), dtype=np.int64)
        for row, length in enumerate(rng.integers(1, LENGTH + 1, rows)):
            made[row, LENGTH - length :] = rng.integers(1, num_items + 1, length)
        return torch.from_numpy(made)

    target = rng.integers(1, (min(4, num_items) if few_targets else num_items) + 1, rows)
    numbers = rng.choice(1000, rows, replace=False)
    return Batch(
        histories(), torch.from_numpy(target), torch.from_numpy(numbers), int(rng.integers(2**62)), histories()
    )


def gradients(loss: Tensor, model: nn.Module) -> dict[str, Tensor]:
    """Of every parameter, zeros where the loss does not reach it."""
    names, parameters = zip(*model.named_parameters(), strict=True)
    found = torch.autograd.grad(loss, parameters, allow_unused=True)
    return {
        name: torch.zeros_like(parameter) if gradient is None else gradient
        for name, parameter, gradient in zip(names, parameters, found, strict=True)
    }


class Graphed:
    """Thinks as the model does, and writes down what it is told of the rows' tokens."""

    def __init__(self, model: Recommender) -> None:
        self.model, self.told = model, list[tuple[str, int]]()

    def __call__(self, history: Tensor, *, tokens: int, **options: Any) -> Thoughts:
        self.told.append(("thoughts", tokens))
        return self.model.think(history, **options)

    def everywhere(self, history: Tensor, *, tokens: int, **options: Any) -> Everywhere:
        self.told.append(("everywhere", tokens))
        return self.model.think_everywhere(history, **options)
