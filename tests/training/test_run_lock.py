"""A run is trained by one at a time: processes, threads, what is left behind, and file systems without locks."""

from __future__ import annotations

import errno
import fcntl
import logging
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from latentloop.backbones.sasrec import SASRec
from latentloop.data.splits import leave_one_out
from latentloop.data.synthetic import synthetic_log
from latentloop.errors import InputError
from latentloop.objectives import NextItem
from latentloop.recipes import build_recommender
from latentloop.runs.directory import RunDirectory
from latentloop.runs.lock import LOCK, held
from latentloop.training import fit, make_accelerator
from latentloop.two_stage import two_stage

ROOT = Path(__file__).resolve().parents[2]
HOLD = """
import sys
from pathlib import Path
from latentloop.runs.lock import held
with held(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""
REFUSED = "is being trained by another process: wait until it ends, or choose another directory"


@contextmanager
def holder(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that holds a run."""
    command = [sys.executable, "-c", HOLD, str(folder)]
    with subprocess.Popen(command, cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None and process.stdout.readline() == "held\n"
            yield process
        finally:
            process.kill()


def test_what_a_killed_process_held_is_free(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path / "run", {"seed": 0})
    for end in ("kill", "close"):
        with holder(run.path) as process:
            for choice in ({}, {"resume": True}, {"overwrite": True}):
                with pytest.raises(InputError, match=REFUSED):
                    RunDirectory.create(run.path, {"seed": 0}, **choice)
            with pytest.raises(InputError, match=REFUSED), held(run.path):
                pass
            assert RunDirectory.open(run.path).seed() == 0
            if end == "kill":
                process.kill()
            else:
                process.communicate()
            process.wait()
            with held(run.path):
                assert (run.path / LOCK).is_file()
    RunDirectory.create(run.path, {"seed": 0}, resume=True)


class Twice(NextItem):
    """Trains on the same run in another thread, in its first step."""

    def __init__(self, run: RunDirectory) -> None:
        super().__init__()
        self.run: RunDirectory | None = run
        self.refusals: list[str] = []

    def __call__(self, views: Any, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        run, self.run = self.run, None
        if run is not None:
            thread = threading.Thread(target=self._train, args=(run,))
            thread.start()
            thread.join()
        return super().__call__(views, batch)

    def _train(self, run: RunDirectory) -> None:
        for stage, function in (("spt", train), ("spt", train_both), ("other", train)):
            try:
                function(run, NextItem(), stage)
            except InputError as error:
                self.refusals.append(str(error))


DATA = leave_one_out(synthetic_log(num_users=40, num_items=20, seed=1), 6)


def small() -> Any:
    torch.manual_seed(0)
    return build_recommender(SASRec(pre_layers=1, core_layers=1, inner=8), DATA.num_items, dim=8, max_length=6)


def train(run: RunDirectory, objective: Any, stage: str) -> None:
    cpu = make_accelerator(device="cpu")
    fit(small(), DATA.train, DATA.validation, objective, stage=stage, epochs=1, batch_size=64, run=run, accelerator=cpu)


def train_both(run: RunDirectory, objective: Any, stage: str) -> None:
    two_stage(small(), DATA, spt=objective, epochs=1, rpt_epochs=0, batch_size=64, run=run, device="cpu")


@pytest.mark.parametrize("function", [train, train_both])
def test_a_second_training_in_the_same_process_is_refused(function: Any, tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path / "run", {"seed": 0})
    objective = Twice(run)
    function(run, objective, "spt")
    assert [REFUSED in refusal and str(run.path) in refusal for refusal in objective.refusals] == [True] * 3
    assert [(line["stage"], line["epoch"]) for line in run.lines.read()] == [("spt", 1)]
    train(RunDirectory.open(run.path), NextItem(), "other")  # it is free again
    assert [line["stage"] for line in run.lines.read()] == ["spt", "other"]


def test_what_is_refused_inside_leaves_nothing(tmp_path: Path) -> None:
    for folder in (tmp_path / "a" / "b" / "run", tmp_path / "run"):
        with pytest.raises(InputError, match="mistake"), held(folder), held(folder):
            assert (folder / LOCK).is_file()
            raise InputError("a mistake")
        assert not any(tmp_path.iterdir())
    with pytest.raises(InputError, match="mistake"), held(tmp_path):
        raise InputError("a mistake")
    assert not any(tmp_path.iterdir())  # which was there before
    with pytest.raises(InputError), held(tmp_path / "run"):
        (tmp_path / "run" / "kept").write_text("")
        raise InputError("a mistake")
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [LOCK, "kept"]


def test_of_several_processes_the_first_holds_it_for_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunDirectory.create(tmp_path / "run", {"seed": 0})
    with holder(run.path):
        monkeypatch.setenv("WORLD_SIZE", "2")
        monkeypatch.setenv("RANK", "1")
        with held(run.path), held(tmp_path / "none"):
            pass
        assert not (tmp_path / "none").exists()
        monkeypatch.setenv("RANK", "0")
        with pytest.raises(InputError, match=REFUSED), held(run.path):
            pass


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
@pytest.mark.parametrize("there", [False, True])
def test_without_locks_it_goes_on_with_one_warning(
    number: int, there: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
    recwarn: pytest.WarningsRecorder,
) -> None:  # fmt: skip
    def no_lock(*_: Any) -> None:
        raise OSError(number, "no locks")

    folder = tmp_path / "run"
    if there:
        with held(folder):
            (folder / "kept").write_text("")
    monkeypatch.setattr(fcntl, "flock", no_lock)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            with held(folder):
                (folder / "kept").write_text("")
    (message,) = caplog.messages
    assert str(folder) in message and "only one process" in message
    assert not recwarn.list
    monkeypatch.undo()
    with held(folder):  # and is free where there are
        pass


def test_other_errors_of_the_system_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(fcntl, "flock", broken)
    with pytest.raises(OSError, match=f"{tmp_path / 'run'}'$"), held(tmp_path / "run"):
        pass
    assert not any(tmp_path.iterdir()), list(tmp_path.rglob("*"))


def test_another_error_leaves_the_lock_of_who_holds_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise OSError(errno.EIO, "broken")

    def try_it() -> None:
        with pytest.raises(OSError), held(tmp_path):
            pass

    with held(tmp_path):
        monkeypatch.setattr(fcntl, "flock", broken)
        other = threading.Thread(target=try_it)
        other.start()
        other.join()
        assert (tmp_path / LOCK).exists()
        monkeypatch.undo()


def test_a_lock_that_leads_out_of_the_run_is_refused(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path / "run", {"seed": 0})
    (run.path / LOCK).unlink()
    (run.path / LOCK).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="is a link or no plain file"):
        RunDirectory.create(run.path, {"seed": 0}, resume=True)
    assert not (tmp_path / "elsewhere").exists()
    (run.path / LOCK).unlink()
    (run.path / LOCK).mkdir()
    with pytest.raises(InputError, match="is a link or no plain file"), held(run.path):
        pass
