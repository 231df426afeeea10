"""The map between original ids and 1..N."""

from __future__ import annotations

import math
import uuid
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import numpy as np
import pandas
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from latentloop.errors import InputError, InputTypeError
from latentloop.items.ids import ItemId, ItemIds
from tests.core.worlds import unchecked

IDS = st.lists(st.one_of(st.integers(), st.text(max_size=5)), unique=True, max_size=20)


@given(ids=IDS, other=st.one_of(st.integers(), st.text(max_size=5)))
def test_numbers_are_places_from_one(ids: list[ItemId], other: ItemId) -> None:
    table = ItemIds(ids)
    assert len(table) == len(ids)
    assert list(table) == ids
    assert [table.number(original) for original in ids] == list(range(1, len(ids) + 1))
    assert [table.original(number) for number in range(1, len(ids) + 1)] == ids
    if other not in ids and not any(str(i) == str(other) for i in ids):
        assert table.number(other) is None
        assert table.numbers([*ids, other]) == (list(range(1, len(ids) + 1)), [other])


@given(number=st.integers(-(10**20), 10**20))
def test_a_number_is_found_by_its_text_and_back(number: int) -> None:
    assert ItemIds(["a", number]).number(str(number)) == 2
    assert ItemIds(["a", str(number)]).number(number) == 2


def test_the_exact_id_comes_first() -> None:
    table = ItemIds([7, "7", "8"])
    assert [table.number(i) for i in (7, "7", 8, "8")] == [1, 2, 3, 3]


@pytest.mark.parametrize("text", ["--7", "-", "", "007", "+7", " 7", "7.0", "\u0667", "1" * 5000, "-0"])
def test_text_that_only_looks_like_a_number_is_unknown(text: str) -> None:
    assert ItemIds([7, 0, 1]).number(text) is None


@pytest.mark.parametrize(
    "nothing",
    [
        None,
        True,
        False,
        math.nan,
        math.inf,
        7.5,
        1 + 0j,
        np.bool_(True),
        np.float64("nan"),
        torch.tensor(True),
        Decimal("inf"),
    ],
)
def test_what_only_reads_like_an_id_is_unknown(nothing: Any) -> None:
    """Their texts and numbers are ids, and none of them is meant."""
    table = ItemIds(["None", "True", "False", "nan", "inf", "7.5", "(1+0j)", 1, 0])
    with unchecked():
        assert table.number(nothing) is None
        assert table.numbers([nothing, 1]) == ([8], [nothing])


@pytest.mark.parametrize("seven", [7, 7.0, "7", np.int32(7), np.float32(7), np.str_("7"), torch.tensor(7), Decimal(7)])
def test_a_whole_number_is_found_in_any_type(seven: Any) -> None:
    with unchecked():
        assert ItemIds([7]).number(seven) == ItemIds(["7"]).number(seven) == 1


def test_what_is_written_as_text_is_found_by_it() -> None:
    number = uuid.UUID(int=7)
    with unchecked():
        assert ItemIds(["a", str(number)]).number(number) == 2  # type: ignore[arg-type]
        assert ItemIds(["<NA>", "NaT"]).numbers([pandas.NA, pandas.NaT]) == ([], [pandas.NA, pandas.NaT])  # type: ignore[list-item]


def test_text_that_no_file_can_hold_is_refused() -> None:
    with pytest.raises(InputError, match=r"^item_ids must be text that UTF-8 can write, got '\\ud800'"):
        ItemIds(["\u00e9", "\ud800"])


def test_numpy_ids_become_plain_ones() -> None:
    with unchecked():
        table = ItemIds([*np.array([5, 9]), *np.array(["x"])])
        assert table.number(np.int64(9)) == 2
    assert [type(i) for i in table] == [int, int, str]


def test_a_copy_is_equal_and_another_is_not() -> None:
    assert ItemIds(ItemIds(["a", 1])) == ItemIds(["a", 1])
    assert ItemIds(["a", 1]) != ItemIds([1, "a"])


def test_mistakes_are_named() -> None:
    with pytest.raises(InputError, match="'b' occurs twice"):
        ItemIds(["a", "b", "c", "b"])
    for wrong in (1.5, None, True):
        with unchecked(), pytest.raises(InputTypeError, match="strings or whole numbers"):
            ItemIds(["a", wrong])


@pytest.mark.parametrize("kind", [torch.tensor, np.array, list])
def test_arrays_and_tensors_are_their_numbers(kind: Callable[[list[int]], Any]) -> None:
    ids = ItemIds([10, 20, 30])
    with unchecked():
        assert ids.numbers(kind([30, 10, 5])) == ([3, 1], [5])
        assert ids.number(torch.tensor(20)) == 2
        with pytest.raises(InputTypeError, match=r"^an id must be a string or a whole number, got \[10\]$"):
            ids.numbers([[10]])


@pytest.mark.parametrize("odd", [np.longdouble(7.5), None, 1.5, float("nan"), b"7", (7,)])
def test_what_is_no_id_is_unknown(odd: Any) -> None:
    with unchecked():
        assert ItemIds([7, 8]).number(odd) is None
        with pytest.raises(InputTypeError, match="^an id must be a string or a whole number"):
            ItemIds([7, 8]).number(torch.tensor([7, 8]))  # type: ignore[arg-type]
