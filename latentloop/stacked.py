"""Two blocks behind each other as one: the plain encoder ("Base") that has a loop's parameters but does not loop."""

from __future__ import annotations

from typing import Any, Literal

from jaxtyping import Float
from torch import Tensor, nn

from latentloop.adapt import adapt_both
from latentloop.blocks.facts import facts

__all__ = ["Stacked"]


class Stacked(nn.Module):
    """`core_block(pre_block(x))`.

    It promises what both promise, and needs rows of a fixed length where either does.

    Args:
        pre_block: any module that `adapt` understands.
        core_block: another, the same one (its weights are then shared), or "copy": a deep copy of `pre_block`.
    """

    def __init__(self, pre_block: nn.Module, core_block: nn.Module | Literal["copy"]) -> None:
        super().__init__()
        self.pre_block, self.core_block = adapt_both(pre_block, core_block)
        both = facts(self.pre_block), facts(self.core_block)
        self.causal = all(block.causal for block in both)
        self.pad_invariant = all(block.pad_invariant for block in both)
        self.fixed_length = any(block.fixed_length for block in both)
        self.packed = all(block.packed for block in both)
        self.capturable = all(block.capturable for block in both)

    def forward(self, x: Float[Tensor, "*n d"], *, step: int = 0, **context: Any) -> Float[Tensor, "*n d"]:
        """One pass through both, each told the step."""
        output: Tensor = self.core_block(self.pre_block(x, step=step, **context), step=step, **context)
        return output
