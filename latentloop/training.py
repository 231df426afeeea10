"""`fit`: one training loop for any objective, on Accelerate, with early stopping and exact continuation."""

from __future__ import annotations

import copy
import logging
import math
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor
from tqdm import tqdm

from latentloop.accelerator import make_accelerator
from latentloop.data.batch import Batch, batches, num_batches
from latentloop.data.positives import SameTarget
from latentloop.errors import InputError
from latentloop.evaluation import evaluate
from latentloop.metrics import metric_names
from latentloop.objectives.contract import Objective, views_of
from latentloop.optimizer import build_optimizer
from latentloop.pretrained import WEIGHTS, load_weights
from latentloop.randomness import dropout_seed, fold
from latentloop.run_directory import RunDirectory
from latentloop.train_state import Progress, load_state, save_state
from latentloop.training_settings import check_settings
from latentloop.training_step import StepModule, updates

if TYPE_CHECKING:
    from accelerate import Accelerator

    from latentloop.data.sequences import Samples
    from latentloop.recommender import Recommender

__all__ = ["Fitted", "NotFinite", "check_settings", "fit", "make_accelerator"]

logger = logging.getLogger(__name__)


class NotFinite(RuntimeError):
    """Training met NaN or infinity; the message names the step, the term and the last good checkpoint."""


@dataclass(frozen=True)
class Fitted:
    """What a stage came to.

    Args:
        stage: its name.
        best_epoch: the epoch with the best validation value; 0 is the model as it came.
        best: that value.
        metric: its name.
        epochs: epochs run.
        history: one line an epoch: terms, validation metrics, seconds, samples a second.
    """

    stage: str
    best_epoch: int
    best: float
    metric: str
    epochs: int
    history: list[dict[str, Any]]


def fit(
    model: Recommender,
    train: Samples,
    validation: Samples,
    objective: Objective,
    *,
    stage: str = "spt",
    epochs: int = 200,
    batch_size: int = 1024,
    learning_rate: float = 1e-3,
    weight_decay: float = 0.0,
    clip_norm: float | None = None,
    patience: int = 10,
    metric: str = "ndcg@10",
    seed: int = 0,
    accelerator: Accelerator | None = None,
    validate_first: bool = False,
    run: RunDirectory | None = None,
    progress_bar: bool | None = None,
) -> Fitted:
    """Train `model` in place with `objective` and leave it with its best weights on validation.

    Args:
        model: what to train.
        train: training samples.
        validation: validation samples, ranked in full after each epoch.
        objective: `(views, batch) -> (loss, terms)`; may have `views`, `start(model)`, `prepare(model, batch)` and
            `updates`, see `latentloop.objectives`.
        stage: a name for logs and files.
        epochs: at most so many.
        batch_size: rows of a step, on all processes together.
        learning_rate: AdamW's.
        weight_decay: AdamW's, on matrices of the encoder only: not on tables, norms and biases.
        clip_norm: largest gradient norm; None does not clip.
        patience: stop after so many epochs without a better `metric`.
        metric: the validation metric to choose by.
        seed: of everything random in the stage.
        accelerator: device, precision and processes; None makes one for the best device.
        validate_first: validate before the first step, so that the model as it came may win.
        run: where to keep metrics, the best model and the state to continue from; None keeps them in memory.
        progress_bar: None shows one on a terminal only.

    Raises:
        InputError: for a setting out of range, or a `run` that holds another model's state.
        NotFinite: where the loss or a gradient is not a number.
    """
    check_settings(
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        clip_norm=clip_norm,
        patience=patience,
    )
    if metric not in metric_names():
        raise InputError(f"metric must be one of {', '.join(metric_names())}, got {metric!r}")
    accelerator = accelerator or make_accelerator()
    device, rank, world = accelerator.device, accelerator.process_index, accelerator.num_processes
    model.to(device)
    train, validation = train.to(device), validation.to(device)
    start = getattr(objective, "start", None)
    if start is not None:
        start(model)
    optimizer = build_optimizer(model, learning_rate=learning_rate, weight_decay=weight_decay)
    progress = (load_state(run.state_path(stage), model, optimizer) if run else None) or Progress()
    if run is not None and accelerator.is_main_process:
        run.rewind(stage, progress.history[-1]["epoch"] if progress.history else -1)
    best_weights = None if run else copy.deepcopy(model.state_dict())
    step_module, optimizer = accelerator.prepare(StepModule(model, objective), optimizer)
    key = fold(seed, stage)
    positives = SameTarget(train) if "same_target" in views_of(objective) else False

    def validate() -> dict[str, float]:
        # a fresh T_0 an answer, where the model asks for one, must repeat itself too, and be the same in every stage
        with dropout_seed(fold(seed, "evaluation"), device):
            try:
                return dict(evaluate(model, validation, split="validation", stage=stage, seeds=(seed,)).metrics)
            except InputError as error:
                if all(bool(p.isfinite().all()) for p in model.parameters()):
                    raise
                raise NotFinite(
                    f"{stage}: weights are no numbers after step {progress.step}; {_kept(stage, progress, run)}; "
                    f"try a lower learning rate or clip_norm"
                ) from error

    def finish_epoch(line: dict[str, Any]) -> None:
        nonlocal best_weights
        progress.history.append(line)
        if progress.best is None or line[metric] > progress.best:
            progress.best, progress.best_epoch = line[metric], line["epoch"]
            if run is None:
                best_weights = copy.deepcopy(model.state_dict())
            elif accelerator.is_main_process:
                model.save_pretrained(run.model_path(stage))
        if run is not None and accelerator.is_main_process:
            run.log(line)
            save_state(run.state_path(stage), model, optimizer, progress)
        accelerator.wait_for_everyone()

    if validate_first and progress.epoch == 0 and not progress.history:
        finish_epoch({"stage": stage, "epoch": 0, **validate()})
    while not progress.finished and progress.epoch < epochs and _patient(progress, patience):
        began, epoch = time.perf_counter(), progress.epoch + 1
        model.train()
        means = _Means()
        loop = batches(train, batch_size, key=key, epoch=epoch, same_target=positives, rank=rank, world=world)
        count = num_batches(len(train), batch_size, world=world)
        with _bar(loop, count, f"{stage} epoch {epoch}", progress_bar, accelerator.is_main_process) as bar:
            for batch in bar:
                for terms in updates(step_module, model, objective, optimizer, accelerator, batch, clip_norm):
                    progress.step += 1
                    means.add(terms, len(batch))
                    _stop_if_not_finite(terms, stage, epoch, progress, run)
                bar.set_postfix({name: f"{value:.4f}" for name, value in means.latest().items()}, refresh=False)
        trained = time.perf_counter() - began
        line = {"stage": stage, "epoch": epoch, "step": progress.step, **means.value(), **validate()}
        line |= {"train_seconds": round(trained, 3), "samples_per_second": round(len(train) / trained, 1)}
        progress.epoch = epoch
        finish_epoch(line)
        if accelerator.is_main_process:
            logger.info("%s", _summary(line, metric, progress))
    if not progress.finished:
        progress.finished = True
        if run is not None and accelerator.is_main_process:
            save_state(run.state_path(stage), model, optimizer, progress)
    _restore_best(model, best_weights, run, stage)
    best = progress.best if progress.best is not None else math.nan
    return Fitted(stage, progress.best_epoch, best, metric, progress.epoch, progress.history)


