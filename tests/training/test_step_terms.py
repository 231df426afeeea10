"""Terms of an epoch's steps: exact means, exact steps, and few transfers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from latentloop.finite import NotFinite, check_weights
from latentloop.fitting.step_terms import StepTerms, steps_together

seeds = st.integers(0, 2**31 - 1)


@given(seed=seeds, every=st.integers(1, 7), steps=st.integers(1, 20))
def test_means_are_those_of_a_loop_whatever_waits(seed: int, every: int, steps: int) -> None:
    rng = np.random.default_rng(seed)
    terms, sums, total = StepTerms(3, every=every), {"loss": 0.0, "kl": 0.0}, 0
    for step in range(1, steps + 1):
        rows = int(rng.integers(1, 9))
        loss, kl = torch.tensor(rng.normal()), torch.tensor(rng.normal(), dtype=torch.float32)
        terms.add(step, {"loss": loss, "kl": kl} if step % 2 else {"kl": kl.view(1), "loss": loss}, rows)
        sums["loss"] += loss.item() * rows
        sums["kl"] += kl.item() * rows
        total += rows
    assert terms.means() == {name: value / total for name, value in sums.items()}  # to the last bit
    assert terms.latest == {"loss": loss.item(), "kl": kl.item()}


def test_a_term_that_some_steps_lack_has_the_mean_of_the_others() -> None:
    terms = StepTerms(1)
    for step, told in enumerate(({"a": 1.0, "loss": 3.0}, {"b": 2.0, "loss": 6.0}, {"a": 4.0, "loss": 3.0}), 1):
        terms.add(step, {name: torch.tensor(value) for name, value in told.items()}, step)
    assert terms.means() == {"a": 13 / 4, "b": 2.0, "loss": 4.0}


@given(seed=seeds, every=st.integers(1, 7), value=st.sampled_from([math.nan, math.inf, -math.inf]))
def test_the_first_number_that_broke_is_named_with_its_own_step(seed: int, every: int, value: float) -> None:
    rng = np.random.default_rng(seed)
    broken, terms = int(rng.integers(1, 12)), StepTerms(2, every=every)
    with pytest.raises(NotFinite, match=rf"^kl is {value} at step {broken + 100} of epoch 2$"):
        for step in range(1, 13):
            # from there on everything is broken, as it is once the weights are
            wrong = value if step == broken else math.nan if step > broken else 1.0
            terms.add(step + 100, {"loss": torch.tensor(wrong), "good": torch.ones(()), "kl": torch.tensor(wrong)}, 4)
            assert step < broken + every  # else the stop comes later than promised
        terms.settle()


def test_a_loss_that_broke_alone_is_named_too() -> None:
    with pytest.raises(NotFinite, match="^loss is nan at step 1 of epoch 1$"):
        StepTerms(1).add(1, {"loss": torch.tensor(math.nan), "good": torch.ones(())}, 1)


def test_nothing_is_transferred_before_enough_steps_are_together() -> None:
    terms = StepTerms(1, every=4)
    empty = torch.ones((), device="meta")  # has no value: reading it is an error
    for step in range(1, 4):
        terms.add(step, {"loss": empty}, 2)
    with pytest.raises((NotImplementedError, RuntimeError), match="meta"):
        terms.add(4, {"loss": empty}, 2)


def test_terms_that_wait_hold_no_graph() -> None:
    weight = torch.ones(5, requires_grad=True)
    kept = weight * 2
    terms = StepTerms(1, every=100)
    terms.add(1, {"loss": kept.sum()}, 1)
    assert not any(step.values.requires_grad for step in terms._waiting)


def test_an_accelerator_is_asked_seldom_and_a_cpu_at_each_step() -> None:
    assert steps_together(torch.device("cpu")) == 1
    assert steps_together(torch.device("cuda")) > 1


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_trained_weights_that_are_no_numbers_are_refused(value: float) -> None:
    module = nn.Linear(3, 2)
    check_weights(module, 7)
    with torch.no_grad():
        module.bias[1] = value
    with pytest.raises(NotFinite, match="^weights are no numbers after step 7$"):
        check_weights(module, 7)
    module.bias.requires_grad_(False)  # a user's own constant, such as a mask of -inf
    check_weights(module, 7)


def test_a_step_without_terms_has_none() -> None:
    terms = StepTerms(1, every=1)
    terms.add(1, {}, 4)
    assert terms.means() == {} and terms.latest == {}
