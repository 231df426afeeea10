"""What an experiment's row is."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.paper.cell import Cell

__all__ = ["TRAINING", "Row"]

TRAINING = (
    "epochs", "rpt_epochs", "learning_rate", "batch_size", "positions", "dropout", "schedule", "max_length",
    "choose_without_history",
)  # fmt: skip
"""Fields of a cell that an experiment leaves to the command line."""


@dataclass(frozen=True)
class Row:
    """A cell and where its numbers stand.

    Args:
        label: the row of a table, or the point on a curve.
        cell: what is trained; its seed is replaced by each seed in turn.
        baseline: the label that the row is tested against, None where it is one.
        own: fields of `TRAINING` that the row is about, so that no command line changes them.
    """

    label: str
    cell: Cell
    baseline: str | None = None
    own: tuple[str, ...] = ()
