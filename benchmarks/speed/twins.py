"""The same work done plainly: padded rows, one pass for each view, whole (rows x items) tensors."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from latentloop.data.batch import Batch
from latentloop.modes.dropout import dropout_off
from latentloop.randomness import fold, generator, row_keys
from latentloop.recommender import Recommender

__all__ = ["best_ten", "full_ranks", "rpt_loss", "spt_loss"]


def spt_loss(model: Recommender, batch: Batch, alpha: float = 0.1, gamma: float = 0.1, tau: float = 0.2) -> Tensor:
    """Next item + alpha x trajectory + gamma x step alignment."""
    assert batch.same_target is not None
    depth = model.depth_law.sample(generator(fold(batch.key, "depth")))
    anchor = model.think(batch.history, depth=depth, state_keys=_keys(batch, "anchor")).steps
    other = model.think(batch.same_target, depth=depth, state_keys=_keys(batch, "same_target")).steps
    loss = F.cross_entropy(model.queries(anchor[-1]) @ model.keys().T, batch.target - 1)
    same = batch.target[:, None] == batch.target[None, :]
    loss = loss + alpha * _info_nce(anchor[-1], other[-1], same, tau)
    if depth > 1:
        step = int(torch.randint(depth - 1, (), generator=generator(fold(batch.key, "step"))))
        loss = loss + gamma * _info_nce(anchor[step], anchor[-1], same, tau)
    return loss


def rpt_loss(model: Recommender, reference: Recommender, batch: Batch, rollouts: int = 4) -> Tensor:
    """The target policy with joint ratios and the full divergence; each rollout a row of its own from the start."""
    depth = model.depth_law.sample(generator(fold(batch.key, "depth")))
    keys = torch.cat([_keys(batch, f"rollout {g}") for g in range(rollouts)])
    history, target = batch.history.repeat(rollouts, 1), batch.target.repeat(rollouts) - 1
    with dropout_off(model):
        steps = model.think(history, depth=depth, state_keys=keys).steps
    with torch.no_grad():
        reference_steps = reference.think(history, depth=depth, state_keys=keys).steps
        reference_log = (reference.queries(reference_steps) @ reference.keys().T).log_softmax(-1)
    log = (model.queries(steps) @ model.keys().T).log_softmax(-1)
    picked = log[:, torch.arange(len(target), device=log.device), target].sum(0)
    with torch.no_grad():
        last = log[-1]
        rank = (last > last.gather(1, target[:, None])).sum(1)
        reward = (rank < 10).double().view(rollouts, -1)
        spread = reward.std(0, correction=0)
        advantage = torch.where(spread > 0, (reward - reward.mean(0)) / spread.clamp_min(1e-9), 0.0).flatten().float()
    divergence = (log.exp() * (log - reference_log)).sum(-1).mean(0)
    ratio = (picked - picked.detach()).exp()
    kept = torch.minimum(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage)
    return (divergence - kept).mean()


def full_ranks(model: Recommender, history: Tensor, target: Tensor) -> Tensor:
    """How many items score above the target."""
    scores = model.score(history)
    return (scores > scores.gather(1, target[:, None] - 1)).sum(1)


def best_ten(model: Recommender, history: Tensor) -> Tensor:
    """The ten best items that are not in the history."""
    scores = F.pad(model.score(history), (1, 0))
    scores.scatter_(1, history, -torch.inf)
    scores[:, 0] = -torch.inf
    return scores.topk(10).indices


def _keys(batch: Batch, name: str) -> Tensor:
    return row_keys(fold(batch.key, name), batch.rows)


def _info_nce(x: Tensor, y: Tensor, same: Tensor, tau: float) -> Tensor:
    scores = F.normalize(x, dim=1) @ F.normalize(y, dim=1).T / tau
    scores = scores.masked_fill(same & ~torch.eye(len(x), dtype=torch.bool, device=x.device), -torch.inf)
    labels = torch.arange(len(x), device=x.device)
    return (F.cross_entropy(scores, labels) + F.cross_entropy(scores.T, labels)) / 2
