"""How a thought meets the items: every scorer ends in one inner product, so all that follows is a matrix product."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from latentloop.checks import above_zero
from latentloop.errors import InputError, InputTypeError
from latentloop.modes.dropout import evaluating

__all__ = ["Cosine", "Dot", "Scorer", "build_scorer", "check_scorer"]


@runtime_checkable
class Scorer(Protocol):
    """Turns thoughts into queries and items into keys; score(thought, item) = query . key."""

    def queries(self, thoughts: Tensor) -> Tensor:
        """(*n, d) -> (*n, d)."""
        ...

    def keys(self, items: Tensor) -> Tensor:
        """(N, d) -> (N, d)."""
        ...


@dataclass(frozen=True)
class Dot:
    """The paper's score, p . e (LARES eq. 7)."""

    def queries(self, thoughts: Float[Tensor, "*n d"]) -> Float[Tensor, "*n d"]:
        """The thoughts themselves."""
        return thoughts

    def keys(self, items: Float[Tensor, "N d"]) -> Float[Tensor, "N d"]:
        """The items themselves."""
        return items


@dataclass(frozen=True)
class Cosine:
    """cos(p, e) / temperature.

    Args:
        temperature: above 0.

    Raises:
        InputError: otherwise.
    """

    temperature: float = 0.07

    def __post_init__(self) -> None:
        above_zero("temperature", self.temperature)

    def queries(self, thoughts: Float[Tensor, "*n d"]) -> Float[Tensor, "*n d"]:
        """Unit length over the temperature."""
        return F.normalize(thoughts, dim=-1) / self.temperature

    def keys(self, items: Float[Tensor, "N d"]) -> Float[Tensor, "N d"]:
        """Unit length."""
        return F.normalize(items, dim=-1)


def build_scorer(scorer: str | Scorer) -> Scorer:
    """A standard scorer by its name ("dot", "cosine"), a user's own as it is.

    Raises:
        InputTypeError: for anything else.
    """
    if scorer == "dot":
        return Dot()
    if scorer == "cosine":
        return Cosine()
    if isinstance(scorer, str) or not isinstance(scorer, Scorer):
        raise InputTypeError(f"scorer must be 'dot', 'cosine' or an object with queries() and keys(), got {scorer!r}")
    return scorer


@torch.no_grad()
def check_scorer(scorer: Scorer, items: Float[Tensor, "N d"]) -> None:
    """Try a scorer on the items and two thoughts.

    Args:
        scorer: anyone's; one that is a module is tried as it answers, and gets its mode back.
        items: all of a model's.

    Raises:
        InputTypeError: where it gives no tensors of real numbers.
        InputError: where these are not one key an item and one query a thought, of one width.
    """
    if isinstance(scorer, Dot | Cosine):
        return
    thoughts = torch.ones(2, items.shape[1], dtype=items.dtype, device=items.device)
    with evaluating(scorer) if isinstance(scorer, nn.Module) else nullcontext():
        found = {"keys": scorer.keys(items), "queries": scorer.queries(thoughts)}
    name = type(scorer).__name__
    for method, tensor in found.items():
        if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
            kind = tensor.dtype if isinstance(tensor, Tensor) else type(tensor).__name__
            raise InputTypeError(f"scorer: {name}.{method} must return a tensor of real numbers, got {kind}")
    keys, queries = (tuple(tensor.shape) for tensor in found.values())
    if len(keys) != 2 or keys[0] != len(items):
        raise InputError(f"scorer: {name}.keys must return one row an item, ({len(items)}, any), got {keys}")
    if queries != (2, keys[1]):
        raise InputError(
            f"scorer: {name}.queries must return (2, {keys[1]}) of two thoughts, as wide as keys, got {queries}"
        )
