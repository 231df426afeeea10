"""What a run was asked for, and what it may be asked for when it goes on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from latentloop.errors import InputError

__all__ = ["asked", "check_goes_on", "same_budget"]

_BUDGET = ("epochs", "rpt_epochs", "patience")
"""Options that say only when to stop: a run that is continued with more ends as if it had been started with them."""


def asked(config: Mapping[str, Any], defaults: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Options by their own names, as JSON holds them: of `config`, and of `defaults` what it does not name.

    Options stand in groups, of which no two share a name.
    """
    flat: dict[str, Any] = {}
    for options in (defaults or {}, config):
        for name, value in json.loads(json.dumps(dict(options))).items():
            flat |= value if isinstance(value, dict) else {name: value}
    return flat


def same_budget(before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
    """Whether `after` asks for no more epochs or patience than `before`."""
    return all(before.get(name) == value for name, value in after.items() if name in _BUDGET)


def check_goes_on(path: Path, before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
    """Refuse options under which a run could not go on as it began.

    Args:
        path: of the run.
        before: what it was asked for.
        after: what it is asked for now: the same, or more `epochs`, `rpt_epochs` (both only where the learning rate is
            constant) or `patience`.

    Raises:
        InputError: for an option that differs.
    """
    # a schedule is laid over all epochs: with more of them the steps so far would have been others
    constant = after.get("schedule", "constant") == "constant"
    budget = _BUDGET if constant else ("patience",)
    for name in sorted(before.keys() | after.keys()):
        old, new = before.get(name), after.get(name)
        if old == new or (name in budget and isinstance(old, int) and isinstance(new, int) and new > old):
            continue
        or_more = " or more" if name in budget else ""
        raise InputError(
            f"{name} was {old!r} when {path} was started and is now {new!r}: a run goes on with its original "
            f"options{or_more}; train --overwrite starts it over"
        )
