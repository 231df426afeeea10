"""What whoever runs a benchmark did wrong: one line on the standard error, and exit code 2."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from latentloop.errors import InputError, InputTypeError

__all__ = ["told"]


@contextmanager
def told() -> Iterator[None]:
    """Errors of input without their traceback."""
    try:
        yield
    except (InputError, InputTypeError) as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(2)
