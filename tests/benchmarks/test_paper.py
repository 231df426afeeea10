"""The paper's experiments: cells are run once, continue, and are reported from their lines alone."""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.paper import runner
from benchmarks.paper.cell import Cell, run_cell, unpack_ranks
from benchmarks.paper.grids import EXPERIMENTS, Row
from benchmarks.paper.report import experiment_table, matching, write_report
from latentloop.data.synthetic import synthetic_log

ROOT = Path(__file__).parents[2]
TINY = {"epochs": 1, "rpt_epochs": 1, "dim": 8, "pre_layers": 1, "core_layers": 1, "batch_size": 256}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of a few users."""
    folder = tmp_path_factory.mktemp("data")
    log = synthetic_log(num_users=60, num_items=40, seed=2)
    users: dict[int, list[str]] = {}
    for user, item in zip(log.user.tolist(), log.item.tolist(), strict=True):
        users.setdefault(user, [str(user + 1)]).append(str(item))
    (folder / "tiny.txt.gz").write_bytes(gzip.compress("\n".join(map(" ".join, users.values())).encode()))
    return folder


def test_every_experiment_has_rows_of_their_own() -> None:
    for name, rows in EXPERIMENTS.items():
        made = rows("tiny")
        assert len({row.label for row in made}) == len(made), name
        assert {row.baseline for row in made} - {None} <= {row.label for row in made}, name


def test_a_key_is_the_configuration() -> None:
    cell = Cell("tiny")
    assert cell.key == Cell("tiny").key != Cell("tiny", seed=1).key
    assert Cell("tiny", rpt=True, policy="hybrid", reward="ndcg@5").pretrained == cell


@pytest.mark.parametrize(
    "cell",
    [
        Cell("tiny", kind="chance"),
        Cell("tiny", kind="plain", alpha=0.1, **TINY),  # type: ignore[arg-type]
        Cell("tiny", kind="plain-deep", alpha=0.0, **TINY),  # type: ignore[arg-type]
        Cell("tiny", **(TINY | {"pre_layers": 0})),  # type: ignore[arg-type]
        Cell("tiny", rpt=True, reward="ndcg@5", depth="fixed", backbone="bsarec", **TINY),  # type: ignore[arg-type]
        Cell("tiny", positions="all", norm="post", similarity="dot", temperature=1.0, **TINY),  # type: ignore[arg-type]
    ],
    ids=["chance", "plain aligned", "plain deep", "no pre-block", "post-trained", "all positions"],
)
def test_a_cell_is_run_and_tested(cell: Cell, folder: Path, tmp_path: Path) -> None:
    line = run_cell(cell, folder, tmp_path, "cpu")
    assert Cell(**line["cell"]) == cell
    ranks = unpack_ranks(line["ranks"])
    assert len(ranks) == 60
    if cell.kind != "chance":
        assert np.where(ranks < 10, 1 / np.log2(ranks + 2.0), 0).mean() == pytest.approx(line["test"]["ndcg@10"])


def test_what_is_done_is_not_run_again_and_is_reported(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, loop = Cell("tiny", kind="plain", alpha=0.0, **TINY), Cell("tiny", **TINY)  # type: ignore[arg-type]
    rows = [Row("Base", plain), Row("LR+SPT", loop, "Base")]
    monkeypatch.setitem(EXPERIMENTS, "figure3", lambda data: rows)
    monkeypatch.chdir(tmp_path)
    options = runner.Options("figure3", data=("tiny",), folder=folder, seeds=(0, 1), device="cpu")
    lines = {cell.key: run_cell(cell, folder, tmp_path / "runs", "cpu") for cell in options.cells()}
    runner.CELLS.mkdir(parents=True)
    for line in lines.values():
        runner._keep("figure3", line)
    assert runner.finished() == lines
    assert runner.main(options) == 0  # no process starts: there is nothing to do
    (group,) = matching(rows[0], lines)
    assert [line["cell"]["seed"] for line in group] == [0, 1]
    table = experiment_table("figure3", "tiny", lines)
    assert len(table) == 7 and "Base: " in table[5]
    assert table[5].startswith("| LR+SPT | up to 1 epochs, newest positions, batch 256, lr 0.001 | 0, 1 |")
    assert "figure3-tiny.png" in write_report()
    assert (tmp_path / "benchmarks/results/figure3-tiny.png").is_file()


def test_the_command_runs_cells_in_processes_of_their_own(folder: Path, tmp_path: Path) -> None:
    arguments = ["table1", "--data", "tiny", "--only", "chance", "Popularity", "--seeds", "0", "--workers", "2"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    subprocess.run(
        [sys.executable, "-m", "benchmarks.paper", *arguments, "--folder", str(folder)],
        cwd=tmp_path, env=environment, check=True, timeout=300,
    )  # fmt: skip
    lines = runner.finished(tmp_path / runner.CELLS)
    assert sorted(line["cell"]["kind"] for line in lines.values()) == ["chance", "popularity"]


@pytest.mark.parametrize(("budget", "expected"), [("9m", 540.0), ("2h", 7200.0), ("30", 30.0), (None, float("inf"))])
def test_budgets(budget: str | None, expected: float) -> None:
    assert runner.seconds(budget) == expected


def test_a_budget_in_other_words_is_refused() -> None:
    with pytest.raises(SystemExit, match="9m, got 'soon'"):
        runner.seconds("soon")
