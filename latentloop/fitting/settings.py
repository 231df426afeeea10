"""The ranges of training's settings, in one place for `fit`, `two_stage` and the command line."""

from __future__ import annotations

from latentloop.checks import above_zero, at_least, zero_or_more
from latentloop.fitting.schedule import build_schedule

__all__ = ["check_settings"]


def check_settings(**settings: object) -> None:
    """Refuse settings of training that are out of range, by name.

    Raises:
        InputError: naming the setting.
        InputTypeError: for a schedule that is neither a name nor a function.
    """
    for name, value in settings.items():
        if name == "clip_norm" and value is None:
            continue
        if name == "schedule":
            build_schedule(value)  # type: ignore[arg-type]  # refuses what is none
        elif name == "weight_decay":
            zero_or_more(name, value)
        elif name.endswith(("learning_rate", "clip_norm")):
            above_zero(name, value)
        else:
            at_least(name, value, 0 if name.endswith("epochs") else 1)
