"""`latentloop train` launched in two processes: the same run as in one, written once; what dies or is refused ends it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from latentloop.cli import main
from latentloop.data.synthetic import synthetic_log
from tests.ranks.launching import DYING, ENDING, launched, torchrun

CLI = ("-m", "latentloop")
MEASURED = ("train_seconds", "samples_per_second")


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> str:
    found = synthetic_log(num_users=40, num_items=30, seed=4)
    pairs = zip(found.user.tolist(), found.item.tolist(), strict=True)
    path = tmp_path_factory.mktemp("log") / "log.csv"
    path.write_text("user,item\n" + "".join(f"u{user},i{item}\n" for user, item in pairs))
    return str(path)


def train(log: str, out: Path, *more: str) -> list[str]:
    return [
        "train", log, "--out", str(out), "--k-core", "0", "--dim", "8", "--inner", "16", "--pre-layers", "1",
        "--core-layers", "1", "--max-length", "6", "--dropout", "0", "--batch-size", "65", "--rpt-batch-size", "65",
        "--epochs", "2", "--rpt-epochs", "1", "--learning-rate", "1e-2", "--device", "cpu", *more,
    ]  # fmt: skip


def lines(run: Path) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in MEASURED} for line in found]


def files(run: Path) -> set[str]:
    return {str(path.relative_to(run)) for path in run.rglob("*")}


def near(ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> None:
    assert [line.pop("stage") for line in ours] == [line.pop("stage") for line in theirs]
    for one, two in zip(ours, theirs, strict=True):
        assert one == pytest.approx(two, rel=1e-3, abs=2e-4)


@pytest.fixture(scope="module")
def alone(log: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("alone") / "run"
    assert main(train(log, run)) == 0
    return run


def test_two_processes_train_both_stages_as_one_does_and_write_once(log: str, alone: Path, tmp_path: Path) -> None:
    ended = torchrun(str(ENDING), *train(log, tmp_path / "run"))
    assert ended.returncode == 0, ended.stderr[-3000:]
    assert ended.stderr.count("threads of gloo before: [True], after: False") == 2
    assert files(tmp_path / "run") == files(alone)
    near(lines(tmp_path / "run"), lines(alone))
    assert [line.split()[0] for line in ended.stdout.splitlines() if " 0." in line][:2] == ["chance", "Popularity"]
    assert ended.stdout.count("Popularity") == 1
    assert "deprecated" not in ended.stderr
    assert ended.stderr.count("data: ") == ended.stderr.count("rpt epoch 1: ") == 1


def test_accelerate_launches_it_too(log: str, alone: Path, tmp_path: Path) -> None:
    launcher = ["--cpu", "--num_processes", "2", "--num_machines", "1", "--mixed_precision", "no"]
    launcher += ["--dynamo_backend", "no", "--main_process_port", "0"]
    ended = launched("accelerate.commands.launch", *launcher, *CLI, *train(log, tmp_path / "run"))
    assert ended.returncode == 0, ended.stderr[-3000:]
    assert files(tmp_path / "run") == files(alone)
    near(lines(tmp_path / "run"), lines(alone))


def test_a_process_that_is_killed_ends_the_job_and_the_run_goes_on_from_its_last_epoch(
    log: str, alone: Path, tmp_path: Path
) -> None:
    ended = torchrun(str(DYING), *train(log, tmp_path / "run"))
    assert ended.returncode != 0
    assert "exitcode  : -9" in ended.stderr and "latentloop.errors" not in ended.stderr
    assert [line["epoch"] for line in lines(tmp_path / "run")] == [1]
    assert main([*train(log, tmp_path / "run"), "--resume"]) == 0  # one process may take over from two
    near(lines(tmp_path / "run"), lines(alone))


def test_numbers_that_break_end_all_in_order(log: str, tmp_path: Path) -> None:
    ended = torchrun(str(ENDING), *train(log, tmp_path / "run"), "--learning-rate", "1e30")
    assert ended.returncode != 0 and "latentloop: error: " in ended.stderr
    assert "exitcode  : 1 " in ended.stderr
    assert ended.stderr.count("threads of gloo before: [True], after: False") >= 1


def test_a_mistake_is_told_once_and_ends_all(log: str, alone: Path) -> None:
    before = files(alone)
    ended = torchrun(*CLI, *train(log, alone))  # the run is there
    assert ended.returncode != 0
    said = [line for line in ended.stderr.splitlines() if line.startswith("latentloop: ")]
    assert said == [
        f"latentloop: error: {alone} already exists: continue it with --resume, replace it with --overwrite"
    ]
    assert files(alone) == before


def test_steps_of_fewer_rows_than_processes_are_refused_before_any_work(log: str, tmp_path: Path) -> None:
    """Pre-training would be over by then, and its run could not be given another size."""
    ended = torchrun(*CLI, *train(log, tmp_path / "run"), "--rpt-batch-size", "1")
    said = [line for line in ended.stderr.splitlines() if line.startswith("latentloop: error")]
    assert ended.returncode != 0 and said == [
        "latentloop: error: --rpt-batch-size must be a whole number of at least 2, got 1"
    ]
    assert not (tmp_path / "run").exists()


def test_commands_that_work_alone_say_so(
    alone: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["evaluate", str(alone)]) == 2
    assert "evaluate runs in one process, but 2 were launched" in capsys.readouterr().err
