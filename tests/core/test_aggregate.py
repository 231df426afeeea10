"""Aggregates against their formulas."""

from __future__ import annotations

import functools
import types
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from torch import Tensor, nn

from latentloop.aggregate import Add, Aggregate, Concat, Gate, Mean, build_aggregate
from latentloop.blocks.held import held_by
from latentloop.errors import InputError, InputTypeError
from latentloop.recommender import Recommender
from latentloop.recurrence import RecurrentDepth
from tests.core.worlds import DIM, encoder, fewer, ragged, recommender, seeds, unchecked


def pair(seed: int, dim: int = DIM) -> tuple[Tensor, Tensor]:
    torch.manual_seed(seed)
    return torch.randn(3, 4, dim), torch.randn(3, 4, dim)


@given(seed=seeds)
def test_the_standard_aggregates_are_their_formulas(seed: int) -> None:
    state, hidden = pair(seed)
    t, h = state.numpy(), hidden.numpy()
    concat, gate = Concat(), Gate()
    for module in (concat, gate):
        module.bind(DIM)
    with torch.no_grad():
        linear = np.concatenate([t, h], -1) @ concat.linear.weight.numpy().T + concat.linear.bias.numpy()
        open_ = np.concatenate([t, h], -1) @ gate.linear.weight.numpy().T + gate.linear.bias.numpy()
        g = 1 / (1 + np.exp(-open_))
        for module, wanted in ((Add(), t + h), (Mean(), (t + h) / 2), (concat, linear), (gate, g * t + (1 - g) * h)):
            np.testing.assert_allclose(module(state, hidden).numpy(), wanted, rtol=1e-4, atol=1e-5)


@fewer
@given(seed=seeds)
def test_add_and_mean_agree_after_the_layer_norm(seed: int) -> None:
    """Up to the norm's epsilon, which weighs four times as much beside the mean's variance."""
    history = ragged(seed)
    added, mean = (recommender(seed, aggregate=name).think(history, depth=3).steps for name in ("add", "mean"))
    torch.testing.assert_close(added, mean, rtol=1e-3, atol=1e-3)
    assert not torch.equal(added, mean)


class Scaled(nn.Module):
    """A user's module with a parameter of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(0.5))

    def forward(self, state: Tensor, hidden: Tensor) -> Tensor:
        return self.scale * state + hidden


def test_a_users_callable_and_module_are_used_and_trained() -> None:
    state, hidden = pair(0)
    plain = encoder(4, aggregate=lambda t, h: 0.5 * t + h).eval()
    module = encoder(4, aggregate=Scaled()).eval()
    wanted = plain.step(state, hidden)
    torch.testing.assert_close(module.step(state, hidden), wanted)
    assert not torch.allclose(encoder(4).eval().step(state, hidden), wanted)
    assert "aggregate.scale" in dict(module.named_parameters())
    module.step(state, hidden).pow(3).sum().backward()
    assert float(module.aggregate.scale.grad.abs()) > 0


def test_bind_reaches_an_aggregate_that_asks_for_the_dim() -> None:
    class Bound(nn.Module):
        dim = 0

        def bind(self, dim: int) -> None:
            self.dim = dim

        def forward(self, state: Tensor, hidden: Tensor) -> Tensor:
            return state + hidden

    bound = Bound()
    loop = RecurrentDepth(nn.Identity(), nn.Identity(), bound)
    assert bound.dim == 0
    loop.bind(7)
    assert bound.dim == 7


@pytest.mark.parametrize("aggregate", ["plus", 3, None])
def test_what_is_no_aggregate_is_refused(aggregate: Aggregate) -> None:
    with unchecked(), pytest.raises(InputTypeError, match="aggregate must be one of"):
        build_aggregate(aggregate)


@pytest.mark.parametrize(
    "function",
    [
        lambda state, hidden: torch.cat([state, hidden], -1),
        lambda state, hidden: (state + hidden).mean(1, keepdim=True),
    ],
    ids=["wider", "shorter"],
)
def test_an_aggregate_of_another_shape_is_named(function: Aggregate) -> None:
    encoder = RecurrentDepth(nn.Identity(), nn.Identity(), function, dim=DIM)
    hidden = torch.randn(2, 3, DIM)
    with pytest.raises(InputError, match=rf"aggregate must return \(2, 3, {DIM}\) like its input"):
        next(encoder.unroll(hidden, state=hidden))


class Owner:
    """What a user's aggregate may be bound to."""

    def __init__(self, gate: nn.Module) -> None:
        self.gate, self.other = gate, nn.Linear(2, 2)

    def mix(self, state: Tensor, hidden: Tensor) -> Tensor:
        return state + gated(self.gate, state, hidden)

    def plain(self, state: Tensor, hidden: Tensor) -> Tensor:
        return state + hidden

    def __call__(self, state: Tensor, hidden: Tensor) -> Tensor:
        return gated(self.gate, state, hidden)


