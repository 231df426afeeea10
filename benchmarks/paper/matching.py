"""Which stored lines belong to a row, what it is held against, and by how much it differs."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from benchmarks.paper.cell import CAUSAL, UNTRAINED, Cell
from benchmarks.paper.rows import TRAINING, Row
from benchmarks.paper.stored import Line, gains
from latentloop.measures.significance import paired_t

__all__ = ["Difference", "Found", "find", "most_common", "seeds_of"]

Settings = dict[str, Any]


@dataclass(frozen=True)
class Difference:
    """A row's test NDCG@10 against its baseline's, over their common seeds.

    Args:
        baseline: the baseline's label.
        relative: difference of the means by the baseline's, NaN where that is 0.
        mean: the baseline's over those seeds.
        interval: 95 % interval of the row's mean over users of the seeds' means, paired: the baseline's own spread
            over users is not in it.
        p: of the paired t-test over users.
    """

    baseline: str
    relative: float
    mean: float
    interval: tuple[float, float]
    p: float


@dataclass(frozen=True)
class Found:
    """A row's finished cells under one choice of training settings.

    Args:
        row: which.
        lines: one a seed, in their order.
        settings: what of `TRAINING` the command line decided.
    """

    row: Row
    lines: Sequence[Line]
    settings: Settings

    def agrees(self, other: Settings) -> bool:
        """Whether no setting differs, of those that the command line decides for both."""
        return all(other.get(name, value) == value for name, value in self.settings.items())

    def rival(self, others: Sequence[Found]) -> Found | None:
        """The row's baseline, trained by the same settings; None where they have no seed in common."""
        rivals = [other for other in others if other.row.label == self.row.baseline and other.agrees(self.settings)]
        rivals = [other for other in rivals if seeds_of(other.lines) & seeds_of(self.lines)]
        if not rivals or self.row.baseline is None:
            return None
        # where the row leaves it open which of several, the one that most rows were trained like
        return max(rivals, key=lambda rival: sum(other.settings == rival.settings for other in others))

    def repeats(self, others: Sequence[Found]) -> bool:
        """Whether the row is its own baseline: the default of what is varied."""
        rival = self.rival(others)
        return rival is not None and self._shares(rival)

    def against(self, others: Sequence[Found], users: np.ndarray | None = None) -> Difference | None:
        """The row beside its baseline; None where it has none or is its own.

        Args:
            others: all rows.
            users: a mask of the test users that count; None for all.
        """
        rival = self.rival(others)
        if rival is None or self._shares(rival):
            return None
        seeds = seeds_of(rival.lines) & seeds_of(self.lines)
        own, its = (found.gains(seeds)[... if users is None else users] for found in (self, rival))
        _, interval, p = paired_t(torch.from_numpy(own - its))
        low, high = (float(its.mean()) + end for end in interval)
        relative = own.mean() / its.mean() - 1 if its.any() else math.nan
        return Difference(rival.row.label, relative, float(its.mean()), (low, high), p)

    def gains(self, seeds: Container[int]) -> np.ndarray:
        """Each test user's NDCG@10, the mean over some seeds."""
        mean: np.ndarray = np.mean([gains(line) for line in self.lines if line["cell"]["seed"] in seeds], axis=0)
        return mean

    def _shares(self, other: Found) -> bool:
        return bool({line["key"] for line in self.lines} & {line["key"] for line in other.lines})


def seeds_of(lines: Sequence[Line]) -> set[int]:
    """The seeds of some lines."""
    return {line["cell"]["seed"] for line in lines}


def find(rows: Sequence[Row], lines: Mapping[str, Line]) -> list[Found]:
    """What is finished of some rows: for each row every choice of training settings (epochs, learning rate ...)."""
    cells = [(Cell(**line["cell"]), line) for line in lines.values()]
    return [found for row in rows for found in _of_row(row, cells)]


def _of_row(row: Row, cells: Sequence[tuple[Cell, Line]]) -> list[Found]:
    unread = {"seed"} if row.cell.rpt else {"seed", "rpt_epochs"}
    fixed = (*row.own, *unread) if row.cell.backbone in CAUSAL else (*row.own, *unread, "positions")
    free = [name for name in TRAINING if name not in fixed]
    wanted = {name: value for name, value in vars(row.cell).items() if name not in (*free, *unread)}
    if row.cell.kind in UNTRAINED:  # of which one seed tells all
        free, wanted = ["max_length"], {"data": row.cell.data, "kind": row.cell.kind}
    groups: dict[tuple[Any, ...], list[Line]] = {}
    for cell, line in cells:
        if all(getattr(cell, name) == value for name, value in wanted.items()):
            group = groups.setdefault(tuple(getattr(cell, name) for name in free), [])
            if not group or row.cell.kind not in UNTRAINED:
                group.append(line)
    return [
        Found(row, sorted(group, key=lambda line: line["cell"]["seed"]), dict(zip(free, values, strict=True)))
        for values, group in groups.items()
    ]


def most_common(found: Sequence[Found]) -> list[Found]:
    """Rows that can be drawn beside each other: those trained by the settings that most rows were trained by."""
    counted = Counter(tuple(sorted(each.settings.items())) for each in found if len(each.settings) >= len(TRAINING) - 1)
    if not counted:
        return list(found)
    # post-trained rows name their epochs, pre-trained ones agree with any
    chosen = dict(counted.most_common(1)[0][0])
    return [each for each in found if each.agrees(chosen)]
