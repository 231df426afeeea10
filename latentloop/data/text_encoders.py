"""Text encoders by name, and from texts to the features that TedRec reads."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from latentloop.data.hashing_encoder import HashingEncoder
from latentloop.data.item_embeddings import align_embeddings, load_embeddings, numbered_rows
from latentloop.data.item_text import load_item_text
from latentloop.data.sentence_encoder import SentenceTransformerEncoder
from latentloop.errors import InputError, InputTypeError
from latentloop.items.ids import ItemId
from latentloop.items.text_features import TextFeatures

__all__ = ["HASHING", "TextEncoder", "build_text_encoder", "encode_item_text", "load_text_features"]

logger = logging.getLogger(__name__)

HASHING = "hashing"
_OPTIONS = {"item": "item_text_id", "text": "item_text_columns", "format": "item_text_format"}
"""What `load_item_text` calls a setting, and `load_text_features`."""


@runtime_checkable
class TextEncoder(Protocol):
    """From texts to vectors."""

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """(n, c) float32, row i for text i."""
        ...


def build_text_encoder(name: str) -> TextEncoder:
    """An encoder by its name: "hashing", which needs neither network nor model, or one of sentence-transformers.

    Raises:
        InputError: for an empty name, or a folder that does not exist.
    """
    return HashingEncoder() if name == HASHING else SentenceTransformerEncoder(name)


def encode_item_text(
    item_ids: Sequence[ItemId], texts: Mapping[ItemId, str], encoder: TextEncoder, *, name: str = "texts"
) -> TextFeatures:
    """Encode the texts of a catalog's items; items without a text, or with a blank one, are marked as missing.

    Args:
        item_ids: original ids of items 1..N.
        texts: the text of each item, others may be among them; "7" and 7 are the same item.
        encoder: such as `HashingEncoder()`.
        name: what errors call the texts.

    Raises:
        InputError: where no item has a text, or the encoder returns something else than a finite row for each.
        InputTypeError: for an encoder without `encode`.
    """
    if isinstance(encoder, str) or not isinstance(encoder, TextEncoder):  # a str has an encode of its own
        raise InputTypeError(f"encoder must be an object with encode(texts), got {encoder!r}: see build_text_encoder")
    wanted = {str(original) for original in item_ids}
    known = {original: text for original, text in texts.items() if text.strip() and str(original) in wanted}
    if not known:
        if any(str(original) in wanted for original in texts):
            raise InputError(f"{name}: every text of an item of the data is blank; give texts")
        raise InputError(
            f"{name}: {len(texts)} texts ({next(iter(texts), 'none')!r}, ...) and none of the {len(item_ids)} items "
            f"of the data ({next(iter(item_ids), 'none')!r}, ...); use the same ids in both"
        )
    array = np.asarray(encoder.encode(list(known.values())))
    if array.ndim != 2 or len(array) != len(known) or array.dtype.kind != "f":
        raise InputError(
            f"{type(encoder).__name__}.encode must return ({len(known)}, size) floating point, a row a text, got "
            f"{array.shape} {array.dtype}"
        )
    features = align_embeddings(array, list(known), item_ids, name=name)
    logger.info("text: %d of %d items, vectors of %d", len(known), len(item_ids), features.dim)
    return features


def load_text_features(
    item_ids: Sequence[ItemId],
    *,
    item_text: str | Path | None = None,
    item_text_id: str | None = None,
    item_text_columns: str | Sequence[str] | None = None,
    item_text_format: str | None = None,
    item_embeddings: str | Path | None = None,
    text_encoder: str | None = None,
) -> TextFeatures:
    """The text features of a catalog from files, as the command line names them.

    Args:
        item_ids: original ids of items 1..N.
        item_text: a file for `load_item_text`.
        item_text_id: name of its column of ids; recognised when None.
        item_text_columns: name or names of its columns of text; recognised when None.
        item_text_format: its format when its name does not say.
        item_embeddings: a `.npy` file. Its rows are in the order of `item_text` where that is given too; without it
            ids must be whole numbers, and row i is item i + 1.
        text_encoder: a name for `build_text_encoder`, needed for `item_text` without embeddings: none is ever chosen
            silently.

    Raises:
        InputError: neither file, no encoder for texts, columns or a format of no file, or ids and rows that do not
            match.
    """
    about = {"item": item_text_id, "text": item_text_columns, "format": item_text_format}
    idle = next((_OPTIONS[name] for name, value in about.items() if value is not None), None)
    if item_text is None and idle is not None:
        raise InputError(
            f"{idle} is about a file of item texts, and none is given: leave it out or give --item-text",
            settings=(idle,),
        )
    if item_embeddings is not None:
        if text_encoder is not None:
            raise InputError("item_embeddings are encoded already: leave out text_encoder (--text-encoder)")
        array, name = load_embeddings(item_embeddings), str(item_embeddings)
        if item_text is None:
            return align_embeddings(array, numbered_rows(len(array), item_ids, name=name), item_ids, name=name)
        ids = list(_read(item_text, about))
        return align_embeddings(array, ids, item_ids, name=f"{name} with the ids of {item_text}")
    if item_text is None:
        raise InputError(
            "TedRec needs the items' texts: give --item-text FILE (ids and texts) with --text-encoder NAME, or "
            "--item-embeddings FILE.npy"
        )
    if not text_encoder:
        raise InputError(
            "item_text needs an encoder: give --text-encoder NAME, a model of sentence-transformers such as "
            f"all-MiniLM-L6-v2, or {HASHING!r}, which hashes words and needs no model"
        )
    return encode_item_text(item_ids, _read(item_text, about), build_text_encoder(text_encoder), name=str(item_text))


def _read(path: str | Path, about: dict[str, Any]) -> dict[ItemId, str]:
    """The texts of a file; an error names the settings as `load_text_features` does."""
    try:
        return load_item_text(path, **about)
    except InputError as error:
        raise InputError(str(error), settings=tuple(_OPTIONS[name] for name in error.settings)) from error.__cause__
