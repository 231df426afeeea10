"""The paper's experiments as lists of cells: what stands in which row or on which curve."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from benchmarks.paper.cell import Cell
from benchmarks.paper.rows import Row
from benchmarks.paper.studies import study, study_rpt
from benchmarks.paper.tuning import tuning

__all__ = ["EXPERIMENTS"]


def table1(data: str) -> list[Row]:
    """The models that exist, and each fair rival of the loop."""
    plain = Cell(data, kind="plain", alpha=0.0)
    rows = [Row("chance", Cell(data, kind="chance")), Row("Popularity", Cell(data, kind="popularity"))]
    rows.append(Row("Followers", Cell(data, kind="followers")))
    rows += [Row(name, replace(plain, backbone=name)) for name in ("sasrec", "fmlprec", "bsarec")]
    rows += [
        Row("sasrec, equal FLOPs", replace(plain, kind="plain-deep"), "sasrec"),
        Row("sasrec, aligned", replace(plain, alpha=0.1), "sasrec"),
        Row("sasrec, equal FLOPs, aligned", replace(plain, kind="plain-deep", alpha=0.1), "sasrec"),
        Row("loop, no alignment", Cell(data, alpha=0.0, gamma=0.0), "sasrec"),
        Row("LR+SPT", Cell(data), "sasrec"),
        Row("LARES", Cell(data, rpt=True), "LR+SPT"),
    ]
    return rows


def table2(data: str) -> list[Row]:
    """LARES without one part at a time; as in the paper, all but the first row are without post-training."""
    full = Cell(data, rpt=True)
    pre = full.pretrained
    return [
        Row("LARES", full, "without RPT"),
        Row("without RPT", pre),
        Row("without RPT, pre-block", replace(pre, pre_layers=0), "without RPT"),
        Row("without RPT, depth sampling", replace(pre, depth="fixed"), "without RPT"),
        Row("without RPT, SLA", replace(pre, gamma=0.0), "without RPT"),
        Row("without RPT, SLA, TLA", replace(pre, gamma=0.0, alpha=0.0), "without RPT"),
    ]


def table4(data: str) -> list[Row]:
    """Quality and cost at matched FLOPs: SASRec of 4 to 10 layers, and the loop of 2 + 2 that thinks 1 to 4 times."""
    rows = []
    for depth in (1, 2, 3, 4):
        # a loop that thinks once has no depth to draw
        loop = Cell(data, mean_depth=3 if depth == 4 else depth - 1, depth="fixed" if depth == 1 else "sampled")
        deep = Cell(data, kind="plain", alpha=0.0)
        if depth > 1:
            deep = replace(deep, kind="plain-deep", mean_depth=depth - 1)
        label = f"sasrec, {deep.layers} layers"
        rows.append(Row(label, deep))
        rows.append(Row(f"{label}, aligned", replace(deep, alpha=0.1), label))
        rows.append(Row(f"LR+SPT, depth {depth}", loop, label))
        rows.append(Row(f"LARES, depth {depth}", replace(loop, rpt=True), label))
    return rows


def figure2(data: str) -> list[Row]:
    """Base, its rivals of equal FLOPs and of equal losses, LR+SPT and LARES of each backbone; TedRec reads texts."""
    rows = []
    for name in ("sasrec", "fmlprec", "bsarec", "tedrec"):
        base = Cell(data, kind="plain", alpha=0.0, backbone=name)
        loop = Cell(data, backbone=name)
        rows.append(Row(f"{name}: Base", base))
        rows += [
            Row(f"{name}: {label}", cell, f"{name}: Base")
            for label, cell in (
                ("equal FLOPs", replace(base, kind="plain-deep")),
                ("aligned", replace(base, alpha=0.1)),
                ("LR+SPT", loop),
                ("LARES", replace(loop, rpt=True)),
            )
        ]
    return rows


def figure3(data: str) -> list[Row]:
    """The mean depth of training."""
    base = Row("Base", Cell(data, kind="plain", alpha=0.0))
    return [base, *(Row(f"k-bar {depth}", Cell(data, mean_depth=depth), "Base") for depth in (1, 2, 3, 4, 6, 8))]


def figure4(data: str) -> list[Row]:
    """Three policies: reward and validation by epoch."""
    policies = ("target", "hybrid", "top")
    rows = [Row(f"{policy} policy", Cell(data, rpt=True, policy=policy), "LR+SPT") for policy in policies]
    return [Row("LR+SPT", Cell(data)), *rows]


def figure5(data: str) -> list[Row]:
    """The weights of both alignments, each beside the model without a loop; alpha's rival has the same alignment."""
    base = Row("Base", Cell(data, kind="plain", alpha=0.0))
    rows = [base, Row("Base, aligned", Cell(data, kind="plain"), "Base")]
    rows += [Row(f"alpha {weight}", Cell(data, alpha=weight), "Base") for weight in (0.0, 0.1, 0.2, 0.3, 0.5)]
    return rows + [Row(f"gamma {weight}", Cell(data, gamma=weight), "Base") for weight in (0.0, 0.1, 0.3, 0.5, 0.7)]


def figure6(data: str) -> list[Row]:
    """What post-training rewards."""
    rewards = ("recall@5", "recall@10", "recall@20", "ndcg@5", "ndcg@10", "ndcg@20")
    rows = [Row(reward, Cell(data, rpt=True, reward=reward), "LR+SPT") for reward in rewards]
    return [Row("LR+SPT", Cell(data)), *rows]


EXPERIMENTS: dict[str, Callable[[str], Sequence[Row]]] = {
    function.__name__: function
    for function in (table1, table2, table4, figure2, figure3, figure4, figure5, figure6, study, study_rpt, tuning)
}
