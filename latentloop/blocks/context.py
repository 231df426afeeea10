"""What a block may know of its rows beside x: where the padding is, how long they are, which items they hold.

Shapes: B rows, L positions, left-padded; `offsets` (B + 1,) where tokens are packed.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from latentloop.errors import InputError

__all__ = ["Context", "context_of"]


@dataclass(frozen=True)
class Context:
    """What is known of the rows beside x.

    Args:
        padding_mask: (B, L) bool, True = padding, but never at the newest position: a row without items keeps one
            token, so that nothing divides by zero. None where nothing is padded.
        lengths: (B,) int64, at least 1.
        history: (B, L) item ids.
        offsets: (B + 1,) where each row of packed tokens starts.
        max_length: the longest row of packed tokens.
        step: how many thoughts came before; 0 outside of a loop.
    """

    padding_mask: Bool[Tensor, "B L"] | None = None
    lengths: Int[Tensor, " B"] | None = None
    history: Int[Tensor, "B L"] | None = None
    offsets: Int[Tensor, " B1"] | None = None
    max_length: int | None = None
    step: int = 0


def context_of(
    x: Tensor,
    padding_mask: Tensor | None,
    lengths: Tensor | None,
    history: Tensor | None,
    offsets: Tensor | None,
    max_length: int | None,
    step: int,
) -> tuple[Tensor | None, Context]:
    """The padding as it is, and what a module is told of it; the arguments are those of `Adapted.forward`.

    Raises:
        InputError: for sizes that do not fit x, or a mask that is not bool.
    """
    if offsets is not None:
        return None, Context(offsets=offsets, max_length=max_length, history=history, step=step)
    if x.ndim != 3:
        raise InputError(f"x must be (B, L, d), or (tokens, d) with offsets, got {tuple(x.shape)}")
    rows, length = x.shape[:2]
    for name, value, wanted in (
        ("padding_mask", padding_mask, (rows, length)),
        ("lengths", lengths, (rows,)),
        ("history", history, (rows, length)),
    ):
        if value is not None and value.shape != wanted:
            raise InputError(f"{name} must be {wanted} for x {tuple(x.shape)}, got {tuple(value.shape)}")
    if padding_mask is not None and padding_mask.dtype != torch.bool:
        raise InputError(f"padding_mask must be bool, True = padding, got {padding_mask.dtype}")
    if padding_mask is None and lengths is not None:
        padding_mask = torch.arange(length, device=x.device) < length - lengths[:, None]
    elif padding_mask is None and history is not None:
        padding_mask = history == 0
    if padding_mask is None:
        return None, Context(step=step)
    told = padding_mask & (torch.arange(length, device=x.device) < length - 1)
    return padding_mask, Context(told, (~told).sum(1), history, None, max_length, step)
