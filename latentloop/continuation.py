"""Where a stage of a run goes on: at its last saved epoch, with everything that is written from it."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import torch

from latentloop.train_state import Progress, check_state, load_progress, load_state
from latentloop.weights import checksum

if TYPE_CHECKING:
    from latentloop.recommender import Recommender
    from latentloop.run_directory import RunDirectory

__all__ = ["take_up"]

logger = logging.getLogger(__name__)


def take_up(
    run: RunDirectory,
    stage: str,
    model: Recommender,
    optimizer: torch.optim.Optimizer,
    *,
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
        from_zero: whether the stage measures the weights that it begins with.
        write: whether this process is the one that writes.

    Raises:
        InputError: for a state that is damaged or of another model.
        OSError: where `run` cannot be written.
    """
    path, began = run.state_path(stage), checksum(model)
    progress = load_progress(path)
    if progress is not None:
        changed = from_zero and progress.began not in (None, began)
        if changed:
            logger.info("%s starts over: the model that it begins with has changed", stage)
        if changed or (not from_zero and progress.epoch == 0):
            check_state(path, model)  # what is left aside must have been this model's all the same
            progress = None
        else:
            load_state(path, model, optimizer)
    progress = progress or Progress(began=began)
    if write:
        run.restore_lines(stage, progress.history)
    return progress
