"""Weights that torch does not find in a model are refused: they would neither be trained nor saved."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from latentloop.errors import InputError
from latentloop.recommender import Recommender
from latentloop.recurrence import RecurrentDepth
from tests.core.worlds import DIM, MAX_LENGTH, NUM_ITEMS


class Holding(nn.Module):
    """A block, and what a user keeps beside its layers."""

    def __init__(self, held: Any) -> None:
        super().__init__()
        self.mine, self.norm = held, nn.LayerNorm(DIM)

    def forward(self, x: Tensor) -> Tensor:
        """(B, L, d) -> (B, L, d)."""
        normed: Tensor = self.norm(x)
        return normed


def linear() -> nn.Linear:
    return nn.Linear(DIM, DIM)


HIDDEN: list[tuple[Callable[[], Any], str, str]] = [
    (lambda: [linear(), linear()], "Linear", r"mine\[0\]"),
    (lambda: (3, linear()), "Linear", r"mine\[1\]"),
    (lambda: {"up": {"left": linear()}}, "Linear", r"mine\['up'\]\['left'\]"),
    (lambda: {linear()}, "Linear", r"mine\[0\]"),
    (lambda: [nn.Parameter(torch.ones(3))], "Parameter", r"mine\[0\]"),
]


@pytest.mark.parametrize(("hide", "kind", "where"), HIDDEN)
@pytest.mark.parametrize("place", ["block", "core", "aggregate", "alone"])
def test_weights_in_containers_of_a_module_are_refused(
    hide: Callable[[], Any], kind: str, where: str, place: str
) -> None:
    class Mixing(Holding):
        def forward(self, state: Tensor, hidden: Tensor) -> Tensor:  # type: ignore[override]
            return state + hidden

    made: dict[str, Callable[[], nn.Module]] = {
        "block": lambda: RecurrentDepth(Holding(hide()), linear()),
        "core": lambda: RecurrentDepth(linear(), nn.Sequential(Holding(hide()))),
        "aggregate": lambda: RecurrentDepth(linear(), linear(), Mixing(hide())),
        "alone": lambda: Holding(hide()),
    }
    name = "Mixing" if place == "aggregate" else "Holding"
    message = rf"^{name} uses a {kind} that the model does not have \({where}\), so its weights would neither"
    with pytest.raises(InputError, match=message):
        Recommender(NUM_ITEMS, made[place](), DIM, MAX_LENGTH)


class Scoring:
    """A user's scorer that is no module."""

    def __init__(self, head: Any) -> None:
        self.head = head

    def queries(self, thoughts: Tensor) -> Tensor:
        """Through the head."""
        head = self.head[0] if isinstance(self.head, list) else self.head
        found: Tensor = head(thoughts)
        return found

    def keys(self, items: Tensor) -> Tensor:
        """As they are."""
        return items


class ScoringModule(nn.Module, Scoring):
    """The same as a module, which the model trains and saves."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.head = head


@pytest.mark.parametrize("held", [linear, lambda: [linear()]])
def test_weights_of_a_scorer_that_is_no_module_are_refused(held: Callable[[], Any]) -> None:
    with pytest.raises(InputError, match=r"^scorer Scoring uses a Linear .*: make the scorer an nn.Module"):
        Recommender(NUM_ITEMS, linear(), DIM, MAX_LENGTH, scorer=Scoring(held()))


def test_what_the_model_has_or_nobody_trains_may_be_held_anywhere() -> None:
    shared = linear()
    block = Holding([shared, linear().requires_grad_(False), torch.ones(3, requires_grad=True), "name", [3] * 10**6])
    block.layer = shared
    Recommender(NUM_ITEMS, block, DIM, MAX_LENGTH, scorer=Scoring(linear().requires_grad_(False)))
    model = Recommender(NUM_ITEMS, linear(), DIM, MAX_LENGTH, scorer=ScoringModule(linear()))
    assert "scorer.head.weight" in dict(model.named_parameters())
    normed = nn.GRU(DIM, DIM, batch_first=True)  # has a list of its weights, one of which is replaced
    nn.utils.parametrizations.weight_norm(normed, "weight_ih_l0")
    Recommender(NUM_ITEMS, normed, DIM, MAX_LENGTH)


ELSEWHERE = {"scale": 2.0, "teacher": nn.Linear(DIM, DIM)}


def test_what_else_lies_in_a_global_container_or_in_a_sparse_tensor_is_nobodys() -> None:
    block = linear()
    block.graph = torch.eye(4).to_sparse()
    encoder = RecurrentDepth(block, linear(), lambda state, hidden: ELSEWHERE["scale"] * state + hidden)
    Recommender(NUM_ITEMS, encoder, DIM, MAX_LENGTH)
