"""A run that is killed and continued ends as one that nobody interrupted: real processes, SIGKILL, every phase."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from latentloop.runs.lock import LOCK
from tests.crash.worlds import OPTIONS, Driver, epochs_done, lines, whole_run

KILLED, PAUSED = -9, -19

# Three pre-training epochs of four steps, two post-training epochs of three. Where a process is killed, at which time
# it gets there, and the epochs that both stages have saved by then.
CHAIN = [
    ("data", 1, (None, None)),
    ("step", 2, (None, None)),
    ("state", 1, (None, None)),
    ("model", 1, (1, None)),
    ("evaluation", 1, (1, None)),
    ("step", 3, (1, None)),
    ("append", 1, (2, None)),
    ("state", 1, (2, None)),
    ("between", 1, (3, None)),
    ("selection", 1, (3, None)),
    ("model", 1, (3, 0)),
    ("rollouts", 2, (3, 0)),
    ("evaluation", 3, (3, 0)),  # the first two measure pre-training's best again
    ("rollouts", 5, (3, 1)),
    ("append", 1, (3, 2)),
    ("report", 1, (3, 2)),
]


def test_killed_again_and_again_it_ends_as_if_nothing_had_been(
    driver: Driver, log: Path, whole: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    command = ["train", str(log), "--out", str(run), *OPTIONS]
    more: list[str] = []
    for at, nth, saved in CHAIN:
        assert driver.run(*command, *more, at=at, nth=nth) == KILLED, (at, nth, driver.output())
        assert epochs_done(run) == saved, (at, nth)
        more = ["--resume"]
    assert driver.run(*command, *more) == 0
    assert "is done" not in driver.output()  # there was no report yet
    assert_same(run, whole)
    assert driver.run(*command, *more) == 0
    assert "is done; nothing is left to train" in driver.output() and "epoch 1" not in driver.output()
    assert_same(run, whole)


def test_the_best_model_is_whole_at_any_time(driver: Driver, log: Path, whole: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    command = ["train", str(log), "--out", str(run), *OPTIONS]
    assert lines(whole)[0]["ndcg@10"] < lines(whole)[1]["ndcg@10"]  # the second epoch replaces the first's model
    assert driver.run(*command, at="model", nth=2) == KILLED
    first = (run / "spt" / "model.safetensors").read_bytes()
    assert driver.run("evaluate", run, "--device", "cpu") == 0, driver.output()
    assert [line["epoch"] for line in lines(run)] == [1]  # what is logged is what is kept
    assert driver.run(*command, "--resume", at="step") == KILLED
    assert (run / "spt" / "model.safetensors").read_bytes() != first  # caught up with
    kept, state = (load_file(run / name) for name in ("spt/model.safetensors", "state/spt.safetensors"))
    assert all(torch.equal(tensor, state[f"model.{name}"]) for name, tensor in kept.items())
    assert lines(run) == lines(whole)[:2]


def test_resume_of_nothing_starts_over(driver: Driver, log: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert driver.run("train", log, "--out", run, *OPTIONS, at="rename", nth=1) == KILLED  # of config.json
    assert sorted(path.suffix for path in run.iterdir()) == [".lock", ".tmp"]
    assert driver.run("train", log, "--out", run, *OPTIONS, at="step", nth=1) == KILLED  # what is left is no run
    assert [path.name for path in run.glob(".*")] == [LOCK]
    assert driver.run("train", log, "--out", run, *OPTIONS, "--overwrite", "--resume") == 2


def test_a_second_process_is_refused_while_the_first_trains(
    driver: Driver, log: Path, whole: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    command = ["train", str(log), "--out", str(run), *OPTIONS]
    assert driver.run(*command, at="step", nth=6, pause=True) == PAUSED
    before = whole_run(run)
    for more in ([], ["--resume"], ["--overwrite"], ["--resume", "--epochs", "5"]):
        assert driver.run(*command, *more) == 2, more
        assert f"{run} is being trained by another process: wait until" in driver.complaint(), more
        assert whole_run(run) == before, more
    assert driver.run("evaluate", run, "--device", "cpu") == 0, driver.output()  # whoever only reads is not in the way
    assert driver.go_on() == 0
    assert driver.run(*command, "--resume") == 0, driver.output()
    assert_same(run, whole)


PHASES = {
    "before the first checkpoint": [("data", 1), ("step", 1), ("step", 4), ("evaluation", 1), ("state", 1)],
    "a step": [("step", 5), ("step", 7), ("step", 12)],
    "an evaluation": [("evaluation", 2), ("evaluation", 3), ("evaluation", 4), ("evaluation", 7)],
    "a checkpoint write": [*(("state", nth) for nth in range(2, 7)), *(("model", nth) for nth in range(1, 5))],
    "a line": [("append", nth) for nth in range(1, 7)],
    "between the stages": [("between", 1)] * 3,
    "selection": [("selection", 1)] * 3,
    "post-training": [("rollouts", 1), ("rollouts", 3), ("rollouts", 4), ("rollouts", 6), ("step", 14)],
}


@pytest.mark.slow
@pytest.mark.parametrize("phase", PHASES)
def test_killed_once_in_each_phase(driver: Driver, log: Path, whole: Path, tmp_path: Path, phase: str) -> None:
    for number, (at, nth) in enumerate(PHASES[phase]):
        run = tmp_path / str(number)
        command = ["train", str(log), "--out", str(run), *OPTIONS]
        assert driver.run(*command, at=at, nth=nth) == KILLED, (at, nth)
        assert driver.run(*command, "--resume") == 0, driver.output()
        assert_same(run, whole)


@pytest.mark.slow
def test_killed_before_each_rename(driver: Driver, log: Path, whole: Path, tmp_path: Path) -> None:
    """Every file comes into its place by a rename, so these are all states of a run directory that there are."""
    for nth in range(1, 100):
        run = tmp_path / str(nth)
        command = ["train", str(log), "--out", str(run), *OPTIONS]
        code = driver.run(*command, at="rename", nth=nth)
        if code == 0:
            break
        assert code == KILLED
        assert driver.run(*command, "--resume") == 0, (nth, driver.output())
        assert_same(run, whole)
    assert 15 < nth < 99


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_killed_at_random(driver: Driver, log: Path, whole: Path, tmp_path: Path, seed: int) -> None:
    draw, run = random.Random(seed), tmp_path / "run"
    command = ["train", str(log), "--out", str(run), *OPTIONS]
    began = time.monotonic()
    assert driver.run(*command[:3], tmp_path / "timed", *OPTIONS) == 0
    took = time.monotonic() - began
    for _ in range(4):
        code = driver.run(*command, "--resume", after=draw.uniform(0.1, 0.8) * took)
        assert code in (KILLED, 0)
    assert driver.run(*command, "--resume") == 0, driver.output()
    assert_same(run, whole)


def assert_same(run: Path, whole: Path) -> None:
    """Every file but config.json, which may name the options of the last time, and nothing else."""
    found, expected = whole_run(run), whole_run(whole)
    assert found.keys() == expected.keys()
    for name, content in found.items():
        assert content == expected[name], name
    assert (run / "spt" / "model.safetensors").stat().st_size > 1000
