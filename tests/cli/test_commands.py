"""The command line, from a file of interactions to recommendations, and every mistake in one line."""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from latentloop.cli import main
from latentloop.data.synthetic import synthetic_log

ROOT = Path(__file__).resolve().parents[2]
QUICK = ["--epochs", "2", "--rpt-epochs", "1", "--dim", "16", "--pre-layers", "1", "--core-layers", "1", "--inner", "32",
         "--batch-size", "256", "--device", "cpu"]  # fmt: skip


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CSV of interactions with text ids."""
    log = synthetic_log(num_users=150, num_items=60, seed=3)
    path = tmp_path_factory.mktemp("source") / "log.csv.gz"
    rows = ["who,what,timestamp"]
    for place, (user, item) in enumerate(zip(log.user.tolist(), log.item.tolist(), strict=True)):
        rows.append(f"u{user},item-{item},{place}")
    path.write_bytes(gzip.compress("\n".join(rows).encode()))
    return path


@pytest.fixture(scope="module")
def run(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained run whose source is gone."""
    folder = tmp_path_factory.mktemp("run")
    moved = folder / "copy.csv.gz"
    shutil.copy(source, moved)
    out = folder / "run"
    columns = ["--user", "who", "--item", "what"]
    assert main(["train", str(moved), "--out", str(out), "--with-base", *columns, *QUICK]) == 0
    moved.unlink()
    return out


