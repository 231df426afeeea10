"""The canonical table equals a plain sort, whatever order the rows come in."""

from __future__ import annotations

import dataclasses
import math
import warnings
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from latentloop.data import DataCard, Interactions, load_interactions
from latentloop.errors import InputError, InputTypeError
from tests.inputs.worlds import unchecked

USERS = st.sampled_from(["u9", "u10", "Ü", "a", "b"])
ITEMS = st.integers(-3, 6)
TIMES = st.integers(-5, 5) | st.integers(-(2**62), 2**62)
ROWS = st.lists(st.tuples(USERS, ITEMS, TIMES), min_size=1, max_size=40)


def naive(rows: list[tuple[str, int, int]], *, timed: bool) -> list[tuple[str, int, int]]:
    """Sort stably by user (and time); drop what was seen before where rows carry times."""
    if not timed:
        return sorted(rows, key=lambda row: row[0])
    return list(dict.fromkeys(sorted(rows, key=lambda row: (row[0], row[2]))))


def content(table: Interactions) -> list[tuple[object, object]]:
    """Original ids of every row."""
    return [
        (table.user_ids[u], table.item_ids[i - 1])
        for u, i in zip(table.user.tolist(), table.item.tolist(), strict=True)
    ]


def test_arrays_are_columns_too() -> None:
    """Of NumPy, with scalars of its own; the ids that come back are Python's."""
    users, items, times = [3, 1, 3], ["b", "a", "a"], [2, 1, 1]
    wanted = Interactions.of(users, items, times)
    table = Interactions.of(np.array(users), np.array(items), np.array(times))
    with unchecked():
        listed = Interactions.of(list(np.array(users)), list(np.array(items)))
    assert content(table) == content(wanted) and len(listed) == 3
    assert {type(i) for i in listed.user_ids} == {int}
    assert {type(i) for i in table.user_ids} == {int} and {type(i) for i in table.item_ids} == {str}


@given(rows=ROWS, floating=st.booleans())
def test_timed_rows_are_sorted_stably_and_exact_duplicates_dropped(
    rows: list[tuple[str, int, int]], floating: bool
) -> None:
    if floating:
        rows = [(u, i, t % 7) for u, i, t in rows]
    expected = naive(rows, timed=True)
    users, items, times = zip(*rows, strict=True)
    table = Interactions.of(users, items, [t + 0.5 for t in times] if floating else times)
    assert content(table) == [(u, i) for u, i, _ in expected]
    assert table.timestamp is not None
    assert table.timestamp.tolist() == [t + 0.5 if floating else t for _, _, t in expected]
    assert list(table.user_ids) == sorted(set(users))
    assert list(table.item_ids) == sorted(set(items))
    assert (table.num_users, table.num_items, len(table)) == (len(set(users)), len(set(items)), len(expected))


@given(rows=ROWS)
def test_rows_without_time_keep_their_order_and_their_repeats(rows: list[tuple[str, int, int]]) -> None:
    users, items, _ = zip(*rows, strict=True)
    table = Interactions.of(users, items)
    assert content(table) == [(u, i) for u, i, _ in naive(rows, timed=False)]
    assert table.timestamp is None


@given(rows=ROWS, seed=st.randoms(use_true_random=False))
def test_the_numbering_does_not_depend_on_the_order_of_rows(rows: list[tuple[str, int, int]], seed: object) -> None:
    rows = [(u, i, n) for n, (u, i, _) in enumerate(rows)]  # distinct times: no ties to keep in order
    shuffled = list(rows)
    seed.shuffle(shuffled)  # type: ignore[attr-defined]
    one, two = (Interactions.of(*zip(*r, strict=True)) for r in (rows, shuffled))
    assert DataCard.of(one) == DataCard.of(two)
    assert torch.equal(one.item, two.item)


def test_repeats_at_one_time_are_kept_apart_from_duplicates() -> None:
    # a, b, a at one time: the second a is an exact duplicate though not the neighbour of the first
    table = Interactions.of(["u", "u", "u", "v", "u"], ["a", "b", "a", "a", "a"], [1, 1, 1, 1, 2])
    assert content(table) == [("u", "a"), ("u", "b"), ("u", "a"), ("v", "a")]


def test_what_cannot_be_a_table_is_refused() -> None:
    with pytest.raises(InputTypeError, match="all int or all str"):
        Interactions.of(["u", 1], ["a", "b"])
    with pytest.raises(InputError, match="differ in length: 2, 1"):
        Interactions.of(["u", "v"], ["a"])
    with pytest.raises(InputError, match="row 2 holds nan"):
        Interactions.of(["u", "v"], ["a", "b"], [0.5, float("nan")])
    good = Interactions.of([1, 1, 2], [7, 8, 7], [1, 2, 3])
    with pytest.raises(InputError, match="not sorted by user"):
        dataclasses.replace(good, user=torch.tensor([1, 0, 0]))
    with pytest.raises(InputError, match="chronological"):
        dataclasses.replace(good, timestamp=torch.tensor([2, 1, 3]))
    with pytest.raises(InputError, match=r"item: numbers 0\.\.1, expected 1\.\.2"):
        dataclasses.replace(good, item=torch.tensor([1, 0, 1]))


