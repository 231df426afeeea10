"""What a block declares about itself, as class or instance attributes: tests, docs and the layout are chosen by them."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from latentloop.errors import InputTypeError

__all__ = ["Facts", "facts", "made_here"]


@dataclass(frozen=True)
class Facts:
    """Promises of a block; a fact that is not declared is not promised.

    Args:
        causal: a position never sees later ones.
        pad_invariant: extra left padding changes nothing.
        fixed_length: rows must have exactly `max_length` positions.
        packed: it also takes tokens (tokens, d) behind each other, with `offsets` (B + 1,).
        capturable: packed, its pass is kernels alone that a CUDA graph may replay: nothing that the host reads back, no
            draws but torch's, no shapes that depend on values, no state but parameters. A class declares it for itself
            and not for those that inherit from it.
    """

    causal: bool = False
    pad_invariant: bool = False
    fixed_length: bool = False
    packed: bool = False
    capturable: bool = False


def made_here(part: object) -> bool:
    """Whether a thing is of a class of ours."""
    return type(part).__module__.partition(".")[0] == "latentloop"


def facts(block: Any) -> Facts:
    """Read the facts that `block` declares as boolean attributes.

    Raises:
        InputTypeError: for an attribute of a fact's name that is not a bool.
    """
    declared = {}
    for field in fields(Facts):
        value = getattr(block, field.name, False)
        if not isinstance(value, bool):
            raise InputTypeError(
                f"{type(block).__name__}.{field.name} declares a fact and must be True or False, got {value!r}: "
                "rename the attribute if it means something else"
            )
        declared[field.name] = value
    if "capturable" not in vars(type(block)) and not made_here(block):
        declared["capturable"] = False  # what a base class promised, what was added may break
    return Facts(**declared)
