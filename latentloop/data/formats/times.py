"""Timestamps of any notation as numbers: numbers stay what they are, dates become seconds since 1970 in UTC."""

from __future__ import annotations

import re
from bisect import bisect_left

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

__all__ = ["EXACT", "blurred_moment", "parse_times", "seconds"]

_PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}


def parse_times(text: pa.ChunkedArray) -> np.ndarray | tuple[int, str]:
    """Integers where all of `text` are whole numbers, else floats, else seconds where all are ISO 8601 dates.

    Whole numbers that float64 would round are refused among fractions, and so are moments so close that they are one in
    seconds: different times would become the same.

    Dates are such as 2023-05-01, 2023-05-01T10:00:00Z or "2023-05-01 10:00:00.5"; without a zone they are UTC. Also
    read are slashes (2023/05/01), months, days and hours of one digit (2023/5/1), up to nine digits of a fraction, and
    a space before the zone, which may be "UTC". A column holds one kind: numbers, dates with a zone, or dates without
    one.

    Args:
        text: a column of text.

    Returns:
        The times, or the first row that is not of the kind of the first one and what was expected there.
    """
    text = pc.ascii_trim_whitespace(text)
    times = _read(text)
    if times is None:
        times = _read(text := _as_iso(text))
    if times is not None:
        return times
    row, expected = _misfit(text)
    if _YEAR_LAST.match(text[row].as_py()) and not (row and expected.startswith("a number")):
        expected = _YEAR_FIRST
    return row, expected


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
    if not rest.any():
        return whole
    if per_second == _PER_SECOND["ns"] and not (rest % 1000).any():
        ticks, per_second = ticks // 1000, _PER_SECOND["us"]
    if np.abs(ticks).max() < 2**53:
        return ticks / per_second
    return whole + rest / per_second  # nanoseconds of our time are no numbers that float64 holds


def blurred_moment(column: pa.ChunkedArray, times: np.ndarray) -> int | None:
    """The first row whose moment is another row's in seconds, though they differ: their order would be lost.

    Args:
        column: an arrow column of dates or timestamps.
        times: its `seconds`.
    """
    if pa.types.is_date(column.type):
        column = column.cast(pa.timestamp("ms"))
    if times.dtype.kind != "f" or (column.type.unit != "ns" and np.abs(times).max() < _MICROSECONDS_APART):
        return None
    ticks = column.cast(pa.int64()).to_numpy()
    order = np.argsort(ticks, kind="stable")
    same = (np.diff(times[order]) == 0) & (np.diff(ticks[order]) > 0)
    return int(order[1:][same].min()) if same.any() else None


def _read(text: pa.ChunkedArray) -> np.ndarray | tuple[int, str] | None:
    """The times by the first kind that all of `text` is of; None where there is none."""
    for read in (_integers, _floats, _local_dates, _zoned_dates):
        found = read(text)
        if found is None:
            continue
        if pa.types.is_timestamp(found.type):
            times = seconds(found)
            row, expected = blurred_moment(found, times), _APART
        else:
            times = found.to_numpy()
            row, expected = _blurred(text, times) if read is _floats else None, EXACT
        return times if row is None else (row, expected)
    return None


def _as_iso(text: pa.ChunkedArray) -> pa.ChunkedArray:
    """Dates in spellings that mean one thing, as databases export them, in that of ISO 8601."""
    text = pc.replace_substring(text, " UTC", "Z")  # anywhere but at the end this makes no date
    for sign, pattern, iso in _SPELLINGS:
        if pc.any(pc.match_substring(text, sign)).as_py():  # a third of the time of a pattern
            text = pc.replace_substring_regex(text, pattern, iso)
    return text


def _misfit(text: pa.ChunkedArray) -> tuple[int, str]:
    """The first row that is not of the kind of the first one, and what was expected there."""
    for expected, read in _KINDS.items():
        if read(text.slice(0, 1)) is not None:
            # reading fails from the first row that fails on
            row = bisect_left(range(len(text)), True, key=lambda r: read(text.slice(0, r + 1)) is None)
            return row, f"{expected}, as in the first row"
    return 0, "a number such as seconds since 1970, or a date such as 2023-05-01T10:00:00Z"


def _cast(text: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray | None:
    try:
        text.slice(0, 1).cast(kind)  # arrow words an error for every row that fails, which takes longer than to read it
        return text.cast(kind)
    except pa.ArrowInvalid:
        return None


def _integers(text: pa.ChunkedArray) -> pa.ChunkedArray | None:
    return _cast(text, pa.int64())


def _floats(text: pa.ChunkedArray) -> pa.ChunkedArray | None:
    return _cast(text, pa.float64())


def _local_dates(text: pa.ChunkedArray) -> pa.ChunkedArray | None:
    return _dates(text, None)


def _zoned_dates(text: pa.ChunkedArray) -> pa.ChunkedArray | None:
    return _dates(text, "UTC")


def _dates(text: pa.ChunkedArray, zone: str | None) -> pa.ChunkedArray | None:
    found = _cast(text, pa.timestamp("us", tz=zone))
    # a finer fraction; nanoseconds reach from 1677 to 2262 only
    return _cast(text, pa.timestamp("ns", tz=zone)) if found is None else found


def _blurred(text: pa.ChunkedArray, times: np.ndarray) -> int | None:
    """The first whole number that float64 cannot hold: it would tie with others, and their order would be lost."""
    for row in np.flatnonzero(np.abs(times) >= 2**53).tolist():
        whole = re.fullmatch(r"([+-]?\d+)(\.0*)?", text[row].as_py())
        if whole and int(whole[1]) != int(times[row]):
            return row
    return None


EXACT = "a number that is kept exactly: below 2^53 beside fractions, below 2^63 without, such as seconds"
_APART = "a time that seconds in float64 tell from another row's, a microsecond apart or so; give whole nanoseconds"
_YEAR_FIRST = (
    "the year first, such as 2023-05-01: whether the day or the month comes first is ambiguous here; rewrite the column, "
    "as by pandas.to_datetime(column, format='%m/%d/%Y')"
)
_YEAR_LAST = re.compile(r"\d{1,2}[/.-]\d{1,2}[/.-](\d{4}|\d{2})\b")
_SPELLINGS = (
    (" +", r"(:[\d.]+) (\+\d\d(:?\d\d)?)$", r"\1\2"),
    (" -", r"(:[\d.]+) (-\d\d(:?\d\d)?)$", r"\1\2"),
    ("/", r"^(\d{4})/(\d{1,2})/(\d{1,2})", r"\1-\2-\3"),
    ("-", r"^(\d{4}-)(\d-)", r"\10\2"),
    ("-", r"^(\d{4}-\d\d-)(\d)($|\D)", r"\10\2\3"),
    (":", r"^(\d{4}-\d\d-\d\d[ T])(\d:)", r"\10\2"),
)
_MICROSECONDS_APART = 2.0**33  # seconds below which neighbours in float64 are less than a microsecond apart
_KINDS = {"a number": _floats, "a date without a zone": _local_dates, "a date with a zone": _zoned_dates}
