"""The recipe: self-supervised pre-training, selection of samples, reinforcement post-training, then test once."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from latentloop.across_ranks import processes_of
from latentloop.baselines import chance, followers, popularity
from latentloop.catalog import check_catalog
from latentloop.data.card import content_hash
from latentloop.data.interactions import Interactions
from latentloop.data.splits import Split, leave_one_out
from latentloop.errors import InputError, InputTypeError
from latentloop.evaluation import evaluate
from latentloop.fitting.accelerator import Precision, closing_trackers, make_accelerator, warn_of_emulation
from latentloop.fitting.schedule import Schedule, ScheduleName
from latentloop.fitting.settings import check_settings
from latentloop.fitting.shared_weights import shared_weight
from latentloop.followers import Followers
from latentloop.measures.results import Evaluation
from latentloop.objectives import RPT, SPT, NextItem, NextItemEverywhere, Objective, select, views_of
from latentloop.objectives.compose import parts_of
from latentloop.objectives.learnable import check_learnable
from latentloop.randomness import dropout_seed, fold
from latentloop.repeats import Repeats, repeats
from latentloop.runs.directory import RunDirectory
from latentloop.runs.lock import alone
from latentloop.training import Fitted, fit

if TYPE_CHECKING:
    from accelerate.tracking import GeneralTracker

    from latentloop.recommender import Recommender

__all__ = ["Outcome", "TwoStage", "two_stage"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """A row of the final table.

    Args:
        validation: metrics on validation, with their protocol.
        test: metrics on test, measured once.
        fitted: how the stage went; None where nothing was trained.
        repeats: what of the answers on test the users already have; None for rows that count, or where the history is left
            out.
    """

    validation: Evaluation
    test: Evaluation
    fitted: Fitted | None = None
    repeats: Repeats | None = None


@dataclass(frozen=True)
class TwoStage:
    """What the recipe came to.

    Args:
        model: the model that won on validation: RPT's, or SPT's where post-training found nothing better.
        outcomes: by name, in the table's order: "chance", "popularity", "followers", "base" (where asked for), "spt", "rpt".
        train_samples: training samples before selection.
        kept_samples: training samples that post-training saw.
        split: what was trained and tested on.
    """

    model: Recommender
    outcomes: Mapping[str, Outcome]
    train_samples: int
    kept_samples: int
    split: Split

    def __repr__(self) -> str:
        samples = f"train_samples={self.train_samples}, kept_samples={self.kept_samples}"
        return f"TwoStage({type(self.model).__name__}, outcomes={list(self.outcomes)}, {samples}, split={self.split!r})"

    @property
    def pretrained_won(self) -> bool:
        """Whether post-training ran and no epoch of it beat the pre-trained model on validation."""
        rpt = self.outcomes.get("rpt")
        return rpt is not None and rpt.fitted is not None and rpt.fitted.best_epoch == 0

    @property
    def metrics(self) -> dict[str, dict[str, float]]:
        """Test metrics by row."""
        return {name: dict(outcome.test.metrics) for name, outcome in self.outcomes.items()}


@dataclass
class _Recipe:
    """What both stages share."""

    split: Split
    run: RunDirectory | None
    seed: int
    settings: dict[str, Any]
    data_hash: str
    outcomes: dict[str, Outcome] = field(default_factory=dict)

    def train(self, model: Recommender, objective: Objective, stage: str, samples: Any = None, **own: Any) -> None:
        """One stage, then its two evaluations with the best weights."""
        fitted = fit(
            model,
            self.split.train if samples is None else samples,
            self.split.validation,
            objective,
            stage=stage,
            seed=self.seed,
            run=self.run,
            **(self.settings | own),
        )
        validation, test = self._evaluate(model, "validation", stage), self._evaluate(model, "test", stage)
        self.outcomes[stage] = Outcome(validation, test, fitted, self._repeats(model))

    def _evaluate(self, model: Recommender, split: str, stage: str) -> Evaluation:
        samples = self.split.validation if split == "validation" else self.split.test
        with dropout_seed(fold(self.seed, "evaluation"), model.device):
            return evaluate(
                model,
                samples,
                exclude_history=self.settings["exclude_history"],
                split=split,
                stage=stage,
                seeds=(self.seed,),
                rule=self.split.protocol,
                data=self.data_hash,
                processes=processes_of(self.settings["accelerator"]),
            )

    def _repeats(self, model: Recommender) -> Repeats | None:
        if self.settings["exclude_history"]:
            return None
        with dropout_seed(fold(self.seed, "evaluation"), model.device):
            return repeats(model, self.split.test, processes=processes_of(self.settings["accelerator"]))

    def rival(self, name: str, make: Callable[..., Evaluation]) -> None:
        """A row that needs no training."""
        protocol = {"exclude_history": self.settings["exclude_history"], "data": self.data_hash}
        validation = make(self.split, self.split.validation, name="validation", **protocol)
        test = make(self.split, self.split.test, name="test", **protocol)
        self.outcomes[name] = Outcome(validation, test)


@alone
def two_stage(
    model: Recommender,
    data: Interactions | Split,
    *,
    spt: Objective | None = None,
    rpt: Objective | None = None,
    base: Recommender | None = None,
    epochs: int = 200,
    rpt_epochs: int = 50,
    batch_size: int = 1024,
    rpt_batch_size: int = 256,
    learning_rate: float = 1e-3,
    rpt_learning_rate: float = 3e-4,
    schedule: ScheduleName | Schedule = "constant",
    weight_decay: float = 0.0,
    clip_norm: float | None = None,
    patience: int = 10,
    exclude_history: bool = False,
    cut: int = 100,
    trials: int = 3,
    seed: int = 0,
    device: str | None = None,
    precision: Precision = "fp32",
    tracker: str | GeneralTracker | None = None,
    run: RunDirectory | None = None,
    progress_bar: bool | None = None,
) -> TwoStage:
    """Pre-train, select, post-train, and test once with the best of each stage.

    Args:
        model: what to train, in place; it ends with the weights that won on validation.
        data: interactions, split leave-one-out here, or a split.
        spt: pre-training objective; None is `SPT()`.
        rpt: post-training objective; None is `RPT()`.
        base: a plain model to train beside it with the next-item loss alone, on the same budget and, like `spt`, at the
            newest position or at all.
        epochs: pre-training epochs at most; 0 leaves pre-training out, the model as it came is measured and kept.
        rpt_epochs: post-training epochs at most; 0 leaves post-training out.
        batch_size: rows of a pre-training step: samples, or windows where `spt` learns from every position.
        rpt_batch_size: rows of a post-training step, each with its rollouts.
        learning_rate: of pre-training.
        rpt_learning_rate: of post-training.
        schedule: of the learning rate, in each stage over all of its epochs that there may be, see `fit`.
        weight_decay: of both, see `fit`.
        clip_norm: largest gradient norm of both; None does not clip.
        patience: epochs without a better validation NDCG@10 before a stage stops.
        exclude_history: whether items of a user's past are no candidates, in validation and test; the target always is.
        cut: a training sample is kept for post-training where its target is in the top `cut` ...
        trials: ... in at least one of so many independent inference trials.
        seed: of everything random.
        device: "cpu", "cuda" or None for the best.
        precision: "fp32" or "bf16".
        tracker: who is told of each epoch: "tensorboard" (into `run`), or an `accelerate.tracking.GeneralTracker`.
        run: where to keep everything, see `RunDirectory`; None keeps it in memory. A run that is there is continued;
            post-training starts over where pre-training went on to better weights.
        progress_bar: None shows one on a terminal only.

    Raises:
        InputError: for data that does not fit the model, a setting out of range, a model that `rpt` cannot post-train,
            or a `run` that is being trained or was trained by other settings.
        OSError: where `run` cannot be written; its last checkpoint is whole.
    """
    if not isinstance(data, Interactions | Split):
        raise InputTypeError(f"data must be Interactions (load_interactions) or a Split, got {type(data).__name__}")
    split = leave_one_out(data, model.max_length) if isinstance(data, Interactions) else data
    for name, given in (("model", model), ("base", base)):
        if given is not None and given.num_items != split.num_items:
            raise InputError(f"{name} knows {given.num_items} items, the data holds {split.num_items}")
        if given is not None:
            check_catalog(given, split.train, "data")
    if base is not None and epochs > 0 and (shared := shared_weight(model, base)):
        raise InputError(
            f"base must have weights of its own, to be trained beside model: it has {shared} in common with it"
        )
    check_settings(
        epochs=epochs,
        rpt_epochs=rpt_epochs,
        batch_size=batch_size,
        rpt_batch_size=rpt_batch_size,
        learning_rate=learning_rate,
        rpt_learning_rate=rpt_learning_rate,
        schedule=schedule,
        weight_decay=weight_decay,
        clip_norm=clip_norm,
        patience=patience,
        cut=cut,
        trials=trials,
    )
    directory = None if run is None else run.path
    accelerator = make_accelerator(device=device, precision=precision, tracker=tracker, directory=directory)
    warn_of_emulation(accelerator)
    settings = {
        "patience": patience,
        "exclude_history": exclude_history,
        "schedule": schedule,
        "weight_decay": weight_decay,
        "clip_norm": clip_norm,
        "accelerator": accelerator,
        "progress_bar": progress_bar,
    }
    rpt = RPT() if rpt is None else rpt
    if rpt_epochs > 0:
        model.to(accelerator.device)
        _check_before(rpt, model)
    recipe = _Recipe(split, run, seed, settings, content_hash(split.interactions))
    with closing_trackers(accelerator):
        recipe.rival("chance", chance)
        recipe.rival("popularity", popularity)
        recipe.rival("followers", partial(followers, counts=Followers.of(split)))
        budget = {"epochs": epochs, "batch_size": batch_size, "learning_rate": learning_rate}
        spt = SPT() if spt is None else spt
        if base is not None:
            everywhere = "everywhere" in views_of(spt)
            recipe.train(base, NextItemEverywhere() if everywhere else NextItem(), "base", **budget)
        recipe.train(model, spt, "spt", **budget)
        kept = len(split.train)
        if rpt_epochs > 0:
            processes, key = processes_of(accelerator), fold(seed, "selection")
            samples = select(model, split.train, cut=cut, trials=trials, key=key, processes=processes)
            kept = len(samples)
            logger.info(
                "selection: %d of %d training samples have their target in the top %d", kept, len(split.train), cut
            )
            if kept:
                recipe.train(
                    model,
                    rpt,
                    "rpt",
                    samples,
                    epochs=rpt_epochs,
                    batch_size=rpt_batch_size,
                    learning_rate=rpt_learning_rate,
                    selection={"cut": cut, "trials": trials},
                    validate_first=True,  # so that the pre-trained weights come back where nothing beats them
                )
    return TwoStage(model, recipe.outcomes, len(split.train), kept, split)


def _check_before(rpt: Objective, model: Recommender) -> None:
    """Refuse what cannot post-train, not when pre-training is done."""
    if not callable(rpt):
        raise InputTypeError(f"rpt must be an objective such as RPT(), got {rpt!r}")
    check_learnable(rpt, model)
    parts: list[Objective] = [rpt]
    while parts:
        part = parts.pop()
        if isinstance(part, RPT):
            part.check(model)
        parts += parts_of(part)
