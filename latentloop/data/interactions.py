"""The canonical table every source is read into: who took what, in which order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from latentloop.errors import InputError, InputTypeError
from latentloop.items.ids import check_writable

__all__ = ["Id", "Interactions", "check_interactions"]

Id = int | str


@dataclass(frozen=True, eq=False)
class Interactions:
    """Interactions sorted by user, then chronologically (rows of equal time keep the order of the source).

    Ids are opaque and keep their type. They are numbered in sorted order (integers by value, strings by code point),
    so the numbering does not depend on the order of the rows.

    Args:
        user: (n,) int64 user numbers 0..U-1.
        item: (n,) int64 item numbers 1..N; 0 is left to padding.
        timestamp: (n,) int64 or float64, or None where the source has none and its row order is the order in time.
        user_ids: the original id of user 0..U-1.
        item_ids: the original id of item 1..N, so item i is `item_ids[i - 1]`.

    Raises:
        InputError: arrays that disagree in length, numbers out of range, rows out of order.
    """

    user: Int64[Tensor, " n"]
    item: Int64[Tensor, " n"]
    timestamp: Int64[Tensor, " n"] | Float64[Tensor, " n"] | None
    user_ids: Sequence[Id]
    item_ids: Sequence[Id]

    def __post_init__(self) -> None:
        columns = {"user": self.user, "item": self.item}
        if self.timestamp is not None:
            columns["timestamp"] = self.timestamp
        for name, column in columns.items():
            if column.ndim != 1 or len(column) != len(self.user):
                raise InputError(f"{name}: shape {tuple(column.shape)}, expected ({len(self.user)},) as user has")
        _check_range("user", self.user, 0, len(self.user_ids) - 1)
        _check_range("item", self.item, 1, len(self.item_ids))
        same_user = self.user[1:] == self.user[:-1]
        if bool((self.user[1:] < self.user[:-1]).any()):
            raise InputError("user: rows are not sorted by user; build the table with Interactions.of")
        if self.timestamp is not None and bool((same_user & ~(self.timestamp[1:] >= self.timestamp[:-1])).any()):
            raise InputError("timestamp: a user's rows are not in chronological order; build with Interactions.of")

    @property
    def num_users(self) -> int:
        """How many users there are."""
        return len(self.user_ids)

    @property
    def num_items(self) -> int:
        """How many items there are, padding not counted."""
        return len(self.item_ids)

    def __len__(self) -> int:
        return len(self.user)

    def __repr__(self) -> str:
        return f"Interactions(users={self.num_users}, items={self.num_items}, actions={len(self)})"

    @classmethod
    def of(
        cls,
        users: Sequence[Id] | np.ndarray,
        items: Sequence[Id] | np.ndarray,
        timestamps: Sequence[int | float] | np.ndarray | None = None,
    ) -> Interactions:
        """Build the table from three parallel columns in any row order.

        Args:
            users: n user ids, all integers or all strings; a list or an array.
            items: n item ids, likewise.
            timestamps: n numbers, or None when the rows are in chronological order already.

        Raises:
            InputError: columns of different lengths, an id that no file can hold, or a time that is not finite, or that
                64 bits do not hold exactly.
            InputTypeError: ids or times of another kind.
        """
        if len(users) != len(items) or (timestamps is not None and len(timestamps) != len(users)):
            raise InputError(
                f"users, items and timestamps differ in length: {len(users)}, {len(items)}"
                f"{'' if timestamps is None else f', {len(timestamps)}'}"
            )
        user_ids, user = _number("users", users)
        item_ids, item = _number("items", items)
        time = None if timestamps is None else _as_times(timestamps)
        return cls.from_numbers(user, item + 1, time, user_ids, item_ids)

    @classmethod
    def from_numbers(
        cls,
        user: np.ndarray,
        item: np.ndarray,
        timestamp: np.ndarray | None,
        user_ids: Sequence[Id],
        item_ids: Sequence[Id],
    ) -> Interactions:
        """Sort numbered rows, and drop exact duplicates (same user, item and time) where rows carry timestamps.

        Args:
            user: (n,) user numbers 0..U-1 in any order.
            item: (n,) item numbers 1..N.
            timestamp: (n,) integers or floats, or None.
            user_ids: U original ids.
            item_ids: N original ids.

        Raises:
            InputError: for columns that differ in length, or numbers out of range.
            InputTypeError: for numbers that are not whole.
        """
        user, item = _as_whole("user", user), _as_whole("item", item)
        if timestamp is not None:
            timestamp = _as_times(timestamp)
        lengths = [len(column) for column in (user, item, timestamp) if column is not None]
        if len({*lengths}) > 1:
            raise InputError(f"user, item and timestamp differ in length: {', '.join(map(str, lengths))}")
        order = _chronological(user, timestamp)
        # a copy even where the order is right: the caller's arrays stay the caller's
        user, item = (column.copy() if order is None else column[order] for column in (user, item))
        if timestamp is not None:
            timestamp = timestamp.copy() if order is None else timestamp[order]
            keep = _first_of_duplicates(user, item, timestamp)
            if keep is not None:
                user, item, timestamp = user[keep], item[keep], timestamp[keep]
        time = None if timestamp is None else torch.from_numpy(timestamp)
        return cls(torch.from_numpy(user), torch.from_numpy(item), time, user_ids, item_ids)


def check_interactions(found: object) -> None:
    """Raise `InputTypeError` for anything but interactions."""
    if not isinstance(found, Interactions):
        raise InputTypeError(
            f"interactions must be Interactions, such as load_interactions(path), got {type(found).__name__}"
        )


def _check_range(name: str, numbers: Tensor, low: int, high: int) -> None:
    if len(numbers) and not (low <= int(numbers.min()) and int(numbers.max()) <= high):
        raise InputError(f"{name}: numbers {int(numbers.min())}..{int(numbers.max())}, expected {low}..{high}")


def _as_whole(name: str, numbers: np.ndarray) -> np.ndarray:
    """(n,) int64, the same numbers."""
    found = np.asarray(numbers)
    try:
        with np.errstate(invalid="ignore"):
            whole = np.ascontiguousarray(found, dtype=np.int64)
    except (ValueError, TypeError, OverflowError) as error:
        raise InputTypeError(f"{name}: expected whole numbers, {error}") from None
    if not np.array_equal(whole, found):
        raise InputTypeError(
            f"{name}: {found.dtype} with fractions or numbers of more than 63 bits, expected whole numbers"
        )
    return whole


def _as_times(times: Sequence[int | float] | np.ndarray) -> np.ndarray:
    """(n,) int64 or float64; none is wrapped around or rounded to another, which would lose the order of rows."""
    try:
        found = np.asarray(times)
    except (ValueError, OverflowError) as error:  # of several lengths, or of hundreds of digits
        raise InputTypeError(f"timestamps: {error}") from None
    if found.dtype.kind == "f":
        found = np.ascontiguousarray(found, dtype=np.float64)
    if found.dtype.kind not in "iufM":
        raise InputTypeError(f"timestamps: {found.dtype}, expected numbers: whole ones below 2^63, or fractions")
    if found.ndim != 1:
        raise InputError(f"timestamps: shape {found.shape}, expected (n,)")
    if found.dtype.kind == "u":
        wrong = found > np.iinfo(np.int64).max
    elif found.dtype.kind == "i":
        return np.ascontiguousarray(found, dtype=np.int64)
    else:
        wrong = ~np.isfinite(found)
    given: Any = times if isinstance(times, list | tuple) else found
    if found.dtype.kind == "f" and given is times:  # of whole numbers and fractions
        for row in np.flatnonzero(np.abs(found) >= 2**53).tolist():
            wrong[row] |= isinstance(given[row], Integral) and int(found[row]) != int(given[row])
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        raise InputError(
            f"timestamp: row {row + 1} holds {given[row]}, expected a finite number that 64 bits hold exactly"
        )
    return found if found.dtype.kind == "f" else np.ascontiguousarray(found, dtype=np.int64)


def _number(name: str, ids: Sequence[Id] | np.ndarray) -> tuple[list[Id], np.ndarray]:
    """Distinct ids in sorted order, and each row's place among them."""
    # NumPy has scalars of its own
    ids = ids.tolist() if isinstance(ids, np.ndarray) else [i.item() if isinstance(i, np.generic) else i for i in ids]
    kinds = {type(i) for i in ids}
    if len(kinds) > 1 or not kinds <= {int, str}:
        found = ", ".join(sorted(kind.__name__ for kind in kinds))
        raise InputTypeError(f"{name}: ids of type {found}, expected all int or all str")
    distinct = sorted(set(ids), key=lambda i: i)
    for each in distinct:
        check_writable(each, name)
    place = {i: number for number, i in enumerate(distinct)}
    return distinct, np.fromiter((place[i] for i in ids), dtype=np.int64, count=len(ids))


