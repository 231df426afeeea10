"""Item-text features kept beside a run's data, so that it continues after the texts have moved."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from latentloop.errors import InputError
from latentloop.files import write_atomically
from latentloop.items.text_features import TextFeatures
from latentloop.saving.weights import digest

__all__ = ["load_saved_text_features", "save_text_features"]

_CHECKSUM = "checksum"


def save_text_features(text: TextFeatures, path: Path) -> None:
    """Write the features to one safetensors file, whole or not at all."""
    with write_atomically(path) as draft:
        save_file(
            {"features": text.features, "missing": text.missing}, str(draft), metadata={_CHECKSUM: _checksum(text)}
        )


def load_saved_text_features(path: Path) -> TextFeatures:
    """Read what `save_text_features` wrote.

    Raises:
        InputError: for a file that is missing or damaged.
    """
    try:
        with safe_open(str(path), framework="pt") as file:
            text = TextFeatures(file.get_tensor("features"), file.get_tensor("missing"))
            wanted = (file.metadata() or {}).get(_CHECKSUM)  # a file of an earlier release has none
        if wanted not in (None, _checksum(text)):
            raise InputError("damaged, it does not match its checksum")
        return text
    except (SafetensorError, OSError, KeyError, IndexError, InputError) as error:
        raise InputError(f"{path} cannot be read as item-text features: {' '.join(str(error).split())[:200]}") from None


def _checksum(text: TextFeatures) -> str:
    return (digest(text.features) + digest(text.missing)).hex()
