"""The k-core equals the naive loop's fix point."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from latentloop.data import Interactions, k_core
from latentloop.errors import InputError, InputTypeError
from tests.inputs.worlds import unchecked

ROWS = st.lists(
    st.tuples(st.sampled_from("uvwxyz"), st.sampled_from("abcde"), st.integers(0, 9)), min_size=1, max_size=60
)


def naive(rows: list[tuple[str, str, int]], k: int) -> list[tuple[str, str, int]]:
    while True:
        users, items = Counter(u for u, _, _ in rows), Counter(i for _, i, _ in rows)
        kept = [row for row in rows if users[row[0]] >= k and items[row[1]] >= k]
        if kept == rows:
            return rows
        rows = kept


def spelled(table: Interactions) -> list[tuple[object, object, object]]:
    assert table.timestamp is not None
    return [
        (table.user_ids[u], table.item_ids[i - 1], t)
        for u, i, t in zip(table.user.tolist(), table.item.tolist(), table.timestamp.tolist(), strict=True)
    ]


@given(rows=ROWS, k=st.integers(1, 5))
def test_the_fix_point_equals_the_loop(rows: list[tuple[str, str, int]], k: int) -> None:
    table = Interactions.of(*zip(*rows, strict=True))
    expected = naive(spelled(table), k)
    if not expected:
        with pytest.raises(InputError, match=f"no user is left after the {k}-core"):
            k_core(table, k)
        return
    filtered = k_core(table, k)
    assert spelled(filtered) == expected
    assert list(filtered.user_ids) == sorted({u for u, _, _ in expected})
    assert list(filtered.item_ids) == sorted({i for _, i, _ in expected})
    assert spelled(k_core(filtered, k)) == expected


def test_without_times_the_order_stays() -> None:
    table = Interactions.of([1, 2, 1, 2, 1, 3], [5, 7, 7, 5, 5, 9])
    filtered = k_core(table, 2)
    assert filtered.timestamp is None
    assert filtered.user.tolist() == [0, 0, 0, 1, 1]
    assert filtered.item.tolist() == [1, 2, 1, 2, 1]
    assert (list(filtered.user_ids), list(filtered.item_ids)) == ([1, 2], [5, 7])


@pytest.mark.parametrize("k", [0, 1.0, 2.5, True, "2", None])
def test_k_is_a_whole_number_of_at_least_one(k: Any) -> None:
    with unchecked(), pytest.raises(InputError, match=f"^k must be a whole number of at least 1, got {k!r}$"):
        k_core(Interactions.of([1, 1], [1, 1]), k)


def test_only_interactions_have_a_core() -> None:
    with unchecked(), pytest.raises(InputTypeError, match="^interactions must be Interactions, .*, got str$"):
        k_core("log.csv", 2)  # type: ignore[arg-type]


def test_k_may_be_numpys() -> None:
    with unchecked():
        assert k_core(Interactions.of([1, 1, 2], [5, 5, 5]), np.int64(2)).num_users == 1


def test_a_core_of_one_drops_what_does_not_occur() -> None:
    """User 1 and item 2 are named, but no row is theirs."""
    table = Interactions(
        torch.tensor([0, 2]), torch.tensor([3, 1]), None, user_ids=["a", "b", "c"], item_ids=["x", "y", "z"]
    )
    filtered = k_core(table, 1)
    assert (filtered.user.tolist(), filtered.item.tolist()) == ([0, 1], [2, 1])
    assert (filtered.user_ids, filtered.item_ids) == (["a", "c"], ["x", "z"])
