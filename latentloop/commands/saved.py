"""Options as a run's config.json holds them: checked value by value, since anyone can edit the file."""

from __future__ import annotations

import dataclasses
import sys
import types
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from latentloop.errors import InputError

if TYPE_CHECKING:
    from latentloop.commands.train import Train
    from latentloop.runs.directory import RunDirectory

__all__ = ["saved_options", "saved_train"]

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
    return kind(**_checked(values, kind, f"{group}.", path))


def saved_train(run: RunDirectory) -> Train:
    """The command that a run was started with, or continued with since.

    Raises:
        InputError: as `saved_options`.
    """
    from latentloop.commands.train import Train
    from latentloop.runs.directory import MARK

    path, config = run.config_path, {name: value for name, value in run.config().items() if name != MARK}
    kept = Train(config["source"], run.path).config().keys()  # the others say how it is carried out
    if strange := sorted(config.keys() - kept):
        raise InputError(f"{path} is damaged: {strange[0]} is no option of this release")
    kinds: dict[str, Any] = {field.name: field.default_factory for field in dataclasses.fields(Train)}
    groups: dict[str, Any] = {
        name: saved_options(kind, {name: {}} | config, name, path)  # a group younger than the run has its defaults
        for name, kind in kinds.items()
        if isinstance(kind, type) and dataclasses.is_dataclass(kind)
    }
    own = {name: value for name, value in config.items() if name not in groups}
    return Train(**_checked(own, Train, "", path), **groups, out=run.path)


def _checked(values: dict[str, Any], kind: type, prefix: str, path: Path) -> dict[str, Any]:
    """Fields of a dataclass, each of its type, out of JSON, which knows neither paths nor tuples."""
    hints = get_type_hints(kind)
    names = {field.name for field in dataclasses.fields(kind)}
    for name, value in values.items():
        if name not in names:
            raise InputError(f"{path} is damaged: {prefix}{name} is no option of this release")
        if not _fits(value, hints[name]):
            raise InputError(f"{path} is damaged: {prefix}{name} must be {_words(hints[name])}, found {value!r}")
    return {name: _made(value, hints[name]) for name, value in values.items()}


def _made(value: Any, hint: Any) -> Any:
    if isinstance(value, list):
        return tuple(value)
    return Path(value) if isinstance(value, str) and Path in get_args(hint) else value


def _fits(value: Any, hint: Any) -> bool:
    if get_origin(hint) is Literal:
        return any(value == choice and type(value) is type(choice) for choice in get_args(hint))
    if get_origin(hint) in (Union, types.UnionType):
        return any(_fits(value, choice) for choice in get_args(hint))
    if get_origin(hint) is tuple:
        return isinstance(value, list) and all(type(part) is str for part in value)
    if hint is Path:
        return type(value) is str
    return type(value) is hint or (hint is float and type(value) is int and abs(value) <= sys.float_info.max)


def _words(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return " or ".join(map(repr, get_args(hint)))
    if get_origin(hint) in (Union, types.UnionType):
        return " or ".join(map(_words, get_args(hint)))
    if get_origin(hint) is tuple:
        return "a list of texts"
    return {int: "a whole number", float: "a number", bool: "true or false", str: "text", Path: "a path"}.get(
        hint, "null"
    )
