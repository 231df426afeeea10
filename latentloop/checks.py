"""Checks of arguments that the whole library shares: each returns the value or raises one line that names it."""

from __future__ import annotations

import math
from numbers import Integral, Real
from typing import TypeGuard

from latentloop.errors import InputError

__all__ = [
    "DEEPEST",
    "MOST_LAYERS",
    "above_zero",
    "as_deep",
    "at_least",
    "dropout_rate",
    "is_whole",
    "one_of",
    "zero_or_more",
]

DEEPEST = 10_000
"""More thoughts than any loop takes: a configuration from elsewhere may name a number that would never end."""
MOST_LAYERS = 1_000
"""More layers than any block has: they are built one by one, until memory runs out."""


def is_whole(value: object) -> TypeGuard[int]:
    """Whether `value` is a whole number: an int or NumPy's, and no bool."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def at_least(name: str, value: object, least: int) -> int:
    """Return `value`, as an int, if it is a whole number of at least `least`, else raise `InputError`."""
    if not is_whole(value) or value < least:
        raise InputError(f"{name} must be a whole number of at least {least}, got {value!r}")
    return int(value)


def as_deep(name: str, value: object, deepest: int = DEEPEST) -> int:
    """Return `value` if it is a number of thoughts, or of layers, from 1 to `deepest`, else raise `InputError`."""
    depth = at_least(name, value, 1)
    if depth > deepest:
        raise InputError(f"{name} must be at most {deepest}, got {depth}")
    return depth


def above_zero(name: str, value: object) -> float:
    """Return `value` if it is a finite number above 0, else raise `InputError`."""
    if not _is_finite(value) or value <= 0:
        raise InputError(f"{name} must be a finite number above 0, got {value!r}")
    return float(value)


def zero_or_more(name: str, value: object) -> float:
    """Return `value` if it is a finite number of at least 0, else raise `InputError`."""
    if not _is_finite(value) or value < 0:
        raise InputError(f"{name} must be a finite number of at least 0, got {value!r}")
    return float(value)


def dropout_rate(value: object) -> float:
    """Return `value` if it is a number in [0, 1), else raise `InputError`."""
    if not _is_finite(value) or value < 0 or float(value) >= 1:
        raise InputError(f"dropout must lie in [0, 1), got {value!r}")
    return float(value)


def one_of(name: str, value: str, choices: tuple[str, ...]) -> str:
    """Return `value` if it is one of `choices`, else raise `InputError`."""
    if value not in choices:
        raise InputError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}")
    return value


def _is_finite(value: object) -> TypeGuard[Real]:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
