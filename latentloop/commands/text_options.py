"""Options that say what is known of the items' texts."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from latentloop.items.ids import ItemId
    from latentloop.items.text_features import TextFeatures

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

    def check(self) -> None:
        """Refuse what no data would mend, before they are read: a file, encoder or package that is not named or there.

        Raises:
            InputError: naming the option.
        """
        from latentloop.data.sentence_encoder import SentenceTransformerEncoder
        from latentloop.data.text_encoders import build_text_encoder

        about_texts = (self.item_text_id, self.item_text_columns, self.item_text_format)
        whole = self.item_text is not None or (self.item_embeddings is not None and not any(about_texts))
        one_source = (self.item_embeddings is None) == bool(self.text_encoder)
        files = (path for path in (self.item_text, self.item_embeddings) if path is not None)
        if not (whole and one_source and all(path.is_file() for path in files)):
            self.load(())  # which says what is missing before it looks at an item
        if self.text_encoder:
            encoder = build_text_encoder(self.text_encoder)
            if isinstance(encoder, SentenceTransformerEncoder) and not _may_encode(encoder.cache):
                encoder.encode(())  # which says what to install

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


def _may_encode(cache: Path) -> bool:
    """Whether the package is there, or what it once returned may be enough: which texts that were, the data will tell."""
    return find_spec("sentence_transformers") is not None or any(cache.glob("*.npy"))
