"""Whose recommendations are asked for: histories in original ids, or known users, as item numbers."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from latentloop.errors import InputError, InputTypeError
from latentloop.item_ids import ItemId, ItemIds

if TYPE_CHECKING:
    from latentloop.data.interactions import Interactions
    from latentloop.data.splits import Split

__all__ = ["from_ids", "from_tensor", "left_padded", "of_users"]

logger = logging.getLogger(__name__)


def from_ids(histories: Sequence[Sequence[ItemId]], ids: ItemIds, *, strict: bool) -> list[list[int]]:
    """Item numbers of each history, oldest first.

    Args:
        histories: original item ids of each user, oldest first.
        ids: the model's catalog.
        strict: an item that the catalog lacks is an error; otherwise it is skipped with one warning for all.

    Raises:
        InputError: (strict) for an unknown item.
        InputTypeError: for one flat history where a list of histories is meant.
    """
    rows: list[list[int]] = []
    missing: list[tuple[int, list[ItemId]]] = []
    for place, history in enumerate(histories):
        if isinstance(history, str | bytes) or not hasattr(history, "__iter__"):
            raise InputTypeError(
                f"histories must be a list of histories, each a list of item ids, found {history!r} at {place}: "
                "put one history into a list of its own"
            )
        known, unknown = ids.numbers(list(history))
        rows.append(known)
        if unknown:
            missing.append((place, unknown))
    if missing:
        place, unknown = missing[0]
        if strict:
            raise InputError(f"history {place} names item {unknown[0]!r}, which the model does not know")
        count = sum(len(unknown) for _, unknown in missing)
        logger.warning(
            "skipped %d unknown item(s) in %d of %d histories; the first is %r in history %d",
            count,
            len(missing),
            len(rows),
            unknown[0],
            place,
        )
    return rows


def from_tensor(histories: Tensor, num_items: int) -> list[list[int]]:
    """Item numbers of each left-padded row.

    Args:
        histories: (B, L) whole numbers 0..N, 0 is padding.
        num_items: N.

    Raises:
        InputError: for another shape, dtype or number.
    """
    if histories.ndim != 2 or histories.dtype not in (torch.int64, torch.int32):
        raise InputError(f"histories must be (B, L) whole numbers, got {tuple(histories.shape)} {histories.dtype}")
    rows = [[number for number in row if number != 0] for row in histories.tolist()]
    for place, row in enumerate(rows):
        for number in row:
            if not 1 <= number <= num_items:
                raise InputError(f"histories must hold item numbers 0..{num_items}, found {number} in row {place}")
    return rows


def of_users(
    users: Sequence[ItemId], data: Interactions | Split | None, ids: ItemIds, *, strict: bool
) -> list[list[int]]:
    """Item numbers of known users' whole histories, by the items' original ids.

    Args:
        users: original user ids.
        data: the interactions in which they are looked up, or a split of them.
        ids: the model's catalog, which may have numbered the items otherwise than `data`.
        strict: see `from_ids`.

    Raises:
        InputError: without `data`, for an unknown user, or (strict) an item that the model does not know.
        InputTypeError: for one bare id where a list is meant.
    """
    from latentloop.data.interactions import Interactions  # serving raw histories needs no data

    if data is None:
        raise InputError("users are looked up in data: pass the interactions as data=")
    if isinstance(users, str | bytes) or not hasattr(users, "__iter__"):
        raise InputTypeError(f"users must be a list of user ids, got {users!r}")
    table = data if isinstance(data, Interactions) else data.interactions
    known = ItemIds(table.user_ids, name="user_ids")
    numbers = [known.number(user) for user in users]
    for user, number in zip(users, numbers, strict=True):
        if number is None:
            raise InputError(f"users names {user!r}, which data does not hold")
    wanted = torch.tensor(numbers, dtype=torch.int64) - 1
    starts = torch.searchsorted(table.user, wanted).tolist()
    stops = torch.searchsorted(table.user, wanted, right=True).tolist()
    histories = [
        [table.item_ids[number - 1] for number in table.item[start:stop].tolist()]
        for start, stop in zip(starts, stops, strict=True)
    ]
    return from_ids(histories, ids, strict=strict)


def left_padded(rows: list[list[int]], max_length: int) -> Tensor:
    """(B, L) int64 of the newest items of each row, as long as the longest row and at most `max_length`."""
    length = max(1, min(max_length, max(map(len, rows), default=1)))
    padded = torch.zeros(len(rows), length, dtype=torch.int64)
    for place, row in enumerate(rows):
        if row:
            padded[place, -min(len(row), length) :] = torch.tensor(row[-length:])
    return padded
