"""Scores beside the model's: what a few items of each history get on top of the inner product.

Shapes: B histories or rows, N items, n (row, item) pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from jaxtyping import Float, Int
from torch import Tensor

from latentloop.catalog import check_numbering
from latentloop.errors import InputError
from latentloop.item_ids import ItemId
from latentloop.item_scores import check_ids

__all__ = ["Bonus", "Scores", "add_bonus", "bonus_of", "check_bonus"]

Scores = tuple[Tensor, Tensor, Tensor]
"""(row (n,) int64, item (n,) int64, score (n,) float): any pair at most once, in any order."""


@runtime_checkable
class Bonus(Protocol):
    """What `evaluate` and `recommend` add to scores; its `str` says in the protocol what it was."""

    def __call__(self, history: Int[Tensor, "B L"]) -> Scores:
        """(B, L) item ids, left-padded with 0 -> which items of which row get how much more than the model's score."""
        ...


def check_bonus(bonus: Bonus | None, ids: Sequence[ItemId] | None) -> None:
    """Refuse a bonus that says (`item_ids`) that its numbers mean other items than these ids.

    Raises:
        InputError: see `check_numbering`.
    """
    own = getattr(bonus, "item_ids", None)
    if own is not None and ids is not None and len(own) == len(ids):  # another number of items shows by itself
        check_numbering(ids, own, "bonus")


def bonus_of(bonus: Bonus | None, history: Int[Tensor, "B L"], num_items: int) -> Scores | None:
    """What a bonus gives these histories, on their device; None without one.

    Raises:
        InputError: for columns that differ in length, a row or an item out of range, or a score that is not finite.
    """
    if bonus is None:
        return None
    row, item, score = (column.to(history.device) for column in bonus(history))
    if not len(row) == len(item) == len(score):
        raise InputError(f"bonus: {len(row)} rows, {len(item)} items, {len(score)} scores; expected as many of each")
    if len(row) and not (0 <= int(row.min()) and int(row.max()) < len(history)):
        raise InputError(f"bonus: rows must lie in 0..{len(history) - 1}, got {int(row.min())}..{int(row.max())}")
    check_ids("bonus items", item, num_items)
    if not bool(score.isfinite().all()):
        raise InputError("bonus: scores must be finite; leave items out by exclude_history or deny instead")
    return row, item, score.float()


def add_bonus(scores: Float[Tensor, "R M"], bonus: Scores, rows: slice, items: slice) -> None:
    """Add, in place, what lies in a tile of the scores.

    Args:
        scores: (R, M) of rows `rows` and item numbers `items`.
        bonus: of all rows and items.
        rows: the tile's, from `rows.start` to before `rows.stop`.
        items: the tile's item numbers, likewise; the first item is 1.
    """
    row, item, score = bonus
    inside = (row >= rows.start) & (row < rows.stop) & (item >= items.start) & (item < items.stop)
    scores.index_put_((row[inside] - rows.start, item[inside] - items.start), score[inside], accumulate=True)
