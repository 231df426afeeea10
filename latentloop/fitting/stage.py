"""A stage of training that is going on: an epoch's steps, its validation, and what is kept of it."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from latentloop.across_ranks import processes_of
from latentloop.data.batch import Batch, at_once, batches, num_batches
from latentloop.data.counted import counted
from latentloop.data.positives import SameTarget
from latentloop.data.sequences import Samples
from latentloop.data.windows import Windows
from latentloop.errors import InputError
from latentloop.evaluation import evaluate
from latentloop.finite import NotFinite, ScoresBroke, check_weights
from latentloop.fitting.schedule import Schedule, ScheduledRate
from latentloop.fitting.step import updates
from latentloop.fitting.step_terms import StepTerms, steps_together
from latentloop.measures.metrics import CUTOFFS, parse_metric
from latentloop.objectives.contract import Objective, free_name, views_of
from latentloop.randomness import dropout_seed, fold
from latentloop.runs.best_weights import BestWeights
from latentloop.runs.directory import RunDirectory
from latentloop.runs.train_state import Progress, save_state

if TYPE_CHECKING:
    from accelerate import Accelerator

    from latentloop.recommender import Recommender

__all__ = ["TrainingStage"]

logger = logging.getLogger(__name__)


@dataclass
class TrainingStage:
    """A stage that is going on: what one epoch of it needs; see `fit` for what the settings mean.

    Args:
        name: for logs and files.
        model: what is trained.
        train: training samples.
        validation: validation samples.
        objective: what with.
        step_module: model and objective as Accelerate prepared them.
        optimizer: likewise.
        accelerator: device, precision, processes and trackers.
        progress: how far the stage is.
        best: the best weights so far.
        run: where lines and state are kept, or None.
        metric: the validation metric to choose by.
        exclude_history: whether items of a user's past are no candidates in validation.
        batch_size: rows of a step.
        clip_norm: largest gradient norm, or None.
        seed: of everything random.
        progress_bar: None shows one on a terminal only.
        learning_rate: what the schedule's factors multiply.
        schedule: of the learning rate.
        epochs: what the schedule is laid over.
        graphed: whether thoughts are replayed, for which batches are counted.

    Raises:
        InputError: where `progress` is of another schedule.
    """

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
    graphed: bool = False

    def __post_init__(self) -> None:
        # rows of what the model reads: it would not see the older targets of a longer window
        read = replace(self.train, max_length=min(self.train.max_length, self.model.max_length))
        # the samples are sorted once for all epochs
        self.rows = Windows.of(read) if "everywhere" in views_of(self.objective) else read
        self.positives = SameTarget(read) if "same_target" in views_of(self.objective) else False
        self.processes = processes_of(self.accelerator)
        steps = self.epochs * num_batches(len(self.rows), self.batch_size) * getattr(self.objective, "updates", 1)
        self.rate = ScheduledRate(self.learning_rate, self.schedule, steps)
        self.rate.take_up(self.name, self.progress)
        self.told = False  # how validation measures, once for all epochs

    def train_epoch(self, epoch: int) -> dict[str, Any]:
        """Every sample once, then validation; the epoch's line."""
        began, progress = time.perf_counter(), self.progress
        self.model.train()
        terms = StepTerms(epoch, every=steps_together(self.accelerator.device), processes=self.processes)
        try:
            with self._batches(epoch) as bar:
                self.rate.set(self.optimizer, progress.step)
                for batch in bar:
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
                    cutoffs=sorted({*CUTOFFS, parse_metric(self.metric).cutoff or CUTOFFS[0]}),
                    split="validation",
                    stage=self.name,
                    seeds=(self.seed,),
                    processes=self.processes,
                )
            except ScoresBroke:  # of weights that are still numbers, but too large to compute with
                step = self.progress.step
                raise NotFinite(f"scores on validation are no numbers after step {step}", learned=step > 0) from None
        if self.accelerator.is_main_process and not self.told:
            logger.info("%s: every epoch is measured alike: %s", self.name, found.protocol)
            self.told = True
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
            self.run.lines.add(line)
        told = {f"{self.name}/{name}": value for name, value in line.items() if name not in ("stage", "epoch")}
        self.accelerator.log(told, step=line["epoch"])
        self.accelerator.wait_for_everyone()
        if main and line["epoch"]:
            logger.info("%s", _summary(line, self.metric, better))
            if _has_rollouts(line) and line["zero_variance"] == 1:
                logger.warning(
                    "%s epoch %d: all rollouts of every sample earned the same, so rewards taught nothing. Does T_0 reach "
                    "the answer? Rollouts differ in more with RPT(dropout=True) or own_depth=True (--rollout-dropout, "
                    "--own-depth)",
                    self.name,
                    line["epoch"],
                )

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
        if self.graphed:
            loop = counted(loop, self.model.max_length, at_once(self.model.device, self.batch_size))
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
    rollouts = ""
    if _has_rollouts(line):
        rollouts = f", reward {line['reward_mean']:.4f}, ties {line['zero_variance']:.0%}"
    return (
        f"{line['stage']} epoch {line['epoch']}: loss {line['loss']:.4f}{rollouts}, validation {metric} "
        f"{line[metric]:.4f}{best}, "
        f"{line['train_seconds']:.1f} s, {line['samples_per_second']:.0f} samples/s"
    )


def _has_rollouts(line: dict[str, Any]) -> bool:
    return "reward_mean" in line and "zero_variance" in line
