"""What a user did wrong, said in one line: the command line prints these without a traceback and exits with 2."""

from __future__ import annotations

__all__ = ["InputError", "InputTypeError"]


class InputError(ValueError):
    """A value, row, file or option that cannot be used; the message names it, what was found and what to do."""


class InputTypeError(TypeError):
    """An argument of the wrong kind; the message names it, what was found and what to do."""
