"""Expected metrics over ties against averages over every order of the tied items."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from latentloop.errors import InputError
from latentloop.measures.metrics import (
    Metric,
    Ranks,
    as_cutoff,
    metric_names,
    metric_table,
    mrr,
    ndcg,
    parse_metric,
    recall,
)
from tests.inputs.worlds import unchecked


def ranks_of(pairs: list[tuple[int, int]]) -> Ranks:
    return Ranks(torch.tensor([g for g, _ in pairs]), torch.tensor([t for _, t in pairs]))


def place_gains(kind: str, cutoff: int | None, place: int) -> float:
    if kind == "mrr":
        return 1 / place
    if place > cutoff:
        return 0.0
    return 1.0 if kind == "recall" else 1 / math.log2(place + 1)


def over_all_orders(kind: str, cutoff: int | None, greater: int, ties: int) -> float:
    """Sort the candidates in every order of the tied ones and look where the target came."""
    tied = ["target", *(f"other {i}" for i in range(ties))]
    values = []
    for order in itertools.permutations(tied):
        ranking = [f"better {i}" for i in range(greater)] + list(order)
        values.append(place_gains(kind, cutoff, ranking.index("target") + 1))
    return sum(values) / len(values)


@given(
    pairs=st.lists(st.tuples(st.integers(0, 12), st.integers(0, 5)), min_size=1, max_size=6),
    cutoff=st.integers(1, 25),
)
def test_metrics_equal_the_mean_over_every_order_of_ties(pairs: list[tuple[int, int]], cutoff: int) -> None:
    ranks = ranks_of(pairs)
    for kind, found in (("recall", recall(ranks, cutoff)), ("ndcg", ndcg(ranks, cutoff)), ("mrr", mrr(ranks))):
        wanted = torch.tensor([over_all_orders(kind, cutoff, *pair) for pair in pairs], dtype=torch.float64)
        torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-15)


@given(greater=st.integers(0, 3000), ties=st.integers(0, 3000), cutoff=st.integers(1, 10_000))
def test_metrics_equal_the_mean_over_places_at_the_size_of_catalogs(greater: int, ties: int, cutoff: int) -> None:
    ranks = ranks_of([(greater, ties), (0, 0)])
    for kind, found in (("recall", recall(ranks, cutoff)), ("ndcg", ndcg(ranks, cutoff)), ("mrr", mrr(ranks))):
        places = range(greater + 1, greater + ties + 2)
        wanted = math.fsum(place_gains(kind, cutoff, place) for place in places) / len(places)
        assert float(found[0]) == pytest.approx(wanted, rel=1e-9, abs=1e-15)
        assert float(found[1]) == 1.0


@given(items=st.integers(1, 500))
def test_a_constant_scorer_gets_chance_level_exactly(items: int) -> None:
    ranks = ranks_of([(0, items - 1)] * 4)
    assert recall(ranks, 10).tolist() == [min(10, items) / items] * 4
    assert metric_table(ranks, cutoffs=(10,))["recall@10"] == min(10, items) / items


def test_without_ties_the_textbook_values_come_exactly() -> None:
    ranks = ranks_of([(0, 0), (1, 0), (9, 0), (10, 0), (999_999, 0)])
    assert recall(ranks, 10).tolist() == [1, 1, 1, 0, 0]
    assert ndcg(ranks, 10).tolist() == [1.0, 1 / math.log2(3), 1 / math.log2(11), 0.0, 0.0]
    assert mrr(ranks).tolist() == [1.0, 0.5, 0.1, 1 / 11, 1e-6]


def test_a_cutoff_beyond_all_places_needs_no_memory_of_its_size() -> None:
    ranks = ranks_of([(3, 2), (0, 1)])
    assert recall(ranks, 10**15).tolist() == [1.0, 1.0]
    torch.testing.assert_close(ndcg(ranks, 10**15), ndcg(ranks, 6), rtol=0, atol=0)


def test_the_table_names_every_metric_in_order_and_takes_means() -> None:
    table = metric_table(ranks_of([(0, 0), (7, 0)]))
    assert list(table) == ["recall@5", "ndcg@5", "recall@10", "ndcg@10", "recall@20", "ndcg@20", "mrr"]
    assert table["recall@5"] == 0.5
    assert table["recall@10"] == 1.0
    assert table["ndcg@10"] == pytest.approx((1 + 1 / math.log2(9)) / 2)
    assert table["mrr"] == pytest.approx((1 + 1 / 8) / 2)


@given(cutoffs=st.lists(st.integers(1, 10**6), max_size=4, unique=True))
def test_names_parse_back(cutoffs: list[int]) -> None:
    names = metric_names(cutoffs)
    assert len(names) == 2 * len(cutoffs) + 1
    assert [str(parse_metric(name)) for name in names] == list(names)
    assert [parse_metric(name).cutoff for name in names[:-1:2]] == cutoffs


def test_a_parsed_metric_computes_what_it_names() -> None:
    ranks = ranks_of([(2, 0), (30, 1)])
    assert parse_metric("recall@3") == Metric("recall", 3)
    assert parse_metric("recall@3")(ranks).tolist() == [1.0, 0.0]
    assert parse_metric("ndcg@3")(ranks).tolist() == [0.5, 0.0]
    assert parse_metric("mrr")(ranks).tolist() == pytest.approx([1 / 3, (1 / 31 + 1 / 32) / 2])


@pytest.mark.parametrize("name", ["recall", "ndcg@0", "recall@-1", "mrr@10", "ndcg@10 ", "hit@5", "recall@1e3", ""])
def test_other_names_are_refused_in_one_line(name: str) -> None:
    with pytest.raises(InputError, match="metric must be") as caught:
        parse_metric(name)
    assert "\n" not in str(caught.value)


def test_the_largest_cutoff_is_what_64_bits_count() -> None:
    assert as_cutoff("k", 2**62) == 2**62
    with pytest.raises(InputError, match=f"^k must be at most {2**62}, got {2**62 + 1}$"):
        as_cutoff("k", 2**62 + 1)
    assert parse_metric(f"ndcg@{2**62}").cutoff == 2**62
    with pytest.raises(InputError, match="^the metric's K must be at most"):
        parse_metric(f"ndcg@{2**62 + 1}")
    with unchecked(), pytest.raises(InputError, match="^metric must be .* got 10$"):
        parse_metric(10)  # type: ignore[arg-type]


@pytest.mark.parametrize("cutoff", [0, -5, True])
def test_cutoffs_below_one_are_refused(cutoff: int) -> None:
    ranks = ranks_of([(0, 0)])
    for call in (lambda: recall(ranks, cutoff), lambda: ndcg(ranks, cutoff), lambda: metric_table(ranks, (5, cutoff))):
        with pytest.raises(InputError, match="cutoffs? must be"):
            call()


def test_no_samples_have_no_mean_but_empty_columns() -> None:
    empty = Ranks(torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.int64))
    assert recall(empty, 5).shape == ndcg(empty, 5).shape == mrr(empty).shape == (0,)
    with pytest.raises(InputError, match="no samples"):
        metric_table(empty)


def test_select_takes_positions_and_masks() -> None:
    ranks = ranks_of([(0, 1), (2, 3), (4, 5)])
    assert ranks.select(torch.tensor([2, 0])).greater.tolist() == [4, 0]
    assert ranks.select(torch.tensor([False, True, True])).ties.tolist() == [3, 5]
