"""The paper's experiments as lists of cells: what stands in which row or on which curve."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from benchmarks.paper.cell import Cell

__all__ = ["EXPERIMENTS", "TRAINING", "Row"]

TRAINING = ("epochs", "rpt_epochs", "learning_rate", "batch_size", "positions")
"""Fields of a cell that an experiment leaves to the command line."""


@dataclass(frozen=True)
class Row:
    """A cell and where its numbers stand.

    Args:
        label: the row of a table, or the point on a curve.
        cell: what is trained; its seed is replaced by each seed in turn.
        baseline: the label that the row is tested against, None where it is one.
    """

    label: str
    cell: Cell
    baseline: str | None = None


def table1(data: str) -> list[Row]:
    """The models that exist, and each fair rival of the loop."""
    plain = Cell(data, kind="plain", alpha=0.0)
    rows = [Row("chance", Cell(data, kind="chance")), Row("Popularity", Cell(data, kind="popularity"))]
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
    """LARES without one part at a time."""
    full = Cell(data, rpt=True)
    return [
        Row("LARES", full),
        Row("without RPT", full.pretrained, "LARES"),
        Row("without pre-block", replace(full, pre_layers=0), "LARES"),
        Row("without depth sampling", replace(full, depth="fixed"), "LARES"),
        Row("without SLA", replace(full, gamma=0.0), "LARES"),
        Row("without TLA", replace(full, alpha=0.0), "LARES"),
    ]


def table4(data: str) -> list[Row]:
    """Quality and cost where plain SASRec passes as many layers as the loop at depths 1 to 4."""
    rows = []
    for depth in (1, 2, 3, 4):
        deep = Cell(data, kind="plain-deep", alpha=0.0, mean_depth=depth)
        rows.append(Row(f"sasrec, {2 + 2 * (depth + 1)} layers", deep))
        rows.append(Row(f"LR+SPT, k-bar {depth}", Cell(data, mean_depth=depth), rows[-1].label))
    return rows


def figure2(data: str) -> list[Row]:
    """Base, LR+SPT and LARES of each backbone; TedRec where the data have texts."""
    rows = []
    for name in ("sasrec", "fmlprec", "bsarec", "tedrec"):
        rows.append(Row(f"{name}: Base", Cell(data, kind="plain", alpha=0.0, backbone=name)))
        rows.append(Row(f"{name}: LR+SPT", Cell(data, backbone=name), f"{name}: Base"))
        rows.append(Row(f"{name}: LARES", Cell(data, backbone=name, rpt=True), f"{name}: Base"))
    return rows


def figure3(data: str) -> list[Row]:
    """The mean depth of training."""
    return [Row(f"k-bar {depth}", Cell(data, mean_depth=depth)) for depth in (1, 2, 3, 4, 6, 8)]


def figure4(data: str) -> list[Row]:
    """Three policies: reward and validation by epoch."""
    return [Row(f"{policy} policy", Cell(data, rpt=True, policy=policy)) for policy in ("target", "hybrid", "top")]


def figure5(data: str) -> list[Row]:
    """The weights of both alignments."""
    rows = [Row(f"alpha {weight}", Cell(data, alpha=weight)) for weight in (0.0, 0.1, 0.2, 0.3, 0.5)]
    return rows + [Row(f"gamma {weight}", Cell(data, gamma=weight)) for weight in (0.0, 0.1, 0.3, 0.5, 0.7)]


def figure6(data: str) -> list[Row]:
    """What post-training rewards."""
    rewards = ("recall@5", "recall@10", "recall@20", "ndcg@5", "ndcg@10", "ndcg@20")
    return [Row(reward, Cell(data, rpt=True, reward=reward)) for reward in rewards]


def study(data: str) -> list[Row]:
    """Pre-training's recipe, one change at a time; choose on validation."""
    center = Cell(data)
    changes: dict[str, dict[str, Any]] = {
        "post norm": {"norm": "post"},
        "mean depth 1": {"mean_depth": 1},
        "fixed depth": {"depth": "fixed"},
        "no alignment": {"alpha": 0.0, "gamma": 0.0},
        "alpha .3": {"alpha": 0.3},
        "gamma 0": {"gamma": 0.0},
        "tau .1": {"temperature": 0.1},
        "tau 1": {"temperature": 1.0},
        "dot, tau 1": {"similarity": "dot", "temperature": 1.0},
        "positives self": {"positives": "self"},
        "false negatives kept": {"keep_false_negatives": True},
        "aggregate mean": {"aggregate": "mean"},
        "aggregate concat": {"aggregate": "concat"},
        "aggregate gate": {"aggregate": "gate"},
        "state std .1": {"state_std": 0.1},
        "zero state": {"inference_state": "zero"},
        "fresh state": {"inference_state": "fresh"},
        "dropout .3": {"dropout": 0.3},
        "weight decay .1": {"weight_decay": 0.1},
        "1 + 1 layers": {"pre_layers": 1, "core_layers": 1},
    }
    rows = [
        Row("Base", replace(center, kind="plain", alpha=0.0)),
        Row("Base, aligned", replace(center, kind="plain"), "Base"),
        Row("SPT", center, "Base"),
    ]
    return rows + [Row(label, replace(center, **change), "SPT") for label, change in changes.items()]


def study_rpt(data: str) -> list[Row]:
    """Post-training's recipe, from the same pre-trained model."""
    center = Cell(data, rpt=True, rpt_epochs=5, rpt_learning_rate=1e-4)
    changes: dict[str, dict[str, Any]] = {
        "target policy": {},
        "hybrid policy": {"policy": "hybrid"},
        "top policy": {"policy": "top"},
        "hybrid, lr 1e-5": {"policy": "hybrid", "rpt_learning_rate": 1e-5},
        "hybrid, clipped at 1": {"policy": "hybrid", "clip_norm": 1.0},
        "hybrid, dropout": {"policy": "hybrid", "rollout_dropout": True},
        "hybrid, NDCG@10": {"policy": "hybrid", "reward": "ndcg@10"},
        "hybrid, KL on the target": {"policy": "hybrid", "kl": "target"},
        "hybrid, beta .1": {"policy": "hybrid", "kl_weight": 0.1},
        "hybrid, ratio by step": {"policy": "hybrid", "ratio": "step"},
    }
    rows = [Row("LR+SPT", center.pretrained)]
    return rows + [Row(label, replace(center, **change), "LR+SPT") for label, change in changes.items()]


EXPERIMENTS: dict[str, Callable[[str], Sequence[Row]]] = {
    function.__name__: function
    for function in (table1, table2, table4, figure2, figure3, figure4, figure5, figure6, study, study_rpt)
}
