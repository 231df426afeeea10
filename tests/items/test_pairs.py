"""Pairs of whole numbers against lists of tuples."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from latentloop.items.pairs import Pairs

pairs = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 99)), max_size=20)


def made(given: list[tuple[int, int]]) -> Pairs:
    first, second = torch.tensor(given, dtype=torch.int64).reshape(-1, 2).unbind(1)
    return Pairs(first, second)


def listed(pairs: Pairs) -> list[tuple[int, int]]:
    return list(zip(pairs.first.tolist(), pairs.second.tolist(), strict=True))


@given(pairs)
def test_they_come_in_order_of_the_first_and_keep_theirs_among_equals(given: list[tuple[int, int]]) -> None:
    assert listed(made(given)) == sorted(given, key=lambda pair: pair[0])
    swapped = [(second, first) for first, second in sorted(given, key=lambda pair: pair[0])]
    assert listed(made(given).swapped()) == sorted(swapped, key=lambda pair: pair[0])


@given(pairs, st.integers(0, 9), st.integers(0, 9))
def test_a_range_counts_from_its_start(given: list[tuple[int, int]], start: int, length: int) -> None:
    first, second = made(given).between(start, start + length)
    wanted = [(f - start, s) for f, s in sorted(given, key=lambda pair: pair[0]) if start <= f < start + length]
    assert list(zip(first.tolist(), second.tolist(), strict=True)) == wanted


@given(pairs, st.sets(st.integers(0, 12), min_size=1))
def test_chosen_ones_get_their_place_among_the_chosen(given: list[tuple[int, int]], chosen: set[int]) -> None:
    order = sorted(chosen)
    wanted = [(order.index(f), s) for f, s in sorted(given, key=lambda pair: pair[0]) if f in chosen]
    assert listed(made(given).of(torch.tensor(order))) == wanted


def test_what_is_not_chosen_above_and_below_is_left_out() -> None:
    assert listed(made([(1, 7), (3, 8), (5, 9)]).of(torch.tensor([3]))) == [(0, 8)]
    assert listed(made([(1, 7), (3, 8), (5, 9)]).of(torch.tensor([3, 5]))) == [(0, 8), (1, 9)]
