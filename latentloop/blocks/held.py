"""What with weights a function finds beside its arguments; no module that calls it knows of them."""

from __future__ import annotations

import dis
import functools
import inspect
import itertools
from collections.abc import Mapping
from typing import Any

from torch import nn

__all__ = ["held_by", "weights_in"]

_DEEP, _MANY = 3, 1000
"""How far into containers, and how many things in all, are looked at."""


def held_by(function: Any) -> dict[str, nn.Module | nn.Parameter]:
    """The modules and weights that a function has by default, in its closure, as globals, or bound to it, by name.

    Args:
        function: a function, a method, a partial one, or an object that can be called. Of a method's and an object's
            attributes those count that the method names.
    """
    return {inner: found for name, value in _names(function).items() for inner, found in weights_in(name, value)}


def weights_in(name: str, value: Any, *, parameters: bool = True) -> list[tuple[str, nn.Module | nn.Parameter]]:
    """What with weights stands under a name: a module or a parameter, or those in a list, tuple, set or dict.

    Args:
        name: what is told of it.
        value: anything.
        parameters: whether parameters count that lie in a container: a copy of some to compare with is no weight.
    """
    found: list[tuple[str, nn.Module | nn.Parameter]] = []
    waiting, looked_at = [(name, value, 0)], 0
    while waiting and looked_at < _MANY:  # what holds more is data
        where, one, deep = waiting.pop(0)
        looked_at += 1
        if isinstance(one, nn.Module) or (isinstance(one, nn.Parameter) and (parameters or not deep)):
            found.append((where, one))
        elif deep < _DEEP and isinstance(one, Mapping):
            waiting += [(f"{where}[{key!r}]", inner, deep + 1) for key, inner in itertools.islice(one.items(), _MANY)]
        elif deep < _DEEP and isinstance(one, list | tuple | set):
            waiting += [
                (f"{where}[{place}]", inner, deep + 1) for place, inner in enumerate(itertools.islice(one, _MANY))
            ]
    return found


def _names(function: Any) -> dict[str, Any]:
    if isinstance(function, functools.partial):
        given = {f"argument {place}": value for place, value in enumerate(function.args, 1)}
        return _names(function.func) | given | function.keywords
    if inspect.isfunction(function):
        loaded = {step.argval for step in dis.get_instructions(function) if step.opname == "LOAD_GLOBAL"}
        # a global container holds what others use too
        found = {name: value for name, value in function.__globals__.items() if name in loaded and not _holds(value)}
        arguments = function.__code__.co_varnames[: function.__code__.co_argcount]
        defaults = function.__defaults__ or ()
        found |= dict(zip(arguments[len(arguments) - len(defaults) :], defaults, strict=True))
        found |= function.__kwdefaults__ or {}
        return found | dict(zip(function.__code__.co_freevars, _contents(function), strict=True))
    # a method, or an object of a class of one's own
    called = function if inspect.ismethod(function) else getattr(function, "__call__", None)  # noqa: B004
    if inspect.ismethod(called) and inspect.isfunction(called.__func__):
        attributes, named = _attributes(called.__self__), _read_of_self(called.__func__)
        return _names(called.__func__) | {name: attributes[name] for name in named if name in attributes}
    return {}  # written in C, of which nothing is seen


def _holds(value: Any) -> bool:
    return isinstance(value, Mapping | list | tuple | set)


def _attributes(owner: Any) -> dict[str, Any]:
    try:
        found = dict(vars(owner))
    except TypeError:  # it has slots, or is written in C
        found = {}
    return found | owner._modules | owner._parameters if isinstance(owner, nn.Module) else found


def _read_of_self(method: Any) -> set[str]:
    """The attributes that a method's code reads of its first argument."""
    steps = list(dis.get_instructions(method))
    first = method.__code__.co_varnames[:1]
    return {
        step.argval
        for before, step in itertools.pairwise(steps)
        if step.opname in ("LOAD_ATTR", "LOAD_METHOD") and before.opname.startswith("LOAD_FAST")
        # some versions load two at once: the last is the one that is read
        if (before.argval[-1:] if isinstance(before.argval, tuple) else (before.argval,)) == first
    }


def _contents(function: Any) -> list[Any]:
    """What a closure's cells hold; None for one that is empty yet."""
    found = []
    for cell in function.__closure__ or ():
        try:
            found.append(cell.cell_contents)
        except ValueError:
            found.append(None)
    return found
