"""Rewards of a rollout: functions of where the target ranks, (greater, ties) -> reward.

`greater` is how many items score above the target, `ties` how many others exactly as high. Each reward is the metric's
expectation over a random order among the tied. Any callable of this signature serves as a reward.
"""

from __future__ import annotations

import inspect
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Float64, Int, Int64
from torch import Tensor

from latentloop.errors import InputError, InputTypeError
from latentloop.measures.metrics import Ranks, as_cutoff, ndcg, recall

__all__ = ["NDCGReward", "RecallReward", "Reward", "check_reward", "earned"]


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


def check_reward(reward: Reward, rollouts: int, device: torch.device) -> None:
    """Try a reward on one row, before anything is trained.

    Raises:
        InputError: for one that gives another shape than it takes.
        InputTypeError: for one that does not take (greater, ties).
    """
    ranks = torch.zeros(1, rollouts, dtype=torch.int64, device=device)
    try:
        inspect.signature(reward).bind(ranks, ranks)
    except TypeError as error:
        raise InputTypeError(f"reward must be a callable of (greater, ties): {error}") from None
    except ValueError:  # a callable that does not tell
        pass
    earned(reward, ranks, ranks.clone())


def earned(reward: Reward, greater: Int[Tensor, "B G"], ties: Int[Tensor, "B G"]) -> Float[Tensor, "B G"]:
    """What a reward gives for these ranks, float64.

    Raises:
        InputError: for a reward of another shape.
    """
    rewards: object = reward(greater, ties)
    if isinstance(rewards, Tensor) and rewards.shape == greater.shape:
        return rewards.double()
    found = tuple(rewards.shape) if isinstance(rewards, Tensor) else type(rewards).__name__
    raise InputError(f"reward must return a tensor {tuple(greater.shape)} like its arguments, got {found}")
