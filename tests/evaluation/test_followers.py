"""Followers against loops over users and items, alone and as a bonus on a model's scores."""

from __future__ import annotations

import inspect
import itertools
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Tensor

from latentloop import baselines, followers
from latentloop.backbones.sasrec import SASRec
from latentloop.baselines import followers as rank_by_followers
from latentloop.baselines import followers_ranks, popularity
from latentloop.data.interactions import Interactions
from latentloop.data.splits import leave_one_out
from latentloop.data.synthetic import synthetic_log
from latentloop.errors import InputError, InputTypeError
from latentloop.evaluation import evaluate, ranks, weighted_ranks
from latentloop.followers import WEIGHTS, Followers
from latentloop.recipes import build_recommender
from tests.core.worlds import unchecked
from tests.evaluation.worlds import WholeNumbers, naive_counts, pasts, random_split


def naive_followers(split, *, window: int, decay: float) -> dict[int, dict[int, float]]:
    """n(b | a) of everything but each user's last two items."""
    found: dict[int, dict[int, float]] = {}
    for past, _ in pasts(split, 2):
        for place, item in enumerate(past):
            for distance, later in enumerate(past[place + 1 : place + 1 + window]):
                row = found.setdefault(item, {})
                row[later] = row.get(later, 0.0) + decay**distance
    return found


def naive_history(
    counts: dict[int, dict[int, float]], history: list[int], newest: int, fade: float
) -> dict[int, float]:
    """n(b) of one history."""
    found: dict[int, float] = {}
    for age, item in enumerate(history[::-1][:newest]):
        for later, count in counts.get(item, {}).items():
            found[later] = found.get(later, 0.0) + fade**age * count
    return {item: count for item, count in found.items() if count > 0}


# powers of two, so that sums are exact in any order and ties are the same
SHARES = st.sampled_from([0.0, 0.25, 0.5, 1.0])


@example(seed=1, window=3, newest=4, decay=0.0, fade=0.5, entries=7, dense=0)
@example(seed=1, window=3, newest=4, decay=0.5, fade=0.0, entries=7, dense=0)
@given(
    seed=st.integers(0, 2**20), window=st.integers(1, 4), newest=st.integers(1, 6), decay=SHARES, fade=SHARES,
    entries=st.sampled_from([1, 7, 1 << 23]), dense=st.sampled_from([0, 8, 10**6]),
)  # fmt: skip
def test_counts_equal_a_loop(
    seed: int, window: int, newest: int, decay: float, fade: float, entries: int, dense: int
) -> None:
    split = random_split(seed)
    counted = Followers.of(split, window=window, decay=decay, newest=newest, fade=fade)
    assert bool((counted.counts > 0).all())
    wanted = naive_followers(split, window=window, decay=decay)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(followers, "_ENTRIES", entries)  # a few rows at a time
        patch.setattr(followers, "_DENSE", dense)
        row, item, count = counted.counted(split.test.history(torch.arange(len(split.test))))
    found: list[dict[int, float]] = [{} for _ in range(len(split.test))]
    for r, i, c in zip(row.tolist(), item.tolist(), count.tolist(), strict=True):
        assert i not in found[r]
        found[r][i] = c
    length = split.max_length
    assert found == [naive_history(wanted, past[-length:], newest, fade) for past, _ in pasts(split, 1)]


@given(seed=st.integers(0, 2**20), exclude=st.booleans(), rows=st.sampled_from([1, 3, 4096]))
def test_ranks_equal_a_loop_over_users_and_items(seed: int, exclude: bool, rows: int) -> None:
    split = random_split(seed)
    counted = Followers.of(split, window=2, decay=0.5, newest=3, fade=0.5)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(baselines, "_ROWS", rows)
        found = followers_ranks(split.test, counted, exclude_history=exclude)
    counts, wanted = naive_followers(split, window=2, decay=0.5), []
    for past, target in pasts(split, 1):
        scores = naive_history(counts, past, 3, 0.5)
        row = [scores.get(item, 0.0) for item in range(1, split.num_items + 1)]
        wanted.append(naive_counts(row, target, past if exclude else []))
    assert list(zip(found.greater.tolist(), found.ties.tolist(), strict=True)) == wanted


