"""Experiment trackers are told of each epoch, and what cannot be had is one line before any work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from accelerate.tracking import GeneralTracker

from latentloop.data.splits import Split, leave_one_out
from latentloop.data.synthetic import synthetic_log
from latentloop.errors import InputError, InputTypeError
from latentloop.fitting import accelerator as module
from latentloop.fitting.accelerator import check_tracker, make_accelerator
from latentloop.objectives import RPT, SPT
from latentloop.recommender import Recommender
from latentloop.runs.directory import RunDirectory
from latentloop.training import fit
from latentloop.two_stage import two_stage
from tests.core.worlds import unchecked
from tests.training.test_fit import small

SETTINGS: dict[str, Any] = {"epochs": 2, "batch_size": 128}


class Listener(GeneralTracker):
    """Keeps what it is told."""

    name = "listener"
    requires_logging_directory = False

    def __init__(self) -> None:
        super().__init__()
        self.told: list[tuple[int | None, dict[str, Any]]] = []
        self.finished = 0

    @property
    def tracker(self) -> list[tuple[int | None, dict[str, Any]]]:
        return self.told

    def log(self, values: dict[str, Any], step: int | None = None, **_: Any) -> None:
        self.told.append((step, values))

    def finish(self) -> None:
        self.finished += 1


class Stops(RPT):
    """Post-training that never begins."""

    def start(self, model: Recommender) -> None:
        raise ZeroDivisionError


@pytest.fixture(scope="module")
def split() -> Split:
    return leave_one_out(synthetic_log(num_users=150, num_items=60, seed=1), 10)


def test_each_epochs_line_is_told_with_its_stage(split: Split) -> None:
    listener = Listener()
    accelerator = make_accelerator(device="cpu", tracker=listener)
    settings = SETTINGS | {"accelerator": accelerator, "stage": "mine", "validate_first": True}
    fitted = fit(small(split), split.train, split.validation, SPT(), **settings)
    assert [step for step, _ in listener.told] == [0, 1, 2]
    for (step, told), line in zip(listener.told, fitted.history, strict=True):
        assert told == {f"mine/{name}": value for name, value in line.items() if name not in ("stage", "epoch")}
        assert {"mine/ndcg@10", "mine/recall@5"} <= told.keys()
        assert ("mine/next_item" in told and "mine/trajectory" in told) == (step > 0)
        assert all(isinstance(value, int | float) for value in told.values())
    assert listener.finished == 0  # whoever made the accelerator ends it


def test_without_a_tracker_nobody_is_told(split: Split) -> None:
    assert make_accelerator(device="cpu").trackers == []


@pytest.mark.parametrize("stopped", [False, True])
def test_two_stages_are_told_and_the_tracker_finishes(split: Split, stopped: bool) -> None:
    listener = Listener()
    settings: dict[str, Any] = SETTINGS | {"rpt_epochs": 1, "rpt_batch_size": 64, "cut": 40, "device": "cpu"}
    try:
        two_stage(small(split), split, rpt=(Stops if stopped else RPT)(rollouts=2), tracker=listener, **settings)
    except ZeroDivisionError:
        assert stopped
    stages = [{name.split("/")[0] for name in told} for _, told in listener.told]
    assert stages == [{"spt"}, {"spt"}] + ([] if stopped else [{"rpt"}, {"rpt"}])
    assert listener.finished == 1


def test_tensorboard_reads_the_numbers_of_a_run(split: Split, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = RunDirectory.create(tmp_path / "run", {})
    settings: dict[str, Any] = SETTINGS | {"rpt_epochs": 0, "device": "cpu"}
    two_stage(small(split), split, tracker="tensorboard", run=run, **settings)
    events = EventAccumulator(str(run.path / "tensorboard"))
    events.Reload()
    found = [(event.step, event.value) for event in events.Scalars("spt/next_item")]
    wanted = [(line["epoch"], pytest.approx(line["next_item"], rel=1e-6)) for line in run.lines.read()]
    assert found == wanted and len(found) == 2
    RunDirectory.create(run.path, {}, overwrite=True)
    assert not (run.path / "tensorboard").exists()


def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"^tracker 'tensorboard' .*: pip install latentloop\[tracking\]$"):
        make_accelerator(device="cpu", tracker="tensorboard", directory=tmp_path)


def test_other_mistakes_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "find_spec", lambda name: object())
    with pytest.raises(InputError, match=r"directory to write to: pass directory= \(two_stage: run=\)$"):
        check_tracker("tensorboard", None)
    with pytest.raises(InputError, match="^tracker must be 'tensorboard' or .* got 'wandb'$"):
        check_tracker("wandb", tmp_path)
    with unchecked(), pytest.raises(InputTypeError, match="^tracker must be 'tensorboard' or .* got 3$"):
        check_tracker(3, tmp_path)
    assert not any(tmp_path.iterdir())
