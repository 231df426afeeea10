"""How a thought meets the items: every scorer ends in one inner product, so all that follows is a matrix product."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from latentloop.checks import above_zero
from latentloop.errors import InputTypeError

__all__ = ["Cosine", "Dot", "Scorer", "build_scorer"]


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
