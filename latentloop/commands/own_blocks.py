"""A user's own blocks, named on the command line as `package.module:function`.

Only a person's command names code: a run's files never do, so a run around such blocks needs the name again.
"""

from __future__ import annotations

import importlib
import inspect
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn

from latentloop.errors import InputError, InputTypeError, one_line

if TYPE_CHECKING:
    from latentloop.recommender import Recommender

__all__ = ["OwnBlocks", "load_blocks", "try_blocks"]


OwnBlocks = tuple[nn.Module, nn.Module | Literal["copy"]]
"""Pre-block and core-block, as `RecurrentDepth` takes them."""


def load_blocks(name: str, dim: int, max_length: int) -> OwnBlocks:
    """Import a function and call it with d.

    Args:
        name: "package.module:function"; modules of the working directory are found too.
        dim: d, the first argument of the function, which returns (pre_block, core_block): two modules, one module
            twice, or a module and "copy".
        max_length: L, handed over by name where the function has a parameter `max_length`.

    Raises:
        InputError: for a name that leads to no function, or a function that fails.
        InputTypeError: for a function that returns something else.
    """
    function = _function(name)
    with _in_one_line(name):
        blocks = function(dim, max_length=max_length) if _takes_max_length(function) else function(dim)
    if isinstance(blocks, tuple | list) and len(blocks) == 2:
        pre_block, core_block = blocks
        shared_or_not = isinstance(core_block, nn.Module) or (isinstance(core_block, str) and core_block == "copy")
        if isinstance(pre_block, nn.Module) and shared_or_not:
            return pre_block, core_block
    parts = ", ".join(map(_kind, blocks)) if isinstance(blocks, tuple | list) else _kind(blocks)
    found = f"({parts})" if isinstance(blocks, tuple | list) else parts
    raise InputTypeError(
        f"--encoder {name} must return (pre_block, core_block), two nn.Modules; (block, block), one for both, which "
        f'shares its weights; or (block, "copy"), which copies it; got {found}'
    )


def try_blocks(name: str, model: Recommender) -> None:
    """Run a model of the blocks once, on a history as long as they get and on one of a single item.

    Args:
        name: what the blocks were loaded by.
        model: it is put into evaluation mode and back.

    Raises:
        InputError: where they fail, or return something else than they must.
    """
    history = torch.ones(2, model.max_length, dtype=torch.int64, device=model.device)
    history[0, :-1] = 0
    training = model.training
    try:
        with torch.no_grad(), _in_one_line(name):
            model.eval().think(history, depth=1)
    finally:
        model.train(training)


def _takes_max_length(function: Callable[..., Any]) -> bool:
    try:
        parameter = inspect.signature(function).parameters.get("max_length")
    except (TypeError, ValueError):  # not written in Python
        return False
    return parameter is not None and parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)


def _kind(part: object) -> str:
    return repr(part) if isinstance(part, str) else type(part).__name__


def _function(name: str) -> Callable[..., Any]:
    place, colon, attribute = name.partition(":")
    if not (place and colon and attribute) or place.startswith("."):
        raise InputError(f"--encoder must be written package.module:function, got {name!r}")
    here = str(Path.cwd())
    if here not in sys.path and "" not in sys.path:
        sys.path.insert(0, here)  # a console script starts without it, unlike `python -m`
    with _in_one_line(name):
        try:
            module = importlib.import_module(place)
        except ImportError as error:
            raise InputError(
                f"--encoder {name}: {place} cannot be imported ({error}): start in its folder, or set PYTHONPATH"
            ) from None
    function = getattr(module, attribute, None)
    if not callable(function):
        raise InputError(f"--encoder {name}: {place} has no function {attribute}")
    return function  # type: ignore[no-any-return]  # a callable by the check above


@contextmanager
def _in_one_line(name: str) -> Iterator[None]:
    """An error in the user's code as one line that says where, its traceback one `__cause__` away."""
    try:
        yield
    except (InputError, InputTypeError):
        raise
    except (Exception, SystemExit) as error:  # a script that ends is no reason to end well
        frames = traceback.extract_tb(error.__traceback__)
        own = getattr(sys.modules.get(name.partition(":")[0]), "__file__", None)
        place = next((frame for frame in reversed(frames) if frame.filename == own), frames[-1])
        where = "" if isinstance(error, SyntaxError) else f" ({place.filename}, line {place.lineno})"
        raise InputError(f"--encoder {name} fails: {type(error).__name__}: {one_line(error)}{where}") from error