def gated(gate: nn.Module, state: Tensor, hidden: Tensor) -> Tensor:
    mixed: Tensor = gate(hidden)
    return state + mixed


GLOBAL = nn.Linear(DIM, DIM)
FROZEN = nn.Linear(DIM, DIM).requires_grad_(False)


def with_a_default(state: Tensor, hidden: Tensor, gate: nn.Module = GLOBAL) -> Tensor:
    return gated(gate, state, hidden)


HOLDING: list[Callable[[nn.Module], Any]] = [
    lambda gate: lambda state, hidden: gated(gate, state, hidden),
    lambda gate: lambda state, hidden: gated(GLOBAL, state, hidden),
    lambda gate: with_a_default,
    lambda gate: functools.partial(gated, gate),
    lambda gate: functools.partial(lambda state, hidden, gate: gated(gate, state, hidden), gate=gate),
    lambda gate: Owner(gate).mix,
    Owner,
]


@pytest.mark.parametrize("make", HOLDING)
def test_weights_that_only_a_function_holds_are_refused(make: Callable[[nn.Module], Any]) -> None:
    with pytest.raises(
        InputError, match=r"^aggregate \S+ uses a Linear that the model does not have \(.*\), so its weights"
    ):
        recommender(0, aggregate=make(nn.Linear(DIM, DIM)))


class Slotted:
    """An object without a dictionary."""

    __slots__ = ("other",)

    def __call__(self, state: Tensor, hidden: Tensor) -> Tensor:
        return state + hidden


class AnswersAll:
    """A proxy, which has whatever it is asked for; what it holds itself it does not use."""

    def __init__(self) -> None:
        self.linear = nn.Linear(DIM, DIM)

    def __getattr__(self, name: str) -> int:
        return 5

    def __call__(self, state: Tensor, hidden: Tensor) -> Tensor:
        return torch.nn.functional.linear(state + hidden, torch.eye(DIM))


@pytest.mark.parametrize(
    "aggregate",
    [
        AnswersAll(),
        torch.maximum,
        functools.partial(torch.add, alpha=2.0),
        functools.lru_cache(lambda state, hidden: state + hidden),
        torch.no_grad()(lambda state, hidden: state + hidden),
        Slotted(),
        Slotted().__call__,
    ],
)
def test_whatever_can_be_called_is_looked_at_without_harm(aggregate: Any) -> None:
    assert held_by(aggregate) == held_by(types.MethodType(max, 1)) == {}
    Recommender(9, RecurrentDepth(nn.Linear(DIM, DIM), nn.Identity(), aggregate), DIM, 5)


def test_a_function_may_use_what_the_encoder_has_or_nobody_trains() -> None:
    class Whole(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gate, self.core = nn.Linear(DIM, DIM), nn.Linear(DIM, DIM)
            self.loop = RecurrentDepth(nn.Identity(), self.core, self.mix, dim=DIM)

        def mix(self, state: Tensor, hidden: Tensor) -> Tensor:
            return gated(self.gate, state, hidden)

        def forward(self, x: Tensor) -> Tensor:
            found: Tensor = self.loop(x)
            return found

    Recommender(9, Whole(), DIM, 5)
    gate = nn.Linear(DIM, DIM)
    for aggregate in (
        lambda t, h: gated(gate, t, h),
        Owner(nn.Linear(DIM, DIM)).plain,
        lambda t, h: gated(FROZEN, t, h),
    ):
        Recommender(9, RecurrentDepth(gate, nn.Identity(), aggregate), DIM, 5)


class OneArgument(nn.Module):
    def forward(self, state: Tensor) -> Tensor:
        return state


@pytest.mark.parametrize("aggregate", [lambda state: state, OneArgument(), lambda a, b, c: a])
def test_an_aggregate_takes_state_and_hidden(aggregate: Any) -> None:
    with unchecked(), pytest.raises(InputTypeError, match=r"^aggregate must be a callable of \(state, hidden\): "):
        build_aggregate(aggregate)
    assert isinstance(build_aggregate(torch.add), nn.Module)  # does not tell what it takes
    hooked = OneArgument()
    hooked.register_forward_pre_hook(lambda part, both: (both[0] + both[1],))
    assert build_aggregate(hooked) is hooked
