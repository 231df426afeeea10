"""Whether rows are padded where ours are: torch's own habit is the other side, and would be answered from padding."""

from __future__ import annotations

from contextlib import suppress

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from latentloop.errors import InputError
from latentloop.modes.exporting import exporting

__all__ = ["check_left_padded"]


def check_left_padded(
    length: int,
    *,
    padding_mask: Bool[Tensor, "B L"] | None = None,
    lengths: Int[Tensor, " B"] | None = None,
    history: Int[Tensor, "B L"] | None = None,
) -> None:
    """Refuse padding after an item, and lengths that no row has.

    Nothing is looked at on an accelerator, where to ask is to wait, nor where values may not decide: while a graph is made
    or under `torch.func`.

    Args:
        length: L.
        padding_mask: True = padding.
        lengths: real positions of each row.
        history: item ids, 0 = padding.

    Raises:
        InputError: naming the row, or the length.
    """
    if padding_mask is None and history is not None:
        padding_mask = history == 0
    looked_at = [each for each in (padding_mask, lengths) if each is not None]
    if not all(isinstance(each, Tensor) for each in looked_at):  # a block says what it wanted
        return
    if torch.compiler.is_compiling() or exporting() or any(each.device.type != "cpu" for each in looked_at):
        return
    row = bad = None
    with suppress(RuntimeError):  # what torch.func and fake tensors say of a value that decides
        if padding_mask is not None and padding_mask.ndim == 2 and padding_mask.dtype == torch.bool:
            right = (~padding_mask[:, :-1] & padding_mask[:, 1:]).any(1)
            row = int(right.nonzero()[0]) if bool(right.any()) else None
        if lengths is not None and lengths.numel():
            low, high = int(lengths.min()), int(lengths.max())
            bad = low if low < 0 else high if high > length else None
    if row is not None:
        raise InputError(f"rows must be left-padded, newest position last: row {row} has padding after an item")
    if bad is not None:
        raise InputError(f"lengths must lie in 0..{length}, found {bad}")
