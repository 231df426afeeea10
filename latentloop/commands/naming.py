"""Errors in the words of the command line: the settings they are about are options there.

The library's messages about a setting begin with the argument's name, "mean_depth must be ...", or the error says which
settings would mend it. A command's fields say which of them are options.
"""

from __future__ import annotations

import dataclasses
from typing import Any

__all__ = ["in_options"]


def in_options(error: BaseException, command: Any) -> str:
    """An error's message in one line, with options in place of arguments.

    Args:
        error: what a command raised.
        command: a dataclass of options; groups of options are dataclasses within it.
    """
    message, known = " ".join(str(error).split()), _settings(command)
    name, must, rest = message.partition(" must ")
    if must and name in known:
        return f"{_option(name)}{must}{rest}"
    options = [_option(setting) for setting in getattr(error, "settings", ()) if setting in known]
    return f"{message} ({', '.join(options)})" if options else message


def _option(setting: str) -> str:
    return f"--{setting.replace('_', '-')}"


def _settings(options: Any) -> set[str]:
    names: set[str] = set()
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        names |= _settings(value) if dataclasses.is_dataclass(value) else {field.name}
    return names
