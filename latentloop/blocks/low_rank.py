"""A low-rank change of each matrix of a block, for thoughts to have to themselves."""

from __future__ import annotations

from collections.abc import Container, Iterator

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize

from latentloop.checks import at_least
from latentloop.errors import InputError

__all__ = ["LowRank", "low_rank", "matrices"]


class LowRank(nn.Module):
    """W + U D of rank r at most, which begins at W: U (out, r) is 0, D (r, in) is drawn from N(0, 1 / in).

    Args:
        weight: W, (out, in); the factors are of its dtype and on its device.
        rank: r, at least 1; no more than W can have is used.

    Raises:
        InputError: for another rank.
    """

    def __init__(self, weight: Float[Tensor, "out in"], rank: int) -> None:
        super().__init__()
        rows, columns = weight.shape
        self.rank = min(at_least("rank", rank, 1), rows, columns)
        drawn = torch.randn(self.rank, columns, dtype=weight.dtype, device=weight.device)
        self.down = nn.Parameter(drawn * max(1, columns) ** -0.5)
        self.up = nn.Parameter(weight.new_zeros(rows, self.rank))

    def forward(self, weight: Float[Tensor, "out in"]) -> Float[Tensor, "out in"]:
        """`weight` and its change."""
        return weight + self.up @ self.down


_ATTENTION = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")


def matrices(block: nn.Module) -> Iterator[tuple[str, nn.Module, str]]:
    """Name, module and attribute of each matrix that may change: those of linear layers and of attention's projections."""
    for name, layer in list(block.named_modules()):
        if isinstance(layer, nn.Linear):
            yield name, layer, "weight"
        if isinstance(layer, nn.MultiheadAttention):  # its output's projection is a linear layer
            yield from ((name, layer, one) for one in _ATTENTION if getattr(layer, one, None) is not None)


def low_rank(block: nn.Module, rank: int, *, but: Container[object] = ()) -> int:
    """Give each matrix of a block's linear layers and attentions, in place, a `LowRank` change, as LoRA does (Hu et al.,
    2022).

    A matrix of several layers has one change. It is added to what other parametrizations made of the matrix.

    Args:
        block: any module.
        rank: of each change, at least 1.
        but: `id` of each matrix that stays without.

    Returns:
        The largest rank of a change.

    Raises:
        InputError: for another rank, or a block without such a matrix that may change.
    """
    changes: dict[object, LowRank] = {}
    for name, layer, attribute in matrices(block):
        # what is parametrized is made anew whenever it is asked for
        ready = parametrize.is_parametrized(layer, attribute)
        matrix = (id(layer), attribute) if ready else id(getattr(layer, attribute))
        if matrix in but:
            continue
        if is_lazy(getattr(layer, attribute)):
            raise InputError(f"block: {name} has no size yet: pass some rows through it first")
        if matrix not in changes:
            changes[matrix] = LowRank(getattr(layer, attribute), rank)
        try:
            parametrize.register_parametrization(layer, attribute, changes[matrix])
        except (RuntimeError, ValueError) as error:
            raise InputError(f"block: the matrix of {name} cannot change: {' '.join(str(error).split())}") from error
    if not changes:
        raise InputError(
            f"block: {type(block).__name__} has no nn.Linear or nn.MultiheadAttention of which a matrix is shared and could "
            "change"
        )
    return max(change.rank for change in changes.values())
