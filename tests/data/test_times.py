"""Spellings of one moment are the same seconds, as fine as they are told apart."""

from __future__ import annotations

from datetime import date, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from latentloop.data import load_interactions
from latentloop.data.formats.times import blurred_moment, parse_times, seconds
from latentloop.errors import InputError

MOMENTS = st.datetimes(datetime(1700, 1, 1), datetime(2250, 1, 1)).map(lambda moment: moment.replace(microsecond=0))
# How a zone is written, and how far ahead of UTC it is.
ZONES = {
    "": 0,
    "Z": 0,
    " UTC": 0,
    " +0000": 0,
    " +00": 0,
    " -00:00": 0,
    " +02:00": 120,
    " -0530": -330,
    "+0530": 330,
}


def seconds_since_1970(moment: datetime) -> int:
    """By the calendar alone."""
    return ((moment.toordinal() - date(1970, 1, 1).toordinal()) * 86400) + (
        moment - moment.replace(hour=0, minute=0, second=0)
    ).seconds


def column(*texts: str) -> pa.ChunkedArray:
    return pa.chunked_array([pa.array(texts, pa.string())])


@given(
    rows=st.lists(st.tuples(MOMENTS, st.sampled_from([z for z in ZONES if z])), min_size=1, max_size=6),
    zoned=st.booleans(),
    day=st.sampled_from(["%Y-%m-%d", "%Y/%m/%d"]),
    joint=st.sampled_from(" T"),
    digits=st.integers(0, 9),
)
def test_every_spelling_of_a_moment_is_its_seconds_in_utc(
    rows: list[tuple[datetime, str]], zoned: bool, day: str, joint: str, digits: int
) -> None:
    rows = [(moment, zone if zoned else "") for moment, zone in rows]
    fraction = "." + "5".ljust(digits, "0") if digits else ""
    texts = []
    for moment, zone in rows:
        year_first = day.replace("%Y", f"{moment.year:04}")  # strftime pads no year before 1000 everywhere
        texts.append(moment.strftime(f"{year_first}{joint}%H:%M:%S") + fraction + zone)
    expected = [
        seconds_since_1970(moment - timedelta(minutes=ZONES[zone])) + (0.5 if digits else 0) for moment, zone in rows
    ]
    found = parse_times(column(*texts))
    assert isinstance(found, np.ndarray) and found.tolist() == expected
    assert found.dtype.kind == ("f" if digits else "i")


@pytest.mark.parametrize(
    "text", ["2024-03-15 02:18", "2024/03/15 02:18", "2024-03-15 02:18 UTC", "2024/03/15T02:18:00.000000000Z"]
)
def test_what_may_be_left_out_may_be(text: str) -> None:
    found = parse_times(column(text))
    assert isinstance(found, np.ndarray) and found.tolist() == [1710469080]


@pytest.mark.parametrize(
    "text", ["2024-3-5 2:18", "2024/3/5 2:18", "2024-03-5T02:18", "2024/3/05 2:18 UTC", "2024-3-05 02:18Z"]
)
def test_months_days_and_hours_may_have_one_digit(text: str) -> None:
    zone = "Z" if text.endswith(("Z", "UTC")) else ""
    found = parse_times(column(f"2024-03-15T02:18{zone}", text))
    assert isinstance(found, np.ndarray) and found.tolist() == [1710469080, 1709605080]
    days = parse_times(column(text[:9].split(maxsplit=1)[0].split("T", maxsplit=1)[0], "2024-12-31"))
    assert isinstance(days, np.ndarray) and days.tolist() == [1709596800, 1735603200]


def test_a_day_with_slashes_is_its_first_second() -> None:
    found = parse_times(column("2024/03/15", "1969/12/31"))
    assert isinstance(found, np.ndarray) and found.tolist() == [1710460800, -86400]


def test_a_fraction_may_become_finer_further_down() -> None:
    found = parse_times(column("2024-03-15T02:18:00Z", "2024-03-15T02:18:00.5Z", "2024-03-15T02:18:01.123456789Z"))
    assert isinstance(found, np.ndarray) and found.tolist() == [1710469080, 1710469080.5, 1710469081.123456789]


def test_moments_that_seconds_do_not_tell_apart_are_refused(tmp_path: Path) -> None:
    """Two actions a nanosecond apart would be one, or change places."""
    path = tmp_path / "a.csv"
    rows = ["u,a,2024-03-15T02:18:00.123456789Z", "u,b,2024-03-15T02:18:05.5Z", "u,a,2024-03-15T02:18:00.123456788Z"]
    path.write_text("\n".join(["user,item,timestamp", *rows[:2], ""]))
    assert len(load_interactions(path)) == 2
    path.write_text("\n".join(["user,item,timestamp", *rows[:2], rows[0], ""]))
    assert len(load_interactions(path)) == 2  # the very same moment is no other
    path.write_text("\n".join(["user,item,timestamp", *rows, ""]))
    with pytest.raises(
        InputError, match="line 2: 'timestamp' is '2024-03-15T02:18:00.123456789Z', expected a time that seconds"
    ):
        load_interactions(path)


@given(
    unit=st.sampled_from(["ms", "us", "ns"]),
    start=st.integers(-(2**62), 2**62),
    steps=st.lists(st.integers(0, 3), min_size=1, max_size=6),
)
def test_the_blurred_are_those_of_equal_seconds(unit: str, start: int, steps: list[int]) -> None:
    """Whether or not the quick answer for moments in our centuries is taken."""
    for first in (start, start % (2**33 * {"ms": 10**3, "us": 10**6, "ns": 10**9}[unit])):
        ticks = np.cumsum([first, *steps])
        moments = pa.chunked_array([pa.array(ticks).cast(pa.timestamp(unit))])
        times = seconds(moments)
        expected = [n for n in range(1, len(ticks)) if times[n] == times[n - 1] and ticks[n] != ticks[n - 1]]
        assert blurred_moment(moments, times) == (expected[0] if expected and times.dtype.kind == "f" else None)


@given(moments=st.lists(st.datetimes(datetime(1700, 1, 1), datetime(2250, 1, 1)), min_size=1, max_size=6))
def test_seconds_do_not_depend_on_the_unit(moments: list[datetime]) -> None:
    """pandas counts in nanoseconds, others in microseconds: float64 rounds each moment once."""
    fine, finer = (seconds(pa.chunked_array([pa.array(moments, pa.timestamp(unit))])) for unit in ("us", "ns"))
    assert fine.tolist() == finer.tolist() and fine.dtype == finer.dtype


def test_days_with_a_fraction_are_milliseconds() -> None:
    days = pa.table({"user": ["a", "b"], "item": ["x", "y"], "timestamp": pa.array([86400500, -86400000], pa.date64())})
    found = load_interactions(days)
    assert found.timestamp is not None and sorted(found.timestamp.tolist()) == [-86400.0, 86400.5]
