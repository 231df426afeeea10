"""The ranges of training's settings, in one place for `fit`, `two_stage` and the command line."""

from __future__ import annotations

from latentloop.checks import above_zero, at_least, zero_or_more

__all__ = ["check_settings"]


def check_settings(**settings: int | float | None) -> None:
    """Refuse settings of training that are out of range, by name.

    Raises:
        InputError: naming the setting.
    """
    for name, value in settings.items():
        if name == "clip_norm" and value is None:
            continue
        if name == "weight_decay":
            zero_or_more(name, value)
        elif name.endswith(("learning_rate", "clip_norm")):
            above_zero(name, value)
        else:
            at_least(name, value, 0 if name.endswith("epochs") else 1)
