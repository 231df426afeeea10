"""How many steps lead from a history to its target, counted by hand, and stored rows told apart by it."""

from __future__ import annotations

import base64
import dataclasses
import gzip
import itertools
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.paper import steps
from benchmarks.paper.cell import Cell
from benchmarks.paper.report import write_report
from benchmarks.paper.stored import Line
from benchmarks.paper.tables import steps_table
from latentloop.data.interactions import Interactions
from latentloop.data.splits import Split, leave_one_out

# users' items; the last two are for validation and test, the rest is the log: 1 > 2 > 3 > 4, 5 > 6, 7 > 8
LOG = [[1, 2, 3, 4, 9, 9], [5, 6, 9, 9], [7, 8, 9, 9]]


def split_of(rows: list[list[int]], max_length: int = 20) -> Split:
    """Users 0, 1, ... with these items, each in a moment of its own."""
    columns = [(user, item, time) for user, items in enumerate(rows) for time, item in enumerate(items)]
    user, item, time = zip(*columns, strict=True)
    return leave_one_out(Interactions.of(user, item, time), max_length)


@pytest.mark.parametrize(
    ("history", "target", "expected"),
    [
        ([5, 1], 2, 0),  # 1 > 2
        ([1, 5], 2, 1),  # 1 is not the newest
        ([5, 1], 3, 2),  # 1 > 2 > 3
        ([1, 5], 3, 2),
        ([5, 1], 4, 3),  # three steps
        ([5, 1], 8, 3),  # 8 comes after 7 only
        ([1, 5], 6, 0),
        ([5, 4], 3, 3),  # steps have a direction
    ],
)
def test_steps_by_hand(history: list[int], target: int, expected: int) -> None:
    """The user who is asked about adds no step: of three items one is left to train on."""
    split = split_of([*LOG, [*history, target]])
    found = steps.steps_of(split, split.test)
    assert found[-1] == expected


@given(st.lists(st.lists(st.integers(1, 6), min_size=3, max_size=6), min_size=2, max_size=5))
def test_steps_beside_walks(rows: list[list[int]]) -> None:
    """The naive twin: all pairs of the training part, and each item that a walk of two may lead through."""
    split = split_of(rows)
    walks = {
        (first, second)
        for row in rows
        for first, second in itertools.pairwise(row[:-2])  # the last two are held out
    }
    for row, found in zip(rows, steps.steps_of(split, split.test).tolist(), strict=True):
        target, history = row[-1], row[:-1]
        one = {item for item in history if (item, target) in walks}
        two = {item for item in history for via in range(1, 7) if {(item, via), (via, target)} <= walks}
        assert found == (0 if history[-1] in one else 1 if one else 2 if two else 3)


def test_a_line_holds_the_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tiny.txt.gz").write_bytes(
        gzip.compress("\n".join(f"{user} {' '.join(map(str, items))}" for user, items in enumerate(LOG, 1)).encode())
    )
    monkeypatch.setattr(steps, "STEPS", tmp_path / "results" / "steps.jsonl")
    for _ in range(2):
        steps.main(steps.Options(("tiny",), folder=tmp_path))
    stored = steps.stored_steps(steps.STEPS)
    assert set(stored) == {("tiny", 20)}
    entry = stored["tiny", 20]
    assert len(steps.classes_of(entry)) == len(LOG)
    assert steps.stored_steps(tmp_path / "none.jsonl") == {}


def test_rows_are_told_apart_by_steps(tmp_path: Path) -> None:
    """Four users in classes 0, 0, 1 and 3: the loop gains in the first class what it loses in the second."""
    base, loop = Cell("tiny", kind="plain", alpha=0.0), Cell("tiny")
    ranks = {base: [0, 255, 0, 255], loop: [0, 0, 255, 255]}
    lines = {cell.key: _line(cell, found) for cell, found in ranks.items()}
    entry: Line = {"classes": _packed([0, 0, 1, 3])}
    text = steps_table("tiny", lines, {("tiny", 20): entry})
    plain, ours = (
        next(line for line in text if line.startswith(f"| {label} |")).split("|")[4:-1] for label in ("Base", "SPT")
    )
    assert [cell.strip() for cell in plain] == ["0.5000", "1.0000", "", "0.0000"]
    # differences 0 and 1: mean .5, standard error .5, and t of one degree of freedom is 12.706
    assert ours[0].strip() == "1.0000 +0.5000 [-5.8531, +6.8531]"
    assert ours[1].strip().startswith("0.0000")
    assert any("50.0%" in line for line in text)
    assert steps_table("tiny", lines, {("tiny", 50): entry}) == []

    (tmp_path / "none.jsonl").write_text("")
    assert "### Steps" not in write_report(tmp_path, tmp_path / "out", tmp_path / "costs", tmp_path / "none.jsonl")


def _line(cell: Cell, ranks: list[int]) -> Line:
    metrics = {"ndcg@10": 0.05, "recall@10": 0.1}
    return {
        "key": cell.key, "cell": dataclasses.asdict(cell), "ranks": _packed(ranks), "validation": metrics,
        "test": metrics, "by_depth": {}, "history": [],
    }  # fmt: skip


def _packed(numbers: list[int]) -> str:
    return base64.b85encode(zlib.compress(np.array(numbers, dtype=np.uint8).tobytes())).decode()
