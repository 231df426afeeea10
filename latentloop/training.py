"""`fit`: one training loop for any objective, on Accelerate, with early stopping and exact continuation."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from latentloop.across_ranks import processes_of
from latentloop.catalog import check_catalog, warn_of_cut
from latentloop.data.sequences import Samples
from latentloop.errors import InputError, InputTypeError
from latentloop.finite import NotFinite
from latentloop.fitting.accelerator import allow_unused, make_accelerator
from latentloop.fitting.optimizer import build_optimizer
from latentloop.fitting.row_gradients import row_gradients
from latentloop.fitting.schedule import Schedule, ScheduleName, build_schedule
from latentloop.fitting.settings import check_settings
from latentloop.fitting.stage import TrainingStage
from latentloop.fitting.step import StepModule
from latentloop.graphed_thinking import GraphedThinking
from latentloop.items.ids import check_numbering
from latentloop.measures.metrics import parse_metric
from latentloop.objectives.contract import Objective, touches_few_items, underway
from latentloop.objectives.learnable import check_learnable
from latentloop.objectives.replay import may_replay
from latentloop.runs.best_weights import BestWeights
from latentloop.runs.continuation import backbone_of, data_hash, in_words, take_up
from latentloop.runs.directory import RunDirectory
from latentloop.runs.lock import alone
from latentloop.runs.train_state import Progress

if TYPE_CHECKING:
    from accelerate import Accelerator

    from latentloop.recommender import Recommender

__all__ = ["Fitted", "NotFinite", "check_settings", "fit", "make_accelerator"]

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
    selection: Mapping[str, object] | None = None,
    progress_bar: bool | None = None,
) -> Fitted:
    """Train `model` in place with `objective` and leave it with its best weights on validation.

    Args:
        model: what to train; one without `item_ids` gets those of `train`.
        train: training samples; an objective that reads "everywhere" gets them as windows, and a step's rows are those.
        validation: validation samples, ranked in full after each epoch.
        objective: `(views, batch) -> (loss, terms)`; may have `views`, `start(model)`, `prepare(model, batch)`, `end()`
            and `updates`, see `latentloop.objectives`. One that `touches_few_items` gets row-sparse gradients of the item
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
        metric: the validation metric to choose by: "recall@K" or "ndcg@K" of any K, or "mrr".
        exclude_history: whether items of a user's past are no candidates in validation; the target always is one.
        seed: of everything random in the stage.
        accelerator: device, precision, processes and trackers (each epoch's terms and metrics are logged to those that
            are initialised, as `stage`/name at step epoch); None makes one for the best device.
        validate_first: validate before the first step, so that the model as it came may win.
        run: where to keep metrics, the best model and the state to continue from; None keeps them in memory. What is
            there is continued, unless the stage measured the weights that it began with and `model` has others: then it
            starts over.
        selection: how `train` was chosen from more samples, by name, such as {"cut": 100}; a run that is continued must
            have been told the same.
        progress_bar: None shows one on a terminal only.

    Raises:
        InputError: for a setting out of range, no samples or those of another catalog, nothing that can be learned, an
            objective with parameters of its own, an accelerator that accumulates gradients, or a `run` that holds the
            state of another model, of other data or of other settings, or is being trained.
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
    parse_metric(metric)
    if not callable(objective):
        raise InputTypeError(f"objective must be a callable of (views, batch), such as SPT(), got {objective!r}")
    check_learnable(objective, model)
    _check_samples(model, train, validation, epochs)
    if epochs and not (torch.is_grad_enabled() and any(p.requires_grad for p in model.parameters())):
        raise InputError("model: nothing can be learned: gradients are switched off, or all its parameters are frozen")
    accelerator = accelerator or make_accelerator()
    if accelerator.gradient_accumulation_steps != 1:
        raise InputError(
            f"accelerator: it divides gradients by {accelerator.gradient_accumulation_steps} (gradient_accumulation_steps), "
            f"and every step here is an update: give it 1, and batch_size as many rows as an update has"
        )
    processes = processes_of(accelerator)
    model.to(accelerator.device)
    processes.share_weights(model)  # what a stage begins with must not depend on who looks
    train, validation = train.to(accelerator.device), validation.to(accelerator.device)
    with underway(objective, model):
        # what only says when to stop is none of them, nor what only tells of progress
        settings = {
            "objective": in_words(objective),
            "seed": str(seed),
            "batch_size": str(batch_size),
            "learning_rate": str(float(learning_rate)),
            "schedule": in_words(factor),
            "weight_decay": str(float(weight_decay)),
            "clip_norm": str(None if clip_norm is None else float(clip_norm)),
            "metric": repr(metric),
            "exclude_history": str(bool(exclude_history)),
            "precision": accelerator.mixed_precision.replace("no", "fp32"),
            "scorer": in_words(model.scorer),
            "backbone": backbone_of(model),
            "inference_state": str(model.inference_state),
            "dropout of the input": str(float(model.input_dropout.p)),
            "max_length of the samples": str(min(train.max_length, model.max_length)),
            "max_length of the validation samples": str(min(validation.max_length, model.max_length)),
            "grad_steps": str(getattr(model.encoder, "grad_steps", None)),
        } | {name: str(value) for name, value in (selection or {}).items()}
        few = touches_few_items(objective)
        optimizer = build_optimizer(model, learning_rate=learning_rate, weight_decay=weight_decay, few_items=few)
        validate_first = validate_first or epochs == 0
        main, progress = accelerator.is_main_process, Progress()
        if run is not None:
            data = data_hash(train, validation)
            progress = take_up(
                run, stage, model, optimizer, data=data, settings=settings, from_zero=validate_first, write=main
            )
        found = processes.each(progress.step)
        if len(set(found)) > 1:
            where = run.path if run is not None else "the run"
            raise InputError(f"{where}: the processes find it at steps {found}: give all of them the same directory")
        if model.item_ids is None:  # before anything is kept of it
            model.item_ids = train.sequences.item_ids
        best = BestWeights(
            model, run.model_path(stage) if run else None, kept=None if progress.best is None else progress.best_epoch
        )
        if progress.history and progress.best_epoch == progress.history[-1]["epoch"]:
            best.catch_up(model, write=main)
        accelerator.wait_for_everyone()
        # gloo adds up sparse gradients, NCCL does not
        sparse = processes.world == 1 or accelerator.device.type == "cpu"
        graphed = processes.world == 1 and may_replay(objective) and GraphedThinking.suits(model)
        together = StepModule(model, objective, sparse=sparse, graphed=GraphedThinking(model) if graphed else None)
        with row_gradients(model.item_table, together.sparse):  # DDP asks each table, when it is made, what to expect
            allow_unused(accelerator)
            step_module, optimizer = accelerator.prepare(together, optimizer)
        going = TrainingStage(
            stage, model, train, validation, objective, step_module, optimizer, accelerator, progress, best, run,
            metric=metric, exclude_history=exclude_history, batch_size=batch_size, clip_norm=clip_norm, seed=seed, progress_bar=progress_bar,
            learning_rate=learning_rate, schedule=factor, epochs=epochs, graphed=graphed,
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
        finally:
            if together.graphed is not None:
                together.graphed.close()  # Accelerate keeps the module
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
        check_catalog(model, samples, name)
        if not len(samples) and (epochs or name == "validation"):
            raise InputError(f"{name}: no samples, there is nothing to {'learn from' if name == 'train' else 'rank'}")
        warn_of_cut(model, samples)
    ids = train.sequences.item_ids
    if ids is not None:
        check_numbering(ids, validation.sequences.item_ids, "validation")
