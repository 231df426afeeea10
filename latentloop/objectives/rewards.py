"""Rewards of a rollout: functions of where the target ranks, (greater, ties) -> reward.

`greater` is how many items score above the target, `ties` how many others exactly as high. Each reward is the metric's
expectation over a random order among the tied. Any callable of this signature serves as a reward.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float64, Int
from torch import Tensor

from latentloop.checks import at_least

__all__ = ["NDCGReward", "RecallReward", "Reward"]


@runtime_checkable
class Reward(Protocol):
    """Any callable of two int64 tensors that returns rewards of the same shape."""

    def __call__(self, greater: Tensor, ties: Tensor, /) -> Tensor:
        """The reward of each rollout."""
        ...


class RecallReward:
    """Recall@k: 1 where the target ranks among the first k, else 0.

    Args:
        k: the cut, at least 1.
    """

    def __init__(self, k: int = 10) -> None:
        self.k = at_least("k", k, 1)

    def __call__(self, greater: Int[Tensor, "*n"], ties: Int[Tensor, "*n"]) -> Float64[Tensor, "*n"]:
        """The share of the tied ranks greater + 1 .. greater + ties + 1 that lie within k."""
        return (self.k - greater).clamp_min(0).minimum(ties + 1) / (ties + 1).double()

    def __repr__(self) -> str:
        return f"RecallReward({self.k})"


class NDCGReward:
    """NDCG@k: 1 / log2(rank + 1) where the target ranks among the first k, else 0.

    Args:
        k: the cut, at least 1.
    """

    def __init__(self, k: int = 10) -> None:
        self.k = at_least("k", k, 1)

    def __call__(self, greater: Int[Tensor, "*n"], ties: Int[Tensor, "*n"]) -> Float64[Tensor, "*n"]:
        """The mean gain over the tied ranks greater + 1 .. greater + ties + 1."""
        ranks = torch.arange(1, self.k + 1, dtype=torch.float64, device=greater.device)
        total = torch.cat([ranks.new_zeros(1), (1 / torch.log2(ranks + 1)).cumsum(0)])
        gains = total[(greater + ties + 1).clamp_max(self.k)] - total[greater.clamp_max(self.k)]
        return gains / (ties + 1).double()

    def __repr__(self) -> str:
        return f"NDCGReward({self.k})"
