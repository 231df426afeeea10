"""Items' text embeddings inside a model: frozen and saved with it; items without text learn a vector of their own."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from latentloop.errors import InputError
from latentloop.items.text_features import TextFeatures

__all__ = ["TextTable"]


class TextTable(nn.Module):
    """Text embeddings of items by their ids; padding (0) is a zero vector.

    The table is a buffer: never trained, always saved, so a model directory needs no other file. All its rows are
    divided by one number, their root mean square, so that encoders of unit vectors and of long ones start alike.

    Args:
        num_items: N.
        dim: c, the size of a text embedding.
        num_missing: how many of the items learn their vector, N(0, 1) at the start like the others' mean square.
        text: what the table holds; None leaves it to weights that are loaded later.

    Raises:
        InputError: for numbers out of range, or that disagree with `text`.
    """

    features: Tensor
    slot: Tensor

    def __init__(self, num_items: int, dim: int, *, num_missing: int = 0, text: TextFeatures | None = None) -> None:
        super().__init__()
        for name, value, low in (("num_items", num_items, 1), ("text_dim", dim, 1), ("num_missing", num_missing, 0)):
            if isinstance(value, bool) or not isinstance(value, int) or value < low:
                raise InputError(f"{name} must be a whole number of at least {low}, got {value!r}")
        self.filled = text is not None
        self.register_buffer("features", torch.zeros(num_items + 1, dim))
        self.missing: nn.Parameter | None = None
        if num_missing:
            self.missing = nn.Parameter(torch.randn(num_missing, dim))
            self.register_buffer("slot", torch.zeros(num_items + 1, dtype=torch.int64))  # 0, or 1 + place in `missing`
        if text is None:
            return
        found = (text.num_items, text.dim, text.num_missing)
        if found != (num_items, dim, num_missing):
            raise InputError(
                f"text holds {found[0]} items, {found[1]} numbers each, and {found[2]} items without text; "
                f"num_items, text_dim and num_missing say {num_items}, {dim} and {num_missing}"
            )
        self.features.copy_(text.features / text.scale)
        if num_missing:
            self.slot[text.missing] = torch.arange(1, num_missing + 1)

    def forward(self, items: Int[Tensor, "*n"]) -> Float[Tensor, "*n c"]:
        """The embeddings of `items`, ids 0..N.

        Raises:
            InputError: where the table was given neither text nor saved weights.
        """
        if not self.filled:
            raise InputError("this encoder was made without text: make its backbone as TedRec(text=TextFeatures(...))")
        found = F.embedding(items, self.features)
        if self.missing is None:
            return found
        learned = F.pad(self.missing, (0, 0, 1, 0))  # row 0 for all that have a text
        return found + F.embedding(self.slot[items], learned)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *rest)
        self.filled = self.filled or prefix + "features" in state_dict
