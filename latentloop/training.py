"""`fit`: one training loop for any objective, on Accelerate, with early stopping and exact continuation."""

from __future__ import annotations

import logging
import math
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from latentloop.accelerator import allow_unused, make_accelerator
from latentloop.across_ranks import processes_of
from latentloop.best_weights import BestWeights
from latentloop.continuation import data_hash, take_up
from latentloop.data.batch import Batch, batches, num_batches
from latentloop.data.positives import SameTarget
from latentloop.data.sequences import Samples
from latentloop.data.windows import Windows
from latentloop.errors import InputError, InputTypeError
from latentloop.evaluation import evaluate
from latentloop.finite import NotFinite, ScoresBroke, check_weights
from latentloop.metrics import metric_names
from latentloop.objectives.contract import Objective, free_name, touches_few_items, views_of
from latentloop.optimizer import build_optimizer
from latentloop.randomness import dropout_seed, fold
from latentloop.row_gradients import row_gradients
from latentloop.run_directory import RunDirectory
from latentloop.run_lock import alone
from latentloop.schedule import Schedule, ScheduledRate, ScheduleName, build_schedule
from latentloop.step_terms import StepTerms, steps_together
from latentloop.train_state import Progress, save_state
from latentloop.training_settings import check_settings
from latentloop.training_step import StepModule, updates

if TYPE_CHECKING:
    from accelerate import Accelerator

    from latentloop.recommender import Recommender

__all__ = ["Fitted", "NotFinite", "check_settings", "fit", "make_accelerator"]

logger = logging.getLogger(__name__)

_BROKEN_FROM_THE_START = (
    "nothing was learned yet: look for a softmax over nothing, a division by zero or a logarithm of zero in the blocks "
    "and the objective"
)


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


@alone
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
    schedule: ScheduleName | Schedule = "constant",
    weight_decay: float = 0.0,
    clip_norm: float | None = None,
    patience: int = 10,
    metric: str = "ndcg@10",
    exclude_history: bool = False,
    seed: int = 0,
    accelerator: Accelerator | None = None,
    validate_first: bool = False,
    run: RunDirectory | None = None,
    progress_bar: bool | None = None,
) -> Fitted:
    """Train `model` in place with `objective` and leave it with its best weights on validation.

    Args:
        model: what to train.
        train: training samples; an objective that reads "everywhere" gets them as windows, and a step's rows are those.
        validation: validation samples, ranked in full after each epoch.
        objective: `(views, batch) -> (loss, terms)`; may have `views`, `start(model)`, `prepare(model, batch)` and
            `updates`, see `latentloop.objectives`. One that `touches_few_items` gets row-sparse gradients of the item
            table and row-wise optimizer state of it.
        stage: a name for logs and files.
        epochs: at most so many; 0 measures and keeps the model as it came.
        batch_size: rows of a step, on all processes together.
        learning_rate: AdamW's, see `RowWiseAdamW` for an item table of which few rows are touched.
        schedule: the learning rate's factor at each step of the `epochs` there may be: "constant", "cosine" (with a
            warm-up, see `Cosine`), or any function of (step, total_steps).
        weight_decay: AdamW's, on matrices of the encoder only: not on tables, norms and biases.
        clip_norm: largest gradient norm; None does not clip.
        patience: stop after so many epochs without a better `metric`.
        metric: the validation metric to choose by.
        exclude_history: whether items of a user's past are no candidates in validation; the target always is one.
        seed: of everything random in the stage.
        accelerator: device, precision, processes and trackers (each epoch's terms and metrics are logged to those that
            are initialised, as `stage`/name at step epoch); None makes one for the best device.
        validate_first: validate before the first step, so that the model as it came may win.
        run: where to keep metrics, the best model and the state to continue from; None keeps them in memory. What is
            there is continued, unless the stage measured the weights that it began with and `model` has others: then it
            starts over.
        progress_bar: None shows one on a terminal only.

    Raises:
        InputError: for a setting out of range, no samples or those of another catalog, or a `run` that holds the state of another model or of other data, or is
            being trained.
        OSError: where `run` cannot be written; its last checkpoint is whole.
        NotFinite: where a term or the weights are no numbers; the model has the best weights so far then, or those
            it came with, and the message says which.
    """
    check_settings(
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        clip_norm=clip_norm,
        patience=patience,
    )
    factor = build_schedule(schedule)
    if metric not in metric_names():
        raise InputError(f"metric must be one of {', '.join(metric_names())}, got {metric!r}")
    if not callable(objective):
        raise InputTypeError(f"objective must be a callable of (views, batch), such as SPT(), got {objective!r}")
    _check_samples(model, train, validation, epochs)
    accelerator = accelerator or make_accelerator()
    processes = processes_of(accelerator)
    model.to(accelerator.device)
    processes.share_weights(model)  # what a stage begins with must not depend on who looks
    train, validation = train.to(accelerator.device), validation.to(accelerator.device)
    start = getattr(objective, "start", None)
    if start is not None:
        start(model)
    few = touches_few_items(objective)
    optimizer = build_optimizer(model, learning_rate=learning_rate, weight_decay=weight_decay, few_items=few)
    validate_first = validate_first or epochs == 0
    main = accelerator.is_main_process
    progress = (
        Progress()
        if run is None
        else take_up(
            run, stage, model, optimizer, data=data_hash(train, validation), from_zero=validate_first, write=main
        )
    )
    found = processes.each(progress.step)
    if len(set(found)) > 1:
        where = run.path if run is not None else "the run"
        raise InputError(f"{where}: the processes find it at steps {found}: give all of them the same directory")
    best = BestWeights(
        model, run.model_path(stage) if run else None, kept=None if progress.best is None else progress.best_epoch
    )
    if progress.history and progress.best_epoch == progress.history[-1]["epoch"]:
        best.catch_up(model, write=main)
    accelerator.wait_for_everyone()
    # gloo adds up sparse gradients, NCCL does not
    together = StepModule(model, objective, sparse=processes.world == 1 or accelerator.device.type == "cpu")
    with row_gradients(model.item_table, together.sparse):  # DDP asks each table, when it is made, what to expect
        allow_unused(accelerator)
        step_module, optimizer = accelerator.prepare(together, optimizer)
    going = _Stage(
        stage, model, train, validation, objective, step_module, optimizer, accelerator, progress, best, run,
        metric=metric, exclude_history=exclude_history, batch_size=batch_size, clip_norm=clip_norm, seed=seed, progress_bar=progress_bar,
        learning_rate=learning_rate, schedule=factor, epochs=epochs,
    )  # fmt: skip
    try:
        if validate_first and not progress.history:
            going.finish({"stage": stage, "epoch": 0, **going.validate()})
        while progress.epoch < epochs and progress.epoch - progress.best_epoch < patience:
            going.finish(going.train_epoch(progress.epoch + 1))
    except NotFinite as error:
        best.restore(model)
        advice = "try a lower learning rate or clip_norm" if error.learned else _BROKEN_FROM_THE_START
        raise NotFinite(f"{stage}: {error}; {best}; {advice}", learned=error.learned) from None
    best.restore(model)
    value = progress.best if progress.best is not None else math.nan
    return Fitted(stage, progress.best_epoch, value, metric, progress.epoch, progress.history)


