"""Runs that are continued with more than they were started with, or from a time before an option was there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from latentloop.errors import InputError
from latentloop.runs.directory import RunDirectory
from latentloop.runs.lock import LOCK
from tests.crash.test_killed import KILLED, assert_same
from tests.crash.worlds import OPTIONS, Driver, epochs_done, lines


def test_more_epochs_end_as_if_asked_for_from_the_start(driver: Driver, log: Path, whole: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    command = ["train", str(log), "--out", str(run), *OPTIONS]
    assert driver.run(*command, "--epochs", "0", "--rpt-epochs", "1") == 0, driver.output()
    (zero, *_) = lines(run)
    assert (zero["stage"], zero["epoch"]) == ("spt", 0)  # the model as it came, measured ...
    assert driver.run("evaluate", run, "--stage", "spt", "--device", "cpu") == 0  # ... and kept
    assert driver.run(*command, "--epochs", "1", "--rpt-epochs", "1", "--resume") == 0, driver.output()
    assert "rpt starts over" in driver.output()
    assert epochs_done(run) == (1, 1) and [line["epoch"] for line in lines(run)] == [1, 0, 1]
    assert driver.run(*command, "--resume", at="state", nth=2) == KILLED
    assert not (run / "report.md").exists()  # it was of less than is asked for now
    assert driver.run(*command, "--epochs", "2", "--resume") == 2
    assert "epochs was 3 when" in driver.complaint() and "or more" in driver.complaint()
    assert driver.run(*command, "--resume") == 0, driver.output()
    assert "rpt starts over" in driver.output()
    assert_same(run, whole)


def test_more_post_training_goes_on_where_it_was(driver: Driver, log: Path, whole: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    command = ["train", str(log), "--out", str(run), *OPTIONS]
    assert driver.run(*command, "--rpt-epochs", "1") == 0, driver.output()
    assert driver.run(*command, "--resume") == 0, driver.output()
    assert "starts over" not in driver.output() and "rpt epoch 1" not in driver.output()
    assert_same(run, whole)


def make(path: Path, **training: Any) -> None:
    config = {"seed": 0, "training": {"epochs": 5, "patience": 2, **training}}
    RunDirectory.create(path, config)


def again(path: Path, defaults: dict[str, Any] | None = None, **training: Any) -> RunDirectory:
    config = {"seed": 0, "training": {"epochs": 5, "patience": 2, **training}}
    return RunDirectory.create(path, config, resume=True, defaults=defaults)


def test_an_option_that_is_younger_than_a_run_had_its_default(tmp_path: Path) -> None:
    make(tmp_path / "run")
    defaults = {"seed": 7, "training": {"epochs": 200, "patience": 10, "warmup": 3}}
    again(tmp_path / "run", defaults, warmup=3)
    with pytest.raises(
        InputError, match="warmup was 3 when .* and is now 4: a run goes on with its original options; train"
    ):
        again(tmp_path / "run", defaults, warmup=4)
    with pytest.raises(InputError, match="warmup was None"):
        again(tmp_path / "run", warmup=3)
    assert "warmup" not in (tmp_path / "run" / "config.json").read_text()


@pytest.mark.parametrize(
    ("training", "refused"),
    [
        ({"epochs": 6}, None),
        ({"patience": 3}, None),
        ({"epochs": 6, "patience": 1}, "patience was 2"),
        ({"epochs": 4}, "epochs was 5 .* is now 4: a run goes on with its original options or more"),
    ],
)
def test_a_budget_only_grows_and_is_remembered(tmp_path: Path, training: dict[str, int], refused: str | None) -> None:
    make(tmp_path / "run")
    report = tmp_path / "run" / "report.md"
    report.write_text("of five epochs")
    if refused is not None:
        with pytest.raises(InputError, match=refused):
            again(tmp_path / "run", **training)
        assert report.exists()
        return
    again(tmp_path / "run", **training)
    assert not report.exists()
    saved = json.loads((tmp_path / "run" / "config.json").read_text())["training"]
    assert saved == {"epochs": 5, "patience": 2} | training
    with pytest.raises(InputError, match="was"):
        again(tmp_path / "run")


def test_overwriting_that_is_killed_can_be_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / "run"
    make(run)
    for name in ("state", "spt", "data"):
        (run / name).mkdir()
        (run / name / "file").write_text("old")
    real, left = Path.unlink, []

    def die(path: Path, missing_ok: bool = False) -> None:
        if path.name == "metrics.jsonl":
            left.extend(sorted(place.name for place in run.iterdir() if place.name != LOCK))
            raise KeyboardInterrupt
        real(path, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", die)
    with pytest.raises(KeyboardInterrupt):
        RunDirectory.create(run, {"seed": 1}, overwrite=True)
    monkeypatch.setattr(Path, "unlink", real)
    assert left == ["config.json", "data", "spt"]  # without a state it would start over
    RunDirectory.create(run, {"seed": 1}, overwrite=True)
    assert sorted(place.name for place in run.iterdir()) == [LOCK, "config.json"]
