"""What a user did wrong, said in one line: the command line prints these without a traceback and exits with 2."""

from __future__ import annotations

__all__ = ["InputError", "InputTypeError", "one_line"]


class InputError(ValueError):
    """A value, row, file or option that cannot be used; the message names it, what was found and what to do.

    A message about an argument begins "name must ...", from which the command line knows the option.

    Args:
        message: one line, worded so that it reads right in Python and on the command line.
        settings: arguments that would mend what a message is about that does not begin with one.
    """

    def __init__(self, message: str, *, settings: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.settings = settings


class InputTypeError(TypeError):
    """An argument of the wrong kind; the message names it, what was found and what to do."""


def one_line(error: BaseException) -> str:
    """An error's message without its line breaks, cut to a readable length."""
    return " ".join(str(error).split())[:200]
