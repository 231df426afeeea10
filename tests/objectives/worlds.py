"""Small models and batches for the tests of the objectives."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from latentloop.data.batch import Batch
from latentloop.depth import UniformDepth
from latentloop.recommender import Recommender
from latentloop.recurrence import RecurrentDepth

NUM_ITEMS, DIM, LENGTH = 23, 6, 5

seeds = st.integers(0, 2**31 - 1)


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
