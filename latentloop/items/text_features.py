"""What is known of the items' texts: a frozen embedding of each, and which items have none."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from latentloop.errors import InputError

__all__ = ["TextFeatures"]


@dataclass(frozen=True, eq=False)
class TextFeatures:
    """Embeddings of item texts, row i for item i.

    Args:
        features: (N + 1, c) float32; rows of items without text, and row 0 (padding), are zeros.
        missing: (N + 1,) True = an item without text; False for padding.

    Raises:
        InputError: shapes that disagree, numbers that are not finite, or rows that are not the zeros they should be.
    """

    features: Float[Tensor, "N1 c"]
    missing: Bool[Tensor, " N1"]

    def __post_init__(self) -> None:
        if len(self.features) < 2 or self.features.shape[1] < 1 or self.missing.shape != self.features.shape[:1]:
            raise InputError(
                f"features must be (N + 1, c) and missing (N + 1,) for N items, got {tuple(self.features.shape)} and "
                f"{tuple(self.missing.shape)}"
            )
        wrong = ~self.features.isfinite().all(1)
        if bool(wrong.any()):
            raise InputError(f"features must be finite numbers, row {int(wrong.nonzero()[0])} is not")
        if bool(self.missing[0]) or bool(self.features[0].any()) or bool(self.features[self.missing].any()):
            raise InputError("features must be zeros for padding (row 0, not missing) and for items without text")

    @property
    def num_items(self) -> int:
        """N."""
        return len(self.features) - 1

    @property
    def dim(self) -> int:
        """c, the size of an embedding."""
        return self.features.shape[1]

    @property
    def num_missing(self) -> int:
        """How many items have no text."""
        return int(self.missing.sum())

    @property
    def scale(self) -> float:
        """Root mean square of what items with text hold; 1 where that is nothing."""
        known = ~self.missing
        known[0] = False
        square = float(self.features[known].double().square().mean()) if bool(known.any()) else 0.0
        return square**0.5 if square > 0 else 1.0

    @classmethod
    def of(cls, features: Float[Tensor, "N c"]) -> TextFeatures:
        """Of items 1..N that all have a text, row i for item i + 1."""
        padded = torch.nn.functional.pad(features.float(), (0, 0, 1, 0))
        return cls(padded, torch.zeros(len(padded), dtype=torch.bool))
