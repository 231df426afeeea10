"""Chance and Popularity against loops over users and items."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from latentloop import baselines
from latentloop.baselines import chance, chance_ranks, popularity, popularity_ranks
from latentloop.errors import InputError
from latentloop.evaluation import evaluate
from tests.evaluation.worlds import WholeNumbers, naive_counts, pasts, random_split


def training_counts(split) -> list[int]:
    """Occurrences of items 1..N in everything but each user's last two items."""
    counts = [0] * split.num_items
    for past, _ in pasts(split, 2):
        for item in past:
            counts[item - 1] += 1
    return counts


@given(seed=st.integers(0, 2**20), exclude=st.booleans(), test=st.booleans())
def test_popularity_equals_a_loop_over_users_and_items(seed: int, exclude: bool, test: bool) -> None:
    split = random_split(seed)
    counts, samples = training_counts(split), split.test if test else split.validation
    found = popularity(split, samples, exclude_history=exclude).ranks
    wanted = [naive_counts(counts, target, past if exclude else []) for past, target in pasts(split, 1 if test else 2)]
    assert list(zip(found.greater.tolist(), found.ties.tolist(), strict=True)) == wanted


@given(seed=st.integers(0, 2**20))
def test_chance_among_candidates_equals_a_loop(seed: int) -> None:
    split = random_split(seed)
    wanted = [naive_counts([0] * split.num_items, target, past) for past, target in pasts(split, 1)]
    found = chance_ranks(split.test, exclude_history=True)
    assert list(zip(found.greater.tolist(), found.ties.tolist(), strict=True)) == wanted


@given(items=st.integers(3, 60))
def test_chance_is_the_closed_form(items: int) -> None:
    split = random_split(1, items=items)
    assert split.num_items == items
    metrics = chance(split, split.test).metrics
    for cutoff in (5, 10, 20):
        top = range(1, min(cutoff, items) + 1)
        assert metrics[f"recall@{cutoff}"] == pytest.approx(len(top) / items, rel=1e-13)
        assert metrics[f"ndcg@{cutoff}"] == pytest.approx(sum(1 / math.log2(p + 1) for p in top) / items, rel=1e-13)


def test_histories_are_gathered_a_few_users_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    split = random_split(9)
    whole = popularity_ranks(split.test, split.item_counts, exclude_history=True)
    monkeypatch.setattr(baselines, "_ROWS", 3)
    parts = popularity_ranks(split.test, split.item_counts, exclude_history=True)
    assert torch.equal(whole.greater, parts.greater) and torch.equal(whole.ties, parts.ties)


def test_they_have_the_shape_and_protocol_of_a_model_s_evaluation() -> None:
    split = random_split(2)
    options = {"exclude_history": True, "subgroups": True, "data": "abc"}
    model = evaluate(
        WholeNumbers(split.num_items), split.validation, split="validation", rule=split.protocol,
        item_counts=split.item_counts, **options,
    )  # fmt: skip
    for baseline in (chance, popularity):
        result = baseline(split, split.validation, name="validation", **options)
        assert list(result.metrics) == list(model.metrics)
        assert result.user.tolist() == model.user.tolist()
        assert [(g.by, g.low, g.high, g.size) for g in result.subgroups] == [
            (g.by, g.low, g.high, g.size) for g in model.subgroups
        ]
        assert result.protocol.depth is None and result.per_depth == {}
        for name in ("split", "candidates", "history", "users", "samples", "ties", "rule", "data"):
            assert getattr(result.protocol, name) == getattr(model.protocol, name)


def test_counts_of_another_catalog_are_refused() -> None:
    split = random_split(2)
    with pytest.raises(InputError, match="item_counts must have 10 places"):
        popularity_ranks(split.test, torch.ones(7, dtype=torch.int64))


def test_no_samples_are_refused() -> None:
    split = random_split(2)
    nothing = split.test.select(torch.zeros(len(split.test), dtype=torch.bool))
    for baseline in (chance, popularity):
        with pytest.raises(InputError, match="no samples"):
            baseline(split, nothing)
