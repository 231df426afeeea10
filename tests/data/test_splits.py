"""No split leaks: every user is checked by hand."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from latentloop.data import Interactions, SameTarget, Samples, global_time, leave_one_out
from latentloop.errors import InputError, InputTypeError
from tests.inputs.worlds import unchecked

HISTORIES = st.lists(st.lists(st.integers(1, 6), min_size=1, max_size=9), min_size=2, max_size=7)
TIMED = st.lists(st.tuples(st.integers(0, 4), st.integers(1, 6), st.integers(0, 30)), min_size=12, max_size=60)


def table_of(histories: list[list[int]]) -> Interactions:
    return Interactions.of(
        [u for u, h in enumerate(histories) for _ in h],
        [i for h in histories for i in h],
        [10 * place for h in histories for place in range(len(h))],
    )


def spelled(samples: Samples, table: Interactions) -> list[tuple[int, tuple[object, ...], object]]:
    """(user, whole past, target) of every sample, in original ids."""
    index = torch.arange(len(samples))
    flat, offsets = samples.past(index)
    ids = [table.item_ids[i - 1] for i in flat.tolist()]
    pasts = [tuple(ids[a:b]) for a, b in zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True)]
    targets = [table.item_ids[i - 1] for i in samples.target(index).tolist()]
    return list(zip(samples.user.tolist(), pasts, targets, strict=True))


@given(histories=HISTORIES)
def test_leave_one_out_equals_the_loop(histories: list[list[int]]) -> None:
    table = table_of(histories)
    train, validation, test, seen = [], [], [], Counter()
    for u, h in enumerate(histories):
        n = len(h)
        if n >= 3:
            train += [(u, tuple(h[:p]), h[p]) for p in range(1, n - 2)]
            validation.append((u, tuple(h[: n - 2]), h[n - 2]))
            test.append((u, tuple(h[: n - 1]), h[n - 1]))
            seen.update(h[: n - 2])
        elif n == 2:
            train.append((u, (h[0],), h[1]))
            seen.update(h)
    if not test:
        with pytest.raises(InputError, match="has 3 items"):
            leave_one_out(table)
        return
    split = leave_one_out(table, max_length=4)
    assert spelled(split.train, table) == train
    assert spelled(split.validation, table) == validation
    assert spelled(split.test, table) == test
    assert split.item_counts.tolist() == [0, *(seen[i] for i in table.item_ids)]
    assert not set(split.train.end.tolist()) & set(split.validation.end.tolist() + split.test.end.tolist())
    latest = split.latest.history(torch.arange(table.num_users))
    assert [[table.item_ids[i - 1] for i in row if i] for row in latest.tolist()] == [h[-4:] for h in histories]
    assert (split.num_users, split.num_items, split.max_length) == (len(histories), table.num_items, 4)
    assert (list(split.user_ids), list(split.item_ids)) == (list(table.user_ids), list(table.item_ids))


@given(histories=HISTORIES.filter(lambda hs: any(len(h) >= 4 for h in hs)), key=st.integers(0, 2**32))
def test_positives_come_from_the_training_part_only(histories: list[list[int]], key: int) -> None:
    table = table_of(histories)
    split = leave_one_out(table)
    place = SameTarget(split.train).draw(torch.arange(len(split.train)), key)
    asked = set(zip(split.validation.user.tolist(), split.validation.end.tolist(), strict=True))
    asked |= set(zip(split.test.user.tolist(), split.test.end.tolist(), strict=True))
    pairs = set(zip(split.train.user[place].tolist(), split.train.end[place].tolist(), strict=True))
    assert not pairs & asked
    # nor does a positive's history reach what its user is asked for
    for user, end in pairs:
        length = len(histories[user])
        assert end - int(split.train.sequences.offsets[user]) < (length - 2 if length >= 3 else length)


@given(rows=TIMED, validation=st.floats(0.05, 0.4), test=st.floats(0.05, 0.4), whole=st.booleans())
def test_global_time_never_learns_from_what_comes_later(
    rows: list[tuple[int, int, int]], validation: float, test: float, whole: bool
) -> None:
    users, items, times = zip(*rows, strict=True)
    table = Interactions.of(users, items, times if whole else [t / 4 for t in times])
    assert table.timestamp is not None
    time = table.timestamp.tolist()
    try:
        split = global_time(table, 5, validation, test)
    except InputError as error:
        assert "part has no sample" in str(error)
        return
    parts = [[time[end] for end in part.end.tolist()] for part in (split.train, split.validation, split.test)]
    assert max(parts[0]) < min(parts[1]) and max(parts[1]) < min(parts[2])
    ends = [end for part in (split.train, split.validation, split.test) for end in part.end.tolist()]
    first = {u: table.user.tolist().index(u) for u in set(table.user.tolist())}
    assert sorted(ends) == [n for n, u in enumerate(table.user.tolist()) if n != first[u]]  # each row once
    learned = [t for t, kept in zip(time, split.training.tolist(), strict=True) if kept]
    assert max(learned) < min(parts[1])
    assert int(split.item_counts.sum()) == len(learned)
    # about the asked share of rows lies after each moment: rows of one time go to the later part together
    assert sum(t >= min(parts[2]) for t in time) <= len(time) * test + 1 + max(Counter(time).values())


def test_global_time_refuses_what_has_no_time_or_no_part() -> None:
    with pytest.raises(InputError, match="no timestamps"):
        global_time(Interactions.of([1, 1, 1], [1, 2, 3]))
    with pytest.raises(InputError, match="sum to less than 1"):
        global_time(table_of([[1, 2, 3], [1, 2]]), validation=0.5, test=0.5)
    with pytest.raises(InputError, match="training part has no sample"):
        global_time(Interactions.of([1, 1, 1], [1, 2, 3], [5, 5, 5]))


def test_leave_one_out_by_hand() -> None:
    split = leave_one_out(table_of([[1, 2, 3], [1, 2, 4], [2]]))
    assert split.item_counts.tolist() == [0, 2, 0, 0, 0]  # also of items that are not learned from
    assert (split.protocol, split.max_length) == ("leave-one-out", 20)


def test_global_time_by_hand() -> None:
    users, items = [row % 4 for row in range(100)], [row % 7 for row in range(100)]
    table = Interactions.of(users, items, list(range(100)))
    assert table.timestamp is not None
    split = global_time(table)
    asked = [table.timestamp[part.end].sort().values.tolist() for part in (split.train, split.validation, split.test)]
    assert asked == [list(range(4, 80)), list(range(80, 90)), list(range(90, 100))]
    assert (split.protocol, split.max_length) == ("global-time", 20)
    assert [part.part for part in (split.train, split.validation, split.test)] == ["training", "validation", "test"]
    # three eighths and one eighth of eight: rows 4..6 and row 7
    split = global_time(Interactions.of([1] * 8, [1] * 8, list(range(8))), 3, 0.375, 0.125)
    assert [part.end.tolist() for part in (split.train, split.validation, split.test)] == [[1, 2, 3], [4, 5, 6], [7]]


def test_global_time_keeps_the_newest_row_for_the_test_however_small_its_share() -> None:
    four = Interactions.of([1] * 4, [1] * 4, list(range(4)))
    split = global_time(four, 3, validation=0.3, test=0.1)
    assert [part.end.tolist() for part in (split.train, split.validation, split.test)] == [[1], [2], [3]]
    with pytest.raises(InputError, match="validation part has no sample"):
        global_time(four, 3, validation=0.05, test=0.05)


@pytest.mark.parametrize("shares", [(0.0, 0.5), (0.5, 0.0), (1.0, 0.5), (0.5, 1.0), (-0.1, 0.5), (0.5, -0.1)])
def test_global_time_refuses_shares_that_leave_nothing(shares: tuple[float, float]) -> None:
    with pytest.raises(InputError, match="sum to less than 1"):
        global_time(table_of([[1, 2, 3, 1], [1, 2, 3, 2]]), 3, *shares)


def test_a_table_without_times_names_the_settings_to_change() -> None:
    with pytest.raises(InputError, match="no timestamps") as caught:
        global_time(Interactions.of([1, 1, 1], [1, 2, 3]))
    assert caught.value.settings == ("split", "timestamp")


def test_the_parts_of_leave_one_out_say_which_they_are() -> None:
    split = leave_one_out(table_of([[1, 2, 3, 1, 2], [3, 2, 1]]))
    assert [part.part for part in (split.train, split.validation, split.test)] == ["training", "validation", "test"]


@pytest.mark.parametrize("wrong", [0, 2.5, True, "8", None])
@pytest.mark.parametrize("rule", [leave_one_out, global_time])
def test_max_length_is_a_whole_number(rule: Any, wrong: Any) -> None:
    table = table_of([[1, 2, 3, 1, 2] * 4] * 4)
    with (
        unchecked(),
        pytest.raises(InputError, match=f"^max_length must be a whole number of at least 1, got {wrong!r}$"),
    ):
        rule(table, wrong)
    with unchecked():
        split = rule(table, np.int64(3))
    assert type(split.max_length) is int and split.train.history(torch.tensor([0])).shape == (1, 3)


@pytest.mark.parametrize("rule", [leave_one_out, global_time])
def test_only_interactions_are_split(rule: Any) -> None:
    with unchecked(), pytest.raises(InputTypeError, match="^interactions must be Interactions, .*, got dict$"):
        rule({"user": [1], "item": [2]})


@pytest.mark.parametrize("shares", [("0.1", 0.1), (0.1, None), (None, "0.1"), (0.1, [0.1])])
def test_shares_are_numbers(shares: tuple[Any, Any]) -> None:
    with unchecked(), pytest.raises(InputTypeError, match="validation, test: .* expected two numbers"):
        global_time(table_of([[1, 2, 3, 1, 2]] * 4), 3, *shares)


@pytest.mark.parametrize("rule", [leave_one_out, global_time])
@pytest.mark.parametrize("items", [30, 2000])
def test_a_split_is_shown_by_its_sizes(rule: Any, items: int) -> None:
    split = rule(table_of([list(range(items))] * 3), 4)
    assert repr(split) == (
        f"Split({split.protocol!r}, users=3, items={items}, actions={3 * items}, training={len(split.train)}, "
        f"validation={len(split.validation)}, test={len(split.test)}, max_length=4)"
    )
