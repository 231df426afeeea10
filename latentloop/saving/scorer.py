"""A scorer in a model directory: a standard one is built from its settings, one's own is passed again and recognised."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from latentloop.errors import InputError
from latentloop.saving.encoder_settings import Settings, difference, scorer_settings, unchanged
from latentloop.scoring import Cosine, Dot, Scorer

__all__ = ["check_scorer", "describe_scorer", "standard_scorer"]

_STANDARD: dict[str, type[Any]] = {scorer.__name__: scorer for scorer in (Dot, Cosine)}


def describe_scorer(scorer: Scorer, before: Settings) -> dict[str, Any]:
    """What config.json says of a scorer: `scorer`, None for one's own, of which `scorer_settings` tells what is plain.

    Args:
        scorer: a `Recommender`'s.
        before: `scorer_settings` of it when the model was built; what changed since, such as a counter, is no setting.
    """
    if type(scorer) in _STANDARD.values():
        return {"scorer": {"name": type(scorer).__name__, **dataclasses.asdict(scorer)}}  # type: ignore[call-overload]
    return {"scorer": None, "scorer_settings": unchanged(before, scorer_settings(scorer))}


def standard_scorer(described: Mapping[str, Any]) -> Scorer:
    """The inverse of `describe_scorer`, for a standard one."""
    settings = dict(described)
    scorer: Scorer = _STANDARD[settings.pop("name")](**settings)
    return scorer


def check_scorer(scorer: Scorer, config: Mapping[str, Any], folder: Path) -> None:
    """Refuse a scorer that is not the one which a model directory was saved with.

    Args:
        scorer: a `Recommender`'s.
        config: what the directory's config.json holds; one of an earlier release tells nothing of a scorer of one's own.
        folder: the directory.

    Raises:
        InputError: where its class or what is plain of its attributes differs.
    """
    standard = config.get("scorer")
    saved: Settings = (
        config.get("scorer_settings", {}) if standard is None else scorer_settings(standard_scorer(standard))
    )
    if not isinstance(saved, dict) or not all(isinstance(found, dict) for found in saved.values()):
        raise InputError(f"{folder / 'config.json'} is damaged: scorer_settings must be an object of objects")
    found = difference(saved, scorer_settings(scorer))
    if found is not None:
        raise InputError(f"scorer does not match the one saved in {folder}: {found}; pass the one it was trained with")
