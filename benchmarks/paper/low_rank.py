"""A low-rank change of each matrix of a block, for thoughts to have to themselves."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

__all__ = ["LowRank", "with_low_rank"]


class LowRank(nn.Module):
    """W + U D of rank r at most, which begins at W: U (out, r) is 0, D (r, in) is drawn from N(0, 1 / in)."""

    def __init__(self, out_features: int, in_features: int, rank: int) -> None:
        super().__init__()
        self.down = nn.Parameter(torch.randn(rank, in_features) * in_features**-0.5)
        self.up = nn.Parameter(torch.zeros(out_features, rank))

    def forward(self, weight: Tensor) -> Tensor:
        """`weight`, (out, in), and its change."""
        return weight + self.up @ self.down


def with_low_rank(block: nn.Module, rank: int) -> nn.Module:
    """`block` itself, each linear layer's matrix with a change of rank `rank`."""
    for part in list(block.modules()):
        if isinstance(part, nn.Linear):
            parametrize.register_parametrization(part, "weight", LowRank(*part.weight.shape, rank))
    return block
