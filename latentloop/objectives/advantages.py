"""Group-relative advantages (LARES section 2.4)."""

from __future__ import annotations

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from latentloop.errors import InputError

__all__ = ["advantages"]


def advantages(rewards: Float[Tensor, "B G"]) -> Float64[Tensor, "B G"]:
    """A = (r - mean) / std within each group, with the population's std; exactly 0 where all of a group tie.

    Args:
        rewards: (B, G) finite.

    Raises:
        InputError: for another shape or a reward that is not finite.
    """
    if rewards.ndim != 2 or rewards.shape[1] < 1:
        raise InputError(f"rewards must be (groups, rollouts) with a rollout or more, got {tuple(rewards.shape)}")
    if not bool(rewards.isfinite().all()):
        raise InputError("rewards must be finite, found NaN or infinity")
    rewards = rewards.double()
    # halves first: neither the mean's sum nor the difference of two large rewards may overflow
    away = rewards / 2 - (rewards / (2 * rewards.shape[1])).sum(1, keepdim=True)
    # scaled by the largest, so that squares neither vanish nor overflow
    away = away / away.abs().amax(1, keepdim=True)
    away = away - away.mean(1, keepdim=True)
    scaled = away / away.square().mean(1, keepdim=True).sqrt()
    tied = rewards.amax(1, keepdim=True) == rewards.amin(1, keepdim=True)
    return torch.where(tied, torch.zeros_like(scaled), scaled)