@given(seed=st.integers(0, 2**20), exclude=st.booleans(), weight=st.sampled_from([0.0, 0.3, 5.0]))
def test_a_bonus_is_added_to_the_scores(seed: int, exclude: bool, weight: float) -> None:
    split = random_split(seed)
    model = WholeNumbers(split.num_items).eval()
    bonus = Followers.of(split, window=2, decay=0.5, fade=0.5, weight=weight)
    depth = model.inference_depth
    found = ranks(model, split.test, depths=[depth], exclude_history=exclude, bonus=bonus)[depth]
    everyone = torch.arange(len(split.test))
    history = split.test.history(everyone)
    scores = model.queries(model.think(history, depth=depth).steps[-1]) @ model.keys().T
    counts = naive_followers(split, window=2, decay=0.5)
    wanted = []
    for place, (past, target) in enumerate(pasts(split, 1)):
        extra = naive_history(counts, past, 10, 0.5)
        row = scores[place].clone()
        for item, count in extra.items():
            row[item - 1] += weight * torch.log1p(torch.tensor(count))
        wanted.append(naive_counts(row.tolist(), target, past if exclude else []))
    assert list(zip(found.greater.tolist(), found.ties.tolist(), strict=True)) == wanted


@pytest.mark.parametrize("weight", [0.5, 50.0])
def test_recommending_adds_what_was_evaluated_of_a_past_longer_than_the_model_reads(weight: float) -> None:
    data = synthetic_log(30, 20, seed=4)
    split = leave_one_out(data, max_length=2)
    model = build_recommender(SASRec(pre_layers=1, core_layers=1), split.num_items, dim=8, max_length=2)
    bonus = Followers.of(split, weight=weight)
    found = ranks(model, split.test, depths=[3], exclude_history=True, bonus=bonus)[3]
    everyone = torch.arange(len(split.test))
    items, offsets = split.test.past(everyone)
    assert int(offsets.diff().max()) > 2
    histories = [part.tolist() for part in items.tensor_split(offsets[1:-1])]
    names = [[data.item_ids[item - 1] for item in history] for history in histories]
    lists = model.recommend(names, data=data, k=split.num_items, depth=3, bonus=bonus).items
    targets = split.test.target(everyone).tolist()
    told = [place for place, each in enumerate(targets) if each not in histories[place] and not found.ties[place]]
    assert len(told) > 15
    for place in told:
        assert lists[place].index(data.item_ids[targets[place] - 1]) == int(found.greater[place])


