"""Where a stage of a run goes on: at its last saved epoch, with everything that is written from it."""

from __future__ import annotations

import hashlib
import json
import logging
import re
from typing import TYPE_CHECKING

import torch

from latentloop.blocks.facts import made_here
from latentloop.errors import InputError
from latentloop.objectives.compose import Sum, Weighted
from latentloop.runs.train_state import Progress, check_names, check_whole, load_progress, load_state
from latentloop.saving.pretrained import read_config
from latentloop.saving.weights import check_weights, checksum, digest

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from latentloop.data.sequences import Samples
    from latentloop.recommender import Recommender
    from latentloop.runs.directory import RunDirectory

__all__ = ["backbone_of", "check_states", "data_hash", "in_words", "take_up"]

logger = logging.getLogger(__name__)


def take_up(
    run: RunDirectory,
    stage: str,
    model: Recommender,
    optimizer: torch.optim.Optimizer,
    *,
    data: str,
    settings: dict[str, str],
    from_zero: bool,
    write: bool = True,
) -> Progress:
    """Put a stage's model and optimizer where it stopped, and its lines in metrics.jsonl to what it had logged by then.

    A stage that measured the weights it began with starts over where `model` has others now, as post-training does
    behind a pre-training that went on to better ones; so does one that did nothing else, where it need not.

    Args:
        run: where the stage is kept.
        stage: its name.
        model: as it is before the stage.
        optimizer: as it is before the stage.
        data: `data_hash` of what it trains and validates on.
        settings: what else decides its numbers, in words, by name.
        from_zero: whether the stage measures the weights that it begins with.
        write: whether this process is the one that writes.

    Raises:
        InputError: for a state that is damaged, of another model, of other data or of other settings, or whose best
            weights are gone.
        OSError: where `run` cannot be written.
    """
    path, began = run.state_path(stage), checksum(model)
    progress = load_progress(path)
    if progress is not None:
        _check_state(path, progress, model, data)  # what is refused, or left aside, leaves the model as it came
        changed = from_zero and progress.began not in (None, began)
        if changed:
            logger.info("%s starts over: the model that it begins with has changed", stage)
        if changed or (not from_zero and progress.epoch == 0):
            progress = None
        else:
            _check_best(run, stage, progress)
            _check_settings(path, progress, settings)
            load_state(path, model, optimizer)
            progress.settings = settings  # of an earlier release's run too, from here on
    progress = progress or Progress(began=began, data=data, settings=settings)
    if write:
        run.lines.restore(stage, progress.history)
    return progress


def check_states(run: RunDirectory, models: Mapping[str, Recommender], train: Samples, validation: Samples) -> None:
    """Refuse to go on with a run whose stages cannot, before anything of it is changed.

    Args:
        run: the run.
        models: what each stage is to train, by its name.
        train: what is learned from.
        validation: what chooses the epoch.

    Raises:
        InputError: for a state that is damaged, of other data or of another model, or best weights that are missing or
            damaged.
    """
    data = data_hash(train, validation)
    for stage, model in models.items():
        path = run.state_path(stage)
        progress = load_progress(path)
        if progress is not None:
            _check_state(path, progress, model, data)
            _check_best(run, stage, progress)


def _check_best(run: RunDirectory, stage: str, progress: Progress) -> None:
    """A stage writes its last epoch's weights once more where they are the best; earlier ones stand in its folder only."""
    if progress.history and progress.best_epoch != progress.history[-1]["epoch"]:
        try:
            check_weights(run.model_path(stage))
            read_config(run.model_path(stage))
        except InputError as error:
            raise InputError(
                f"{error}; or remove {run.state_path(stage)} and {run.model_path(stage)}, and {stage} is trained again"
            ) from None


def _check_state(path: Path, progress: Progress, model: Recommender, data: str) -> None:
    """Damage is told as damage, and other data, whose catalog may be another, as other data."""
    check_whole(path)
    if progress.data not in (None, data):
        raise InputError(f"{path} is of other data: train on what the run began with, or choose another run")
    check_names(path, model)


def _check_settings(path: Path, progress: Progress, settings: dict[str, str]) -> None:
    """Numbers of two ways of training under one name would be nobody's."""
    before = progress.settings or settings
    for name, value in settings.items():
        if before.get(name, value) != value:
            raise InputError(
                f"{name} is {value}, and {path} was trained with {before[name]}: go on as it began, or choose another run"
            )


def in_words(part: object) -> str:
    """An objective or a schedule as text that is the same in every process: ours with their settings, others by name."""
    if isinstance(part, Sum):
        return " + ".join(map(in_words, part.parts))
    if isinstance(part, Weighted):
        inner = in_words(part.part)
        return f"{part.weight!r} * " + (f"({inner})" if isinstance(part.part, Sum) else inner)
    if made_here(part):
        return re.sub(r" at 0x[0-9a-fA-F]+", "", repr(part))  # rewards of one's own have an address
    return str(getattr(part, "__qualname__", type(part).__qualname__))


def backbone_of(model: Recommender) -> str:
    """A built-in backbone and its loop as text: two of equal shapes, of other heads, would learn on in silence."""
    from latentloop.recipes import describe  # recipes import the recommender

    described = None if model.backbone is None else describe(model.backbone, model.encoder)
    return "of one's own" if described is None else json.dumps(described, sort_keys=True)


def data_hash(train: Samples, validation: Samples) -> str:
    """A hash of all histories and of what is validated on; not of which samples are learned from, which a selection
    by scores need not repeat to the last one elsewhere."""
    parts = [train.sequences.items, train.sequences.offsets, validation.sequences.items, validation.sequences.offsets]
    each = b"".join(map(digest, [*parts, validation.user, validation.end]))
    return hashlib.blake2b(each, digest_size=16).hexdigest()
