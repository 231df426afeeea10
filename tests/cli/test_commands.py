"""The command line, from a file of interactions to recommendations, and every mistake in one line."""

from __future__ import annotations

import errno
import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from latentloop import cli
from latentloop.cli import main
from latentloop.commands.evaluate import Evaluate
from latentloop.commands.train import Train
from latentloop.data.card import DataCard
from latentloop.data.store import load_saved_interactions
from latentloop.data.synthetic import synthetic_log
from latentloop.followers import WEIGHTS
from latentloop.recommender import Recommender
from tests.cli.worlds import KEEP, QUICK, asked, binary, log, made, read

ROOT = Path(__file__).resolve().parents[2]


def test_train_writes_the_whole_run(run: Path) -> None:
    for name in ("config.json", "metrics.jsonl", "data", "spt/model.safetensors", "rpt/config.json", "report.md"):
        assert (run / name).exists(), name
    stages = [json.loads(line)["stage"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert stages == ["base", "base", "spt", "spt", "rpt", "rpt"]
    report = (run / "report.md").read_text()
    for row in ("chance", "Popularity", "Followers", "Base", "SPT", "RPT", "leave-one-out", "paired test"):
        assert row in report


def test_the_table_is_printed_with_its_protocol(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    columns = ["--user", "who", "--item", "what"]
    assert main(["train", str(source), "--out", str(tmp_path / "run"), *columns, *QUICK]) == 0
    printed = capsys.readouterr().out
    rows = [line.split()[0] for line in printed.splitlines() if line[:1].isalpha()]
    assert rows[:5] == ["chance", "Popularity", "Followers", "SPT", "RPT"]
    assert "test Recall@10" in printed and "validation NDCG@10" in printed
    assert re.search(r"all \d+ items", printed) and "history kept" in printed


def test_followers_are_added_to_a_run_s_scores(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["evaluate", str(run), "--followers", "--out", "e.json"]) == 0
    printed, err = capsys.readouterr()
    assert "flattered" not in err
    result = json.loads(Path("e.json").read_text())
    more = result["with_followers"]
    weight = re.fullmatch(r"followers \* (\S+)", more["protocol"]["bonus"])
    assert weight and float(weight[1]) in WEIGHTS and result["protocol"]["bonus"] is None
    row = next(line for line in printed.splitlines() if " + followers * " in line)
    assert f"{more['metrics']['ndcg@10']:.4f}" in row.split()
    command = ["evaluate", str(run), "--followers", "--split", "validation", "--depths", "1", "2", "--out", "v.json"]
    assert main(command) == 0
    said = capsys.readouterr()
    assert "chosen on validation, where its gain is therefore flattered" in said.err
    _, _, depths, _, with_followers, line, _ = said.out.split("\n\n")
    assert f"plus followers * {weight[1]}" in line
    result = json.loads(Path("v.json").read_text())
    for table, values in ((depths, result), (with_followers, result["with_followers"])):
        curve = {row.split()[0]: row.split()[-1] for row in table.splitlines()}
        assert curve["1"] == f"{values['per_depth']['1']['ndcg@10']:.4f}"
    found = {}
    for name, options in {"plain": [], "0": ["--followers", "0"], "1000": ["--followers", "1000"]}.items():
        assert main(["recommend", str(run), *asked(tmp_path), "--overwrite", "--k", "5", *options]) == 0
        found[name] = [(line["item"], float(line["score"])) for line in read(tmp_path / "answer.csv")]
    assert found["plain"] == found["0"]
    assert max(score for _, score in found["1000"]) > 500 > max(score for _, score in found["0"])
    assert main(["recommend", str(run), *asked(tmp_path), "--overwrite", "--followers", "-1"]) == 2
    assert "--followers must be a finite number of at least 0, got -1" in capsys.readouterr().err


def test_evaluate_from_another_directory(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    command = ["evaluate", str(run), "--split", "validation", "--depths", "1", "2", "8", "--groups", "--out", "e.json"]
    assert main(command) == 0
    printed = capsys.readouterr().out
    results, _, depths, _, groups, _, repeated = printed.split("\n\n")
    titles, _, *lines = (re.split(r" {2,}", line.strip()) for line in results.splitlines())
    chosen = [titles.index(f"validation {metric}@10") + 1 for metric in ("Recall", "NDCG")]
    rows = {line[0]: [line[place] for place in chosen] for line in lines}
    rivals = ["chance", "Popularity", "Followers"]
    assert list(rows)[:3] == rivals
    curve = {line.split()[0]: line.split()[1:] for line in depths.splitlines()[2:]}
    assert list(curve) == [*rivals, "1", "2", "4*", "8"]
    assert {name: curve[name] for name in rivals} == {name: rows[name] for name in rivals}
    named = [re.split(r" {2,}", line) for line in groups.splitlines()[2:]]
    models = [line[2] for line in named]
    assert len(models) >= 12 and models == [*rivals, models[3]] * (len(models) // 4)
    assert {line[0].rsplit(maxsplit=1)[0] for line in named} == {"history length", "target popularity"}
    assert {line[3] for line in named if line[2] == "chance"} == {rows["chance"][0]}
    result = json.loads(Path("e.json").read_text())
    assert sorted(map(int, result["per_depth"])) == [1, 2, 4, 8]
    assert [f"{result['rivals'][n]['metrics']['recall@10']:.4f}" for n in rivals] == [rows[n][0] for n in rivals]
    found = result["repeats"]
    assert repeated.startswith(
        f"{result['protocol']['stage'].upper()}: the first answer is an item that the user already"
    )
    assert f"for {found['first']:.1%} of {found['samples']:,} samples" in repeated and found["k"] == 10
    assert main([*command, "--overwrite", "--exclude-history"]) == 0
    assert "already has" not in capsys.readouterr().out and "repeats" not in json.loads(Path("e.json").read_text())
    assert main([*command, "--overwrite"]) == 0
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


def test_lists_hold_ids_as_they_stand_and_without_space_where_only_that_is_known(tmp_path: Path) -> None:
    odd = [" lead", "x\u0085y", "lead", "x", "y", "z"]
    text = "user,item\n" + "".join(f"u{user},{odd[(user + step) % 6]}\n" for user in range(8) for step in range(5))
    (tmp_path / "log.csv").write_text(text, encoding="utf-8", newline="")
    run, out = tmp_path / "run", tmp_path / "out.csv"
    options = [
        "--k-core",
        "1",
        "--epochs",
        "1",
        "--rpt-epochs",
        "0",
        "--dim",
        "8",
        "--timestamp",
        "none",
        "--device",
        "cpu",
    ]
    assert main(["train", str(tmp_path / "log.csv"), "--out", str(run), *options]) == 0
    (tmp_path / "deny.txt").write_text(" lead\r\nx\u0085y\n z \n\n", encoding="utf-8", newline="")
    question = ["--input", made(tmp_path / "q.csv", "user\nu0\n"), "--out", str(out), "--k", "6", "--include-history"]
    assert main(["recommend", str(run), *question, "--deny", str(tmp_path / "deny.txt")]) == 0
    assert {row["item"] for row in read(out)} == {"lead", "x", "y"}


@pytest.mark.parametrize("separator", [";", "\t", "|"])
def test_requests_may_be_separated_as_logs_may(run: Path, tmp_path: Path, separator: str) -> None:
    answers = []
    for mark in (",", separator):
        question = asked(tmp_path, mark.join(["user", "history\n"]) + mark.join(["a", '"item-1 item-2"\n']))
        assert main(["recommend", str(run), *question, "--overwrite"]) == 0
        answers.append(read(tmp_path / "answer.csv"))
    assert answers[0] == answers[1] and answers[0]


def test_the_module_of_the_command_line_is_the_command_line() -> None:
    command = [sys.executable, "-m", "latentloop.cli", "train", "nowhere.csv", "--out", "nowhere"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 2 and "nowhere.csv" in done.stderr


def test_a_user_for_whom_nothing_is_left_is_told(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    question = asked(tmp_path, "user,history\na,item-1\nb,item-2\n")
    assert main(["recommend", str(run), *question, "--allow", made(tmp_path / "allow.txt", "item-2\n")]) == 0
    assert "nothing is left to recommend to 1 of 2" in capsys.readouterr().err
    assert [row["user"] for row in read(tmp_path / "answer.csv")] == ["a"]


def test_a_model_that_is_not_there_is_named_with_what_gives_it(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def said(where: Path, stage: str) -> str:
        assert main(["evaluate", str(where), "--stage", stage]) == 2
        return capsys.readouterr().err

    copy = Path(shutil.copytree(run, tmp_path / "my run"))
    for stage in ("base", "spt", "rpt"):
        shutil.rmtree(copy / stage)
    assert f"holds no rpt model: `latentloop resume '{copy}'` goes on with it" in said(copy, "rpt")
    lines = (copy / "metrics.jsonl").read_text().splitlines(keepends=True)
    (copy / "metrics.jsonl").write_text("".join(line for line in lines if '"stage": "rpt"' not in line))
    assert "its training made none" in said(copy, "rpt")
    assert f"holds no spt model: `latentloop resume '{copy}'` goes on with it" in said(copy, "spt")
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"with_base": False}))
    assert "holds no base model: it was trained without --with-base" in said(copy, "base")
    shutil.rmtree(copy / "data")
    assert "holds no spt model: give `latentloop train` its options again, with --resume" in said(copy, "spt")
    config["model"]["encoder"] = "mine:blocks"
    (copy / "config.json").write_text(json.dumps(config))
    (copy / "data").mkdir()
    assert f"`latentloop resume '{copy}' --encoder mine:blocks` goes on with it" in said(copy, "spt")
    (copy / "config.json").write_text(json.dumps({name: config[name] for name in config if name != "data"}))
    assert "was not made by `train`" in said(copy, "spt")


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
    "no column of items": (
        lambda t, _: ["train", made(t / "c.csv", "user,b\n1,2\n"), "--out", str(t / "r")], "(--item)"
    ),
    "a column that is not there": (
        lambda t, _: ["train", log(t), "--out", str(t / "r"), "--user", "who"], "(--user)"
    ),
    "no times for a global split": (
        lambda t, _: ["train", log(t), "--out", str(t / "r"), *KEEP, "--split", "global-time"], "(--split, --timestamp)"
    ),
    "a name that tells no format": (
        lambda t, _: ["train", made(t / "log.dat", "user,item\n1,2\n"), "--out", str(t / "r")], "(--format)"
    ),
    "an unknown category": (lambda t, _: ["train", "amazon-2023:Toys", "--out", str(t / "r")], "Toys_and_Games"),
    "a length of 0": (
        lambda t, _: ["train", log(t), "--out", str(t / "r"), *KEEP, "--max-length", "0"], "--max-length must"
    ),
    "a deviation below 0": (
        lambda t, _: ["train", log(t), "--out", str(t / "r"), *KEEP, "--state-std", "-1"], "--state-std must"
    ),
    "a size of 0": (lambda t, _: ["train", log(t), "--out", str(t / "r"), *KEEP, "--dim", "0"], "--dim must"),
    "no layers": (
        lambda t, _: ["train", log(t), "--out", str(t / "r"), *KEEP, "--core-layers", "0"], "--core-layers must"
    ),
    "a cut of the reward below 1": (
        lambda t, _: ["train", log(t), "--out", str(t / "r"), *KEEP, "--reward-cutoff", "0"], "--reward-cutoff must"
    ),
    "a device that is not there": (
        lambda t, run: ["evaluate", str(run), "--device", "cuda"], "--device is cuda"
    ),
    "no device to recommend on": (
        lambda t, run: ["recommend", str(run), *asked(t), "--device", "cuda"], "--device is cuda"
    ),
    "no device to train on": (
        lambda t, _: ["train", log(t), "--out", str(t / "r"), *KEEP, "--device", "cuda"], "--device is cuda"
    ),
    "a depth without a loop": (
        lambda t, run: ["evaluate", str(run), "--stage", "base", "--depths", "2"], "choose another --stage"
    ),
    "evaluate over something": (
        lambda t, run: ["evaluate", str(run), "--out", made(t / "e.json", "mine")], "--overwrite"
    ),
    "recommend over something": (
        lambda t, run: ["recommend", str(run), *asked(t)[:2], "--out", made(t / "a.csv", "mine")], "--overwrite"
    ),
    "evaluate into a folder": (
        lambda t, run: ["evaluate", str(run), "--out", str(t), "--overwrite"], "is a folder"
    ),
    "an unknown item in a list, strictly": (
        lambda t, run: ["recommend", str(run), *asked(t), "--deny", made(t / "d.txt", "nope\n"), "--strict"], "(--deny)"
    ),
    "an unknown user, strictly": (
        lambda t, run: ["recommend", str(run), *asked(t, "user\nu1\nnobody\n"), "--strict"],
        "asked.csv: line 3: unknown user 'nobody'; without --strict it is skipped (fewer actions than --k-core 5 keeps? give "
        "their `history`, or train with a smaller --k-core)",
    ),
    "a known user without a history, strictly": (
        lambda t, run: ["recommend", str(run), *asked(t, "user,history\nx,item-2\nu1,item-1\nu2,\ny,\n"), "--strict"],
        "asked.csv: line 4: no history, though the run knows the user 'u2' and answers from that without",
    ),
    "an unknown user without a history, strictly": (
        lambda t, run: ["recommend", str(run), *asked(t, "user,history\nnobody,\n"), "--strict"],
        "asked.csv: line 2: no history, and the run does not know the user 'nobody'; without --strict it is answered like",
    ),
    "no history and no user, strictly": (
        lambda t, run: ["recommend", str(run), *asked(t, "history\nitem-1\n\n"), "--strict"],
        "asked.csv: line 3: no history; without --strict it is answered like a stranger's",
    ),
    "a comma between items, strictly": (
        lambda t, run: ["recommend", str(run), *asked(t, 'history\n"item-1, item-2"\n'), "--strict"],
        "unknown item 'item-1,'; without --strict it is skipped (items of a history are separated by spaces)",
    ),
    "several columns that could be the user": (
        lambda t, run: ["recommend", str(run), *asked(t, "user_id,uid\nu1,u2\n")], "('user_id', 'uid')"
    ),
    "an unknown item on a line, strictly": (
        lambda t, run: ["recommend", str(run), *asked(t, "user,history\nx,item-1\ny,item-1 nope\n"), "--strict"],
        "asked.csv: line 3: unknown item 'nope'",
    ),
    "a row that does not parse": (
        lambda t, _: ["train", made(t / "p.csv", "user,item,timestamp\n1,2,3\n1,2\n"), "--out", str(t / "r")],
        "p.csv: line 3: 2 fields",
    ),
    "a time that is none": (
        lambda t, _: ["train", made(t / "t.csv", "user,item,timestamp\n1,2,3\n1,2,noon\n"), "--out", str(t / "r")],
        "t.csv: line 3: 'timestamp' is 'noon'",
    ),
    "no user left": (
        lambda t, _: ["train", made(t / "f.csv", "user,item\n1,2\n1,3\n1,4\n"), "--out", str(t / "r")],
        "(--k-core)",
    ),
    "an --out that exists": (lambda t, run: ["train", "x.csv", "--out", str(run)], "--resume"),
    "an --out that is something else": (lambda t, _: ["train", log(t), "--out", str(t), "--overwrite"], "not a run"),
    "other options on --resume": (
        lambda t, run: ["train", "x.csv", "--out", str(run), "--resume", "--seed", "9"], "was"
    ),
    "fewer epochs on --resume": (
        lambda t, run: [
            "train", json.loads((run / "config.json").read_text())["source"], "--out", str(run), "--resume",
            "--with-base", "--user", "who", "--item", "what", *QUICK, "--epochs", "1",
        ],
        "epochs was 2 when",
    ),
    "another option of a group on --resume": (
        lambda t, run: [
            "train", json.loads((run / "config.json").read_text())["source"], "--out", str(run), "--resume",
            "--with-base", "--user", "who", "--item", "what", *QUICK, "--epochs", "9", "--dim", "8",
        ],
        "dim was 16 when",
    ),
    "a negative depth": (lambda t, run: ["recommend", str(run), *asked(t), "--depth", "-1"], "--depth must"),
    "depth 0 in a curve": (lambda t, run: ["evaluate", str(run), "--depths", "0"], "at least 1"),
    "k above the catalog": (lambda t, run: ["recommend", str(run), *asked(t), "--k", "61"], "--k must lie in 1..58"),
    "an unknown item, strictly": (
        lambda t, run: ["recommend", str(run), *asked(t, "user,history\nx,item-1 nope\n"), "--strict"], "nope"
    ),
    "nobody but unknown users": (
        lambda t, run: ["recommend", str(run), *asked(t, "user\nnobody\n")],
        "asked.csv: no row can be answered, the run knows none of its users: 'nobody' (line 2) (fewer actions than --k-core 5",
    ),
    "neither user nor history": (lambda t, run: ["recommend", str(run), *asked(t, "name\nx\n")], "history"),
    "a run that is none": (lambda t, _: ["evaluate", str(t)], "config.json"),
    "prepare over something": (lambda t, run: ["prepare", "x.csv", "--out", str(run)], "--overwrite"),
    "a mean depth of 0": (
        lambda t, _: ["train", log(t), "--out", str(t / "r"), "--mean-depth", "0", "--k-core", "0"], "--mean-depth must"
    ),
    "a demo of nobody": (lambda t, _: ["demo", "--users", "0"], "--users must be a whole number of at least 1, got 0"),
    "epochs below 0": (lambda t, _: ["train", log(t), "--out", str(t / "r"), *KEEP, "--epochs", "-1"], "--epochs must"),
    "a rate of nan": (
        lambda t, _: ["train", log(t), "--out", str(t / "r"), *KEEP, "--learning-rate", "nan"], "--learning-rate must"
    ),
    "a later stage's batch size": (
        lambda t, _: ["train", log(t), "--out", str(t / "r"), *KEEP, "--rpt-batch-size", "0"], "--rpt-batch-size must"
    ),
    "a cut of 0": (lambda t, _: ["train", log(t), "--out", str(t / "r"), *KEEP, "--cut", "0"], "--cut must"),
    "two columns of one name": (lambda t, run: ["recommend", str(run), *asked(t, "user,user\nu1,u2\n")], "2 columns"),
    "a user that is no id": (
        lambda t, run: [
            "recommend", str(run), "--input", made(t / "q.jsonl", '{"user": "u1"}\n\n{"user": {"id": 1}}\n'),
            "--out", str(t / "o.csv"),
        ],
        "q.jsonl: line 3: user must be text or a whole number, got {'id': 1}",
    ),
    "an item that is no id": (
        lambda t, run: [
            "recommend", str(run), "--input", made(t / "q.jsonl", '{"history": ["item-1", true]}\n'),
            "--out", str(t / "o.csv"),
        ],
        "q.jsonl: line 1: history must be a list of item ids",
    ),
    "a line of requests that does not parse": (
        lambda t, run: [
            "recommend", str(run), "--input", made(t / "q.jsonl", '{"user": "u1"}\n{"user":\n'), "--out", str(t / "o.csv")
        ],
        "q.jsonl: line 2: no valid JSON",
    ),
    "a row of requests too many": (
        lambda t, run: ["recommend", str(run), *asked(t, "user,history\nx,item-1\n\ny,item-1,item-2\n")],
        "asked.csv: line 4: 3 fields, expected 2",
    ),
    "requests that are not text": (
        lambda t, run: ["recommend", str(run), "--input", binary(t / "q.csv"), "--out", str(t / "o.csv")],
        "q.csv: line 1: bytes that are not UTF-8",
    ),
    "an --out below a file": (
        lambda t, run: ["evaluate", str(run), "--out", made(t / "file", "mine") + "/x.json"], "file is a file"
    ),
    "blocks of one's own for a built-in run": (
        lambda t, run: ["evaluate", str(run), "--encoder", "a:b"], "leave out --encoder"
    ),
    "a list that is not text": (
        lambda t, run: ["recommend", str(run), *asked(t), "--deny", binary(t / "deny.txt")], "UTF-8"
    ),
    "a list that leaves nothing": (
        lambda t, run: ["recommend", str(run), *asked(t), "--allow", made(t / "allow.txt", "")],
        "nothing is left to recommend to anybody: --allow",
    ),
    "a folder that is no run": (
        lambda t, run: ["train", log(t), "--out", str(t), *KEEP], "is not empty and not a run of latentloop"
    ),
    "a list that is not there": (
        lambda t, run: ["recommend", str(run), *asked(t), "--allow", str(t / "none.txt")], "there is no file"
    ),
    "requests of an unknown kind": (
        lambda t, run: ["recommend", str(run), "--input", made(t / "a.txt", "u3"), "--out", str(t / "o.csv")],
        "--input must end in .csv",
    ),
    "heads that do not divide": (
        lambda t, _: ["train", log(t), "--out", str(t / "r"), "--heads", "3", "--k-core", "0"], "--heads must"
    ),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_and_code_2(
    mistake: str,
    run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    recwarn: pytest.WarningsRecorder,
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("reached for the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    arguments, named = MISTAKES[mistake]
    command = arguments(tmp_path, run)
    given = {path.name for path in tmp_path.iterdir()}
    assert main(command) == 2
    complaint = [line for line in capsys.readouterr().err.splitlines() if line.startswith("latentloop: error:")]
    assert len(complaint) == 1
    assert [warning for warning in recwarn if warning.category is UserWarning] == []
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


def test_an_unknown_item_is_skipped_with_a_warning(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = 'user,history\n"x\ny",item-1\nz,item-1 nope\n'  # a quoted line break: the third line is no record
    out = ["--input", made(tmp_path / "a.csv", rows), "--out", str(tmp_path / "o.jsonl")]
    assert main(["recommend", str(run), *out]) == 0
    assert len(read(tmp_path / "o.jsonl")) == 20
    assert "a.csv: skipped 1 unknown item(s): 'nope' (line 4)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "rows", "warned"),
    [
        ("a.csv", "user\nu3\nnobody\nu7\n", "skipped 1 unknown user(s): 'nobody' (line 3)"),
        ("a.csv", "user\nx\n\nu3\ny\nu7\n", "skipped 3 unknown user(s): 'x' (line 2), '' (line 3), 'y' (line 5)"),
        ("a.jsonl", '{"user": "u3"}\n\n{"user": "nobody"}\n{"user": "u7"}\n', "'nobody' (line 3)"),
        (
            "a.csv",
            "user\nu3\nu7\n" + "".join(f"new{n}\n" for n in range(7)),
            "7 unknown user(s): 'new0' (line 4), 'new1' (line 5), 'new2' (line 6), 'new3' (line 7), 'new4' (line 8) "
            "and 2 more",
        ),
    ],
)
def test_unknown_users_are_skipped_with_a_warning(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, rows: str, warned: str
) -> None:
    known = tmp_path / "known.csv"
    for path, text in ((tmp_path / name, rows), (tmp_path / "k.csv", "user\nu3\nu7\n")):
        out = known if path.name == "k.csv" else tmp_path / "o.csv"
        assert main(["recommend", str(run), "--input", made(path, text), "--k", "3", "--out", str(out)]) == 0
    assert (tmp_path / "o.csv").read_bytes() == known.read_bytes()
    told = capsys.readouterr().err
    advice = "(fewer actions than --k-core 5 keeps? give their `history`, or train with a smaller --k-core)"
    assert warned in told and told.rstrip().endswith(advice)


@pytest.mark.parametrize("k_core", [0, 1])
def test_a_run_that_kept_all_users_gives_no_advice_about_the_k_core(
    run: Path, tmp_path: Path, k_core: int, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    config = json.loads((copy / "config.json").read_text())
    config["data"]["k_core"] = k_core
    (copy / "config.json").write_text(json.dumps(config))
    assert main(["recommend", str(copy), *asked(tmp_path, "user\nu3\nnobody\n")]) == 0
    told = capsys.readouterr().err
    assert "'nobody' (line 3)" in told and "k-core" not in told


STRANGERS = "row(s) have no known item in their history and are answered like a stranger's"


@pytest.mark.parametrize(
    ("rows", "known", "others"),
    [
        (
            "user,history\nu3,item-1\nu7,\nu8,\n",
            "2 {}, though the run knows the user: 'u7' (line 3), 'u8' (line 4)",
            "",
        ),
        ("user,history\nnobody,\n", "", "1 {}: 'nobody' (line 2)"),
        ("user,history\nnobody,nope\nu3,item-1 nope\n", "", "1 {}: 'nobody' (line 2)"),
        ("history\nitem-1\n\nnope\n", "", "2 {}: line 3, line 4"),
        (
            "user,history\nnobody,\nu7,nope nope\n",
            "1 {}, though the run knows the user: 'u7' (line 3)",
            "1 {}: 'nobody' (line 2)",
        ),
        ("user,history\nnobody,item-1 nope\n", "", ""),
    ],
)
def test_rows_that_are_answered_like_a_strangers_are_warned_of(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], rows: str, known: str, others: str
) -> None:
    assert main(["recommend", str(run), *asked(tmp_path, rows), "--k", "1"]) == 0
    said = [line.split(": ", 1)[1] for line in capsys.readouterr().err.splitlines() if "stranger" in line]
    advice = "; leave the column `history` out to answer from the run"
    assert said == [
        *([known.format(STRANGERS) + advice] if known else []),
        *([others.format(STRANGERS)] if others else []),
    ]
    assert len(read(tmp_path / "answer.csv")) == len(rows.splitlines()) - 1


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", "user_id\nu3\nu7\n"),
        ("a.csv", "UserID\nu3\nu7\n"),
        ("a.csv", "session_id,user\nu1,u3\nu2,u7\n"),  # what is called so comes first
        ("a.jsonl", '{"visitorid": "u3"}\n{"visitorid": "u7"}\n'),
    ],
)
def test_the_column_of_users_is_recognised_as_in_logs(run: Path, tmp_path: Path, name: str, text: str) -> None:
    told = []
    for given, content in ((name, text), ("b.csv", "user\nu3\nu7\n")):
        out = ["--input", made(tmp_path / given, content), "--out", str(tmp_path / "o.csv"), "--k", "3", "--overwrite"]
        assert main(["recommend", str(run), *out]) == 0
        told.append((tmp_path / "o.csv").read_bytes())
    assert told[0] == told[1]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", "user_id,session_id,history\nu1,s1,item-1\n"),
        ("a.csv", "user_id,user_id,history\nu1,u2,item-1\n"),
        ("a.csv", "user_id,history\n,item-1\n"),
        ("a.jsonl", '{"user_id": null, "history": ["item-1"]}\n'),
        ("a.jsonl", '{"session_id": 1.5, "history": ["item-1"]}\n'),
    ],
)
def test_what_only_looks_like_a_user_beside_a_history_is_ignored(
    run: Path, tmp_path: Path, name: str, text: str
) -> None:
    out = tmp_path / "o.csv"
    assert main(["recommend", str(run), "--input", made(tmp_path / name, text), "--k", "1", "--out", str(out)]) == 0
    assert [row["user"] for row in read(out)] == ["1"]


def test_ids_of_a_recognised_column_stay_as_they_are_written(run: Path, tmp_path: Path) -> None:
    asked_for = made(tmp_path / "a.csv", " customer_id ,history\n007,item-1\n")
    assert main(["recommend", str(run), "--input", asked_for, "--k", "1", "--out", str(tmp_path / "o.csv")]) == 0
    assert [row["user"] for row in read(tmp_path / "o.csv")] == ["007"]


def test_a_comma_between_items_is_told(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recommend", str(run), *asked(tmp_path, 'history\n"item-1, item-2"\n')]) == 0
    assert "'item-1,' (line 2) (items of a history are separated by spaces)" in capsys.readouterr().err
    assert main(["recommend", str(run), *asked(tmp_path, "history\nitem-2 nope\n"), "--overwrite"]) == 0
    assert "separated" not in capsys.readouterr().err


def test_what_the_k_core_drops_is_told_before_the_data(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    columns = ["--user", "who", "--item", "what"]
    prepare = ["prepare", str(source), *columns, "--out"]
    assert main([*prepare, str(tmp_path / "all"), "--k-core", "1"]) == 0
    every = DataCard.of(load_saved_interactions(tmp_path / "all"))
    assert "core" not in capsys.readouterr().err
    assert main([*prepare, str(tmp_path / "core"), "--k-core", "8"]) == 0
    some = DataCard.of(load_saved_interactions(tmp_path / "core"))
    told = (
        f"8-core: kept {some.users:,} of {every.users:,} users, {some.items:,} of {every.items:,} items, "
        f"{some.actions:,} of {every.actions:,} actions (--k-core 0 keeps all)"
    )
    assert some.users < every.users and some.items < every.items
    assert capsys.readouterr().err.splitlines() == [told]
    command = ["train", str(source), *columns, *QUICK, "--k-core", "8", "--out", str(tmp_path / "run")]
    assert main(command) == 0
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == told and lines[1].startswith("data: ")
    # nothing is dropped from what was filtered before
    assert main(["prepare", str(tmp_path / "core"), "--k-core", "8", "--out", str(tmp_path / "again")]) == 0
    assert "core" not in capsys.readouterr().err


TEDREC = ["--backbone", "tedrec"]
TEXTS = [*TEDREC, "--item-text", "t.tsv"]
UNREAD: list[tuple[list[str], str]] = [
    (["--encoder", "own:nope"], "own cannot be imported"),
    (["--encoder", "json:nope"], "json has no function nope"),
    (["--encoder", "json:dumps"], "--encoder json:dumps must return"),
    (["--encoder", "json:dumps", "--heads", "2"], "--heads is a setting of built-in backbones"),
    (["--backbone", "fmlprec", "--heads", "2"], "--heads is not a setting of fmlprec"),
    (["--heads", "3"], "--heads must"),
    (["--dim", "0"], "--dim must"),
    (["--backbone", "bsarec", "--positions", "all"], "not causal"),
    (["--negatives", "-1"], "--negatives must"),
    (["--reward-cutoff", "0"], "--reward-cutoff must"),
    (["--epochs", "-1"], "--epochs must"),
    (["--rpt-batch-size", "0"], "--rpt-batch-size must"),
    (["--item-text", "t.tsv", "--text-encoder", "hashing"], "by --backbone tedrec only"),
    (TEDREC, "give --item-text FILE"),
    ([*TEDREC, "--text-encoder", "hashing"], "give --item-text FILE"),
    ([*TEDREC, "--item-embeddings", "no.npy"], "no.npy: no such file"),
    ([*TEDREC, "--item-embeddings", "t.tsv", "--text-encoder", "hashing"], "leave out text_encoder"),
    ([*TEDREC, "--item-embeddings", "t.tsv", "--item-text-id", "x"], "give --item-text (--item-text-id)"),
    (TEXTS, "give --text-encoder NAME"),
    ([*TEDREC, "--item-text", "no.tsv", "--text-encoder", "hashing"], "no.tsv: no such file"),
    ([*TEXTS, "--text-encoder", "hashing", "--experts", "0"], "--experts must"),
    ([*TEXTS, "--text-encoder", "./no"], "./no: no such folder"),
    ([*TEXTS, "--text-encoder", "some-model"], "needs sentence-transformers: pip install 'latentloop[text]'"),
]


@pytest.mark.parametrize(("options", "said"), UNREAD)
def test_options_are_refused_before_the_data_are_read(
    options: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """There is no such file of interactions, which is what would be said first where it was looked for."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    made(tmp_path / "t.tsv", "id\ttext\n1\tx\n")
    assert main(["train", "none.csv", "--out", "run", *options]) == 2
    assert said in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("options", [[*TEXTS, "--text-encoder", "some-model"], [*TEDREC, "--item-embeddings", "e.npy"]])
def test_texts_that_may_be_enough_wait_for_the_data(
    options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What a model of sentence-transformers returned before needs no package."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    kept = tmp_path / "cache" / "latentloop" / "text" / "some.npy"
    kept.parent.mkdir(parents=True)
    for name in ("t.tsv", "e.npy", str(kept)):
        made(tmp_path / name, "")
    assert main(["train", "none.csv", "--out", "run", *options]) == 2
    assert "none.csv: no such file" in capsys.readouterr().err


def test_the_demo_refuses_its_options_before_it_makes_a_log(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("latentloop.data.synthetic.synthetic_log", None)
    assert main(["demo", "--epochs", "-1"]) == 2
    assert "--epochs must" in capsys.readouterr().err


def test_ids_of_both_kinds_may_stand_in_one_file(run: Path, tmp_path: Path) -> None:
    rows = '{"user": "a", "history": ["item-1", 7]}\n{"user": 8, "history": "item-1 item-2"}\n'
    out = tmp_path / "o.jsonl"
    asked_for = ["--input", made(tmp_path / "a.jsonl", rows), "--out", str(out), "--k", "1"]
    assert main(["recommend", str(run), *asked_for]) == 0
    assert [row["user"] for row in read(out)] == ["a", "8"]


DAMAGE: list[tuple[str, Any, str]] = [
    ("max_length", "20", "data.max_length must be a whole number, found '20'"),
    ("max_length", True, "data.max_length must be a whole number"),
    ("max_length", -3, "data.max_length is -3, and"),
    ("k_core", 5.0, "data.k_core must be a whole number"),
    ("split", "random", "data.split must be 'leave-one-out' or 'global-time', found 'random'"),
    ("user", 7, "data.user must be text or null"),
    ("colour", "red", "data.colour is no option of this release"),
]


@pytest.mark.parametrize(("option", "value", "message"), DAMAGE)
@pytest.mark.parametrize("command", ["evaluate", "recommend"])
def test_a_damaged_configuration_is_one_line(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str, option: str, value: Any, message: str
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    config = json.loads((copy / "config.json").read_text())
    config["data"][option] = value
    (copy / "config.json").write_text(json.dumps(config))
    assert main([command, str(copy), *(asked(tmp_path) if command == "recommend" else [])]) == 2
    complaint = capsys.readouterr().err
    assert message in complaint and len(complaint.splitlines()) == 1
    config["data"] = [1]
    (copy / "config.json").write_text(json.dumps(config))
    assert main(["evaluate", str(copy)]) == 2
    assert "data must be an object" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["evaluate", "recommend"])
def test_commands_take_a_device(run: Path, tmp_path: Path, device: torch.device, command: str) -> None:
    given = ["--input", made(tmp_path / "a.csv", "user\nu3\n")] if command == "recommend" else []
    out = tmp_path / ("o.csv" if command == "recommend" else "o.json")
    assert main([command, str(run), *given, "--out", str(out), "--device", device.type]) == 0
    assert out.is_file()


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


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [({}, "1000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "None")],
)
def test_threads_wait_briefly_unless_the_user_says_otherwise(chosen: dict[str, str], expected: str) -> None:
    code = (
        "import os, sys, latentloop.cli as c; c.main(['evaluate', 'nowhere']); print(os.environ.get('GOMP_SPINCOUNT'))"
    )
    plain = {name: value for name, value in os.environ.items() if name not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, cwd=ROOT, env=plain | chosen, capture_output=True, text=True
    )
    assert done.stdout.split()[-1] == expected


# a test run in the background inherits an ignored SIGINT, which Python would leave ignored
LISTENING = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)"


@pytest.mark.parametrize(
    "module", ["tyro", "torch", "numpy", "latentloop.training", "latentloop.data.store", "accelerate"]
)
def test_ctrl_c_while_modules_are_imported_is_one_line(run: Path, tmp_path: Path, module: str) -> None:
    """Each of them takes a while on a cold disk; here the signal comes the moment its import begins."""
    interrupted = f"""{LISTENING}
class Signal:
    def find_spec(name, path=None, target=None):
        if name == {module!r}:
            sys.meta_path.remove(Signal)
            signal.raise_signal(signal.SIGINT)
sys.meta_path.insert(0, Signal)
from latentloop.cli import main
sys.exit(main())"""
    command = ["train", str(run / "data"), "--out", str(tmp_path / "run"), *QUICK]
    done = subprocess.run([sys.executable, "-c", interrupted, *command], cwd=ROOT, capture_output=True, check=False)
    assert done.returncode == 130
    said = [line for line in done.stderr.decode().splitlines() if not line.startswith(("data:", "split:"))]
    assert len(said) == 1 and said[0].startswith("latentloop: interrupted")


def test_a_reader_that_leaves_early_ends_the_command_quietly(run: Path) -> None:
    script = "import sys; from latentloop.cli import main; sys.exit(main())"
    for command in (["train", "--help"], ["evaluate", str(run)]):
        process = subprocess.Popen(
            [sys.executable, "-c", script, *command], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        complaint = process.stderr.read()
        # older releases of tyro end their help as if it had been read
        assert process.wait() in ((0, 141) if "--help" in command else (141,))
        assert complaint == b""


class Full(io.StringIO):
    """An output without room, as it is found when what was written is brought there."""

    def flush(self) -> None:
        if self.getvalue():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_outputs_that_take_nothing_change_no_exit_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Python has no standard output where the caller closed it, as `>&-` and some services do."""
    prepare = ["prepare", log(tmp_path), "--k-core", "0", "--out"]
    for name, output in (("stdout", None), ("stderr", None), ("stderr", Full())):
        with monkeypatch.context() as patch:
            patch.setattr(sys, name, output)
            assert main([*prepare, str(tmp_path / f"{name} {output}")]) == 0
            assert main(["evaluate", str(tmp_path)]) == 2
    capsys.readouterr()
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", Full())
        assert main([*prepare, str(tmp_path / "full")]) == 2
    assert capsys.readouterr().err == "latentloop: error: [Errno 28] No space left on device\n"


def test_ctrl_c_leaves_a_run_that_resumes_to_the_same_bits(source: Path, tmp_path: Path) -> None:
    """A real process, a real signal."""
    command = [
        *["train", str(source), "--user", "who", "--item", "what", *QUICK],
        *["--epochs", "12", "--rpt-epochs", "0", "--patience", "12"],
    ]
    out, whole = tmp_path / "run", tmp_path / "whole"
    script = [sys.executable, "-c", f"{LISTENING}; from latentloop.cli import main; sys.exit(main())", *command]
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
    assert f"latentloop resume {out}".encode() in complaint and b"Traceback" not in complaint
    assert main(["evaluate", str(out)]) == 0  # usable as it is
    for place, more in ((out, ["--resume"]), (whole, [])):
        subprocess.run(
            [*script, "--out", str(place), *more], cwd=ROOT, env=environment, check=True, capture_output=True
        )
    for name in ("spt/model.safetensors", "report.md"):
        assert without_times((out / name).read_bytes()) == without_times((whole / name).read_bytes()), name


def without_times(content: bytes) -> bytes:
    return re.sub(rb"\d+ s of training", b"", content)


def test_numbers_that_break_stop_with_one_line_and_code_1(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    columns = ["--user", "who", "--item", "what"]
    assert (
        main(["train", str(source), "--out", str(tmp_path / "run"), *columns, *QUICK, "--learning-rate", "1e38"]) == 1
    )
    complaint = [line for line in capsys.readouterr().err.splitlines() if "latentloop: error" in line]
    assert len(complaint) == 1
    assert re.search(r"spt: .*(is (nan|inf) at step|no numbers after step) \d+", complaint[0])


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (MemoryError("3 PiB"), r"not enough memory \(3 PiB\): choose a smaller --batch-size, --dim or --max-length"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "not enough memory .*: choose a smaller"),
        (RuntimeError("a mistake of ours"), None),
    ],
)
def test_lack_of_memory_is_one_line_and_any_other_error_stays_one(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception, said: str | None
) -> None:
    def fail(self: Evaluate) -> None:
        raise error

    monkeypatch.setattr(Evaluate, "run", fail)
    if said is None:
        with pytest.raises(RuntimeError, match="a mistake of ours"):
            main(["evaluate", str(run)])
    else:
        assert main(["evaluate", str(run)]) == 2
        assert re.fullmatch(f"latentloop: error: {said}.*", capsys.readouterr().err.strip())


@pytest.mark.parametrize("kept", [True, False])
def test_the_demo_trains_both_stages_and_recommends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], kept: bool
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    small = ["--users", "60", "--seed", "5", *QUICK[: QUICK.index("--device")], "--epochs", "1"]
    assert main(["demo", *small, *(["--out", str(tmp_path / "kept")] if kept else [])]) == 0
    said = capsys.readouterr().out
    for title in ("chance", "Popularity", "Followers", "Base", "SPT", "RPT"):
        assert re.search(rf"^{title} ", said, re.MULTILINE), title
    items = re.findall(r"^(\d)\. item (\S+) \(score -?\d+\.\d{3}\)$", said, re.MULTILINE)
    assert [rank for rank, _ in items] == ["1", "2", "3", "4", "5"] and len({item for _, item in items}) == 5
    assert not list(tmp_path.glob("latentloop-demo-*")) and (tmp_path / "kept").is_dir() == kept
    if kept:
        model = Recommender.from_pretrained(tmp_path / "kept" / "rpt")
        assert model.dim == 16 and {item for _, item in items} <= set(map(str, model.item_ids or ()))


CLOSED = RuntimeError("[gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:4242")
LOST = "another process of this training has ended; what was finished is kept, continue with --resume"


@pytest.mark.parametrize(
    ("rank", "error", "code", "said"),
    [
        ("0", CLOSED, 1, f"latentloop: error: {LOST}"),
        ("1", CLOSED, 1, f"latentloop: error in process 1: {LOST}"),
        ("0", KeyboardInterrupt(), 130, "latentloop: interrupted; what was finished is kept, continue with --resume"),
        ("1", KeyboardInterrupt(), 130, ""),  # the first says it for all
    ],
)
def test_one_of_several_processes_says_what_it_can_know(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    rank: str,
    error: BaseException,
    code: int,
    said: str,
) -> None:
    def fail(self: Train) -> None:
        raise error

    monkeypatch.setattr(Train, "run", fail)
    monkeypatch.setattr(cli, "_FIRST_SPEAKS", 0.0)
    for name, value in (("RANK", rank), ("WORLD_SIZE", "2"), ("TORCH_CPP_LOG_LEVEL", "ERROR")):
        monkeypatch.setenv(name, value)
    assert main(["train", "x.csv", "--out", str(tmp_path / "run")]) == code
    assert capsys.readouterr().err.strip() == said


def test_the_same_error_of_one_process_is_no_loss_of_another(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Evaluate) -> None:
        raise CLOSED

    monkeypatch.setattr(Evaluate, "run", fail)
    with pytest.raises(RuntimeError, match="Connection closed by peer"):
        main(["evaluate", str(run)])
