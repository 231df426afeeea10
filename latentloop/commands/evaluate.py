"""`latentloop evaluate`: measure a run's model again, at other depths or by group."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from latentloop.errors import InputError

if TYPE_CHECKING:
    from latentloop.data.splits import Split
    from latentloop.recommender import Recommender
    from latentloop.run_directory import RunDirectory

__all__ = ["Evaluate", "open_run"]

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
    """Leave items of a user's past out of the ranking; the target always stays in."""
    groups: bool = False
    """Also by quartile of history length and of the target's popularity."""
    batch_size: int = 1024
    """Users at a time."""
    out: Path | None = None
    """Also write the result as JSON."""

    def run(self) -> None:
        """Carry it out."""
        from latentloop.baselines import chance, popularity
        from latentloop.data.card import content_hash
        from latentloop.evaluation import evaluate
        from latentloop.files import write_json
        from latentloop.metrics import metric_names
        from latentloop.report import say
        from latentloop.run_directory import RunDirectory
        from latentloop.tables import Row, depth_table, results_table, subgroup_table

        run = RunDirectory.open(self.run_directory)
        model, split, stage = open_run(run, self.stage, self.encoder)
        samples = split.validation if self.split == "validation" else split.test
        data = content_hash(split.interactions)
        for depth in self.depths:
            if depth < 1:
                raise InputError(f"--depths must be whole numbers of at least 1, got {depth}")
        result = evaluate(
            model,
            samples,
            depths=self.depths or None,
            exclude_history=self.exclude_history,
            batch_size=self.batch_size,
            stage=stage,
            seeds=(run.seed(),),
            subgroups=self.groups,
            item_counts=split.item_counts,
            split=self.split,
            rule=split.protocol,
            data=data,
        )
        rivals = {
            "chance": chance(split, samples, name=self.split, exclude_history=self.exclude_history, data=data),
            "Popularity": popularity(split, samples, name=self.split, exclude_history=self.exclude_history, data=data),
            stage.upper(): result,
        }
        rows = [Row.of(name, **{self.split: outcome}) for name, outcome in rivals.items()]
        say(results_table(rows, metric_names()))
        if self.depths:
            say(depth_table(result))
        if self.groups:
            say(subgroup_table(result))
        if self.out is not None:
            self.out.parent.mkdir(parents=True, exist_ok=True)
            write_json(self.out, result.to_dict())


def open_run(run: RunDirectory, stage: Stage = "best", encoder: str | None = None) -> tuple[Recommender, Split, str]:
    """A run's model, its data as it was split, and the stage the model is of.

    Args:
        run: where they are.
        stage: which model.
        encoder: package.module:function of blocks of one's own; never taken from the run's files.

    Raises:
        InputError: where the run has no such model yet.
    """
    from latentloop.commands.model_options import ModelOptions
    from latentloop.commands.options import DataOptions
    from latentloop.data.store import load_saved_interactions
    from latentloop.recommender import Recommender

    chosen = run.best_stage() if stage == "best" else stage
    path = run.model_path(chosen)
    if not (path / "config.json").is_file():
        raise InputError(f"{run.path} holds no {chosen} model yet: train it further with --resume, or choose --stage")
    try:
        options, model = DataOptions(**run.config()["data"]), ModelOptions(**run.config()["model"])
    except (KeyError, TypeError) as error:
        raise InputError(f"{run.config_path} is damaged: {error}") from None
    split = options.divide(load_saved_interactions(run.data_path))
    own = None if encoder is None else model.own_encoder(encoder, loop=chosen != "base")
    return Recommender.from_pretrained(path, encoder=own), split, chosen
