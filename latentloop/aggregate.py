"""How a thought meets the history again: f(T, H), before the layer norm of each step (LARES eq. 5)."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from latentloop.errors import InputTypeError

__all__ = ["Add", "Aggregate", "Concat", "Function", "Gate", "Mean", "build_aggregate"]


@runtime_checkable
class Aggregate(Protocol):
    """Any callable of (state, hidden), both (*n, d), that returns (*n, d)."""

    def __call__(self, state: Tensor, hidden: Tensor, /) -> Tensor:
        """Combine the previous state with H."""
        ...


class Add(nn.Module):
    """T + H."""

    capturable = True

    def forward(self, state: Float[Tensor, "*n d"], hidden: Float[Tensor, "*n d"]) -> Float[Tensor, "*n d"]:
        """The sum."""
        return state + hidden


class Mean(nn.Module):
    """(T + H) / 2: the same as `Add` after a layer norm, but for the norm's epsilon."""

    capturable = True

    def forward(self, state: Float[Tensor, "*n d"], hidden: Float[Tensor, "*n d"]) -> Float[Tensor, "*n d"]:
        """The mean."""
        return (state + hidden) / 2


class Concat(nn.Module):
    """A linear map of [T; H] from 2d to d."""

    capturable = True
    linear: nn.Linear

    def bind(self, dim: int) -> None:
        """Make the map for latent size `dim`."""
        self.linear = nn.Linear(2 * dim, dim)

    def forward(self, state: Float[Tensor, "*n d"], hidden: Float[Tensor, "*n d"]) -> Float[Tensor, "*n d"]:
        """linear([T; H])."""
        mixed: Tensor = self.linear(torch.cat([state, hidden], dim=-1))
        return mixed


class Gate(nn.Module):
    """g * T + (1 - g) * H with g = sigmoid(linear([T; H])), one gate a dimension."""

    capturable = True
    linear: nn.Linear

    def bind(self, dim: int) -> None:
        """Make the gate for latent size `dim`."""
        self.linear = nn.Linear(2 * dim, dim)

    def forward(self, state: Float[Tensor, "*n d"], hidden: Float[Tensor, "*n d"]) -> Float[Tensor, "*n d"]:
        """The gated mix."""
        gate = torch.sigmoid(self.linear(torch.cat([state, hidden], dim=-1)))
        mixed: Tensor = hidden + gate * (state - hidden)  # not torch.lerp: under bf16 the gate's dtype is another
        return mixed


class Function(nn.Module):
    """A user's plain function as a module."""

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, state: Tensor, hidden: Tensor) -> Tensor:
        return self.function(state, hidden)


_STANDARD: dict[str, type[nn.Module]] = {"add": Add, "mean": Mean, "concat": Concat, "gate": Gate}


def build_aggregate(aggregate: str | Aggregate) -> nn.Module:
    """A standard aggregate by its name, a user's own as it is.

    Raises:
        InputTypeError: for an unknown name or something that cannot be called so.
    """
    if isinstance(aggregate, str) and aggregate in _STANDARD:
        return _STANDARD[aggregate]()
    if callable(aggregate):
        if not getattr(aggregate, "_forward_pre_hooks", None):  # which may hand on other arguments
            _check_arguments(aggregate.forward if isinstance(aggregate, nn.Module) else aggregate)
        return aggregate if isinstance(aggregate, nn.Module) else Function(aggregate)
    known = ", ".join(repr(name) for name in _STANDARD)
    raise InputTypeError(f"aggregate must be one of {known}, or a callable of (state, hidden), got {aggregate!r}")


def _check_arguments(function: Callable[..., Any]) -> None:
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # it does not tell
        return
    try:
        signature.bind(None, None)
    except TypeError as error:
        raise InputTypeError(f"aggregate must be a callable of (state, hidden): {error}") from None
