"""The clipped objective on bare tensors, against loops."""

from __future__ import annotations

import math
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from latentloop.objectives.policy import Ratio, clipped, mean_over_steps, ratios, surrogate, target_kl
from tests.objectives.worlds import seeds

forms = st.sampled_from(get_args(Ratio))


class World:
    """Log-probabilities of k steps and R rollouts, each with its own depth."""

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        steps, rollouts = int(rng.integers(1, 5)), int(rng.integers(1, 7))
        self.new, self.old = (torch.from_numpy(-rng.exponential(size=(steps, rollouts))) for _ in range(2))
        self.old = self.new + (self.old - self.new) / 3
        depths = rng.integers(1, steps + 1, rollouts)
        depths[0] = steps
        self.live = torch.from_numpy(np.arange(1, steps + 1)[:, None] <= depths)
        self.advantage = torch.from_numpy(rng.normal(size=rollouts) * rng.integers(0, 2, rollouts))
        self.clip = float(rng.choice([0.05, 0.2, 0.5]))

    def naive(self, form: Ratio) -> tuple[list[float], list[list[bool]]]:
        """Each rollout's term, and for each of its ratios whether the clip stops it."""
        terms, stops = [], []
        for i, advantage in enumerate(self.advantage.tolist()):
            gaps = [
                float(n - o)
                for n, o, on in zip(self.new[:, i].detach(), self.old[:, i], self.live[:, i], strict=True)
                if on
            ]
            values = [math.exp(sum(gaps))] if form == "joint" else [math.exp(gap) for gap in gaps]
            bounded = [
                min(value * advantage, min(max(value, 1 - self.clip), 1 + self.clip) * advantage) for value in values
            ]
            terms.append(sum(bounded) / len(bounded))
            stops.append(
                [
                    (advantage > 0 and value > 1 + self.clip) or (advantage < 0 and value < 1 - self.clip)
                    for value in values
                ]
            )
        return terms, stops


@given(seed=seeds, form=forms)
def test_the_surrogate_is_its_equation(seed: int, form: Ratio) -> None:
    world = World(seed)
    ratio = ratios(world.new, world.old, world.live, form)
    terms, _ = world.naive(form)
    found = surrogate(ratio, world.advantage, world.live, world.clip)
    assert found.tolist() == pytest.approx(terms, rel=1e-9, abs=1e-12)


@given(seed=seeds, form=forms)
def test_the_gradient_is_zero_exactly_where_clipped(seed: int, form: Ratio) -> None:
    world = World(seed)
    new = world.new.requires_grad_()
    ratio = ratios(new, world.old, world.live, form)
    (grad,) = torch.autograd.grad(surrogate(ratio, world.advantage, world.live, world.clip).sum(), new)
    _, stops = world.naive(form)
    stopped = clipped(ratio, world.advantage, world.clip)
    for i, by_ratio in enumerate(stops):
        live = int(world.live[:, i].sum())
        for step in range(len(new)):
            where = by_ratio[0 if form == "joint" else step] if step < live else True
            moves = float(grad[step, i])
            assert (moves == 0) == (where or float(world.advantage[i]) == 0)
            if moves:  # d (P A) / d log pi, shared by a rollout's steps where the terms are averaged
                share = 1 if form == "joint" else live
                value = float(ratio[0 if form == "joint" else step, i].detach())
                assert moves == pytest.approx(value * float(world.advantage[i]) / share)
        rows = 1 if form == "joint" else live
        assert stopped[:rows, i].tolist() == by_ratio


@pytest.mark.parametrize(("value", "advantage"), [(1.25, 1.0), (0.75, -1.0)])
def test_the_clip_lets_its_own_bounds_through(value: float, advantage: float) -> None:
    ratio = torch.tensor([[value]], requires_grad=True)
    live, gain = torch.ones(1, 1, dtype=torch.bool), torch.tensor([advantage])
    (grad,) = torch.autograd.grad(surrogate(ratio, gain, live, 0.25).sum(), ratio)
    assert grad.item() == advantage
    assert not bool(clipped(ratio, gain, 0.25))


def test_ratios_and_penalties_end_at_e_to_the_80() -> None:
    far, near, live = torch.tensor([[200.0, 79.0]]), torch.zeros(1, 2), torch.ones(1, 2, dtype=torch.bool)
    for form in get_args(Ratio):
        found = ratios(far.double(), near.double(), live, form)[0].tolist()
        assert found == pytest.approx([math.exp(80), math.exp(79)], rel=1e-12)
    penalty = target_kl(near.double(), far.double())[0].tolist()
    assert penalty == pytest.approx([math.exp(80) - 81, math.exp(79) - 80], rel=1e-12)


@pytest.mark.parametrize("form", get_args(Ratio))
def test_a_ratio_beyond_all_numbers_makes_no_nan(form: Ratio) -> None:
    new = torch.tensor([[0.0, 0.0, -900.0, 0.0]], requires_grad=True)
    old = torch.tensor([[-900.0, -900.0, 0.0, -900.0]])
    live = torch.ones(1, 4, dtype=torch.bool)
    advantage = torch.tensor([1.0, -1.0, -1.0, 0.0])
    terms = surrogate(ratios(new, old, live, form), advantage, live, 0.2)
    (grad,) = torch.autograd.grad(terms.sum(), new)
    assert terms.isfinite().all()
    assert terms[[0, 2, 3]].tolist() == pytest.approx([1.2, -0.8, 0.0])
    assert grad.isfinite().all()
    assert grad[0, [0, 2, 3]].tolist() == [0.0, 0.0, 0.0]


@given(seed=seeds)
def test_the_penalty_on_the_target_is_its_equation(seed: int) -> None:
    world = World(seed)
    found = target_kl(world.new, world.old)
    expected = [
        [math.exp(o - n) - (o - n) - 1 for n, o in zip(*rows, strict=True)]
        for rows in zip(world.new.tolist(), world.old.tolist(), strict=True)
    ]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=1e-9, atol=1e-12)
    assert bool((found >= 0).all())
    assert torch.equal(target_kl(world.new, world.new), torch.zeros_like(world.new))


def test_means_over_steps_stop_at_a_rollouts_own_depth() -> None:
    values, live = torch.tensor([[1.0, 2.0], [5.0, 7.0]]), torch.tensor([[True, True], [True, False]])
    assert mean_over_steps(values, live).tolist() == [3.0, 2.0]


def test_first_ratios_are_one_to_the_last_bit() -> None:
    new: Tensor = torch.randn(3, 4)
    live = torch.ones(3, 4, dtype=torch.bool)
    for form in get_args(Ratio):
        assert bool((ratios(new, new.clone(), live, form) == 1).all())
