"""A run on disk: its configuration, the line-by-line metrics, models, and the state from which it continues.

config.json      what was asked for
metrics.jsonl    one line an epoch and stage
data/            the prepared interactions, with their hash
spt/ rpt/ base/  each a loadable model
state/           what an interrupted stage continues from
tensorboard/     each epoch's numbers for TensorBoard, where that was asked for
report.md        the final table

Beside them lies a hidden file of no content, the lock of the process that trains, see `runs.lock`.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from latentloop.checks import is_whole
from latentloop.errors import InputError
from latentloop.files import is_leftover, json_text, read_json, remove_leftovers, write_together, writing
from latentloop.runs.asked import asked, check_goes_on, same_budget
from latentloop.runs.lock import LOCK, held
from latentloop.runs.metric_lines import MetricLines

__all__ = ["MARK", "RunDirectory"]

MARK, _VERSION = "latentloop_run", 1
"""What config.json is known by, beside the options."""
_OURS = (  # in the order in which they are removed: without its state a run starts over, by its config it is known
    "report.md",
    "validation.png",
    "state",
    "metrics.jsonl",
    "spt",
    "rpt",
    "base",
    "tensorboard",
    "data",
    "item_text.safetensors",
    "config.json",
)


class RunDirectory:
    """Paths and files of a run.

    Args:
        path: the directory.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    @classmethod
    def create(
        cls,
        path: str | Path,
        config: dict[str, Any],
        *,
        resume: bool = False,
        overwrite: bool = False,
        defaults: Mapping[str, Any] | None = None,
    ) -> RunDirectory:
        """Make a new run directory, or take up an existing one; what a killed process left half-written is removed.

        Args:
            path: where.
            config: what was asked for; a resumed run must have been asked for the same, or for more `epochs`,
                `rpt_epochs` (both only where its learning rate is constant) or `patience`, which then stand in its
                config.json.
            resume: continue what is there; an empty or missing directory starts over.
            overwrite: remove the run that is there first.
            defaults: a configuration like `config`, of which a resumed run is taken to have been asked for what its own
                does not name: an option that is younger than the run.

        Raises:
            InputError: where something is there and neither is given, or it is not a run, or was configured otherwise,
                or is being trained.
            OSError: where it cannot be written.
        """
        options = {"resume": resume, "overwrite": overwrite}
        cls.check(path, config, defaults=defaults, **options)
        run = cls(path)
        with held(run.path):
            there = cls.check(path, config, defaults=defaults, **options)  # nobody can change it any more
            with writing(run.path):
                run._sweep()
                if there and resume:
                    if same_budget(run._asked(defaults), asked(config)):
                        return run
                elif there:
                    run.clear()
                run.path.mkdir(parents=True, exist_ok=True)
            # a report is of less than is asked for now, and stays where that cannot be written
            text = json_text({MARK: _VERSION, **config})
            written = {run.config_path.name: lambda draft: draft.write_text(text, encoding="utf-8")}
            write_together(run.path, written, before=lambda: run.report_path.unlink(missing_ok=True))
        return run

    @classmethod
    def check(
        cls,
        path: str | Path,
        config: dict[str, Any],
        *,
        resume: bool,
        overwrite: bool,
        defaults: Mapping[str, Any] | None = None,
    ) -> bool:
        """Refuse what `create` would refuse, before any work is done; returns whether something is there."""
        run = cls(path)
        if resume and overwrite:
            raise InputError("give either --resume or --overwrite, not both")
        if run.path.exists() and not run.path.is_dir():
            raise InputError(f"{run.path} is a file: choose another --out")
        there = run.path.is_dir() and not all(
            place.name == LOCK or is_leftover(place, _OURS) for place in run.path.iterdir()
        )
        if there and run._is_run() and (run.path / LOCK).exists():
            with held(run.path):  # whoever trains there is told first: --resume would not help
                pass
        if there and not run._is_run():
            raise InputError(f"{run.path} is not empty and not a run of latentloop: choose another --out")
        if there and not (resume or overwrite):
            raise InputError(f"{run.path} already exists: continue it with --resume, replace it with --overwrite")
        if there and resume:
            run._check_version()
            check_goes_on(run.path, run._asked(defaults), asked(config))
        return there

    @classmethod
    def open(cls, path: str | Path) -> RunDirectory:
        """An existing run.

        Raises:
            InputError: where there is none.
        """
        run = cls(path)
        if not run._is_run():
            from latentloop.saving.pretrained import models_inside  # only to say what it is instead
            from latentloop.saving.weights import WEIGHTS

            inside, python = models_inside(run.path), "; in Python, Recommender.from_pretrained loads"
            what = f"{python} {inside[0]}" if inside else f"{python} it" if (run.path / WEIGHTS).is_file() else ""
            raise InputError(f"{run.path} is not a run of latentloop: it has no config.json that `train` wrote{what}")
        run._check_version()
        return run

    @property
    def config_path(self) -> Path:
        """config.json."""
        return self.path / "config.json"

    @property
    def text_path(self) -> Path:
        """What is known of the items' texts, where the backbone reads them."""
        return self.path / "item_text.safetensors"

    @property
    def data_path(self) -> Path:
        """The prepared interactions."""
        return self.path / "data"

    @property
    def report_path(self) -> Path:
        """report.md."""
        return self.path / "report.md"

    def config(self) -> dict[str, Any]:
        """What was asked for."""
        config: dict[str, Any] = read_json(self.config_path)
        return config

    def is_of(self, config: dict[str, Any]) -> bool:
        """Whether this is a run of just this configuration."""
        try:
            return self._is_run() and self.config() == {MARK: _VERSION, **json.loads(json.dumps(config))}
        except (InputError, OSError):
            return False

    def seed(self) -> int:
        """The run's seed."""
        seed = self.config().get("seed")
        if not isinstance(seed, int):
            raise InputError(f"{self.config_path} is damaged: seed must be a whole number, found {seed!r}")
        return seed

    def model_path(self, stage: str) -> Path:
        """The model directory of a stage."""
        return self.path / _plain(stage)

    def state_path(self, stage: str) -> Path:
        """What an interrupted stage continues from."""
        return self.path / "state" / f"{_plain(stage)}.safetensors"

    def owns(self, path: Path) -> bool:
        """Whether a file is one of this run's own, which replacing or clearing the run removes."""
        place, root = (Path(os.path.realpath(where)) for where in (path, self.path))
        return place.is_relative_to(root) and place.relative_to(root).parts[:1] in {(name,) for name in _OURS}

    @classmethod
    def owning(cls, path: Path) -> RunDirectory | None:
        """The run of whose own files a path is one, or would be; None where it is of none."""
        for folder in Path(os.path.realpath(path)).parents:
            run = cls(folder)
            if run.owns(path) and run.config_path.is_file():
                with contextlib.suppress(InputError, OSError):  # another tool's file of that name
                    config = read_json(run.config_path)
                    if isinstance(config, dict) and MARK in config:
                        return run
        return None

    def clear(self) -> None:
        """Remove this run's own files; anything else in the directory stays."""
        for name in _OURS:
            place = self.path / name
            if place.is_dir() and not place.is_symlink():
                shutil.rmtree(place)
            else:
                place.unlink(missing_ok=True)

    @property
    def lines(self) -> MetricLines:
        """metrics.jsonl."""
        return MetricLines(self.path / "metrics.jsonl")

    def _is_run(self) -> bool:
        """Whether `config.json` is there and ours: many tools write a file of that name."""
        if not self.config_path.is_file():
            return False
        self._refuse_links()
        config = read_json(self.config_path)
        return isinstance(config, dict) and MARK in config

    def _check_version(self) -> None:
        version = self.config().get(MARK)
        if version != _VERSION or not is_whole(version):
            raise InputError(f"{self.path} is a run of version {version!r}, this release reads version {_VERSION}")

    def _sweep(self) -> None:
        """Remove what a killed process left half-written, in our own folders only: another may be a link to anywhere."""
        remove_leftovers(self.path, _OURS)
        if self._is_run():
            for name in _OURS:
                remove_leftovers(self.path / name)

    def _refuse_links(self) -> None:
        """Nothing of a run leads out of it: a run may come from anyone, and is written to by its files' names."""
        for name in _OURS:
            place = self.path / name
            for path in (place, *place.rglob("*")):
                if path.is_symlink() or (path.exists() and not path.is_dir() and not path.is_file()):
                    raise InputError(
                        f"{path} is a link or no plain file, and a run holds none: put what it leads to in its place"
                    )

    def _asked(self, defaults: Mapping[str, Any] | None) -> dict[str, Any]:
        """The options that this run was started with, or continued with since."""
        return asked({name: value for name, value in self.config().items() if name != MARK}, defaults)


def _plain(stage: str) -> str:
    """A stage's name, which is that of its folder in the run.

    Raises:
        InputError: for one that leads out of the run, or to its other files.
    """
    taken = set(_OURS) - {"spt", "rpt", "base"}
    if not isinstance(stage, str) or not re.fullmatch(r"\w[\w .-]*", stage) or stage in taken:
        raise InputError(f"stage must be a plain name, and not that of a run's other files, got {stage!r}")
    return stage
