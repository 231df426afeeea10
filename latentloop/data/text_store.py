"""Item-text features kept beside a run's data, so that it continues after the texts have moved."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from latentloop.errors import InputError
from latentloop.files import write_atomically
from latentloop.text_features import TextFeatures

__all__ = ["load_saved_text_features", "save_text_features"]


def save_text_features(text: TextFeatures, path: Path) -> None:
    """Write the features to one safetensors file, whole or not at all."""
    with write_atomically(path) as draft:
        save_file({"features": text.features, "missing": text.missing}, str(draft))


def load_saved_text_features(path: Path) -> TextFeatures:
    """Read what `save_text_features` wrote.

    Raises:
        InputError: for a file that is missing or damaged.
    """
    try:
        tensors = load_file(str(path))
        return TextFeatures(tensors["features"], tensors["missing"])
    except (SafetensorError, OSError, KeyError, IndexError, InputError) as error:
        raise InputError(f"{path} cannot be read as item-text features: {' '.join(str(error).split())[:200]}") from None
