"""Rewards of a rollout: functions of where the target ranks, (greater, ties) -> reward.

`greater` is how many items score above the target, `ties` how many others exactly as high. Each reward is the metric's
expectation over a random order among the tied. Any callable of this signature serves as a reward.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from jaxtyping import Float64, Int64
from torch import Tensor

from latentloop.measures.metrics import Ranks, as_cutoff, ndcg, recall

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

    Raises:
        InputError: for a cut below 1, or one that 64 bits do not count.
    """

    def __init__(self, k: int = 10) -> None:
        self.k = as_cutoff("k", k)

    def __call__(self, greater: Int64[Tensor, "*n"], ties: Int64[Tensor, "*n"]) -> Float64[Tensor, "*n"]:
        """The share of the tied ranks greater + 1 .. greater + ties + 1 that lie within k, see `measures.metrics.recall`."""
        return recall(Ranks(greater.flatten(), ties.flatten()), self.k).view(greater.shape)

    def __repr__(self) -> str:
        return f"RecallReward({self.k})"


class NDCGReward:
    """NDCG@k: 1 / log2(rank + 1) where the target ranks among the first k, else 0.

    Args:
        k: the cut, at least 1.

    Raises:
        InputError: for a cut below 1, or one that 64 bits do not count.
    """

    def __init__(self, k: int = 10) -> None:
        self.k = as_cutoff("k", k)

    def __call__(self, greater: Int64[Tensor, "*n"], ties: Int64[Tensor, "*n"]) -> Float64[Tensor, "*n"]:
        """The mean gain over the tied ranks greater + 1 .. greater + ties + 1, see `measures.metrics.ndcg`."""
        return ndcg(Ranks(greater.flatten(), ties.flatten()), self.k).view(greater.shape)

    def __repr__(self) -> str:
        return f"NDCGReward({self.k})"
