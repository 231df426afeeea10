"""What with weights a function finds beside its arguments; no module that calls it knows of them."""

from __future__ import annotations

import dis
import functools
import inspect
from typing import Any

from torch import nn

__all__ = ["held_by"]


def held_by(function: Any) -> dict[str, nn.Module | nn.Parameter]:
    """The modules and parameters that a function has by default, in its closure, as globals, or bound to it, by name.

    Args:
        function: a function, a method, a partial one, or an object that can be called. Of a method's and an object's
            attributes those count that the method names.
    """
    return {name: value for name, value in _names(function).items() if isinstance(value, nn.Module | nn.Parameter)}


def _names(function: Any) -> dict[str, Any]:
    if isinstance(function, functools.partial):
        given = {f"argument {place}": value for place, value in enumerate(function.args, 1)}
        return _names(function.func) | given | function.keywords
    if inspect.ismethod(function):
        owner, code = function.__self__, function.__func__.__code__
        attributes = vars(owner) | getattr(owner, "_modules", {}) | getattr(owner, "_parameters", {})
        return _names(function.__func__) | {name: attributes[name] for name in code.co_names if name in attributes}
    if inspect.isfunction(function):
        loaded = {step.argval for step in dis.get_instructions(function) if step.opname == "LOAD_GLOBAL"}
        found = {name: value for name, value in function.__globals__.items() if name in loaded}
        parameters = inspect.signature(function).parameters.values()
        found |= {parameter.name: parameter.default for parameter in parameters}
        return found | dict(zip(function.__code__.co_freevars, _contents(function), strict=True))
    called = getattr(function, "__call__", None)  # noqa: B004  # an object of a class of its own
    return _names(called) if inspect.ismethod(called) else {}


def _contents(function: Any) -> list[Any]:
    """What a closure's cells hold; None for one that is empty yet."""
    found = []
    for cell in function.__closure__ or ():
        try:
            found.append(cell.cell_contents)
        except ValueError:
            found.append(None)
    return found
