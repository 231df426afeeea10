"""A low-rank change of each matrix of a block, for thoughts to have to themselves."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils import parametrize

from latentloop.checks import at_least
from latentloop.errors import InputError

__all__ = ["LowRank", "low_rank"]


class LowRank(nn.Module):
    """W + U D of rank r at most, which begins at W: U (out, r) is 0, D (r, in) is drawn from N(0, 1 / in).

    Args:
        out_features: rows of W.
        in_features: its columns.
        rank: r, at least 1; no more than W can have is used.

    Raises:
        InputError: for another rank.
    """

    def __init__(self, out_features: int, in_features: int, rank: int) -> None:
        super().__init__()
        self.rank = min(at_least("rank", rank, 1), out_features, in_features)
        self.down = nn.Parameter(torch.randn(self.rank, in_features) * in_features**-0.5)
        self.up = nn.Parameter(torch.zeros(out_features, self.rank))

    def forward(self, weight: Float[Tensor, "out in"]) -> Float[Tensor, "out in"]:
        """`weight` and its change."""
        return weight + self.up @ self.down


def low_rank(block: nn.Module, rank: int) -> nn.Module:
    """`block` itself, each linear layer's matrix with a `LowRank` change, as in LoRA (Hu et al., 2022).

    Args:
        block: any module with an `nn.Linear` inside.
        rank: of each change, at least 1.

    Raises:
        InputError: for another rank, or a block without a linear layer.
    """
    layers: list[nn.Linear] = [part for part in block.modules() if isinstance(part, nn.Linear)]
    if not layers:
        raise InputError(f"block: {type(block).__name__} has no nn.Linear whose matrix could change")
    for layer in layers:
        change = LowRank(layer.out_features, layer.in_features, rank)
        parametrize.register_parametrization(layer, "weight", change)
    return block
