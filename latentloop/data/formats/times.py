"""Timestamps of any notation as numbers: numbers stay what they are, dates become seconds since 1970 in UTC."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

__all__ = ["parse_times", "seconds"]

_PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}


def parse_times(text: pa.ChunkedArray) -> np.ndarray | tuple[int, str]:
    """Integers where all of `text` are whole numbers, else floats, else seconds where all are ISO 8601 dates.

    Whole numbers that float64 would round are refused among fractions: different times would become the same.

    Dates are such as 2023-05-01, 2023-05-01T10:00:00Z or "2023-05-01 10:00:00.5"; without a zone they are UTC. A column
    holds one kind: numbers, dates with a zone, or dates without one.

    Args:
        text: a column of text.

    Returns:
        The times, or the first row that is not of the kind of the first one and what was expected there.
    """
    text = pc.ascii_trim_whitespace(text)
    for read in (_integers, _floats, _local_dates, _zoned_dates):
        times = _try(read, text)
        if times is not None:
            blurred = _blurred(text, times) if read is _floats else None
            return times if blurred is None else (blurred, _EXACT)
    for expected, read in _KINDS.items():
        if _try(read, text.slice(0, 1)) is not None:
            # reading fails from the first row that fails on
            row = bisect_left(range(len(text)), True, key=lambda r: _try(read, text.slice(0, r + 1)) is None)
            return row, f"{expected}, as in the first row"
    return 0, "a number such as seconds since 1970, or a date such as 2023-05-01T10:00:00Z"


def seconds(column: pa.ChunkedArray) -> np.ndarray:
    """Dates, or timestamps of any unit, as whole seconds since 1970, or as floats where any has a fraction.

    Args:
        column: an arrow column of dates or timestamps.
    """
    if pa.types.is_date(column.type):
        column = column.cast(pa.timestamp("ms"))
    per_second = _PER_SECOND[column.type.unit]
    ticks: np.ndarray = column.cast(pa.int64()).to_numpy()
    whole, rest = np.divmod(ticks, per_second)
    return whole if not rest.any() else ticks / per_second


def _try(read: Callable[[pa.ChunkedArray], np.ndarray], text: pa.ChunkedArray) -> np.ndarray | None:
    try:
        return read(text)
    except pa.ArrowInvalid:
        return None


def _integers(text: pa.ChunkedArray) -> np.ndarray:
    numbers: np.ndarray = text.cast(pa.int64()).to_numpy()
    return numbers


def _floats(text: pa.ChunkedArray) -> np.ndarray:
    numbers: np.ndarray = text.cast(pa.float64()).to_numpy()
    return numbers


def _local_dates(text: pa.ChunkedArray) -> np.ndarray:
    return seconds(text.cast(pa.timestamp("us")))


def _zoned_dates(text: pa.ChunkedArray) -> np.ndarray:
    return seconds(text.cast(pa.timestamp("us", tz="UTC")))


def _blurred(text: pa.ChunkedArray, times: np.ndarray) -> int | None:
    """The first whole number that float64 cannot hold: it would tie with others, and their order would be lost."""
    for row in np.flatnonzero(np.abs(times) > 2**53).tolist():
        whole = re.fullmatch(r"([+-]?\d+)(\.0*)?", text[row].as_py())
        if whole and int(whole[1]) != int(times[row]):
            return row
    return None


_EXACT = "a number that is kept exactly: below 2^53 beside fractions, below 2^63 without, such as seconds"
_KINDS = {"a number": _floats, "a date without a zone": _local_dates, "a date with a zone": _zoned_dates}
