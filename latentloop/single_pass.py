"""A bare block as an encoder: what thinking is compared with."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from latentloop.adapt import adapt
from latentloop.blocks.facts import facts
from latentloop.depth import DepthLaw, FixedDepth
from latentloop.encoder import Thoughts, newest, read_newest, same_shape
from latentloop.errors import InputError

__all__ = ["SinglePass"]


class SinglePass(nn.Module):
    """A bare block as an encoder: one pass, one thought, no T_0, no aggregate, no extra LN ("Base").

    Args:
        block: any module that `adapt` understands.
    """

    depth_law: DepthLaw = FixedDepth(1)

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = adapt(block)

    def bind(self, dim: int) -> None:
        """Nothing of a bare block depends on d."""

    @property
    def packed(self) -> bool:
        """Whether the block also takes packed tokens."""
        return facts(self.block).packed

    @property
    def packed_core(self) -> bool:
        """The same: there is one block."""
        return self.packed

    @property
    def capturable(self) -> bool:
        """Whether a CUDA graph may replay the block's pass over packed tokens."""
        return facts(self.block).capturable

    @property
    def causal(self) -> bool:
        """Whether no position of the block sees later ones."""
        return facts(self.block).causal

    @property
    def pad_invariant(self) -> bool:
        """Whether extra left padding changes nothing for the block."""
        return facts(self.block).pad_invariant

    @property
    def fixed_length(self) -> bool:
        """Whether the block needs rows of exactly `max_length` positions."""
        return facts(self.block).fixed_length

    def draw_state(self, keys: Int[Tensor, " n"], slots: Int[Tensor, " n"]) -> Float[Tensor, "n 0"]:
        """No start state: (n, 0)."""
        return torch.empty(keys.shape[0], 0, device=keys.device)

    def pre(self, x: Float[Tensor, "*n d"], **context: Any) -> Float[Tensor, "*n d"]:
        """Nothing comes before the one pass."""
        return x

    def thoughts(
        self, hidden: Float[Tensor, "*n d"], *, state: Float[Tensor, "*n _"], depth: int, **context: Any
    ) -> Thoughts:
        """The newest position after the one pass.

        Raises:
            InputError: for a depth other than 1.
        """
        _one(depth)
        return Thoughts(read_newest("encoder", self.block, hidden, **context)[None])

    def everywhere(
        self, hidden: Float[Tensor, "*n d"], *, state: Float[Tensor, "*n _"], depth: int, **context: Any
    ) -> tuple[Thoughts, Float[Tensor, "*n d"]]:
        """`thoughts`, and every position's output.

        Raises:
            InputError: for a depth other than 1.
        """
        _one(depth)
        output = same_shape("encoder", self.block(hidden, **context), hidden)
        return Thoughts(newest(output, context.get("offsets"))[None]), output


def _one(depth: int) -> None:
    if depth != 1:
        raise InputError(f"depth must be 1 for an encoder without a loop, got {depth!r}: wrap it in RecurrentDepth")
