"""`latentloop evaluate`: measure a run's model again, at other depths or by group."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from latentloop.commands.places import Device, check_output, choose_device
from latentloop.commands.resume import resume_command
from latentloop.errors import InputError

if TYPE_CHECKING:
    from latentloop.data.splits import Split
    from latentloop.recommender import Recommender
    from latentloop.runs.directory import RunDirectory

__all__ = ["Evaluate", "check_depths", "open_run"]

logger = logging.getLogger(__name__)

Stage = Literal["best", "base", "spt", "rpt"]


@dataclass(frozen=True)
class Evaluate:
    """Rank every item for every user of a run's validation or test split. Needs the run directory alone."""

    run_directory: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    """A directory made by `latentloop train`."""
    split: Literal["validation", "test"] = "test"
    """Which held-out items to ask for."""
    stage: Stage = "best"
    """Which of the run's models; best is the one that won on validation."""
    encoder: str | None = None
    """The package.module:function that the run was trained with, for blocks of your own."""
    depths: tuple[int, ...] = ()
    """Further depths to measure, all from one run to the deepest."""
    exclude_history: bool = False
    """Leave items of a user's past out of the ranking, as the run does where it was trained so; the target always stays
    in."""
    include_history: bool = False
    """Keep them in, whatever the run does."""
    followers: bool = False
    """Also with counts of what follows what added to the scores, by the weight that is best on validation. It is chosen
    with or without the history as the ranking is; recommendations leave it out, so give --exclude-history for theirs."""
    groups: bool = False
    """Also by quartile of history length and of the target's popularity."""
    batch_size: int = 1024
    """Users at a time."""
    device: Device | None = None
    """Where to compute; the best there is when not given."""
    out: Path | None = None
    """Also write the result, and those of chance, Popularity and Followers, as JSON."""
    overwrite: bool = False
    """Replace the output file if it is there."""

    def run(self) -> None:
        """Carry it out."""
        from latentloop.baselines import chance, followers, popularity
        from latentloop.data.card import content_hash
        from latentloop.evaluation import evaluate
        from latentloop.files import folder_for, write_json
        from latentloop.followers import Followers
        from latentloop.measures.metrics import metric_names
        from latentloop.measures.tables import Row, depth_table, results_table, subgroup_table
        from latentloop.randomness import dropout_seed, fold
        from latentloop.repeats import repeats
        from latentloop.runs.directory import RunDirectory
        from latentloop.runs.report import say

        if self.out is not None:
            check_output(self.out, overwrite=self.overwrite)
        for depth in self.depths:
            if depth < 1:
                raise InputError(f"--depths must be whole numbers of at least 1, got {depth}")
        if self.exclude_history and self.include_history:
            raise InputError("--exclude-history and --include-history: choose one of them")
        device = choose_device(self.device)
        run = RunDirectory.open(self.run_directory)
        model, split, stage = open_run(run, self.stage, self.encoder)
        check_depths(model, self.depths)
        model.to(device)
        samples = split.validation if self.split == "validation" else split.test
        data = content_hash(split.interactions)
        exclude = self.exclude_history or (_excludes(run) and not self.include_history)
        measured: dict[str, Any] = {
            "exclude_history": exclude,
            "batch_size": self.batch_size,
            "stage": stage,
            "seeds": (run.seed(),),
            "subgroups": self.groups,
            "item_counts": split.item_counts,
            "split": self.split,
            "rule": split.protocol,
            "data": data,
        }
        with dropout_seed(fold(run.seed(), "evaluation"), device):  # a fresh T_0 is that of the run's own report
            result = evaluate(model, samples, depths=self.depths or None, **measured)
        own = None
        if not exclude:
            with dropout_seed(fold(run.seed(), "evaluation"), device):
                own = repeats(model, samples, batch_size=self.batch_size)
        models, counts, followed = {stage.upper(): result}, Followers.of(split), None
        if self.followers:
            with dropout_seed(fold(run.seed(), "followers"), device):
                bonus = counts.tuned(model, split.validation, exclude_history=exclude, batch_size=self.batch_size)
            with dropout_seed(fold(run.seed(), "evaluation"), device):
                followed = evaluate(model, samples, depths=self.depths or None, bonus=bonus, **measured)
            models[f"{stage.upper()} + {bonus}"] = followed
            if self.split == "validation":
                logger.warning(
                    "the weight of followers was chosen on validation, where its gain is therefore flattered"
                )
        options: dict[str, Any] = {"exclude_history": exclude, "subgroups": self.groups, "data": data}
        rivals = {
            "chance": chance(split, samples, name=self.split, **options),
            "Popularity": popularity(split, samples, name=self.split, **options),
            "Followers": followers(split, samples, name=self.split, counts=counts, **options),
        }
        table = rivals | models
        say(results_table([Row.of(name, **{self.split: made}) for name, made in table.items()], metric_names()))
        for evaluation in models.values() if self.depths else ():
            say("\n" + depth_table(evaluation, rivals=rivals))
        if self.groups:
            say("\n" + subgroup_table(table))
        if own is not None:
            say(f"\n{stage.upper()}: {own}")
        if self.out is not None:
            found = result.to_dict() | {"rivals": {name: rival.to_dict() for name, rival in rivals.items()}}
            if own is not None:
                found["repeats"] = own.to_dict()
            if followed is not None:
                found["with_followers"] = followed.to_dict()
            with folder_for(self.out):
                write_json(self.out, found)


