"""A run on disk: its configuration, the line-by-line metrics, models, and the state from which it continues.

config.json      what was asked for
metrics.jsonl    one line an epoch and stage
data/            the prepared interactions, with their hash
spt/ rpt/ base/  each a loadable model
state/           what an interrupted stage continues from
tensorboard/     each epoch's numbers for TensorBoard, where that was asked for
report.md        the final table
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from latentloop.checks import is_whole
from latentloop.errors import InputError
from latentloop.files import read_json, write_atomically, write_json
from latentloop.json_text import parse_json

__all__ = ["RunDirectory"]

_MARK, _VERSION = "latentloop_run", 1
_OURS = (
    "config.json",
    "metrics.jsonl",
    "data",
    "item_text.safetensors",
    "spt",
    "rpt",
    "base",
    "state",
    "tensorboard",
    "report.md",
    "validation.png",
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
        cls, path: str | Path, config: dict[str, Any], *, resume: bool = False, overwrite: bool = False
    ) -> RunDirectory:
        """Make a new run directory, or take up an existing one.

        Args:
            path: where.
            config: what was asked for; a resumed run must have been asked for the same.
            resume: continue what is there; an empty or missing directory starts over.
            overwrite: remove the run that is there first.

        Raises:
            InputError: where something is there and neither is given, or it is not a run, or was configured otherwise.
        """
        there = cls.check(path, config, resume=resume, overwrite=overwrite)
        run = cls(path)
        if there and resume:
            return run
        if there:
            run.clear()
        run.path.mkdir(parents=True, exist_ok=True)
        write_json(run.config_path, {_MARK: _VERSION, **config})
        return run

    @classmethod
    def check(cls, path: str | Path, config: dict[str, Any], *, resume: bool, overwrite: bool) -> bool:
        """Refuse what `create` would refuse, before any work is done; returns whether something is there."""
        run = cls(path)
        if resume and overwrite:
            raise InputError("give either --resume or --overwrite, not both")
        if run.path.exists() and not run.path.is_dir():
            raise InputError(f"{run.path} is a file: choose another --out")
        there = run.path.is_dir() and any(run.path.iterdir())
        if there and not (resume or overwrite):
            raise InputError(f"{run.path} already exists: continue it with --resume, replace it with --overwrite")
        if there and not run._is_run():
            raise InputError(f"{run.path} is not empty and not a run of latentloop: choose another --out")
        if there and resume:
            run._check_same(config)
        return there

    @classmethod
    def open(cls, path: str | Path) -> RunDirectory:
        """An existing run.

        Raises:
            InputError: where there is none.
        """
        run = cls(path)
        if not run._is_run():
            raise InputError(f"{run.path} is not a run of latentloop: it has no config.json that `train` wrote")
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

    def seed(self) -> int:
        """The run's seed."""
        seed = self.config().get("seed")
        if not isinstance(seed, int):
            raise InputError(f"{self.config_path} is damaged: seed must be a whole number, found {seed!r}")
        return seed

    def model_path(self, stage: str) -> Path:
        """The model directory of a stage."""
        return self.path / stage

    def state_path(self, stage: str) -> Path:
        """What an interrupted stage continues from."""
        return self.path / "state" / f"{stage}.safetensors"

    def clear(self) -> None:
        """Remove this run's own files; anything else in the directory stays."""
        for name in _OURS:
            place = self.path / name
            if place.is_dir() and not place.is_symlink():
                shutil.rmtree(place)
            else:
                place.unlink(missing_ok=True)

    def metrics(self) -> list[dict[str, Any]]:
        """All lines of metrics.jsonl; a last line cut short by a crash is left out."""
        path = self.path / "metrics.jsonl"
        lines: list[dict[str, Any]] = []
        # ASCII is what we write: other bytes make a line that does not parse
        written = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
        for number, line in enumerate(written, start=1):
            try:
                found = parse_json(line)
            except ValueError:
                if number == len(written) and line.startswith("{"):
                    break
                raise self._damaged_metrics(line) from None
            if (
                not isinstance(found, dict)
                or not isinstance(found.get("stage"), str)
                or not is_whole(found.get("epoch"))
            ):
                raise self._damaged_metrics(found)
            lines.append(found)
        return lines

    def best_stage(self) -> str:
        """The stage whose model won on validation: post-training, unless pre-training was better."""
        best: dict[str, float] = {}
        for line in self.metrics():
            try:
                best[line["stage"]] = max(best.get(line["stage"], 0.0), float(line["ndcg@10"]))
            except (KeyError, TypeError, ValueError):
                raise self._damaged_metrics(line) from None
        return "rpt" if "rpt" in best and best["rpt"] > best.get("spt", 0.0) else "spt"

    def log(self, line: dict[str, Any]) -> None:
        """Append a line to metrics.jsonl."""
        with (self.path / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, allow_nan=False) + "\n")

    def rewind(self, stage: str, epoch: int) -> None:
        """Drop lines that a resumed stage will write again: those of `stage` after `epoch`."""
        kept = [line for line in self.metrics() if line["stage"] != stage or line["epoch"] <= epoch]
        with write_atomically(self.path / "metrics.jsonl") as temporary:
            temporary.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")

    def _damaged_metrics(self, line: Any) -> InputError:
        return InputError(f"{self.path / 'metrics.jsonl'} is damaged: {str(line)[:80]!r} is no line of ours")

    def _is_run(self) -> bool:
        """Whether `config.json` is there and ours: many tools write a file of that name."""
        if not self.config_path.is_file():
            return False
        self._refuse_links()
        config = read_json(self.config_path)
        return isinstance(config, dict) and _MARK in config

    def _refuse_links(self) -> None:
        """Nothing of a run leads out of it: a run may come from anyone, and is written to by its files' names."""
        for name in _OURS:
            place = self.path / name
            for path in (place, *place.rglob("*")):
                if path.is_symlink() or (path.exists() and not path.is_dir() and not path.is_file()):
                    raise InputError(
                        f"{path} is a link or no plain file, and a run holds none: put what it leads to in its place"
                    )

    def _check_same(self, config: dict[str, Any]) -> None:
        before = _flat({name: value for name, value in self.config().items() if name != _MARK})
        after = _flat(json.loads(json.dumps(config)))
        for name in sorted(before.keys() | after.keys()):
            if before.get(name) != after.get(name):
                raise InputError(
                    f"--resume: {name} was {before.get(name)!r} when {self.path} was started and is now "
                    f"{after.get(name)!r}; repeat the original options or choose --overwrite"
                )


def _flat(config: dict[str, Any]) -> dict[str, Any]:
    """Options by their own names, out of their groups: no two groups share one."""
    flat: dict[str, Any] = {}
    for name, value in config.items():
        flat |= value if isinstance(value, dict) else {name: value}
    return flat
