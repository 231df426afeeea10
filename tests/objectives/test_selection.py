"""Selection keeps what at least one of the trials reaches."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from latentloop.data.sequences import Samples, Sequences
from latentloop.errors import InputError
from latentloop.objectives import select
from latentloop.randomness import fold, row_keys
from latentloop.recommender import Recommender
from tests.core.worlds import unchecked
from tests.objectives.worlds import LENGTH, NUM_ITEMS, recommender, seeds


def samples_of(seed: int) -> Samples:
    """Every prefix of some users, with sample numbers that are not their positions."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(2, 7, int(rng.integers(2, 5)))
    offsets = np.concatenate([[0], lengths.cumsum()])
    items = torch.from_numpy(rng.integers(1, NUM_ITEMS + 1, int(offsets[-1]))).int()
    ends = [(user, end) for user in range(len(lengths)) for end in range(offsets[user] + 1, offsets[user + 1])]
    user, end = torch.tensor(ends).T.contiguous()
    rows = torch.from_numpy(rng.choice(500, len(ends), replace=False))
    return Samples(Sequences(items, torch.from_numpy(offsets), NUM_ITEMS), user, end, LENGTH, rows)


def naive(model: Recommender, samples: Samples, cut: int, trials: int, key: int, depth: int | None = None) -> list[int]:
    kept = []
    for place, row in enumerate(samples.rows.tolist()):
        index = torch.tensor([place])
        target = int(samples.target(index)) - 1
        for trial in range(trials):
            state = row_keys(fold(key, "trial", trial), torch.tensor([row]))
            final = model.think(samples.history(index), depth=depth, state_keys=state).final[0]
            scores = (model.item_table.weight[1:] @ final).tolist()
            if sum(score > scores[target] for score in scores) < cut:
                kept.append(row)
                break
    return kept


@given(
    seed=seeds,
    cut=st.integers(1, NUM_ITEMS),
    trials=st.integers(1, 4),
    batch_size=st.integers(1, 30),
    depth=st.sampled_from([None, 1, 5]),
)
def test_it_is_the_naive_loop(seed: int, cut: int, trials: int, batch_size: int, depth: int | None) -> None:
    model, samples = recommender(seed), samples_of(seed)
    kept = select(model, samples, cut=cut, trials=trials, key=seed, batch_size=batch_size, depth=depth)
    assert kept.rows.tolist() == naive(model.eval(), samples, cut, trials, seed, depth)


def test_a_cut_beyond_the_catalog_keeps_all() -> None:
    model, samples = recommender(1), samples_of(1)
    for cut in (NUM_ITEMS, 10**30):
        assert select(model, samples, cut=cut, key=0).rows.tolist() == samples.rows.tolist()


@pytest.mark.parametrize(("num_items", "reached"), [(199, True), (201, False)])
def test_three_trials_have_a_hundred_places_each_unless_told_otherwise(num_items: int, reached: bool) -> None:
    model, samples = recommender(2, num_items=num_items), samples_of(2)
    with torch.no_grad():
        model.item_table.weight.zero_()  # all tie, so each rank is the middle one: 100 of 199, 101 of 201
    thought: list[int] = []
    model.encoder.core_block.register_forward_pre_hook(lambda _, inputs: thought.append(len(inputs[0])))
    assert len(select(model, samples, key=0)) == reached * len(samples)
    assert set(thought) == {3 * len(samples)}


def test_modes_and_generators_are_as_before() -> None:
    model, samples = recommender(0), samples_of(0)
    model.encoder.pre_block.eval()
    before, state = [part.training for part in model.modules()], torch.get_rng_state()
    select(model, samples, cut=3, key=1)
    assert [part.training for part in model.modules()] == before
    assert torch.equal(torch.get_rng_state(), state)


def test_more_trials_and_wider_cuts_never_keep_less() -> None:
    model, samples = recommender(1), samples_of(1)
    kept = {
        (cut, trials): set(select(model, samples, cut=cut, trials=trials, key=4).rows.tolist())
        for cut in (1, 3, NUM_ITEMS)
        for trials in (1, 3)
    }
    assert kept[1, 1] <= kept[1, 3] <= kept[3, 3]
    assert kept[3, 1] <= kept[3, 3]
    assert kept[NUM_ITEMS, 1] == set(samples.rows.tolist())
    assert kept[3, 1] < kept[3, 3]  # the trials do differ


def test_a_model_that_ties_everything_reaches_the_middle() -> None:
    model, samples = recommender(2), samples_of(2)
    with torch.no_grad():
        model.item_table.weight.zero_()
    assert len(select(model, samples, cut=(NUM_ITEMS + 1) // 2, key=0)) == len(samples)
    assert len(select(model, samples, cut=(NUM_ITEMS - 1) // 2, key=0)) == 0


def test_a_bare_block_and_no_samples() -> None:
    model, samples = recommender(3, loop=False), samples_of(3)
    once, thrice = (select(model, samples, cut=5, trials=trials, key=0) for trials in (1, 3))
    assert torch.equal(once.rows, thrice.rows)
    nothing = samples.select(torch.zeros(len(samples), dtype=torch.bool))
    assert len(select(model, nothing, key=0)) == 0


@pytest.mark.parametrize("name", ["cut", "trials", "batch_size"])
def test_mistakes_are_named(name: str) -> None:
    with unchecked(), pytest.raises(InputError, match=f"^{name} must be a whole number of at least 1, got 0"):
        select(recommender(0), samples_of(0), key=0, **{name: 0})