def check_depths(model: Recommender, depths: Sequence[int]) -> None:
    """Refuse depths that a model cannot answer at.

    Raises:
        InputError: where the model has no loop.
    """
    from latentloop.single_pass import SinglePass

    if isinstance(model.encoder, SinglePass) and set(depths) - {1}:
        raise InputError("the base model has no loop and answers at depth 1 only: choose another --stage")


def open_run(run: RunDirectory, stage: Stage = "best", encoder: str | None = None) -> tuple[Recommender, Split, str]:
    """A run's model, its data as it was split, and the stage the model is of.

    Args:
        run: where they are.
        stage: which model.
        encoder: package.module:function of blocks of one's own; never taken from the run's files.

    Raises:
        InputError: where the run has no such model yet, or was trained with a built-in backbone and not `encoder`.
    """
    from latentloop.commands.model_options import ModelOptions
    from latentloop.commands.options import DataOptions
    from latentloop.commands.saved import saved_options
    from latentloop.data.store import load_saved_interactions
    from latentloop.recommender import Recommender
    from latentloop.saving.pretrained import read_config

    if stage == "best" and _untold(run):
        raise InputError(
            f"{run.lines.path} is missing or says nothing of rpt, so which is best is unknown: choose --stage"
        )
    chosen = run.lines.best_stage() if stage == "best" else stage
    path = run.model_path(chosen)
    if "data" not in run.config():
        raise InputError(
            f"{run.path} was not made by `train`, which keeps data and options beside the models: load a model of it "
            "with Recommender.from_pretrained, and evaluate it in Python"
        )
    if not (path / "config.json").is_file():
        raise InputError(f"{run.path} holds no {chosen} model: {_how_to_get(chosen, run)}")
    options = saved_options(DataOptions, run.config(), "data", run.config_path)
    saved_length = read_config(path).get("max_length")
    if options.max_length != saved_length:
        raise InputError(
            f"{run.config_path} is damaged: data.max_length is {options.max_length}, and {saved_length!r} in "
            f"{path / 'config.json'}"
        )
    split = options.divide(load_saved_interactions(run.data_path))
    if encoder is None:
        return _of_the_data(Recommender.from_pretrained(path), split, path), split, chosen
    made = saved_options(ModelOptions, run.config(), "model", run.config_path)
    if made.encoder is None:
        raise InputError(f"{run.path} was trained with --backbone {made.backbone}: leave out --encoder")
    try:
        own = made.own_encoder(encoder, options.max_length, loop=chosen != "base")
    except InputError as error:
        if made.encoder == encoder:
            raise
        raise InputError(
            f"{run.path} was trained with --encoder {made.encoder}, not {encoder}: {error}"
        ) from error.__cause__
    model = Recommender.from_pretrained(path, encoder=own)
    if made.encoder != encoder:  # it may have moved, and its code was not compared
        logger.warning("%s was trained with --encoder %s, not %s", run.path, made.encoder, encoder)
    return _of_the_data(model, split, path), split, chosen


def _how_to_get(stage: str, run: RunDirectory) -> str:
    """What to do for a model that is not there."""
    from latentloop.commands.saved import saved_train

    if stage == "base" and run.config().get("with_base") is False:
        return "it was trained without --with-base, choose another --stage"
    if not run.data_path.is_dir():
        return "give `latentloop train` its options again, with --resume"
    asked = saved_train(run)
    untold = all(line["stage"] != "rpt" for line in run.lines.read())
    if stage == "rpt" and (asked.training.rpt_epochs == 0 or (untold and run.report_path.is_file())):
        return "its training made none (--rpt-epochs was 0, or no sample was selected), choose another --stage"
    return f"`{resume_command(run.path, encoder=asked.model.encoder)}` goes on with it, or choose another --stage"


def _excludes(run: RunDirectory) -> bool:
    """Whether the run left the history out of its own rankings."""
    found = run.config().get("exclude_history", False)
    if not isinstance(found, bool):
        raise InputError(f"{run.config_path} is damaged: exclude_history must be true or false, found {found!r}")
    return found


def _untold(run: RunDirectory) -> bool:
    """Whether there is a post-trained model that no line tells how good it was."""
    there = (run.model_path("rpt") / "config.json").is_file()
    return there and all(line["stage"] != "rpt" for line in run.lines.read())


def _of_the_data(model: Recommender, split: Split, path: Path) -> Recommender:
    """Refuse a model whose items are other ones than the run's: it would be measured, and wrongly.

    Raises:
        InputError: where an item has another number in the model.
    """
    ids = split.interactions.item_ids
    if model.item_ids is not None and [str(i) for i in model.item_ids.ids] != [str(i) for i in ids]:
        raise InputError(f"{path / 'items.json'} lists other items than the run's data: the model is of another run")
    return model
