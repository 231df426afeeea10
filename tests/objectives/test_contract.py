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
from latentloop.objectives.compose import parts_of
from latentloop.objectives.contract import call, free_name, underway
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
    ((ONE, {"size": torch.tensor(1j)}), "got a complex tensor as term 'size'"),
    ((ONE, {"size": 10**400}), "got an int as term 'size'"),
    ((ONE, {1: 2.0}), "got a term named 1"),
    ((ONE * 1j, {}), r"got \(a complex tensor, a dict\)"),
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
        loss, terms = call(
            returning((ONE, {"half": 0.5, "two": 2, "many": 2**70, "three": torch.full((1,), 3.0)})), None, None
        )
    assert loss is ONE
    assert all(isinstance(value, Tensor) for value in terms.values())
    assert {name: float(value) for name, value in terms.items()} == {
        "half": 0.5,
        "two": 2.0,
        "many": 2.0**70,
        "three": 3.0,
    }


def test_a_nameless_function_is_shown_a_name_without_brackets() -> None:
    with unchecked(), pytest.raises(InputTypeError, match=r"^objective <lambda> must .* \{'lambda': loss.detach\(\)\}"):
        call(lambda views, batch: None, None, None)  # type: ignore[arg-type,return-value]


def test_a_name_that_is_taken_gets_the_first_free_number() -> None:
    assert free_name("step", {"next_item"}) == "step"
    assert free_name("step", {"step"}) == "step_2"
    assert free_name("step", {"step", "step_2"}) == "step_3"
    assert free_name("step", {"step", "step_2", "step_3", "step_5"}) == "step_4"


class Stage:
    """A part that notes when its stage begins and ends."""

    def __init__(self, *, broken: bool = False) -> None:
        self.noted: list[Any] = []
        self.broken = broken

    def start(self, model: Any) -> None:
        self.noted.append(model)

    def end(self) -> None:
        self.noted.append("end")
        if self.broken:
            raise OSError("of the end")

    def __call__(self, views: Any, batch: Any) -> Any:
        return ONE, {}


def test_a_stage_begins_with_its_model_and_ends() -> None:
    part = Stage()
    with underway(part, "model"):
        assert part.noted == ["model"]
    assert part.noted == ["model", "end"]


@pytest.mark.parametrize("broken", [False, True])
def test_a_stage_that_breaks_ends_too_and_what_broke_it_is_told(broken: bool) -> None:
    part = Stage(broken=broken)
    with pytest.raises(KeyError), underway(part, "model"):
        raise KeyError
    assert part.noted == ["model", "end"]


def test_an_end_that_fails_is_told() -> None:
    with pytest.raises(OSError, match="of the end"), underway(Stage(broken=True), "model"):
        pass


def test_neither_start_nor_end_is_asked_for_and_a_number_of_that_name_is_the_parts_own() -> None:
    def plain(views: Any, batch: Any) -> Any:
        return ONE, {}

    plain.end = 3  # type: ignore[attr-defined]
    with underway(plain, "model"):
        pass
    del plain.end  # type: ignore[attr-defined]
    with underway(plain, "model"):
        pass


class Refusing(Stage):
    """A part that no model suits."""

    def start(self, model: Any) -> None:
        raise InputTypeError("no model suits")


def test_where_a_part_of_a_sum_refuses_those_before_it_end_newest_first() -> None:
    ended: list[str] = []

    class Told(Stage):
        def __init__(self, name: str, *, broken: bool = False) -> None:
            super().__init__(broken=broken)
            self.name = name

        def end(self) -> None:
            ended.append(self.name)
            super().end()

    late = Told("late")
    with unchecked(), pytest.raises(InputTypeError, match="no model suits"):
        Sum([Told("first"), Told("second", broken=True), Refusing(), late]).start("model")  # type: ignore[arg-type]
    assert ended == ["second", "first"]
    assert late.noted == []


def test_a_sum_ends_every_part_and_tells_the_first_end_that_failed() -> None:
    class Fails(Stage):
        def __init__(self, said: str) -> None:
            super().__init__()
            self.said = said

        def end(self) -> None:
            super().end()
            raise OSError(self.said)

    parts = [Stage(), Fails("the first"), Fails("the second"), Stage()]
    with pytest.raises(OSError, match="the first"):
        Sum(list(parts)).end()
    assert [part.noted for part in parts] == [["end"]] * 4
    Sum([Stage(), Stage()]).end()


def test_a_weighed_part_is_ended_and_found_inside() -> None:
    part, other = Stage(), Stage()
    Weighted(part, 0.5).end()
    assert part.noted == ["end"]
    assert parts_of(Weighted(part, 0.5)) == (part,)
    assert tuple(parts_of(Sum([part, other]))) == (part, other)
    assert parts_of(part) == ()


def test_only_nothing_is_added_on_the_left_as_sum_does() -> None:
    assert sum([NextItem()]).parts  # type: ignore[union-attr]
    with unchecked(), pytest.raises(InputTypeError):
        _ = 1 + NextItem()  # type: ignore[operator]
