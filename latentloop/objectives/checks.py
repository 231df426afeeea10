"""Checks that several objectives share."""

from __future__ import annotations

import math

from latentloop.errors import InputError

__all__ = ["above_zero", "at_least", "one_of"]


def above_zero(name: str, value: object) -> float:
    """Return `value` if it is a finite number above 0, else raise `InputError`."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not (math.isfinite(value) and value > 0):
        raise InputError(f"{name} must be a finite number above 0, got {value!r}")
    return float(value)


def at_least(name: str, value: object, least: int) -> int:
    """Return `value` if it is a whole number of at least `least`, else raise `InputError`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise InputError(f"{name} must be a whole number of at least {least}, got {value!r}")
    return value


def one_of(name: str, value: str, choices: tuple[str, ...]) -> str:
    """Return `value` if it is one of `choices`, else raise `InputError`."""
    if value not in choices:
        raise InputError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}")
    return value
