"""Objectives have nothing to learn: what is trained, saved and averaged over processes are the model's parameters."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from torch import nn

from latentloop.errors import InputError

if TYPE_CHECKING:
    from latentloop.recommender import Recommender

__all__ = ["check_learnable"]


def check_learnable(objective: Any, model: Recommender) -> None:
    """Refuse parameters that would stay as they are without a word: a projection head, say.

    Those of a module that the objective holds count, in sums and weighted parts too; the model's own and frozen ones do
    not.

    Raises:
        InputError: naming the parameter.
    """
    own = {id(parameter) for parameter in model.parameters()}
    for holder, module in _modules(objective):
        for name, parameter in module.named_parameters():
            if parameter.requires_grad and id(parameter) not in own:
                raise InputError(
                    f"objective: {holder} has a parameter {name!r} that would not be trained: make its module a part of the "
                    "model (`model.head = head`), or freeze it (`requires_grad_(False)`)"
                )


def _modules(part: Any) -> Iterator[tuple[str, nn.Module]]:
    """Every module that an objective is or holds, and the name of who holds it."""
    name = type(part).__name__
    if isinstance(part, nn.Module):
        yield name, part
        return
    for value in getattr(part, "__dict__", {}).values():
        if isinstance(value, nn.Module):
            yield name, value
    for inner in (getattr(part, "part", None), *(getattr(part, "parts", None) or ())):
        if inner is not None:
            yield from _modules(inner)