def test_ids_that_no_file_can_hold_are_refused() -> None:
    with pytest.raises(InputError, match=r"^users must be text that UTF-8 can write, got 'u\\udfff'$"):
        Interactions.of(["u", "u\udfff"], [1, 2])


BEYOND = 2**63


@pytest.mark.parametrize(
    "times",
    [
        np.array([1, BEYOND + 5, 7], dtype=np.uint64),
        [1, BEYOND + 5, 7],
        [1, 2**70, 7],
        [2**60 + 2, 2**60 + 1, 0.5],
        np.array([5, "NaT", 1], dtype="datetime64[D]"),
        ["10", "9", "8"],
        [1j, 2, 3],
        [1, None, 2],
        [True, False, True],
        [[1], [2], [3]],
        [1.0, float("inf"), 2.0],
        [1, [2], 3],
        [10**400, 0.5, 1],
    ],
)
def test_times_that_would_be_read_as_others_are_refused(times: Any) -> None:
    """A number that wraps around, or becomes its neighbour, would put a user's rows into another order."""
    with unchecked(), pytest.raises((InputError, InputTypeError), match=r"^timestamps?: "):
        Interactions.of(["a"] * 3, ["x", "y", "z"], times)


def test_times_of_any_width_are_an_order() -> None:
    whole: list[Any] = [np.array([3, 2, 1], dtype=kind) for kind in ("uint8", "int16", "uint64", "float16", "M8[s]")]
    for times in (*whole, [2**63 - 1, 2**63 - 2, -(2**63)], [2**60, 1, 0.5], torch.tensor([3, 2, 1])):
        with unchecked():
            assert Interactions.of(["a"] * 3, ["x", "y", "z"], times).item.tolist() == [3, 2, 1]


def test_moments_that_are_the_same_in_seconds_are_refused() -> None:
    def log(*ticks: int, unit: str = "ns") -> pa.Table:
        return pa.table({"user": ["a"] * len(ticks), "item": [1, 2, 3], "time": pa.array(ticks, pa.timestamp(unit))})

    now = 1_700_000_000_000_000_000
    with pytest.raises(InputError, match=r"row 1 .*'time' is as close to another .* whole numbers, of ns"):
        load_interactions(log(now + 3, now + 2, now + 500))
    for ticks in ((now + 3000, now + 2000, now + 1000), (3, 2, 1), (now, now, now - 1000)):
        assert load_interactions(log(*ticks)).item.tolist()[-1] != 3


def test_a_missing_value_with_a_number_of_its_own_is_missing() -> None:
    def users(*numbers: int) -> pa.Table:
        return pa.table({"user": pa.DictionaryArray.from_arrays(numbers, ["a", None, "b"]), "item": [1, 2]})

    with pytest.raises(InputError, match=r"row 2 .*no value in column 'user'"):
        load_interactions(users(0, 1))
    assert load_interactions(users(0, 2)).user_ids == ["a", "b"]


def test_the_card_counts_and_its_hash_sees_every_part() -> None:
    table = Interactions.of([1, 1, 2], [7, 8, 7], [1, 2, 3])
    card = DataCard.of(table)
    assert (card.users, card.items, card.actions, card.average_length, card.sparsity) == (2, 2, 3, 1.5, 0.25)
    assert card.text().startswith(
        "2 users, 2 items, 3 actions, average length 1.5, sparsity 25.00%, repeats 0.00%, hash "
    )
    repeated = DataCard.of(Interactions.of([1, 1, 1, 1, 1, 2], [7, 8, 7, 8, 7, 7], [1, 2, 3, 4, 5, 6]))
    assert (repeated.sparsity, repeated.repeats) == (0.25, 0.5)  # a cell that is filled twice is filled
    others = [
        Interactions.of([1, 1, 2], [7, 8, 8], [1, 2, 3]),
        Interactions.of([1, 1, 2], [7, 8, 7], [1, 2, 4]),
        Interactions.of([1, 1, 2], [7, 9, 7], [1, 2, 3]),
        Interactions.of([1, 1, 3], [7, 8, 7], [1, 2, 3]),
        Interactions.of([1, 1, 2], ["7", "8", "7"], [1, 2, 3]),
        Interactions.of([1, 1, 2], [7, 8, 7], [1.0, 2.0, 3.0]),
        Interactions.of([1, 1, 2], [7, 8, 7]),
    ]
    assert len({card.hash, *(DataCard.of(other).hash for other in others)}) == 1 + len(others)
    assert DataCard.of(Interactions.of([2, 1, 1], [7, 7, 8], [3, 1, 2])).hash == card.hash


@given(rows=st.lists(st.tuples(st.integers(1, 4), st.integers(1, 4)), max_size=20))
def test_the_card_tells_how_many_actions_repeat(rows: list[tuple[int, int]]) -> None:
    card = DataCard.of(Interactions.of([user for user, _ in rows], [item for _, item in rows]))
    again = sum(row in rows[:place] for place, row in enumerate(rows))
    assert card.repeats == pytest.approx(again / max(1, len(rows)))