def test_a_bonus_that_says_how_far_back_it_reads_is_given_no_more() -> None:
    class Asked:
        newest = 3

        def __init__(self) -> None:
            self.shapes: list[tuple[int, ...]] = []

        def __call__(self, history: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            self.shapes.append(tuple(history.shape))
            nothing = torch.zeros(0, dtype=torch.int64)
            return nothing, nothing, nothing.float()

    data = synthetic_log(30, 20, seed=4)
    split, asked = leave_one_out(data, max_length=2), Asked()
    model = build_recommender(SASRec(pre_layers=1, core_layers=1), split.num_items, dim=8, max_length=2)
    ranks(model, split.test, depths=[1], bonus=asked)
    model.recommend(users=list(data.user_ids), data=data, k=3, bonus=asked)
    assert asked.shapes == [(30, 3), (30, 3)]
    asked.newest = 0
    with pytest.raises(InputError, match="^newest of a bonus must be a whole number of at least 1, got 0"):
        ranks(model, split.test, depths=[1], bonus=asked)


def test_the_weight_is_the_best_on_validation_and_the_smallest_of_equal_ones() -> None:
    split = random_split(3)
    model, counted = WholeNumbers(split.num_items), Followers.of(split)
    weights = (0.0, 1.0, 50.0, 5000.0)
    reached = {
        weight: evaluate(model, split.validation, bonus=replace(counted, weight=weight)).metrics["ndcg@5"]
        for weight in weights
    }
    best = max(reached.values())
    assert len(set(reached.values())) > 1
    chosen = counted.tuned(model, split.validation, weights=weights[::-1], metric="ndcg@5")
    assert chosen.weight == min(weight for weight in weights if reached[weight] == best)
    assert torch.equal(chosen.counts, counted.counts)


@given(seed=st.integers(0, 2**20), exclude=st.booleans())
def test_all_weights_are_ranked_as_one_by_one_from_one_run(seed: int, exclude: bool) -> None:
    split = random_split(seed)
    model, counted, weights = WholeNumbers(split.num_items), Followers.of(split), (0.0, 0.5, 3.0)
    options: dict[str, Any] = {"depths": [1, 2], "exclude_history": exclude}
    found = weighted_ranks(model, split.test, bonus=counted, weights=weights, **options)
    assert model.runs == [2]
    assert list(found) == list(weights)
    for weight, by_depth in found.items():
        alone = ranks(model, split.test, bonus=replace(counted, weight=weight), **options)
        for depth, wanted in alone.items():
            assert torch.equal(by_depth[depth].greater, wanted.greater)
            assert torch.equal(by_depth[depth].ties, wanted.ties)


def test_a_choice_ranks_as_it_is_told_to() -> None:
    """Depth, history and the metric decide; the weight that was there before does not."""
    chosen = set()
    for seed, exclude, depth in itertools.product(range(8), (False, True), (1, 2)):
        split = random_split(seed)
        model, counted, weights = WholeNumbers(split.num_items), Followers.of(split), (0.0, 0.5, 2.0, 8.0)
        reached = {}
        for weight in weights:
            options: dict[str, Any] = {"depth": depth, "exclude_history": exclude}
            found = evaluate(model, split.validation, bonus=replace(counted, weight=weight), **options)
            reached[weight] = found.metrics["ndcg@10"]
        wanted = min(weight for weight in weights if reached[weight] == max(reached.values()))
        for before in (1.0, 5.0):
            options = {"depth": depth, "exclude_history": exclude, "batch_size": 7}
            got = replace(counted, weight=before).tuned(model, split.validation, weights=weights, **options)
            assert got.weight == wanted
        if not exclude and depth == model.inference_depth:
            assert counted.tuned(model, split.validation, weights=weights).weight == wanted
        chosen.add((seed, exclude, depth, wanted))
    by_seed = [{(e, d): w for s, e, d, w in chosen if s == seed} for seed in range(8)]
    assert any(found[False, 2] != found[True, 2] for found in by_seed)
    assert any(found[False, 1] != found[False, 2] for found in by_seed)


def test_what_results_were_made_with_is_what_nobody_has_to_say() -> None:
    split = random_split(3)
    counted = Followers.of(split)
    told = Followers.of(split, window=5, decay=0.7, newest=10, fade=0.3, weight=1.0, most=4096)
    assert (told.newest, told.fade, told.weight) == (counted.newest, counted.fade, counted.weight)
    bare = Followers(counted.offsets, counted.items, counted.counts)
    assert (bare.newest, bare.fade, bare.weight, bare.item_ids) == (10, 0.3, 1.0, None)
    assert WEIGHTS == (0, 0.5, 1, 2, 4, 8, 16, 32, 64)
    assert inspect.signature(Followers.of).parameters["most"].default == 4096
    # ten items are counted: 2..6 follow 1, nothing follows 10
    counted = Followers.of(leave_one_out(Interactions.of([1] * 12, [*range(1, 11), 1, 1]), 5))
    assert counted.offsets.tolist() == [0, 0, 5, 10, 15, 20, 25, 29, 32, 34, 35, 35]
    assert counted.items[:5].tolist() == [2, 3, 4, 5, 6]


def test_counts_are_added_up_in_double_precision() -> None:
    """One user takes two items in turn: 2 follows 1 at distances 1, 3 and 5, 50,000 times."""
    times = 50_000
    split = leave_one_out(Interactions.of([1] * (2 * times + 2), [1, 2] * (times + 1)), 5)
    counted = Followers.of(split)
    wanted = [sum(n * 0.7 ** (d - 1) for d, n in ((1, times), (3, times - 1), (5, times - 2)))]
    place = counted.offsets[1] + counted.items[counted.offsets[1] : counted.offsets[2]].tolist().index(2)
    assert counted.counts[place] == torch.tensor(wanted).float()
    _, item, count = counted.counted(torch.tensor([[1] * 5]))
    total = float(counted.counts[place]) * sum(0.3**age for age in range(5))
    assert count[item == 2] == torch.tensor(total).float()


def test_counts_move_as_one_and_none_are_asked_for_nothing() -> None:
    counted = Followers.of(random_split(3))
    moved = counted.to("meta")
    assert {part.device.type for part in (moved.offsets, moved.items, moved.counts)} == {"meta"}
    row, item, count = counted.counted(torch.zeros(0, 4, dtype=torch.int64))
    assert row.shape == item.shape == count.shape == (0,)
    assert row.dtype == item.dtype == torch.int64 and count.dtype == torch.float32


@given(seed=st.integers(0, 2**20), most=st.integers(1, 3))
def test_the_most_frequent_followers_are_kept(seed: int, most: int) -> None:
    split = random_split(seed)
    counted = Followers.of(split, window=2, decay=0.5, most=most)
    for item, row in naive_followers(split, window=2, decay=0.5).items():
        kept = counted.items[counted.offsets[item] : counted.offsets[item + 1]].tolist()
        assert sorted(map(row.get, kept)) == sorted(row.values())[-most:]
        assert kept == sorted(kept)


def test_fresh_start_states_are_the_same_for_every_weight() -> None:
    """Weights that change nothing are equal, so the smallest of them is chosen."""
    split = leave_one_out(synthetic_log(num_users=60, num_items=30, seed=1), 5)
    model = build_recommender(
        SASRec(1, 1, heads=1, inner=8), split.num_items, dim=8, max_length=5, inference_state="fresh", dropout=0.0
    )
    for seed in range(4):
        torch.manual_seed(seed)
        assert Followers.of(split).tuned(model, split.validation, weights=(0.0, 1e-12, 2e-12)).weight == 0


def test_the_protocol_says_what_was_added() -> None:
    split = random_split(3)
    result = evaluate(WholeNumbers(split.num_items), split.test, bonus=Followers.of(split, weight=2.5))
    assert result.protocol.bonus == "followers * 2.5" and "plus followers * 2.5" in str(result.protocol)
    assert evaluate(WholeNumbers(split.num_items), split.test).protocol.bonus is None
    named = evaluate(WholeNumbers(split.num_items), split.test, bonus=nothing)
    assert named.protocol.bonus == "nothing"


def nothing(history: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return torch.empty(0, dtype=torch.int64), torch.empty(0, dtype=torch.int64), torch.empty(0)


def test_a_chain_is_known_by_counting() -> None:
    split = leave_one_out(synthetic_log(num_users=200, num_items=40, seed=1), 10)
    found = rank_by_followers(split, split.test, name="test", data="abc")
    assert found.protocol.stage == "Followers" and found.protocol.depth is None
    assert found.metrics["ndcg@10"] > 1.3 * popularity(split, split.test).metrics["ndcg@10"]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"window": 0}, "window must be a whole number of at least 1, got 0"),
        ({"decay": 1.5}, "decay must be at most 1, got 1.5"),
        ({"fade": -0.1}, "fade must be a finite number of at least 0, got -0.1"),
        ({"most": 0}, "^most must be a whole number of at least 1, got 0"),
        ({"newest": 0}, "newest must be a whole number of at least 1, got 0"),
        ({"weight": math.inf}, "weight must be a finite number of at least 0, got inf"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, float], said: str) -> None:
    with pytest.raises(InputError, match=said):
        Followers.of(random_split(2), **settings)


