"""Rows of exactly L positions for what runs over all of them, from either layout.

With padding as zeros, real tokens are all that a filter needs to be told: packed tokens are spread over rows of zeros
before it and gathered behind it, and everything that acts on single positions touches real tokens only.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from latentloop.errors import InputError

__all__ = ["Rows"]


@dataclass(frozen=True)
class Rows:
    """The way from a layout to (B, L, d) with zeros at padding, and back.

    Args:
        length: L.
        padding: (B, L) True = make it zero; None leaves padded rows as they are. Padded layout only.
        places: (tokens,) each packed token's place in the rows laid end to end; None for padded rows.
        offsets: (B + 1,) where each packed row starts; None for padded rows.
    """

    length: int
    padding: Bool[Tensor, "B L"] | None = None
    places: Int[Tensor, " tokens"] | None = None
    offsets: Int[Tensor, " B1"] | None = None

    @classmethod
    def padded(
        cls, name: str, x: Float[Tensor, "B L2 d"], padding: Bool[Tensor, "B L2"] | None, *, length: int
    ) -> Rows:
        """Left-padded rows, which have `length` positions or are refused (`InputError`) in the name of a block."""
        if x.shape[1] != length:
            raise InputError(
                f"{name} is made for rows of max_length = {length} positions, got {x.shape[1]}: "
                "make it with the recommender's max_length"
            )
        return cls(length, padding)

    @classmethod
    def packed(
        cls,
        name: str,
        x: Float[Tensor, "tokens d"],
        offsets: Int[Tensor, " B1"],
        longest: int | None,
        *,
        length: int,
    ) -> Rows:
        """Packed tokens, of which a row has at most `length`; `longest` saves looking that up."""
        lengths = offsets.diff()
        if longest is None:
            longest = int(lengths.max()) if lengths.shape[0] else 0
        if longest > length:
            raise InputError(
                f"{name} is made for rows of at most max_length = {length} tokens, got {longest}: "
                "make it with the recommender's max_length"
            )
        ends = torch.arange(1, lengths.shape[0] + 1, device=x.device) * length
        shift = torch.repeat_interleave(ends - offsets[1:], lengths, output_size=x.shape[0])
        return cls(length, None, torch.arange(x.shape[0], device=x.device) + shift, offsets)

    def spread(self, x: Float[Tensor, "*n d"]) -> Float[Tensor, "B L d"]:
        """The tokens in rows, newest last, zeros at padding."""
        if self.places is None or self.offsets is None:
            return x if self.padding is None else x.masked_fill(self.padding[..., None], 0.0)
        rows = self.offsets.shape[0] - 1
        empty = x.new_zeros(rows * self.length, x.shape[-1])
        return empty.index_copy(0, self.places, x).view(rows, self.length, x.shape[-1])

    def gather(self, rows: Float[Tensor, "B L d"]) -> Float[Tensor, "*n d"]:
        """Back in the layout that was spread."""
        return rows if self.places is None else rows.flatten(0, 1).index_select(0, self.places)

    def newest(self, x: Float[Tensor, "*n d"]) -> Float[Tensor, "B d"]:
        """Each row's newest token."""
        return x[:, -1] if self.offsets is None else x.index_select(0, self.offsets[1:] - 1)
