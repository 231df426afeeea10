"""Selection of samples before post-training (LARES section 2.4): what the model cannot reach teaches it nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from latentloop.across_ranks import ALONE, Processes
from latentloop.checks import at_least
from latentloop.data.sequences import Samples
from latentloop.items.ranks import count_ranks
from latentloop.modes.dropout import evaluating
from latentloop.randomness import fold, row_keys

if TYPE_CHECKING:
    from latentloop.recommender import Recommender

__all__ = ["select"]


@torch.no_grad()
def select(
    model: Recommender,
    samples: Samples,
    *,
    cut: int = 100,
    trials: int = 3,
    key: int,
    depth: int | None = None,
    batch_size: int = 1024,
    processes: Processes = ALONE,
) -> Samples:
    """Keep the samples whose target ranks within the first `cut` in at least one of `trials` inference trials.

    Each trial thinks without dropout from its own T_0, drawn by (key, trial, sample number). Among ties the rank is
    the middle one.

    Args:
        model: the pre-trained model; its modes are as before afterwards.
        samples: what to choose from.
        cut: the last rank that is kept, at least 1.
        trials: independent trials, at least 1.
        key: of the trials' start states.
        depth: k; None is the inference depth.
        batch_size: samples at a time.
        processes: who tries a part each; every one of them calls this, and gets the whole.

    Raises:
        InputError: for a value out of range or a score that is NaN.
    """
    cut, trials = at_least("cut", cut, 1), at_least("trials", trials, 1)
    batch_size = at_least("batch_size", batch_size, 1)
    places = torch.arange(len(samples), device=samples.device)
    kept = torch.zeros(len(samples), dtype=torch.int64, device=samples.device)
    with evaluating(model):
        for index in processes.mine(torch.split(places, batch_size)):
            kept[index] = _reached(model, samples, index, cut, trials, key, depth).to(kept)
    return samples.select(processes.add_up(kept).bool())


def _reached(
    model: Recommender, samples: Samples, index: Tensor, cut: int, trials: int, key: int, depth: int | None
) -> Tensor:
    rows = samples.rows[index].to(model.device)
    keys = torch.stack([row_keys(fold(key, "trial", trial), rows) for trial in range(trials)], 1).flatten()
    history, target = samples.history(index).to(model.device), samples.target(index).to(model.device)
    final = model.think(history, depth=depth, state_keys=keys, copies=trials).final
    greater, ties = count_ranks(model.queries(final), model.keys(), target.repeat_interleave(trials))
    return (2 * greater + ties + 2 <= 2 * min(cut, model.num_items)).view(-1, trials).any(1)
