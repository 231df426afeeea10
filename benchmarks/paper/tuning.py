"""Equal tuning: every model is tried on one grid of settings, and the best of each on validation is run on all seeds.

The grid is what any model here can win or lose by: the learning rate, because a loop sums gradients over its steps and
may want another one than plain layers do; dropout and weight decay, because models of equal cost differ in how much
they overfit. It has eight points for every model, aligned or not, so that none is tried more often than its rivals; the
alignments keep one setting (cosine, tau 1, weights .1), which is thereby not tuned for anyone.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from benchmarks.paper.cell import Cell
from benchmarks.paper.rows import TRAINING, Row
from benchmarks.paper.stored import Line

__all__ = [
    "BUDGET",
    "GRID",
    "SEED",
    "TUNED",
    "Choice",
    "budgets",
    "choices",
    "models",
    "settings_text",
    "tuned",
    "tuning",
]

SEED = 0
"""The grid is run on this seed only."""
TUNED = ("learning_rate", "dropout")
"""What the grid varies of what the command line decides elsewhere."""
BUDGET = tuple(name for name in TRAINING if name not in TUNED)
"""What the command line decides for all models alike."""
GRID: tuple[dict[str, Any], ...] = tuple(
    {"learning_rate": rate, "dropout": dropout, "weight_decay": decay}
    for rate, dropout, decay in itertools.product((1e-3, 3e-3), (0.3, 0.5), (0.0, 0.1))
)


def models(data: str) -> dict[str, Cell]:
    """The loop, the loop's parts, and plain models of as many parameters or as many FLOPs, aligned or not."""
    plain, aligned = Cell(data, kind="plain", alpha=0.0), Cell(data, temperature=1.0)
    return {
        "Base": plain,
        "Base, equal FLOPs": replace(plain, kind="plain-deep"),
        "Base, aligned": replace(aligned, kind="plain"),
        "Base, equal FLOPs, aligned": replace(aligned, kind="plain-deep"),
        "loop, no alignment": Cell(data, alpha=0.0, gamma=0.0),
        "LR+SPT": aligned,
    }


def tuning(data: str) -> list[Row]:
    """Every model at every point of the grid."""
    return [
        Row(f"{name}: {settings_text(point)}", replace(cell, **point), own=TUNED)
        for name, cell in models(data).items()
        for point in GRID
    ]


def settings_text(point: Mapping[str, Any]) -> str:
    """A point of the grid in words."""
    return f"lr {point['learning_rate']:g}, dropout {point['dropout']:g}, weight decay {point['weight_decay']:g}"


@dataclass(frozen=True)
class Choice:
    """What the grid came to for one model.

    Args:
        model: its name.
        values: validation NDCG@10 by number of the grid's point, as far as they are finished.
        cell: the model at its best point; None where none is finished.
    """

    model: str
    values: Mapping[int, float]
    cell: Cell | None

    @property
    def complete(self) -> bool:
        """Whether every point is finished."""
        return len(self.values) == len(GRID)


def choices(data: str, lines: Mapping[str, Line], budget: Mapping[str, Any]) -> list[Choice]:
    """Each model's best point on validation among the stored cells of the grid's seed; of equal ones the first.

    Args:
        data: the data set.
        lines: finished cells by key.
        budget: what the command line set of `BUDGET`; anything else is the cell's default.
    """
    found = []
    for name, cell in models(data).items():
        points = [replace(cell, **point, **budget, seed=SEED) for point in GRID]
        values = {
            number: lines[point.key]["validation"]["ndcg@10"]
            for number, point in enumerate(points)
            if point.key in lines
        }
        best = max(values, key=lambda number: values[number]) if values else None
        found.append(Choice(name, values, None if best is None else points[best]))
    return found


def tuned(data: str, lines: Mapping[str, Line], budget: Mapping[str, Any]) -> list[Row]:
    """Each model as chosen, tested against Base; one of which nothing is finished has no row."""
    chosen = {choice.model: choice.cell for choice in choices(data, lines, budget) if choice.cell is not None}
    first = "Base" if "Base" in chosen else None
    return [Row(name, cell, first if name != "Base" else None, own=TRAINING) for name, cell in chosen.items()]


def budgets(data: str, lines: Mapping[str, Line]) -> Sequence[dict[str, Any]]:
    """The budgets under which any cell of the grid is finished, the one of most cells first."""
    # rows leave out the budget, so equal cells but for it are one row's
    rows = {replace(row.cell, seed=SEED) for row in tuning(data)}
    plain = {name: getattr(Cell(data), name) for name in BUDGET}
    counted: dict[tuple[Any, ...], int] = {}
    for line in lines.values():
        cell = Cell(**line["cell"])
        if replace(cell, **plain) in rows:
            key = tuple(getattr(cell, name) for name in BUDGET)
            counted[key] = counted.get(key, 0) + 1
    return [dict(zip(BUDGET, key, strict=True)) for key in sorted(counted, key=lambda key: -counted[key])]
