"""Windows over packed tokens: several short rows share one tile of an accelerator's attention kernel.

Such a kernel works on tiles of 64 queries by 64 keys. A row of 6 items, or of 20, alone in a tile leaves most of it
empty. A window is `WIDTH` packed tokens behind each other; windows overlap so far that each row lies wholly within the
one that holds its first token, and a mask lets its tokens see each other only.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

__all__ = ["WIDTH", "windows"]

WIDTH = 64


def windows(
    x: Float[Tensor, "tokens d"], offsets: Int[Tensor, " B1"], longest: int
) -> tuple[Int[Tensor, "T W"], Bool[Tensor, "T 1 W W"], Int[Tensor, " tokens"]]:
    """The windows of packed tokens; nothing of it is read on the host.

    Args:
        x: the tokens.
        offsets: where each row starts.
        longest: a row has at most so many tokens, and a window twice as many or more.

    Returns:
        tokens: the token at each place of each window; behind the last one stands that again.
        mask: True = may attend: tokens of one row, older ones and itself.
        places: each token's place in the windows laid end to end, in the window that holds its whole row.
    """
    count, device = x.shape[0], x.device
    stride = WIDTH - longest + 1
    number = torch.arange(count, device=device)
    rows = torch.arange(offsets.shape[0] - 1, device=device)
    row = torch.repeat_interleave(rows, offsets.diff(), output_size=count)
    window = offsets[row] // stride
    first = torch.arange(max(1, -(-count // stride)), device=device)[:, None] * stride
    tokens = (first + torch.arange(WIDTH, device=device)).clamp_(max=max(0, count - 1))
    seen = row[tokens]
    older = torch.ones(WIDTH, WIDTH, dtype=torch.bool, device=device).tril_()
    mask = (seen[:, :, None] == seen[:, None, :]) & older
    return tokens, mask[:, None], number + window * (WIDTH - stride)
