"""Options as a run's config.json holds them: checked value by value, since anyone can edit the file."""

from __future__ import annotations

import dataclasses
import types
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from latentloop.errors import InputError

__all__ = ["saved_options"]

T = TypeVar("T")


def saved_options(kind: type[T], config: dict[str, Any], group: str, path: Path) -> T:
    """A group of options from a run's configuration.

    Args:
        kind: the group's dataclass, of plain fields.
        config: what `path` holds.
        group: the group's name in it.
        path: for messages.

    Raises:
        InputError: for a group that is missing, an unknown option, or a value of another type.
    """
    values = config.get(group)
    if not isinstance(values, dict):
        raise InputError(f"{path} is damaged: {group} must be an object of options, found {values!r}")
    hints = get_type_hints(kind)
    names = {field.name for field in dataclasses.fields(kind)}  # type: ignore[arg-type]  # T is a dataclass
    for name, value in values.items():
        if name not in names:
            raise InputError(f"{path} is damaged: {group}.{name} is no option of this release")
        if not _fits(value, hints[name]):
            raise InputError(f"{path} is damaged: {group}.{name} must be {_words(hints[name])}, found {value!r}")
    return kind(**values)


def _fits(value: Any, hint: Any) -> bool:
    if get_origin(hint) is Literal:
        return any(value == choice and type(value) is type(choice) for choice in get_args(hint))
    if get_origin(hint) in (Union, types.UnionType):
        return any(_fits(value, choice) for choice in get_args(hint))
    return type(value) is hint or (hint is float and type(value) is int)


def _words(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return " or ".join(map(repr, get_args(hint)))
    if get_origin(hint) in (Union, types.UnionType):
        return " or ".join(map(_words, get_args(hint)))
    return {int: "a whole number", float: "a number", bool: "true or false", str: "text"}.get(hint, "null")
