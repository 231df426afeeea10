"""How a thought meets the items: every scorer ends in one inner product, so all that follows is a matrix product."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from latentloop.checks import above_zero
from latentloop.errors import InputError, InputTypeError

__all__ = ["Cosine", "Dot", "Scorer", "build_scorer", "check_keys", "check_queries"]


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


def check_keys(scorer: Scorer, keys: Tensor, num_items: int) -> Tensor:
    """What a scorer made of the items, which is one key an item.

    Raises:
        InputTypeError: where it is no tensor of real numbers.
        InputError: for another shape than (N, any).
    """
    if type(scorer) not in (Dot, Cosine):
        _check_numbers(scorer, "keys", keys)
        if keys.ndim != 2 or len(keys) != num_items:
            name = type(scorer).__name__
            raise InputError(
                f"scorer: {name}.keys must return one row an item, ({num_items}, any), got {tuple(keys.shape)}"
            )
    return keys


def check_queries(scorer: Scorer, queries: Tensor, thoughts: Float[Tensor, "*n d"]) -> Tensor:
    """What a scorer made of thoughts, which is one query a thought.

    Raises:
        InputTypeError: where it is no tensor of real numbers.
        InputError: for another shape than (*n, any).
    """
    if type(scorer) not in (Dot, Cosine):
        _check_numbers(scorer, "queries", queries)
        if queries.shape[:-1] != thoughts.shape[:-1]:
            name, wanted = type(scorer).__name__, (*thoughts.shape[:-1], "any")
            raise InputError(
                f"scorer: {name}.queries must return one row a thought, ({', '.join(map(str, wanted))}), got "
                f"{tuple(queries.shape)}"
            )
    return queries


def _check_numbers(scorer: Scorer, method: str, found: object) -> None:
    if not isinstance(found, Tensor) or not found.is_floating_point():
        kind = found.dtype if isinstance(found, Tensor) else type(found).__name__
        raise InputTypeError(
            f"scorer: {type(scorer).__name__}.{method} must return a tensor of real numbers, got {kind}"
        )
