"""An objective of one's own that returns the wrong thing is told so in one line."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from latentloop.errors import InputTypeError
from latentloop.fitting.step import StepModule
from latentloop.objectives import NextItem, Objective, Sum, Weighted
from latentloop.objectives.contract import call, free_name
from tests.core.worlds import unchecked
from tests.objectives.worlds import batch_of, recommender

ONE = torch.ones(())

WRONG: list[tuple[Any, str]] = [
    (ONE, "got a scalar tensor"),
    (torch.ones(3, 4), r"got a tensor of shape \(3, 4\)"),
    (None, "got None"),
    ((ONE, {}, 1), r"got \(a scalar tensor, a dict, an int\)"),
    ((1.0, {}), r"got \(a float, a dict\)"),
    ((torch.ones(2), {}), r"got \(a tensor of shape \(2,\), a dict\)"),
    ((ONE, ONE), r"got \(a scalar tensor, a scalar tensor\)"),
    ((ONE, {"size": torch.ones(5)}), r"got a tensor of shape \(5,\) as term 'size'"),
    ((ONE, {"size": "large"}), "got a str as term 'size'"),
]


def returning(value: Any) -> Objective:
    def mine(views: Any, batch: Any) -> Any:
        return value

    return mine


class Silent(nn.Module):
    def forward(self, views: Any, batch: Any) -> Any:
        return None


WRAPPED: list[Callable[[Objective], Objective]] = [
    lambda part: part,
    lambda part: Weighted(part, 2.0),
    lambda part: Sum([part, NextItem()]),
    lambda part: Sum([NextItem(), Weighted(part, 0.5)]),
]


@pytest.mark.parametrize("wrapped", WRAPPED)
@pytest.mark.parametrize(("value", "found"), WRONG)
def test_another_return_value_is_one_line(value: Any, found: str, wrapped: Callable[[Objective], Objective]) -> None:
    model, batch = recommender(0), batch_of(0)
    with unchecked(), pytest.raises(InputTypeError, match=rf"^objective mine must return \(loss, terms\).*{found}$"):
        StepModule(model, wrapped(returning(value)))(batch)


def test_a_part_without_a_name_goes_by_its_class() -> None:
    with unchecked(), pytest.raises(InputTypeError, match="^objective Silent must return .* got None$"):
        call(Silent(), None, None)


def test_plain_numbers_are_terms_too() -> None:
    with unchecked():
        loss, terms = call(returning((ONE, {"half": 0.5, "two": 2, "three": torch.full((1,), 3.0)})), None, None)
    assert loss is ONE
    assert all(isinstance(value, Tensor) for value in terms.values())
    assert {name: float(value) for name, value in terms.items()} == {"half": 0.5, "two": 2.0, "three": 3.0}


def test_a_nameless_function_is_shown_a_name_without_brackets() -> None:
    with unchecked(), pytest.raises(InputTypeError, match=r"^objective <lambda> must .* \{'lambda': loss.detach\(\)\}"):
        call(lambda views, batch: None, None, None)  # type: ignore[arg-type,return-value]


def test_a_name_that_is_taken_gets_the_first_free_number() -> None:
    assert free_name("step", {"next_item"}) == "step"
    assert free_name("step", {"step"}) == "step_2"
    assert free_name("step", {"step", "step_2"}) == "step_3"
    assert free_name("step", {"step", "step_2", "step_3", "step_5"}) == "step_4"
