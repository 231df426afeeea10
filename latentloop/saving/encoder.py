"""An encoder in a model directory: what a user's own must have in common with the one that was saved."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from latentloop.errors import InputError
from latentloop.saving.encoder_settings import difference, encoder_settings
from latentloop.saving.weights import plain_name

__all__ = ["check_encoder", "fingerprint"]


def fingerprint(encoder: Any) -> str:
    """A hash of an encoder's parameter names and shapes and of its loop settings, to recognise it when it comes back."""
    state = {plain_name(name): tensor for name, tensor in encoder.state_dict().items()}
    shapes = [(name, list(tensor.shape)) for name, tensor in sorted(state.items())]
    law = getattr(encoder, "depth_law", None)
    nameless = getattr(type(law), "__repr__", None) is object.__repr__
    loop = {
        # object's own repr is an address, which no other process repeats
        "depth_law": type(law).__name__ if nameless else repr(law),
        "state_std": getattr(encoder, "state_std", None),
        "aggregate": type(getattr(encoder, "aggregate", None)).__name__,
    }
    return hashlib.blake2b(json.dumps([shapes, loop]).encode(), digest_size=16).hexdigest()


def check_encoder(encoder: Any, config: Mapping[str, Any], folder: Path) -> None:
    """Refuse an encoder that is not the one which a model directory was saved with.

    Args:
        encoder: a `Recommender`'s.
        config: what the directory's config.json holds.
        folder: the directory.

    Raises:
        InputError: where parameter names, shapes, loop settings or modules' settings differ.
    """
    if fingerprint(encoder) != config.get("fingerprint"):
        raise InputError(
            f"encoder does not match the one saved in {folder}: parameter names, shapes or loop settings differ"
        )
    saved = config.get("encoder_settings", {})  # an earlier release, and a built-in backbone, has none
    if not isinstance(saved, dict) or not all(isinstance(found, dict) for found in saved.values()):
        raise InputError(f"{folder / 'config.json'} is damaged: encoder_settings must be an object of objects")
    found = difference(saved, encoder_settings(encoder))
    if found is not None:
        raise InputError(
            f"encoder does not match the one saved in {folder}: {found}; build it as it was, or delete that setting "
            "from config.json where it changes no answer"
        )
