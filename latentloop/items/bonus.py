"""Scores beside the model's: what a few items of each history get on top of the inner product.

Shapes: B histories or rows, N items, n (row, item) pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from latentloop.checks import at_least
from latentloop.errors import InputError, InputTypeError
from latentloop.histories import Histories
from latentloop.items.ids import ItemId, check_numbering
from latentloop.items.scores import check_ids

__all__ = ["Bonus", "Scores", "add_bonus", "bonus_of", "check_bonus", "looks_back", "name_of", "of_rows", "times"]

_PLACES = 2**24
"""Of padded histories at a time."""

Scores = tuple[Tensor, Tensor, Tensor]
"""(row (n,) int64, item (n,) int64, score (n,) float): any pair at most once, in any order."""


@runtime_checkable
class Bonus(Protocol):
    """What `evaluate` and `recommend` add to scores; its `str` says in the protocol what it was.

    One with a whole number as `newest` is given so many of the newest items at most, others the whole past.
    """

    def __call__(self, history: Int[Tensor, "B L"]) -> Scores:
        """(B, L) item ids, left-padded with 0, the whole past -> which items of which row get how much more."""
        ...


def check_bonus(bonus: Bonus | None, num_items: int, ids: Sequence[ItemId] | None) -> None:
    """Refuse what is no bonus, or one that says (`num_items`, `item_ids`) that its numbers mean other items.

    Args:
        bonus: what is asked for.
        num_items: N of the model.
        ids: the original ids of items 1..N; None where nobody said.

    Raises:
        InputTypeError: for what cannot be called.
        InputError: for another number of items, ids of which some are these and not all have their numbers, or a
            `newest` below 1.
    """
    if bonus is None:
        return
    if not callable(bonus):
        raise InputTypeError(f"bonus must be a function of histories, got {type(bonus).__name__}")
    looks_back(bonus)  # refuses what is no number of items
    known = getattr(bonus, "num_items", num_items)
    if known != num_items:
        raise InputError(f"bonus: of a catalog of {known} items, but the model knows {num_items}")
    own = getattr(bonus, "item_ids", None)
    if own is not None and ids is not None:
        check_numbering(ids, own, "bonus")


def looks_back(bonus: Bonus) -> int | None:
    """How many items of a history a bonus reads at most; None where it may be all."""
    newest = getattr(bonus, "newest", None)
    return None if newest is None else at_least("newest of a bonus", newest, 1)


def name_of(bonus: Bonus | None) -> str | None:
    """What a protocol calls a bonus: a function's name, or what the object says of itself."""
    return None if bonus is None else str(getattr(bonus, "__qualname__", bonus))


def bonus_of(bonus: Bonus | None, histories: Histories, num_items: int) -> Scores | None:
    """What a bonus gives these histories, rows rising, on their device; None without one.

    It is asked for so many at a time that no padding to the longest of them takes more than 128 MiB, or for one.

    Raises:
        InputTypeError: for anything but three vectors, the first two of whole numbers.
        InputError: for vectors that differ in length, a row or an item out of range, or a score that is not finite.
    """
    if bonus is None:
        return None
    newest = looks_back(bonus)
    longest = int(histories.lengths.max()) if len(histories) else 0
    rows = max(1, _PLACES // max(1, longest if newest is None else min(longest, newest)))
    if rows >= len(histories):
        return _given(bonus, histories.left_padded(newest), num_items)
    found = []
    for start in range(0, len(histories), rows):
        row, item, score = _given(bonus, histories.part(start, start + rows).left_padded(newest), num_items)
        found.append((row + start, item, score))
    row, item, score = (torch.cat(column) for column in zip(*found, strict=True))
    return row, item, score


def _given(bonus: Bonus, history: Int[Tensor, "B L"], num_items: int) -> Scores:
    found = bonus(history)
    if not (isinstance(found, tuple | list) and len(found) == 3 and all(isinstance(one, Tensor) for one in found)):
        raise InputTypeError("bonus must return three tensors: rows, items and scores")
    row, item, score = (column.to(history.device) for column in found)
    if not row.ndim == item.ndim == score.ndim == 1 or row.is_floating_point() or item.is_floating_point():
        raise InputTypeError("bonus must return three vectors, rows and items of whole numbers")
    if not len(row) == len(item) == len(score):
        raise InputError(f"bonus: {len(row)} rows, {len(item)} items, {len(score)} scores; expected as many of each")
    if len(row) and not (0 <= int(row.min()) and int(row.max()) < len(history)):
        raise InputError(f"bonus: rows must lie in 0..{len(history) - 1}, got {int(row.min())}..{int(row.max())}")
    check_ids("bonus items", item, num_items)
    score = _finite(score.float())
    if bool((row.diff() < 0).any()):
        row, order = row.sort(stable=True)
        item, score = item[order], score[order]
    return row.long(), item.long(), score


def times(bonus: Scores, weight: float) -> Scores:
    """The same pairs with `weight` times the score.

    Raises:
        InputError: for a product that is not finite.
    """
    row, item, score = bonus
    return row, item, _finite(score * weight)


def _finite(score: Tensor) -> Tensor:
    if not bool(score.isfinite().all()):
        raise InputError("bonus: scores must be finite; leave items out by exclude_history or deny instead")
    return score


def of_rows(bonus: Scores, rows: slice) -> Scores:
    """The part of some rows, which count from `rows.start`; rows rise."""
    row, item, score = bonus
    low, high = torch.searchsorted(row, torch.tensor([rows.start, rows.stop], device=row.device)).tolist()
    return row[low:high] - rows.start, item[low:high], score[low:high]


def add_bonus(scores: Float[Tensor, "R M"], bonus: Scores, first: int = 1) -> None:
    """Add, in place, what lies in a tile of the scores.

    Args:
        scores: (R, M).
        bonus: of these rows and any items.
        first: the item number of column 0.
    """
    row, item, score = bonus
    inside = (item >= first) & (item < first + scores.shape[1])
    scores.index_put_((row[inside], item[inside] - first), score[inside].to(scores.dtype), accumulate=True)
