"""Stored models ranked in other ways: with followers on their scores, without the history, beside each other."""

from __future__ import annotations

import base64
import dataclasses
import zlib

import numpy as np
import torch

from benchmarks.paper.cell import Cell
from benchmarks.paper.followed import followers_table, ranked
from benchmarks.paper.stored import Line, gains
from latentloop.measures.metrics import Ranks, ndcg


def packed(values: list[int]) -> str:
    return base64.b85encode(zlib.compress(bytes(values))).decode()


def ranking(ndcg: float, ranks: list[int]) -> Line:
    metrics = {"ndcg@10": ndcg, "recall@10": 2 * ndcg}
    return {"validation": metrics, "test": metrics, "ranks": packed(ranks)}


def line(cell: Cell, alone: list[int], more: list[int], weight: float) -> Line:
    """Without the history, every user's target is the first, and the second with followers."""
    apart = ranking(0.4, [0] * 4) | {"followed": ranking(0.5, [1] * 4) | {"weight": 2.0}}
    return (
        {"key": cell.key, "cell": dataclasses.asdict(cell)}
        | ranking(0.05, alone)
        | {"followed": ranking(0.25, more) | {"weight": weight}, "excluded": apart}
    )


BASE, LOOP, COUNTS = Cell("tiny", kind="plain", alpha=0.0), Cell("tiny"), Cell("tiny", kind="followers")
LINES = {
    BASE.key: line(BASE, [0, 255, 255, 255], [0, 0, 255, 255], 4.0),
    LOOP.key: line(LOOP, [255, 255, 255, 255], [0, 255, 255, 0], 0.5),
    COUNTS.key: {"key": COUNTS.key, "cell": dataclasses.asdict(COUNTS)}
    | ranking(0.75, [0] * 4)
    | {"excluded": {"validation": {"ndcg@10": 0.625}, "test": {"ndcg@10": 0.875}}},
}


def rows_of(text: list[str]) -> dict[str, list[str]]:
    return {row.split("|")[1].strip(): [cell.strip() for cell in row.split("|")[2:-1]] for row in text if "| 0." in row}


def test_a_row_is_told_alone_and_with_followers() -> None:
    rows = rows_of(followers_table("tiny", LINES))
    # training, seeds, validation, test, against, p, weight, validation, test, gain, against, p
    assert rows["Followers alone"][7:9] == ["0.7500", "0.7500"]
    assert rows["Base"][1:9] == ["0", "0.0500", "0.0500", "", "", "4", "0.2500", "0.2500"]
    # users gain 0, 1, 0, 0 and 1, 0, 0, 1; beside Base they have 0, -1, 0, 1 of 2
    assert rows["Base"][9].startswith("+0.2500 [") and rows["SPT"][9].startswith("+0.5000 [")
    assert rows["SPT"][4].startswith("Base: -100.0% [") and rows["SPT"][6] == "0.5"
    assert rows["SPT"][10].startswith("Base: +0.0% [") and rows["SPT"][11] == "1"
    assert followers_table("tiny", {COUNTS.key: LINES[COUNTS.key]}) == []


def test_the_history_left_out_is_a_table_of_its_own() -> None:
    text = followers_table("tiny", LINES, exclude_history=True)
    rows = rows_of(text)
    assert text[0].endswith("the history left out")
    assert rows["Followers alone"][7:9] == ["0.6250", "0.8750"]
    assert rows["Base"][2:4] == ["0.4000", "0.4000"] and rows["Base"][6:9] == ["2", "0.5000", "0.5000"]
    assert rows["Base"][9].startswith("-0.3691 [")  # 1 / log2(3) - 1


def test_lines_that_lack_a_ranking_are_left_out() -> None:
    older = {name: value for name, value in LINES[BASE.key].items() if name not in ("followed", "excluded")}
    for options in ({"with_followers": True}, {"exclude_history": True}):
        assert ranked({"older": older}, **options) == {}
    assert ranked({"older": older}) == {"older": older}
    tied = LINES[LOOP.key] | {"gains": "of ties in the usual ranking"}
    (both,) = ranked({"new": tied}, exclude_history=True, with_followers=True).values()
    assert both["weight"] == 2.0 and gains(both).tolist() == [float(np.float32(1 / 1.584962500721156))] * 4


def test_stored_gains_are_those_of_the_ranks_to_the_last_bit() -> None:
    """Older lines hold both: a model that is the same would differ from itself, by nothing and beyond doubt."""
    greater = torch.arange(300)
    stored = ndcg(Ranks(greater, torch.zeros_like(greater)), 10).float().numpy()
    packed = {
        name: base64.b85encode(zlib.compress(values.tobytes())).decode()
        for name, values in (("ranks", np.minimum(np.arange(300), 255).astype(np.uint8)), ("gains", stored))
    }
    of_ranks = gains({"ranks": packed["ranks"]})
    assert of_ranks.tolist() == gains(packed).tolist() and of_ranks[0] == 1 and of_ranks[9] > 0 == of_ranks[10]
