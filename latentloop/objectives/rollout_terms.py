"""What post-training logs of a step's rollouts: their rewards, groups that tie, and ratios that the clip stopped."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from latentloop.objectives.contract import Terms
from latentloop.objectives.policy import clipped
from latentloop.objectives.rollouts import Prepared

__all__ = ["rollout_terms"]


@torch.no_grad()
def rollout_terms(batch: Prepared, ratio: Float[Tensor, "steps R"], clip: float) -> Terms:
    """What the rollouts of the whole step came to, for the logs: of all processes, where there are several.

    Args:
        batch: with the rewards, (B, G).
        ratio: P, (k, R) or (1, R).
        clip: eps.
    """
    add_up = (lambda values: values) if batch.share is None else batch.share.add_up
    rewards, live = batch.rewards, batch.live
    moved = (live if len(ratio) > 1 else live[:1]) & (batch.advantage != 0)
    stopped = clipped(ratio, batch.advantage, clip) & moved
    tied = rewards.amax(1) == rewards.amin(1)
    own = (torch.ones_like(rewards), rewards, torch.ones_like(tied), tied, stopped, moved, ratio * moved)
    sums = add_up(torch.stack([values.sum().double() for values in own]))
    count, reward, groups, ties, stops, moves, ratio_sum = sums
    mean = reward / count
    terms = {
        "reward_mean": mean,
        "reward_std": (add_up((rewards - mean).square().sum()) / count).sqrt(),
        "zero_variance": ties / groups,
        "clip_share": stops / moves.clamp_min(1),
        "ratio_mean": torch.where(moves > 0, ratio_sum / moves.clamp_min(1), 1.0),
    }
    return {name: value.float() for name, value in terms.items()}
