"""Stored models with followers on their scores, told beside themselves and beside each other."""

from __future__ import annotations

import base64
import dataclasses
import zlib

from benchmarks.paper.cell import Cell
from benchmarks.paper.followed import followed, followers_table
from benchmarks.paper.stored import Line


def packed(values: list[int]) -> str:
    return base64.b85encode(zlib.compress(bytes(values))).decode()


def line(cell: Cell, alone: list[int], with_followers: list[int], weight: float) -> Line:
    metrics = {"ndcg@10": 0.05, "recall@10": 0.1}
    more = {"ndcg@10": 0.25, "recall@10": 0.5}
    return {
        "key": cell.key, "cell": dataclasses.asdict(cell), "ranks": packed(alone), "validation": metrics, "test": metrics,
        "followed": {"weight": weight, "validation": more, "test": more, "ranks": packed(with_followers)},
    }  # fmt: skip


def test_a_row_is_told_beside_itself_and_beside_its_baseline() -> None:
    base, loop, alone = Cell("tiny", kind="plain", alpha=0.0), Cell("tiny"), Cell("tiny", kind="followers")
    lines = {
        base.key: line(base, [0, 255, 255, 255], [0, 0, 255, 255], 4.0),
        loop.key: line(loop, [255, 255, 255, 255], [0, 255, 255, 0], 0.5),
        alone.key: {
            "key": alone.key, "cell": dataclasses.asdict(alone), "ranks": packed([0, 0, 0, 0]),
            "validation": {"ndcg@10": 0.75}, "test": {"ndcg@10": 0.875},
        },
    }  # fmt: skip
    assert set(followed(lines)) == {base.key, loop.key}
    text = followers_table("tiny", lines)
    rows = {row.split("|")[1].strip(): [cell.strip() for cell in row.split("|")[2:-1]] for row in text if "| 0" in row}
    assert rows["Followers alone"][4:6] == ["0.7500", "0.8750"]
    # seeds, alone, weight, validation, test, gain: users gain 0, 1, 0, 0 and 1, 0, 0, 1; against: 0, -1, 0, 1 of 2
    assert rows["Base"][1:6] == ["0", "0.0500", "4", "0.2500", "0.2500"] and rows["Base"][7] == ""
    assert rows["Base"][6].startswith("+0.2500 [")
    assert rows["SPT"][3] == "0.5" and rows["SPT"][6].startswith("+0.5000 [")
    assert rows["SPT"][7].startswith("Base: +0.0% [") and rows["SPT"][8] == "1"
    assert followers_table("tiny", {alone.key: lines[alone.key]}) == []
