"""What a trained loop's thoughts do: whether they still move, and whether its answers depend on where they start."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from latentloop.data.sequences import Samples
from latentloop.encoder import Thoughts
from latentloop.evaluation import Thinker, evaluate
from latentloop.items.ranks import count_ranks
from latentloop.measures.metrics import Ranks, ndcg
from latentloop.modes.dropout import evaluating
from latentloop.randomness import fold, row_keys
from latentloop.recommender import Recommender

__all__ = ["Averaged", "thinking"]

USERS = 2048


@dataclass
class Averaged:
    """A model that answers with the mean of its last thoughts from several start states: what drawing more buys.

    Args:
        model: with a loop.
        draws: start states a history.
        key: of the start states.
    """

    model: Recommender
    draws: int
    key: int

    @property
    def num_items(self) -> int:
        """N."""
        return self.model.num_items

    @property
    def inference_depth(self) -> int:
        """The mean is one thought, whatever the model took to come to it."""
        return 1

    def each(self, history: Tensor) -> Tensor:
        """Every draw's last thought, (B, draws, d)."""
        keys = row_keys(self.key, torch.arange(len(history) * self.draws, device=history.device))
        last = self.model.think(history, state_keys=keys, copies=self.draws).final
        return rearrange(last, "(b draws) d -> b draws d", draws=self.draws)

    def think(self, history: Tensor, *, depth: int | None = None) -> Thoughts:
        """One thought: the mean over draws, (1, B, d)."""
        return Thoughts(self.each(history).mean(1)[None])

    def queries(self, thoughts: Tensor) -> Tensor:
        """The model's."""
        return self.model.queries(thoughts)

    def keys(self) -> Tensor:
        """The model's."""
        return self.model.keys()


@torch.no_grad()
def thinking(model: Recommender, samples: Samples, *, seed: int, depth: int = 8, draws: int = 8) -> dict[str, Any]:
    """Measure a loop's thoughts on the first `USERS` of `samples`.

    Args:
        model: with a loop.
        samples: validation's, one a user.
        seed: of the start states.
        depth: how many thoughts are followed.
        draws: start states a history.

    Returns:
        "moves": |t_j - t_{j-1}| / |t_j| for j = 2..depth, means over users; "spread": how far the draws' last thoughts
        lie from their mean, root mean square, relative to their own (0 where T_0 is forgotten, sqrt(1 - 1/draws) where
        nothing else is left); "undecided": the share of users whose target is among the ten best from some start states
        only; "ndcg@10": of the saved start state, of T_0 = 0, and of the mean over draws.
    """
    samples = samples.select(torch.arange(min(USERS, len(samples))))
    averaged = Averaged(model, draws, fold(seed, "draws"))
    keys = model.keys()
    moves, spread, zero, hits = [], [], [], []
    with evaluating(model):
        for index in torch.arange(len(samples), device=samples.device).split(512):
            history, target = samples.history(index), samples.target(index)
            steps = model.think(history, depth=depth).steps
            moves.append((steps.diff(dim=0).norm(dim=-1) / steps[1:].norm(dim=-1)).T)
            each = averaged.each(history)
            middle = each.mean(1, keepdim=True)
            spread.append(((each - middle).square().sum((1, 2)) / each.square().sum((1, 2))).sqrt())
            start = torch.zeros(*history.shape, model.dim, device=history.device)
            zero.append(_greater(model, model.think(history, state=start).final, keys, target))
            flat = rearrange(each, "b draws d -> (b draws) d")
            found = _greater(model, flat, keys, target.repeat_interleave(draws))
            hits.append((found < 10).view(len(index), draws))
        ndcgs = {"saved state": _ndcg(model, samples), f"mean of {draws} draws": _ndcg(averaged, samples)}
    hit = torch.cat(hits)
    ranks = torch.cat(zero)
    return {
        "moves": torch.cat(moves).mean(0).tolist(),
        "spread": float(torch.cat(spread).mean()),
        "undecided": float((hit.any(1) & ~hit.all(1)).double().mean()),
        "ndcg@10": ndcgs | {"zero state": float(ndcg(Ranks(ranks, torch.zeros_like(ranks)), 10).mean())},
    }


def _ndcg(model: Thinker, samples: Samples) -> float:
    return evaluate(model, samples).metrics["ndcg@10"]


def _greater(model: Recommender, thoughts: Tensor, keys: Tensor, target: Tensor) -> Tensor:
    return count_ranks(model.queries(thoughts), keys, target)[0]
