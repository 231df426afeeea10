"""Weights that torch does not find in a model: nobody would train them, and no file would hold them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from torch import nn

from latentloop.aggregate import Function
from latentloop.blocks.held import held_by, weights_in
from latentloop.errors import InputError

if TYPE_CHECKING:
    from latentloop.scoring import Scorer

__all__ = ["refuse_unseen_weights"]

_OF_TORCH = {*vars(nn.Module()), "_flat_weights"}
"""What torch keeps in a module itself: of an RNN, weights that a parametrization has replaced since."""


def refuse_unseen_weights(model: nn.Module, scorer: Scorer) -> None:
    """Refuse weights to be learned that no module of the model has.

    They may lie in a list, a tuple, a dict or a set of a module, or be what a function or a scorer that is no module
    holds. Frozen ones may.

    Args:
        model: with all its parts.
        scorer: its scorer.

    Raises:
        InputError: naming who holds what, and where.
    """
    seen = {id(parameter) for parameter in model.parameters()}
    for holder, name, held, advice in _held(model, scorer):
        weights = held.parameters() if isinstance(held, nn.Module) else [held]
        if any(weight.requires_grad and id(weight) not in seen for weight in weights):
            raise InputError(
                f"{holder} uses a {type(held).__name__} that the model does not have ({name}), so its weights would "
                f"neither be trained nor saved: {advice}, or freeze it (`requires_grad_(False)`)"
            )


def _held(model: nn.Module, scorer: Scorer) -> Iterator[tuple[str, str, nn.Module | nn.Parameter, str]]:
    """Who, the name there, what, and what to do instead."""
    for part in model.modules():
        if isinstance(part, Function):
            who = f"aggregate {getattr(part.function, '__qualname__', type(part.function).__name__)}"
            for name, held in held_by(part.function).items():
                yield who, name, held, "make the aggregate an nn.Module with it as an attribute"
        for attribute, value in vars(part).items():
            if attribute not in _OF_TORCH and not isinstance(value, nn.Module):  # a module there is hidden on purpose
                for name, held in weights_in(attribute, value):
                    advice = "keep it in an nn.ModuleList, nn.ModuleDict or nn.ParameterList"
                    yield type(part).__name__, name, held, advice
    if not isinstance(scorer, nn.Module):
        for method in (scorer.queries, scorer.keys):
            for name, held in held_by(method).items():
                who = f"scorer {type(scorer).__name__}"
                yield who, name, held, "make the scorer an nn.Module with it as an attribute"
