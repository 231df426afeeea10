"""A user's own blocks, named on the command line as `package.module:function`.

Only a person's command names code: a run's files never do, so a run around such blocks needs the name again.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from latentloop.errors import InputError, InputTypeError

__all__ = ["load_blocks"]


def load_blocks(name: str, dim: int) -> tuple[nn.Module, nn.Module]:
    """Import a function and call it with d.

    Args:
        name: "package.module:function"; modules of the working directory are found too.
        dim: d, the one argument of the function, which returns (pre_block, core_block).

    Raises:
        InputError: for a name that leads to no function, or a function that fails.
        InputTypeError: for a function that returns something else.
    """
    blocks = _function(name)(dim)
    if isinstance(blocks, tuple | list) and len(blocks) == 2 and all(isinstance(block, nn.Module) for block in blocks):
        return blocks[0], blocks[1]
    found = [type(part).__name__ for part in blocks] if isinstance(blocks, tuple | list) else type(blocks).__name__
    raise InputTypeError(f"--encoder {name} must return two nn.Modules, pre-block and core-block, got {found}")


def _function(name: str) -> Callable[[int], Any]:
    place, colon, attribute = name.partition(":")
    if not (place and colon and attribute):
        raise InputError(f"--encoder must be written package.module:function, got {name!r}")
    here = str(Path.cwd())
    if here not in sys.path and "" not in sys.path:
        sys.path.insert(0, here)  # a console script starts without it, unlike `python -m`
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
