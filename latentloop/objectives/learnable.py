"""Objectives have nothing to learn: what is trained, saved and averaged over processes are the model's parameters."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from torch import nn

from latentloop.blocks.held import held_by, weights_in
from latentloop.errors import InputError
from latentloop.objectives.compose import parts_of

if TYPE_CHECKING:
    from latentloop.recommender import Recommender

__all__ = ["check_learnable"]


def check_learnable(objective: Any, model: Recommender) -> None:
    """Refuse parameters that would stay as they are without a word: a projection head, say.

    What counts is a module that the objective is, or modules and parameters that are its attributes, or modules in
    lists or dicts that are, in sums and weighted parts too, and those that a function finds elsewhere. The model's own
    do not, nor frozen ones, nor those of another recommender, which teaches.

    Raises:
        InputError: naming the parameter.
    """
    own = {id(parameter) for parameter in model.parameters()}
    for holder, name, parameter in _parameters(objective, type(model)):
        if parameter.requires_grad and id(parameter) not in own:
            raise InputError(
                f"objective: {holder} has a parameter {name!r} that would not be trained: make its module a part of the "
                "model (`model.head = head`), or freeze it (`requires_grad_(False)`)"
            )


def _parameters(part: Any, teacher: type) -> Iterator[tuple[str, str, nn.Parameter]]:
    """Every parameter that an objective holds, its name, and who holds it."""
    held: dict[str, nn.Module | nn.Parameter]
    if isinstance(getattr(part, "__self__", None), teacher):  # a teacher's method
        return
    if isinstance(part, nn.Module):
        holder, held = type(part).__name__, {"": part}
    elif inspect.isroutine(part) or isinstance(part, functools.partial):
        holder, held = getattr(part, "__name__", "a partial function"), {**held_by(part)}
    else:
        attributes = dict(getattr(part, "__dict__", {}))
        holder = type(part).__name__
        held = {
            inner: found
            for name, value in attributes.items()
            for inner, found in weights_in(name, value, parameters=False)
        }
    for name, value in held.items():
        if isinstance(value, nn.Parameter):
            yield holder, name, value
        elif not isinstance(value, teacher):
            yield from ((holder, inner, parameter) for inner, parameter in value.named_parameters())
    for each in parts_of(part):
        yield from _parameters(each, teacher)
