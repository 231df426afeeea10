"""A user's own blocks, named on the command line as `package.module:function`.

Only a person's command names code: a run's files never do, so a run around such blocks needs the name again.
"""

from __future__ import annotations

import importlib
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from latentloop.errors import InputError, InputTypeError
from latentloop.weights import one_line

if TYPE_CHECKING:
    from latentloop.recommender import Recommender

__all__ = ["load_blocks", "try_blocks"]


def load_blocks(name: str, dim: int) -> tuple[nn.Module, nn.Module]:
    """Import a function and call it with d.

    Args:
        name: "package.module:function"; modules of the working directory are found too.
        dim: d, the one argument of the function, which returns (pre_block, core_block).

    Raises:
        InputError: for a name that leads to no function, or a function that fails.
        InputTypeError: for a function that returns something else.
    """
    function = _function(name)
    with _in_one_line(name):
        blocks = function(dim)
    if isinstance(blocks, tuple | list) and len(blocks) == 2 and all(isinstance(block, nn.Module) for block in blocks):
        return blocks[0], blocks[1]
    found = [type(part).__name__ for part in blocks] if isinstance(blocks, tuple | list) else type(blocks).__name__
    raise InputTypeError(f"--encoder {name} must return two nn.Modules, pre-block and core-block, got {found}")


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


def _function(name: str) -> Callable[[int], Any]:
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
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        own = getattr(sys.modules.get(name.partition(":")[0]), "__file__", None)
        place = next((frame for frame in reversed(frames) if frame.filename == own), frames[-1])
        where = "" if isinstance(error, SyntaxError) else f" ({place.filename}, line {place.lineno})"
        raise InputError(f"--encoder {name} fails: {type(error).__name__}: {one_line(error)}{where}") from error
