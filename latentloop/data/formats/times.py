"""Timestamps of any notation as numbers: numbers stay what they are, dates become seconds since 1970 in UTC."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

__all__ = ["parse_times", "seconds"]

_PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}


def parse_times(text: pa.ChunkedArray) -> np.ndarray | tuple[int, str]:
    """Integers where all of `text` are whole numbers, else floats, else seconds where all are ISO 8601 dates.

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
            return times
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


_KINDS = {"a number": _floats, "a date without a zone": _local_dates, "a date with a zone": _zoned_dates}
