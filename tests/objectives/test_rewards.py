"""Rewards are expectations over the order of ties; advantages are z-scores within the group."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from latentloop.errors import InputError, InputTypeError
from latentloop.objectives import NDCGReward, RecallReward, advantages
from latentloop.objectives.rewards import check_reward, earned
from tests.core.worlds import unchecked
from tests.objectives.worlds import seeds


@given(greater=st.integers(0, 30), ties=st.integers(0, 30), k=st.integers(1, 20))
def test_rewards_are_means_over_the_tied_ranks(greater: int, ties: int, k: int) -> None:
    ranks = range(greater + 1, greater + ties + 2)
    recall = sum(rank <= k for rank in ranks) / len(ranks)
    ndcg = sum(1 / math.log2(rank + 1) for rank in ranks if rank <= k) / len(ranks)
    place = torch.tensor([[greater, 0]]), torch.tensor([[ties, 0]])
    assert RecallReward(k)(*place).tolist() == [[pytest.approx(recall, rel=1e-12, abs=1e-15), 1]]
    assert NDCGReward(k)(*place).tolist() == [[pytest.approx(ndcg, rel=1e-12, abs=1e-15), 1]]


def test_ten_places_are_rewarded_unless_told_otherwise() -> None:
    greater, ties = torch.tensor([9, 10]), torch.tensor([0, 0])
    assert RecallReward()(greater, ties).tolist() == [1.0, 0.0]
    assert NDCGReward()(greater, ties).tolist() == [pytest.approx(1 / math.log2(11)), 0.0]
    assert (repr(RecallReward()), repr(NDCGReward(3))) == ("RecallReward(10)", "NDCGReward(3)")


@given(seed=seeds, groups=st.integers(1, 5), size=st.integers(2, 9), scale=st.sampled_from([1e-300, 1.0, 1e300]))
def test_advantages_are_the_populations_z_scores(seed: int, groups: int, size: int, scale: float) -> None:
    rewards = np.random.default_rng(seed).normal(size=(groups, size))
    found = advantages(torch.from_numpy(rewards * scale))
    expected = (rewards - rewards.mean(1, keepdims=True)) / rewards.std(1, keepdims=True)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(found.sum(1).numpy(), 0, atol=1e-12)


def test_advantages_survive_any_offset_and_any_mix_of_scales() -> None:
    rewards = [[1e16, 1e16 + 2, 1e16 + 6], [1e300, -1e300, 5e299], [1e-300, 2e-300, 4e-300], [1.7e308, -1.7e308, 1e308]]
    found = advantages(torch.tensor([*rewards, [0.1, 0.2, 0.7]], dtype=torch.float64))
    for row, ours in zip([*rewards, [0.1, 0.2, 0.7]], found.tolist(), strict=True):
        exact = [Fraction(value) for value in row]
        away = [value - sum(exact) / 3 for value in exact]
        scaled = [value / max(map(abs, away)) for value in away]
        spread = math.sqrt(sum(value**2 for value in scaled) / 3)
        assert ours == pytest.approx([float(value) / spread for value in scaled], rel=1e-12)


@given(value=st.floats(-1e6, 1e6), size=st.integers(1, 9))
def test_ties_and_groups_of_one_have_no_advantage(value: float, size: int) -> None:
    rewards = torch.full((2, size), value, dtype=torch.float64)
    rewards[1] = torch.linspace(0, 1, size)
    found = advantages(rewards)
    assert torch.equal(found[0], torch.zeros(size, dtype=torch.float64))
    assert bool((found[1] != 0).any()) == (size > 1)


def test_one_hit_among_four() -> None:
    expected = [math.sqrt(3), *[-1 / math.sqrt(3)] * 3]
    assert advantages(torch.tensor([[1.0, 0, 0, 0]]))[0].tolist() == pytest.approx(expected)


def test_mistakes_are_named() -> None:
    with unchecked():
        for bad in (math.nan, math.inf):
            with pytest.raises(InputError, match="^rewards must be finite"):
                advantages(torch.tensor([[1.0, bad]]))
        with pytest.raises(InputError, match=r"^rewards must be .* got \(3,\)"):
            advantages(torch.zeros(3))
        with pytest.raises(InputError, match=r"^rewards must be .* got \(3, 0\)"):
            advantages(torch.zeros(3, 0))
        for make in (RecallReward, NDCGReward):
            with pytest.raises(InputError, match="^k must be a whole number of at least 1, got 0"):
                make(0)
            with pytest.raises(InputError, match="^k must be at most"):
                make(10**30)


@pytest.mark.parametrize("reward", [RecallReward(2**62), NDCGReward(2**62)])
def test_a_cut_beyond_the_catalog_costs_nothing(reward: RecallReward | NDCGReward) -> None:
    greater = torch.tensor([0, 6])
    assert (reward(greater, torch.zeros_like(greater)) > 0).all()


def test_ranks_of_any_shape() -> None:
    def places(*shape: int) -> Tensor:
        return torch.arange(math.prod(shape)).view(shape)

    for reward in (RecallReward(3), NDCGReward(3)):
        flat = reward(places(12), places(12) % 3)
        assert torch.equal(reward(places(3, 4), (places(12) % 3).view(3, 4)), flat.view(3, 4))


def test_rewards_are_shown_as_they_are_made() -> None:
    assert (repr(RecallReward(10)), repr(NDCGReward(k=5))) == ("RecallReward(10)", "NDCGReward(5)")


@pytest.mark.parametrize("rows", [1, 3])
def test_what_a_reward_earns_is_checked(rows: int) -> None:
    greater, ties = torch.arange(2 * rows).view(rows, 2), torch.zeros(rows, 2, dtype=torch.int64)
    given = earned(lambda greater, ties: (greater + ties).half(), greater, ties)
    assert given.dtype == torch.float64 and torch.equal(given, greater.double())
    for reward, found in (
        (lambda greater, ties: greater[:, :1], rf"got \({rows}, 1\)"),
        (lambda greater, ties: 1, "got int"),
    ):
        with unchecked(), pytest.raises(InputError, match=rf"^reward must return a tensor \({rows}, 2\) .*{found}$"):
            earned(reward, greater, ties)


def test_a_reward_is_tried_before_anything_is_trained() -> None:
    seen = []

    def reward(greater: torch.Tensor, ties: torch.Tensor) -> torch.Tensor:
        seen.append((greater, ties))
        return greater + ties

    check_reward(reward, 3, torch.device("cpu"))
    ((greater, ties),) = seen
    assert greater.dtype == ties.dtype == torch.int64 and greater.shape[1] == ties.shape[1] == 3
    assert not bool(greater.any()) and not bool(ties.any()) and greater is not ties
    with unchecked(), pytest.raises(InputTypeError, match=r"^reward must be a callable of \(greater, ties\): too many"):
        check_reward(lambda greater: greater, 3, torch.device("cpu"))  # type: ignore[arg-type, misc]
    with unchecked(), pytest.raises(InputError, match="^reward must return a tensor"):
        check_reward(lambda greater, ties: None, 3, torch.device("cpu"))  # type: ignore[arg-type, return-value]
