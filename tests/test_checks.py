"""Checks of arguments: what is in range comes back, anything else is one line that names it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from latentloop.checks import above_zero, as_deep, at_least, dropout_rate, is_whole, one_of, zero_or_more
from latentloop.errors import InputError


@given(least=st.integers(-3, 3), value=st.integers(-6, 6))
def test_whole_numbers_from_least_on(least: int, value: int) -> None:
    if value >= least:
        assert at_least("rows", value, least) == value
        return
    with pytest.raises(InputError, match=f"^rows must be a whole number of at least {least}, got {value}$"):
        at_least("rows", value, least)


@pytest.mark.parametrize("value", [True, np.True_, np.float64(2), 2.0, "2", None, math.nan])
def test_what_only_looks_like_a_whole_number(value: Any) -> None:
    assert not is_whole(value)
    with pytest.raises(InputError, match="^rows must be a whole number of at least 1, got "):
        at_least("rows", value, 1)


@pytest.mark.parametrize("value", [np.int64(2), np.int32(2), np.uint8(2)])
def test_numpys_whole_numbers_come_back_as_ints(value: Any) -> None:
    assert is_whole(value)
    for found in (at_least("rows", value, 1), as_deep("depth", value)):
        assert type(found) is int and found == 2


@pytest.mark.parametrize("value", [-0.1, 1, 1.5, math.nan, "0.5", None, True])
def test_a_rate_of_dropout_lies_below_1(value: Any) -> None:
    assert (dropout_rate(0), dropout_rate(0.25)) == (0.0, 0.25)
    with pytest.raises(InputError, match=r"^dropout must lie in \[0, 1\), got "):
        dropout_rate(value)


@pytest.mark.parametrize("value", [0.25, 3, np.float32(0.5)])
def test_numbers_in_range_come_back_as_floats(value: Any) -> None:
    for check in (above_zero, zero_or_more):
        found = check("rate", value)
        assert type(found) is float and found == value


@pytest.mark.parametrize("value", [-1, -0.5, math.nan, math.inf, -math.inf, True, "1", None])
def test_numbers_out_of_range(value: Any) -> None:
    with pytest.raises(InputError, match="^rate must be a finite number above 0, got "):
        above_zero("rate", value)
    with pytest.raises(InputError, match="^rate must be a finite number of at least 0, got "):
        zero_or_more("rate", value)


def test_zero_is_in_one_range_only() -> None:
    assert zero_or_more("rate", 0) == 0
    with pytest.raises(InputError, match="above 0, got 0"):
        above_zero("rate", 0)


def test_one_of_a_few() -> None:
    assert one_of("way", "up", ("up", "down")) == "up"
    with pytest.raises(InputError, match="^way must be one of 'up', 'down', got 'left'$"):
        one_of("way", "left", ("up", "down"))
