"""What the blocks of attention and filter layers share: layers one after the other, and a norm behind the last."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any, Literal

from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

__all__ = ["LayerStack"]


class LayerStack(nn.Module, ABC):
    """Layers that are told where tokens stand, which is worked out once for all of them by `_read`.

    A layer is called as `layer(x, *read)`, and its `last(x, *read)` gives the newest position only.

    Args:
        layers: of one kind.
        dim: d.
        norm: layers of "pre" norm leave their sum as it is, so one more norm follows the last.
    """

    def __init__(self, layers: Iterable[nn.Module], dim: int, *, norm: Literal["pre", "post"]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.output_norm = nn.LayerNorm(dim) if norm == "pre" else nn.Identity()

    def forward(
        self,
        x: Float[Tensor, "*n d"],
        *,
        padding_mask: Bool[Tensor, "B L"] | None = None,
        offsets: Int[Tensor, " B1"] | None = None,
        max_length: int | None = None,
    ) -> Float[Tensor, "*n d"]:
        """Every position's output, in the layout of `x`.

        Args:
            x: left-padded rows, or packed tokens (tokens, d) with `offsets`.
            padding_mask: True = padding; None where there is none.
            offsets: where each row of packed tokens starts, and the end.
            max_length: the longest row of packed tokens.

        Raises:
            InputError: for rows of a length that the block is not made for.
        """
        read = self._read(x, padding_mask, offsets, max_length)
        for layer in self.layers:
            x = layer(x, *read)
        normed: Tensor = self.output_norm(x)
        return normed

    def last(
        self,
        x: Float[Tensor, "*n d"],
        *,
        padding_mask: Bool[Tensor, "B L"] | None = None,
        offsets: Int[Tensor, " B1"] | None = None,
        max_length: int | None = None,
    ) -> Float[Tensor, "B d"]:
        """The newest position's output only: the last layer computes no other."""
        read = self._read(x, padding_mask, offsets, max_length)
        for layer in self.layers[:-1]:
            x = layer(x, *read)
        last: Any = self.layers[-1]
        normed: Tensor = self.output_norm(last.last(x, *read))
        return normed

    @abstractmethod
    def _read(
        self, x: Tensor, padding_mask: Tensor | None, offsets: Tensor | None, max_length: int | None
    ) -> tuple[Any, ...]:
        """What each layer is told of the layout."""