def _kept(stage: str, progress: Progress, run: RunDirectory | None) -> str:
    if run is None or progress.best is None:
        return "no model was kept yet"
    return f"the last good model is {run.model_path(stage)}"


class _Means:
    """Row-weighted means of the terms over an epoch."""

    def __init__(self) -> None:
        self.sums: dict[str, float] = {}
        self.rows = 0
        self._latest: dict[str, float] = {}

    def add(self, terms: dict[str, Tensor], rows: int) -> None:
        self._latest = {name: float(value) for name, value in terms.items()}
        for name, value in self._latest.items():
            self.sums[name] = self.sums.get(name, 0.0) + value * rows
        self.rows += rows

    def latest(self) -> dict[str, float]:
        return self._latest

    def value(self) -> dict[str, float]:
        return {name: total / self.rows for name, total in self.sums.items()}


def _stop_if_not_finite(
    terms: dict[str, Tensor], stage: str, epoch: int, progress: Progress, run: RunDirectory | None
) -> None:
    bad = [name for name, value in terms.items() if not math.isfinite(float(value))]
    if bad:
        named = next((name for name in bad if name != "loss"), "loss")
        raise NotFinite(
            f"{stage}: {named} is {float(terms[named])} at step {progress.step} of epoch {epoch}; "
            f"{_kept(stage, progress, run)}; "
            f"try a lower learning rate or clip_norm"
        )


def _restore_best(
    model: Recommender, best_weights: dict[str, Tensor] | None, run: RunDirectory | None, stage: str
) -> None:
    if best_weights is not None:
        model.load_state_dict(best_weights)
    elif run is not None and (run.model_path(stage) / WEIGHTS).is_file():
        load_weights(model, run.model_path(stage))
    model.eval()


def _patient(progress: Progress, patience: int) -> bool:
    return progress.epoch - progress.best_epoch < patience


def _bar(loop: Iterator[Batch], count: int, name: str, wanted: bool | None, main: bool) -> Any:
    shown = main and (sys.stderr.isatty() if wanted is None else wanted)
    return tqdm(loop, total=count, desc=name, disable=not shown, leave=False, dynamic_ncols=True)


def _summary(line: dict[str, Any], metric: str, progress: Progress) -> str:
    best = " *" if progress.best_epoch == line["epoch"] else ""
    return (
        f"{line['stage']} epoch {line['epoch']}: loss {line['loss']:.4f}, validation {metric} {line[metric]:.4f}{best}, "
        f"{line['train_seconds']:.1f} s, {line['samples_per_second']:.0f} samples/s"
    )