def test_train_writes_the_whole_run(run: Path) -> None:
    for name in ("config.json", "metrics.jsonl", "data", "spt/model.safetensors", "rpt/config.json", "report.md"):
        assert (run / name).exists(), name
    stages = [json.loads(line)["stage"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert stages == ["base", "base", "spt", "spt", "rpt", "rpt"]
    report = (run / "report.md").read_text()
    for row in ("chance", "Popularity", "Base", "SPT", "RPT", "leave-one-out", "paired test"):
        assert row in report


def test_the_table_is_printed_with_its_protocol(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    columns = ["--user", "who", "--item", "what"]
    assert main(["train", str(source), "--out", str(tmp_path / "run"), *columns, *QUICK]) == 0
    printed = capsys.readouterr().out
    rows = [line.split()[0] for line in printed.splitlines() if line[:1].isalpha()]
    assert rows[:4] == ["chance", "Popularity", "SPT", "RPT"]
    assert "test Recall@10" in printed and "validation NDCG@10" in printed
    assert re.search(r"all \d+ items", printed) and "history kept" in printed


def test_evaluate_from_another_directory(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    command = ["evaluate", str(run), "--split", "validation", "--depths", "1", "2", "8", "--groups", "--out", "e.json"]
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert "Popularity" in printed and "history length" in printed and "target popularity" in printed
    result = json.loads(Path("e.json").read_text())
    assert sorted(map(int, result["per_depth"])) == [1, 2, 4, 8]
    best = max(
        line["ndcg@10"]
        for line in map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
        if line["stage"] in ("spt", "rpt")
    )
    assert result["metrics"]["ndcg@10"] == pytest.approx(best, abs=1e-9)


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_recommend_for_known_users(run: Path, tmp_path: Path, suffix: str) -> None:
    asked = tmp_path / "users.csv"
    asked.write_text("user\nu3\nu7\n")
    out = tmp_path / f"answer{suffix}"
    assert main(["recommend", str(run), "--input", str(asked), "--k", "5", "--out", str(out)]) == 0
    rows = read(out)
    assert [(row["user"], int(row["rank"])) for row in rows] == [(u, r) for u in ("u3", "u7") for r in range(1, 6)]
    scores = [float(row["score"]) for row in rows[:5]]
    assert scores == sorted(scores, reverse=True)
    log = synthetic_log(num_users=150, num_items=60, seed=3)
    own = {f"item-{item}" for user, item in zip(log.user.tolist(), log.item.tolist(), strict=True) if user == 3}
    assert not own & {row["item"] for row in rows[:5]}
    assert all(row["item"].startswith("item-") for row in rows)


def test_recommend_for_histories_and_lists(run: Path, tmp_path: Path) -> None:
    asked = tmp_path / "asked.jsonl"
    lines = [{"user": "new", "history": ["item-1", "item-2"]}, {"user": "cold", "history": ["nothing-known"]}]
    asked.write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / "allow.txt").write_text("item-2\nitem-5\nitem-6\nitem-7\n")
    (tmp_path / "deny.txt").write_text("item-6\n")
    out = tmp_path / "out.csv"
    lists = ["--allow", str(tmp_path / "allow.txt"), "--deny", str(tmp_path / "deny.txt")]
    assert main(["recommend", str(run), "--input", str(asked), "--k", "3", "--out", str(out), *lists]) == 0
    rows = read(out)
    assert {row["item"] for row in rows if row["user"] == "new"} == {"item-5", "item-7"}
    assert {row["item"] for row in rows if row["user"] == "cold"} == {"item-2", "item-5", "item-7"}


def read(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".parquet":
        return pq.read_table(path).to_pylist()
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text().splitlines()]
    names, *rows = [line.replace('"', "").split(",") for line in path.read_text().splitlines()]
    return [dict(zip(names, row, strict=True)) for row in rows]


def test_prepare_then_train(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prepared = tmp_path / "prepared"
    columns = ["--user", "who", "--item", "what"]
    assert main(["prepare", str(source), "--out", str(prepared), *columns]) == 0
    assert "150 users" in capsys.readouterr().out
    assert main(["train", str(prepared), "--out", str(tmp_path / "run"), *QUICK]) == 0


def test_resume_of_a_finished_run_says_so(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (run / "metrics.jsonl").read_text()
    config = json.loads((run / "config.json").read_text())
    columns = ["--user", "who", "--item", "what"]
    again = ["train", config["source"], "--out", str(run), "--with-base", *columns, *QUICK, "--resume"]
    assert main(again) == 0
    assert "is done" in capsys.readouterr().err
    assert (run / "metrics.jsonl").read_text() == before


Arguments = Callable[[Path, Path], list[str]]

MISTAKES: dict[str, tuple[Arguments, str]] = {
    "a missing file": (lambda t, _: ["train", str(t / "no.csv"), "--out", str(t / "r")], "no.csv"),
    "a mistyped path": (lambda t, _: ["train", "owner/data-set", "--out", str(t / "r")], "owner/data-set"),
    "an empty file": (lambda t, _: ["train", made(t / "e.csv", ""), "--out", str(t / "r")], "e.csv"),
    "unknown columns": (lambda t, _: ["train", made(t / "c.csv", "a,b\n1,2\n"), "--out", str(t / "r")], "'a', 'b'"),
    "a row that does not parse": (
        lambda t, _: ["train", made(t / "p.csv", "user,item,timestamp\n1,2,3\n1,2\n"), "--out", str(t / "r")],
        "3",
    ),
    "a time that is none": (
        lambda t, _: ["train", made(t / "t.csv", "user,item,timestamp\n1,2,3\n1,2,noon\n"), "--out", str(t / "r")],
        "3",
    ),
    "no user left": (
        lambda t, _: ["train", made(t / "f.csv", "user,item\n1,2\n1,3\n1,4\n"), "--out", str(t / "r")],
        "core",
    ),
    "an --out that exists": (lambda t, run: ["train", "x.csv", "--out", str(run)], "--resume"),
    "an --out that is something else": (lambda t, _: ["train", log(t), "--out", str(t), "--overwrite"], "not a run"),
    "other options on --resume": (
        lambda t, run: ["train", "x.csv", "--out", str(run), "--resume", "--seed", "9"], "was"
    ),
    "a negative depth": (lambda t, run: ["recommend", str(run), *asked(t), "--depth", "-1"], "depth"),
    "depth 0 in a curve": (lambda t, run: ["evaluate", str(run), "--depths", "0"], "at least 1"),
    "k above the catalog": (lambda t, run: ["recommend", str(run), *asked(t), "--k", "61"], "the size of the catalog"),
    "an unknown item, strictly": (
        lambda t, run: ["recommend", str(run), *asked(t, "user,history\nx,item-1 nope\n"), "--strict"], "nope"
    ),
    "an unknown user": (lambda t, run: ["recommend", str(run), *asked(t, "user\nnobody\n")], "nobody"),
    "neither user nor history": (lambda t, run: ["recommend", str(run), *asked(t, "name\nx\n")], "history"),
    "a run that is none": (lambda t, _: ["evaluate", str(t)], "config.json"),
    "prepare over something": (lambda t, run: ["prepare", "x.csv", "--out", str(run)], "--overwrite"),
    "a mean depth of 0": (
        lambda t, _: ["train", log(t), "--out", str(t / "r"), "--mean-depth", "0", "--k-core", "0"], "mean_depth"
    ),
    "epochs below 0": (lambda t, _: ["train", log(t), "--out", str(t / "r"), *KEEP, "--epochs", "-1"], "epochs"),
    "a rate of nan": (
        lambda t, _: ["train", log(t), "--out", str(t / "r"), *KEEP, "--learning-rate", "nan"], "learning_rate"
    ),
    "a later stage's batch size": (
        lambda t, _: ["train", log(t), "--out", str(t / "r"), *KEEP, "--rpt-batch-size", "0"], "rpt_batch_size"
    ),
    "a cut of 0": (lambda t, _: ["train", log(t), "--out", str(t / "r"), *KEEP, "--cut", "0"], "cut"),
    "two columns of one name": (lambda t, run: ["recommend", str(run), *asked(t, "user,user\nu1,u2\n")], "2 columns"),
    "a list that is not text": (
        lambda t, run: ["recommend", str(run), *asked(t), "--deny", binary(t / "deny.txt")], "UTF-8"
    ),
    "heads that do not divide": (
        lambda t, _: ["train", log(t), "--out", str(t / "r"), "--heads", "3", "--k-core", "0"], "heads"
    ),
}  # fmt: skip


def made(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


def binary(path: Path) -> str:
    path.write_bytes(b"\xff\xfe\x00")
    return str(path)


KEEP = ["--k-core", "0"]


def log(folder: Path) -> str:
    return made(folder / "log.csv", "user,item\n" + "".join(f"{u},{i}\n" for u in range(5) for i in range(5)))


def asked(folder: Path, text: str = "user\nu1\n") -> list[str]:
    return ["--input", made(folder / "asked.csv", text), "--out", str(folder / "answer.csv")]


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_and_code_2(
    mistake: str, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("reached for the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    arguments, named = MISTAKES[mistake]
    command = arguments(tmp_path, run)
    given = {path.name for path in tmp_path.iterdir()}
    assert main(command) == 2
    complaint = [line for line in capsys.readouterr().err.splitlines() if line.startswith("latentloop: error:")]
    assert len(complaint) == 1
    assert named in complaint[0]
    assert "Traceback" not in complaint[0]
    assert {path.name for path in tmp_path.iterdir()} == given  # nothing half-written is left


@pytest.mark.parametrize("option", [["--epochs", "-1"], ["--heads", "3"], ["--weight-decay", "-1"]])
def test_a_refused_command_overwrites_nothing(run: Path, tmp_path: Path, option: list[str]) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    assert main(["train", log(tmp_path), "--out", str(copy), "--overwrite", *KEEP, *option]) == 2
    kept = {path.relative_to(copy): path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    assert kept == {path.relative_to(run): path.read_bytes() for path in run.rglob("*") if path.is_file()}


def test_a_folder_of_another_tool_is_never_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    project = tmp_path / "project"
    (project / "data").mkdir(parents=True)
    (project / "config.json").write_text("{}")
    (project / "data" / "precious.txt").write_text("mine")
    assert main(["train", log(tmp_path), "--out", str(project), "--overwrite", *KEEP]) == 2
    assert "not a run" in capsys.readouterr().err
    assert (project / "data" / "precious.txt").read_text() == "mine"
    assert main(["evaluate", str(project)]) == 2


def test_a_corrupted_checkpoint_is_one_line(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    for stage in ("spt", "rpt"):
        weights = copy / stage / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-100])
    assert main(["evaluate", str(copy)]) == 2
    assert "model.safetensors" in capsys.readouterr().err


def test_an_unknown_item_is_skipped_with_a_warning(run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    out = ["--input", made(tmp_path / "a.csv", "user,history\nx,item-1 nope\n"), "--out", str(tmp_path / "o.csv")]
    assert main(["recommend", str(run), *out]) == 0
    assert len(read(tmp_path / "o.csv")) == 10


@pytest.mark.parametrize("command", [[], ["train"], ["evaluate"], ["recommend"], ["prepare"], ["demo"]])
def test_help_reads_and_exits_0(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main([*command, "--help"])
    assert left.value.code == 0
    assert len(capsys.readouterr().out.splitlines()) > 10


def test_an_unknown_option_exits_2() -> None:
    with pytest.raises(SystemExit) as left:
        main(["train", "x.csv", "--out", "y", "--epoch", "3"])
    assert left.value.code == 2


def test_options_are_read_before_torch_is_imported() -> None:
    """`--help` answers at once, and the wait policy of OpenMP's threads can still be set."""
    code = "import sys, latentloop.cli; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=ROOT).returncode == 0


def test_ctrl_c_leaves_a_run_that_resumes_to_the_same_bits(source: Path, tmp_path: Path) -> None:
    """A real process, a real signal."""
    command = [
        *["train", str(source), "--user", "who", "--item", "what", *QUICK],
        *["--epochs", "12", "--rpt-epochs", "0", "--patience", "12"],
    ]
    out, whole = tmp_path / "run", tmp_path / "whole"
    # a test run in the background inherits an ignored SIGINT, which Python would leave ignored
    listening = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)"
    script = [sys.executable, "-c", f"{listening}; from latentloop.cli import main; sys.exit(main())", *command]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([*script, "--out", str(out)], cwd=ROOT, env=environment, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if (out / "metrics.jsonl").is_file() and len((out / "metrics.jsonl").read_text().splitlines()) >= 2:
            break
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, complaint = process.communicate(timeout=60)
    assert process.returncode == 130, complaint.decode()
    assert b"--resume" in complaint and b"Traceback" not in complaint
    assert main(["evaluate", str(out)]) == 0  # usable as it is
    for place, more in ((out, ["--resume"]), (whole, [])):
        subprocess.run(
            [*script, "--out", str(place), *more], cwd=ROOT, env=environment, check=True, capture_output=True
        )
    for name in ("spt/model.safetensors", "report.md"):
        assert without_times((out / name).read_bytes()) == without_times((whole / name).read_bytes()), name


def without_times(content: bytes) -> bytes:
    return re.sub(rb"\d+ s of training", b"", content)
