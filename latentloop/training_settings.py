"""The ranges of training's settings, in one place for `fit`, `two_stage` and the command line."""

from __future__ import annotations

import math

from latentloop.errors import InputError

__all__ = ["check_settings"]


def check_settings(**settings: int | float | None) -> None:
    """Refuse settings of training that are out of range, by name.

    Raises:
        InputError: naming the setting.
    """
    for name, value in settings.items():
        if name.endswith(("learning_rate", "weight_decay", "clip_norm")):
            zero = name == "weight_decay"
            if value is None and name == "clip_norm":
                continue
            if value is None or not math.isfinite(value) or value < 0 or (value == 0 and not zero):
                raise InputError(
                    f"{name} must be a finite number {'of at least' if zero else 'above'} 0, got {value!r}"
                )
        else:
            least = 0 if name.endswith("epochs") else 1
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise InputError(f"{name} must be a whole number of at least {least}, got {value!r}")
