"""From raw columns of any layout to the canonical table, with errors that say where in the source they lie."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from latentloop.data.formats.times import blurred_moment, parse_times, seconds
from latentloop.data.interactions import Id, Interactions
from latentloop.errors import InputError

__all__ = ["Log", "counted_rows"]

logger = logging.getLogger(__name__)

# What pandas and others write where a value is missing.
_MISSING = ["", "nan", "NaN"]
_NO_TIMES = 'name another column of times, or "none" to take the order of the rows'


def counted_rows(row: int) -> str:
    """Where a row of a table without lines is."""
    return f"row {row + 1} (counted from 1)"


@dataclass(frozen=True)
class Log:
    """The columns of a source as they stand there.

    Args:
        name: what errors call the source.
        user: arrow column of user ids.
        item: arrow column of item ids.
        timestamp: arrow column, or None.
        names: what the source calls the three columns.
        typed: whether the source itself knows numbers from text; otherwise ids that are all written as plain
            integers ("12", not "012") become integers.
        where: says where row r (from 0) is, for people.
        spaced: whether a space belongs to what separates fields, as in a header "user, item": it is no part of ids then.
    """

    name: str
    user: pa.ChunkedArray
    item: pa.ChunkedArray
    timestamp: pa.ChunkedArray | None
    names: tuple[str, str, str]
    typed: bool
    where: Callable[[int], str]
    spaced: bool = False

    def interactions(self) -> Interactions:
        """Number the ids in sorted order and sort the rows.

        Raises:
            InputError: a missing id, ids that are neither integers nor text, a timestamp that is no number.
        """
        user_ids, user = self._ids(self.user, self.names[0])
        item_ids, item = self._ids(self.item, self.names[1])
        time = None if self.timestamp is None else self._times(self.timestamp, self.names[2])
        found = Interactions.from_numbers(user, item + 1, time, user_ids, item_ids)
        repeats = len(user) - len(found)
        if repeats:
            logger.info("%s: %s row(s) repeat a user, an item and a time, and count once", self.name, f"{repeats:,}")
        return found

    def _ids(self, column: pa.ChunkedArray, name: str) -> tuple[Sequence[Id], np.ndarray]:
        if column.null_count:
            self._missing(column.is_null(), name)
        if pa.types.is_integer(column.type) and (numbered := _number_dense(column)) is not None:
            return numbered
        if pa.types.is_dictionary(column.type):
            encoded = column.combine_chunks()
            if encoded.dictionary.null_count:  # a missing value under a number of its own
                return self._ids(column.cast(column.type.value_type), name)
        else:
            self._check_kind(column.type, name)
            encoded = column.combine_chunks().dictionary_encode()
        if len(encoded.dictionary.unique()) < len(encoded.dictionary):  # a table made by hand may say a value twice
            encoded = encoded.cast(encoded.type.value_type).dictionary_encode()
        values, codes = encoded.dictionary, encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64, copy=False)
        self._check_kind(values.type, name)
        used = np.bincount(codes, minlength=len(values)) > 0
        values, codes = values.filter(pa.array(used)), (np.cumsum(used) - 1)[codes]
        if pa.types.is_integer(values.type):
            values = self._as_int64(values, codes, name)
        else:
            self._check_text(values, codes, name)
            blank = pc.is_in(
                pc.utf8_trim_whitespace(values), value_set=pa.array(_MISSING[: 1 if self.typed else None], values.type)
            )
            if pc.any(blank).as_py():
                written = "" if self.typed else " (nan means none)"
                self._missing(pa.array(blank.to_numpy(zero_copy_only=False)[codes]), name, written)
            if self.spaced:
                encoded = pc.utf8_trim_whitespace(values).dictionary_encode()
                if merged := len(values) - len(encoded.dictionary):
                    logger.info(
                        "%s: column %r: %d id(s) differ from others by spaces only, and count as these",
                        self.name,
                        name,
                        merged,
                    )
                values, codes = encoded.dictionary, encoded.indices.to_numpy(zero_copy_only=False)[codes]
            elif not self.typed and (around := values.filter(pc.not_equal(pc.utf8_trim_whitespace(values), values))):
                logger.warning(
                    "%s: column %r holds ids with spaces around them, such as %r, which are a part of them",
                    self.name, name, around[0].as_py(),
                )  # fmt: skip
            if not self.typed:
                values = _integers_if_all(values)
        order = pc.sort_indices(values).to_numpy()
        place = np.empty(len(order), dtype=np.int64)
        place[order] = np.arange(len(order))
        return values.take(pa.array(order)).to_pylist(), place[codes]

    def _check_kind(self, kind: pa.DataType, name: str) -> None:
        if not (
            pa.types.is_integer(kind)
            or pa.types.is_string(kind)
            or pa.types.is_large_string(kind)
            or pa.types.is_dictionary(kind)
        ):
            raise InputError(
                f"{self.name}: column {name!r} holds {kind}, expected ids that are integers or text; "
                "convert the column first"
            )

    def _check_text(self, values: Any, codes: np.ndarray | None, name: str) -> None:
        """Refuse text of damaged bytes, which not every layout's library notices; row r is value r, or `codes[r]`."""
        try:
            values.validate(full=True)
        except pa.ArrowInvalid:
            kind = pa.large_binary() if pa.types.is_large_string(values.type) else pa.binary()
            damaged = [not _is_utf8(value) for value in values.cast(kind).to_pylist()]
            row = int(np.flatnonzero(np.asarray(damaged)[slice(None) if codes is None else codes])[0])
            raise InputError(
                f"{self.name}: {self.where(row)}: {name!r} holds bytes that are not UTF-8; convert the file to UTF-8"
            ) from None

    def _as_int64(self, values: pa.Array, codes: np.ndarray, name: str) -> pa.Array:
        try:
            return values.cast(pa.int64())
        except pa.ArrowInvalid:
            large = values.to_numpy(zero_copy_only=False) > np.iinfo(np.int64).max
            row = int(np.flatnonzero(large[codes])[0])
            raise InputError(
                f"{self.name}: {self.where(row)}: {name!r} is beyond 64-bit integers; store ids as text"
            ) from None

    def _missing(self, mask: Any, name: str, counts: str = "") -> None:
        row = int(np.flatnonzero(np.asarray(mask))[0])
        raise InputError(
            f"{self.name}: {self.where(row)}: no value in column {name!r}{counts}; fill it in or drop the row"
        )

    def _times(self, column: pa.ChunkedArray, name: str) -> np.ndarray:
        if column.null_count:
            self._missing(column.is_null(), name)
        kind = column.type
        if pa.types.is_dictionary(kind):
            column, kind = column.cast(kind.value_type), kind.value_type
        if pa.types.is_string(kind) or pa.types.is_large_string(kind):
            self._check_text(column.combine_chunks(), None, name)
        times: np.ndarray
        if pa.types.is_string(kind) or pa.types.is_large_string(kind):
            times = self._parsed(column, name)
        elif pa.types.is_date(kind) or pa.types.is_timestamp(kind):
            times = seconds(column)
            self._refuse_blurred(column, times, name)
        elif pa.types.is_integer(kind):
            times = self._whole_times(column, name)
        elif pa.types.is_decimal(kind):
            times = self._parsed(column.cast(pa.string()), name)
        elif pa.types.is_floating(kind):
            times = column.cast(pa.float64()).to_numpy()
        else:
            raise InputError(
                f"{self.name}: column {name!r} holds {kind}, expected timestamps as numbers or dates; {_NO_TIMES}",
                settings=("timestamp",),
            )
        if times.dtype.kind == "f" and not np.isfinite(times).all():
            row = int(np.flatnonzero(~np.isfinite(times))[0])
            raise InputError(f"{self.name}: {self.where(row)}: {name!r} is {times[row]}, expected a finite number")
        return times

    def _refuse_blurred(self, column: pa.ChunkedArray, times: np.ndarray, name: str) -> None:
        """Refuse moments so close that they are the same in seconds: the order of their rows would be lost."""
        row = blurred_moment(column, times)
        if row is not None:
            raise InputError(
                f"{self.name}: {self.where(row)}: {name!r} is as close to another row's that both are the same in seconds; "
                f"give the times as whole numbers, of {column.type.unit}"
            )

    def _whole_times(self, column: pa.ChunkedArray, name: str) -> np.ndarray:
        try:
            times: np.ndarray = column.cast(pa.int64()).to_numpy()
        except pa.ArrowInvalid:
            row = int(np.flatnonzero(column.to_numpy() > np.iinfo(np.int64).max)[0])
            raise InputError(
                f"{self.name}: {self.where(row)}: {name!r} is beyond 64-bit integers, expected a time"
            ) from None
        return times

    def _parsed(self, column: pa.ChunkedArray, name: str) -> np.ndarray:
        times = parse_times(column)
        if isinstance(times, tuple):
            row, expected = times
            message = f"{self.name}: {self.where(row)}: {name!r} is {column[row].as_py()!r}, expected {expected}"
            # a first row that is no time is seldom a mistake in the row
            raise InputError(message if row else f"{message}; {_NO_TIMES}", settings=() if row else ("timestamp",))
        return times


def _number_dense(column: pa.ChunkedArray) -> tuple[list[int], np.ndarray] | None:
    """Distinct integers in order and each row's place among them, by a table instead of hashing: a tenth of the time.

    None where they spread too far for a table, or beyond 64 bits.
    """
    bounds = pc.min_max(column)
    low, high = bounds["min"].as_py(), bounds["max"].as_py()
    if low is None or not (-(2**62) < low and high < 2**62) or high - low > 2 * len(column):
        return None
    numbers = column.to_numpy().astype(np.int64)
    numbers -= low
    used = np.zeros(high - low + 1, dtype=bool)
    used[numbers] = True
    places = np.cumsum(used)
    places -= 1
    return (np.flatnonzero(used) + low).tolist(), np.take(places, numbers, out=numbers, mode="clip")


def _is_utf8(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


def _integers_if_all(values: pa.Array) -> pa.Array:
    """Text ids as integers when each is exactly how its integer is written, so nothing is lost ("007" stays text)."""
    try:
        numbers = values.cast(pa.int64())
    except pa.ArrowInvalid:
        return values
    return numbers if numbers.cast(values.type).equals(values) else values
