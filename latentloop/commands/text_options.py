"""Options that say what is known of the items' texts."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from latentloop.item_ids import ItemId
    from latentloop.text_features import TextFeatures

__all__ = ["TextOptions"]


@dataclass(frozen=True)
class TextOptions:
    """Texts of the items, for tedrec: --item-text with --text-encoder, or --item-embeddings."""

    item_text: Path | None = None
    """A file of item ids and texts: CSV, TSV, JSON Lines or Parquet, gzipped or not."""
    item_text_id: str | None = None
    """Its column of item ids; recognised when not given."""
    item_text_columns: tuple[str, ...] | None = None
    """Its columns of text, one or more, joined in this order; recognised when not given."""
    item_text_format: Literal["csv", "tsv", "jsonl", "parquet"] | None = None
    """Its format, where its name does not say."""
    item_embeddings: Path | None = None
    """A .npy file, a row an item: in the order of --item-text where that is given too, else row i is item i + 1."""
    text_encoder: str | None = None
    """What encodes --item-text: a model of sentence-transformers, such as all-MiniLM-L6-v2, or hashing, which hashes
    words and needs no model."""

    @property
    def given(self) -> bool:
        """Whether there are texts at all."""
        return any(dataclasses.astuple(self))

    def load(self, item_ids: Sequence[ItemId]) -> TextFeatures:
        """The features of items 1..N, in the order of `item_ids`."""
        from latentloop.data.text_encoders import load_text_features

        return load_text_features(
            item_ids,
            item_text=self.item_text,
            item_text_id=self.item_text_id,
            item_text_columns=self.item_text_columns,
            item_text_format=self.item_text_format,
            item_embeddings=self.item_embeddings,
            text_encoder=self.text_encoder,
        )
