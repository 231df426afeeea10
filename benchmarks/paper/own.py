"""How many of the answers, with the history kept in the ranking, are items that the user already has."""

from __future__ import annotations

import torch

from latentloop.data.sequences import Samples
from latentloop.items.top_k import top_k
from latentloop.modes.dropout import evaluating
from latentloop.recommender import Recommender

__all__ = ["own_items"]

_ROWS = 512


@torch.no_grad()
def own_items(model: Recommender, samples: Samples, k: int = 10) -> dict[str, float]:
    """The share of samples whose best item is of their history as the model reads it, and how many of the k best are.

    Args:
        model: what answers.
        samples: any number of them, at least one.
        k: how many answers are looked at, at most N.
    """
    samples, found = samples.to(model.device), []
    with evaluating(model):
        keys = model.keys()
        for index in torch.arange(len(samples), device=model.device).split(_ROWS):
            history = samples.history(index)
            _, items = top_k(model.encode(history), keys, min(k, model.num_items))
            found.append((items[:, :, None] == history[:, None, :]).any(2).double())
    own = torch.cat(found)
    return {"first": float(own[:, 0].mean()), f"of {k}": float(own.sum(1).mean())}