@given(data=st.data(), kind=st.sampled_from(["int8", "int32", "int64", "uint8", "uint64"]), far=st.booleans())
def test_integer_ids_of_any_width_are_numbered_in_order(data: st.DataObject, kind: str, far: bool) -> None:
    """Close together, where a table numbers them, and far apart, where it would not fit."""
    limits = np.iinfo(kind)
    low, high = (max(limits.min, -(2**63)), min(limits.max, 2**63 - 1)) if far else (max(limits.min, -9), 9)
    ids = st.lists(st.integers(low, high), min_size=1, max_size=40)
    users = data.draw(ids)
    items = data.draw(st.lists(st.integers(low, high), min_size=len(users), max_size=len(users)))
    columns = {"user": pa.array(users, pa.type_for_alias(kind)), "item": pa.array(items, pa.type_for_alias(kind))}
    table = load_interactions(pa.table(columns))
    assert list(table.user_ids) == sorted(set(users)) and list(table.item_ids) == sorted(set(items))
    assert content(table) == sorted(zip(users, items, strict=True), key=lambda row: row[0])


@pytest.mark.parametrize("ordered", [True, False])
def test_the_callers_arrays_stay_the_callers(ordered: bool) -> None:
    """What is built from them neither shares their memory nor needs to write there."""
    user, item, time = np.array([0, 0, 1]), np.array([2, 1, 2]), np.array([3, 4, 5])
    if not ordered:
        user, item, time = user[::-1].copy(), item[::-1].copy(), time[::-1].copy()
    for column in (user, item, time):
        column.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # torch warns where it is handed memory that may not be written
        table = Interactions.from_numbers(user, item, time, ["a", "b"], ["x", "y"])
    for column in (user, item, time):
        column.flags.writeable = True
        column[:] = -1
    assert (table.user.tolist(), table.item.tolist()) == ([0, 0, 1], [2, 1, 2])
    assert table.timestamp is not None and table.timestamp.tolist() == [3, 4, 5]


def test_columns_of_different_lengths_are_no_table() -> None:
    one, two = torch.tensor([0]), torch.tensor([1, 1])
    with unchecked(), pytest.raises(InputError, match=r"item: shape \(2,\), expected \(1,\) as user has"):
        Interactions(one, two, None, ["u"], ["a"])
    with unchecked(), pytest.raises(InputError, match=r"timestamp: shape \(2,\), expected \(1,\) as user has"):
        Interactions(one, torch.tensor([1]), two, ["u"], ["a"])


def test_a_table_says_how_large_it_is() -> None:
    table = Interactions.of(["u", "v", "u"], ["a", "b", "b"])
    assert repr(table) == "Interactions(users=2, items=2, actions=3)"


@pytest.mark.parametrize(
    ("user", "item", "time", "error", "said"),
    [
        ([1, 0], [1, 2, 3], None, InputError, "user, item and timestamp differ in length: 2, 3"),
        ([0, 1], [1, 2, 3], None, InputError, "user, item and timestamp differ in length: 2, 3"),
        ([1, 0], [1, 2], [1], InputError, "user, item and timestamp differ in length: 2, 2, 1"),
        ([0, 0.9], [1, 2], None, InputTypeError, "user: float64 with fractions .* expected whole numbers"),
        ([0, 1], [1, 2.7], None, InputTypeError, "item: float64 with fractions .* expected whole numbers"),
        ([0, math.nan], [1, 2], None, InputTypeError, "user: float64 with fractions .* expected whole numbers"),
        ([0, 2**64 - 1], [1, 2], None, InputTypeError, "user: .* more than 63 bits, expected whole numbers"),
        (["a", "b"], [1, 2], None, InputTypeError, "user: expected whole numbers, invalid literal"),
    ],
)
def test_numbers_that_are_no_numbers_of_rows_are_refused(
    user: list[float], item: list[float], time: list[int] | None, error: type[Exception], said: str
) -> None:
    times = None if time is None else np.array(time)
    with pytest.raises(error, match=f"^{said}"):
        Interactions.from_numbers(np.array(user), np.array(item), times, ["a", "b"], ["x", "y", "z"])


@pytest.mark.parametrize("kind", [np.uint64, np.int8, np.float64, object])
def test_whole_numbers_of_any_kind_are_numbers_of_rows(kind: Any) -> None:
    table = Interactions.from_numbers(np.array([1, 0], kind), np.array([1, 2], kind), None, ["a", "b"], ["x", "y"])
    assert (table.user.tolist(), table.item.tolist()) == ([0, 1], [2, 1])


def test_whole_numpy_times_beside_fractions_are_kept_exactly_or_refused() -> None:
    with (
        unchecked(),
        pytest.raises(InputError, match="^timestamp: row 1 holds 9007199254740993, expected a finite number"),
    ):
        Interactions.of([1, 1, 1], [1, 2, 3], [np.int64(2**53 + 1), np.int64(2**53), 1.5])
    with unchecked():
        assert len(Interactions.of([1, 1, 1], [1, 2, 3], [np.int64(2**53), np.int64(2**52), 1.5])) == 3