def _chronological(user: np.ndarray, timestamp: np.ndarray | None) -> np.ndarray | None:
    """The stable order by (user, time); None where rows stand in it already."""
    key = user
    if timestamp is not None and len(user):
        # One integer sort is faster than two; it needs (users x time span) to fit into 63 bits.
        low, high = timestamp.min(), timestamp.max()
        if timestamp.dtype.kind != "i" or (int(user.max()) + 1) * (int(high) - int(low) + 1) >= 2**63:
            by_time = _stable_order(timestamp)
            order: np.ndarray = by_time[_stable_order(user[by_time])]
            return order
        key = user * (int(high) - int(low) + 1)
        key += timestamp
        key -= low
    if bool((key[1:] >= key[:-1]).all()):
        return None
    return _stable_order(key)


def _stable_order(key: np.ndarray) -> np.ndarray:
    """`np.argsort(key, kind="stable")`: torch sorts integers by their digits, in a third of the time and by threads."""
    return torch.sort(torch.from_numpy(np.require(key, requirements="W")), stable=True).indices.numpy()


def _first_of_duplicates(user: np.ndarray, item: np.ndarray, timestamp: np.ndarray) -> np.ndarray | None:
    """Which sorted rows to keep, or None for all: only rows of one user at one time can be duplicates."""
    tied = np.flatnonzero((user[1:] == user[:-1]) & (timestamp[1:] == timestamp[:-1])) + 1
    if not len(tied):
        return None
    rows = np.union1d(tied - 1, tied)
    moment = np.cumsum(np.isin(rows, tied, assume_unique=True, invert=True))
    order = np.lexsort((item[rows], moment))
    rows, moment = rows[order], moment[order]
    repeated = rows[1:][(moment[1:] == moment[:-1]) & (item[rows[1:]] == item[rows[:-1]])]
    if not len(repeated):
        return None
    keep = np.ones(len(user), dtype=bool)
    keep[repeated] = False
    return keep
