"""How an objective is shown: as it could be made again."""

from __future__ import annotations

import inspect

__all__ = ["shown"]


def shown(part: object, *always: str) -> str:
    """The class and its settings: those named in `always`, and those that are not the default.

    Args:
        part: an object that keeps its settings under the names of its constructor's arguments.
        always: names of settings.
    """
    words = []
    for name, each in inspect.signature(type(part)).parameters.items():
        value = getattr(part, name, each.default)
        if each.default is each.empty:
            words.append(repr(value))
        elif name in always or value != each.default:
            words.append(f"{name}={value!r}")
    return f"{type(part).__name__}({', '.join(words)})"