def test_settings_are_kept_as_plain_numbers() -> None:
    found = replace(Followers.of(leave_one_out(synthetic_log(num_users=30, num_items=20, seed=0), 5)))
    with unchecked():
        again = replace(found, newest=np.int64(3))  # type: ignore[arg-type]
    assert type(again.newest) is int
    assert again.newest == 3
    assert vars(again).keys() == vars(found).keys()


def test_only_a_split_is_counted() -> None:
    with unchecked(), pytest.raises(InputTypeError, match=r"^split must be a split, .*, got Interactions$"):
        Followers.of(synthetic_log(num_users=9, num_items=20, seed=0))  # type: ignore[arg-type]


def test_counts_of_another_catalog_are_refused() -> None:
    few, many = random_split(1, items=5), random_split(1, items=30)
    with pytest.raises(InputError, match="bonus: of a catalog of 5 items, but the model knows 30"):
        followers_ranks(many.test, Followers.of(few))
    with pytest.raises(InputError, match="bonus: of a catalog of 5 items, but the model knows 30"):
        evaluate(WholeNumbers(30), many.test, bonus=Followers.of(few))
    for wrong in (-1, 6):
        with pytest.raises(InputError, match=rf"history must hold item ids 0\.\.5, got {wrong}"):
            Followers.of(few)(torch.tensor([[wrong, 0]]))
    with pytest.raises(InputError, match="weights: none given"):
        Followers.of(few).tuned(WholeNumbers(5), few.validation, weights=())
    with pytest.raises(InputError, match="weights must be a finite number of at least 0, got -1"):
        Followers.of(few).tuned(WholeNumbers(5), few.validation, weights=(1.0, -1.0))
    for weights in ((0.0, 1e39), (3e38, 1.0)):
        with pytest.raises(InputError, match="bonus: scores must be finite"):
            Followers.of(few).tuned(WholeNumbers(5), few.validation, weights=weights)


def test_counts_of_another_numbering_are_refused() -> None:
    split = random_split(2)
    swapped = [2, 1, *range(3, split.num_items + 1)]
    assert list(Followers.of(split).item_ids or ()) == list(split.item_ids)
    other = replace(Followers.of(split), item_ids=swapped)
    with pytest.raises(InputError, match="bonus: item 1 is 2 there and 1 in the model"):
        evaluate(WholeNumbers(split.num_items), split.test, bonus=other)
    with pytest.raises(InputError, match="bonus: item 1 is 2 there"):
        followers_ranks(split.test, other)
    same = replace(other, item_ids=[f"item {number}" for number in range(split.num_items)])  # other names of the same
    assert evaluate(WholeNumbers(split.num_items), split.test, bonus=same).protocol.bonus == "followers * 1"