def _check_samples(model: Recommender, train: Samples, validation: Samples, epochs: int) -> None:
    """Refuse what cannot be learned from or ranked, before any work is done.

    Raises:
        InputError: for no samples, or those of another catalog.
        InputTypeError: for anything but samples.
    """
    for name, samples in (("train", train), ("validation", validation)):
        if not isinstance(samples, Samples):
            raise InputTypeError(f"{name} must be Samples, such as split.{name}, got {type(samples).__name__}")
        if samples.num_items != model.num_items:
            raise InputError(
                f"{name}: of a catalog of {samples.num_items} items, but the model knows {model.num_items}"
            )
        if not len(samples) and (epochs or name == "validation"):
            raise InputError(f"{name}: no samples, there is nothing to {'learn from' if name == 'train' else 'rank'}")


@dataclass
class _Stage:
    """A stage that is going on: what one epoch of it needs."""

    name: str
    model: Recommender
    train: Samples
    validation: Samples
    objective: Objective
    step_module: nn.Module
    optimizer: torch.optim.Optimizer
    accelerator: Accelerator
    progress: Progress
    best: BestWeights
    run: RunDirectory | None
    metric: str
    exclude_history: bool
    batch_size: int
    clip_norm: float | None
    seed: int
    progress_bar: bool | None
    learning_rate: float
    schedule: Schedule
    epochs: int

    def __post_init__(self) -> None:
        # the samples are sorted once for all epochs
        self.rows = Windows.of(self.train) if "everywhere" in views_of(self.objective) else self.train
        self.positives = SameTarget(self.train) if "same_target" in views_of(self.objective) else False
        self.processes = processes_of(self.accelerator)
        steps = self.epochs * num_batches(len(self.rows), self.batch_size) * getattr(self.objective, "updates", 1)
        self.rate = ScheduledRate(self.learning_rate, self.schedule, steps)
        self.rate.take_up(self.name, self.progress)

    def train_epoch(self, epoch: int) -> dict[str, Any]:
        """Every sample once, then validation; the epoch's line."""
        began, progress = time.perf_counter(), self.progress
        self.model.train()
        terms = StepTerms(epoch, every=steps_together(self.accelerator.device), processes=self.processes)
        try:
            with self._batches(epoch) as bar:
                for batch in bar:
                    self.rate.set(self.optimizer, progress.step)
                    for step in self._updates(batch):
                        progress.step += 1
                        self.rate.set(self.optimizer, progress.step)
                        terms.add(progress.step, step, batch.total, batch.share)
                    bar.set_postfix({name: f"{value:.4f}" for name, value in terms.latest.items()}, refresh=False)
        except InputError:
            # numbers that broke lead to mistakes further on, which the numbers themselves explain better
            terms.settle(alone=True)
            check_weights(self.model, progress.step)
            raise
        means, trained = terms.means(), time.perf_counter() - began
        line = {"stage": self.name, "epoch": epoch, "steps": progress.step, **self.validate()}
        line |= {"train_seconds": round(trained, 3), "samples_per_second": round(len(self.train) / trained, 1)}
        for name, value in means.items():  # of whatever name: continuing relies on the line's own
            line[free_name(name, line)] = value
        progress.epoch = epoch
        return line

    def validate(self) -> dict[str, float]:
        """Metrics on validation.

        Raises:
            NotFinite: for weights or scores that are no numbers.
        """
        check_weights(self.model, self.progress.step)
        self.processes.share_weights(self.model, buffers_only=True)  # statistics of a batch norm are each process's own
        # a fresh T_0 an answer, where the model asks for one, must repeat itself too, and be the same in every stage
        with dropout_seed(fold(self.seed, "evaluation"), self.accelerator.device):
            try:
                found = evaluate(
                    self.model,
                    self.validation,
                    exclude_history=self.exclude_history,
                    split="validation",
                    stage=self.name,
                    seeds=(self.seed,),
                    processes=self.processes,
                )
            except ScoresBroke:  # of weights that are still numbers, but too large to compute with
                step = self.progress.step
                raise NotFinite(f"scores on validation are no numbers after step {step}", learned=step > 0) from None
        return dict(found.metrics)

    def finish(self, line: dict[str, Any]) -> None:
        """Save what to continue from, then keep an epoch's weights where they are the best, and log its line.

        In this order because the state holds all that the other two are written from: a run that is killed in between
        writes them when it is continued.
        """
        progress, main = self.progress, self.accelerator.is_main_process
        progress.history.append(line)
        better = progress.best is None or line[self.metric] > progress.best
        if better:
            progress.best, progress.best_epoch = line[self.metric], line["epoch"]
        self.save()
        if better:
            self.best.keep(self.model, line["epoch"], write=main)
        if self.run is not None and main:
            self.run.log(line)
        told = {f"{self.name}/{name}": value for name, value in line.items() if name not in ("stage", "epoch")}
        self.accelerator.log(told, step=line["epoch"])
        self.accelerator.wait_for_everyone()
        if main and line["epoch"]:
            logger.info("%s", _summary(line, self.metric, better))

    def save(self) -> None:
        """Save what to continue from, where there is a run directory."""
        if self.run is not None and self.accelerator.is_main_process:
            save_state(self.run.state_path(self.name), self.model, self.optimizer, self.progress)

    def _batches(self, epoch: int) -> Any:
        """The epoch's batches behind a progress bar."""
        loop = batches(
            self.rows,
            self.batch_size,
            key=fold(self.seed, self.name),
            epoch=epoch,
            same_target=self.positives,
            rank=self.processes.rank,
            world=self.processes.world,
        )
        count = num_batches(len(self.rows), self.batch_size)
        shown = self.processes.rank == 0 and (sys.stderr.isatty() if self.progress_bar is None else self.progress_bar)
        name = f"{self.name} epoch {epoch}"
        return tqdm(loop, total=count, desc=name, disable=not shown, leave=False, dynamic_ncols=True)

    def _updates(self, batch: Batch) -> Iterator[dict[str, Tensor]]:
        return updates(
            self.step_module, self.model, self.objective, self.optimizer, self.accelerator, batch, self.clip_norm
        )


def _summary(line: dict[str, Any], metric: str, better: bool) -> str:
    best = " *" if better else ""
    return (
        f"{line['stage']} epoch {line['epoch']}: loss {line['loss']:.4f}, validation {metric} {line[metric]:.4f}{best}, "
        f"{line['train_seconds']:.1f} s, {line['samples_per_second']:.0f} samples/s"
    )
