"""The command line: each command is a dataclass in `latentloop.commands`, from which tyro makes the options.

Nothing is imported up here that takes time, so that Ctrl-C is answered in one line from the start.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from latentloop import launch

if TYPE_CHECKING:
    from latentloop.commands.parser import Command

__all__ = ["main"]

USER_ERROR, STOPPED, INTERRUPTED, READER_GONE = 2, 1, 130, 141


_SPINS = "1000"
"""How often an OpenMP thread looks before it sleeps. A pre-training step of 1024 samples on two cores, idle | with one
other process: 300,000 (the default) 0.48 s | 18.7 s; 10,000 0.46 | 2.8; 1,000 0.52 | 1.15; 0 (passive) 0.75 | 0.87."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code: 0, 1 training stopped, 2 the user's mistake, 130 Ctrl-C, 141 nobody reads.

    Args:
        arguments: the command line without the program's name; None takes it from the process.
    """
    _let_threads_wait_briefly()
    _open_closed_outputs()
    code = 0
    try:
        try:
            code = _run(sys.argv[1:] if arguments is None else arguments)
            return code
        finally:
            sys.stdout.flush()
    except BrokenPipeError:  # `latentloop ... | head` has read enough
        _silence_output()
        return READER_GONE
    except OSError as error:  # no room for what was printed; of its own errors the command has told
        _silence_output()
        if not code:
            _say(f"error: {error}")
        return code or USER_ERROR
    except KeyboardInterrupt:
        return _interrupted("")


def _run(arguments: Sequence[str]) -> int:
    from latentloop.commands.parser import parse
    from latentloop.errors import InputError, InputTypeError

    level = logging.ERROR if launch.rank() else logging.INFO  # all of several processes would say the same
    logging.basicConfig(level=level, format="%(message)s", stream=sys.stderr, force=True)
    for noisy in ("httpx", "httpx2", "accelerate", "datasets", "torch"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    if launch.rank():
        with contextlib.redirect_stderr(None), contextlib.redirect_stdout(None):
            command = parse(arguments)
    else:
        command = parse(arguments)
    with _no_interrupt_lost():
        from latentloop.training import NotFinite

    code = 0
    try:
        _refuse_names(arguments)
        if launch.world() > 1:
            _refuse_several(command)
        command.run()
    except BrokenPipeError:
        raise
    except (InputError, InputTypeError, OSError) as error:
        _complain(error, command)
        code = USER_ERROR
    except NotFinite as error:
        _complain(error, command)
        code = STOPPED
    except (MemoryError, RuntimeError, TypeError) as error:
        if _lost_another(error):
            _complain(_Lost(), command)
            return STOPPED
        if not _lacks_memory(error):
            raise
        _complain(_TooLarge(" ".join(str(error).split())[:200]), command)
        return USER_ERROR
    except KeyboardInterrupt:
        return _interrupted(_kept(command))
    _part()  # not in a handler, whose error holds what was trained; who lost another may still wait for it
    return code


def _refuse_names(arguments: Sequence[str]) -> None:
    """Refuse what a run's files cannot hold, and what readers cannot open, before any work is done.

    Raises:
        InputError: for an argument of bytes that are not UTF-8, as the names of some files are.
    """
    from latentloop.errors import InputError

    for argument in arguments:
        try:
            argument.encode()
        except UnicodeEncodeError:
            shown = argument.encode("ascii", "backslashreplace").decode()
            raise InputError(
                f"{shown}: no name in UTF-8; rename the file, or set PYTHONUTF8=1 where it is one"
            ) from None


class _TooLarge(Exception):
    """What does not fit into the memory."""

    def __str__(self) -> str:
        return f"not enough memory ({super().__str__()}): choose a smaller --batch-size, --dim or --max-length"


def _lacks_memory(error: BaseException) -> bool:
    """Whether memory ran out, or was asked for beyond what can be counted: torch says it by plain errors."""
    signs = ("allocate memory", "out of memory", "Storage size calculation overflowed", "Overflow when unpacking")
    return isinstance(error, MemoryError) or any(sign in str(error) for sign in signs)


class _Lost(Exception):
    """What is left to say of a process that died."""

    def __str__(self) -> str:
        return "another process of this training has ended; what was finished is kept, continue with --resume"


def _lost_another(error: BaseException) -> bool:
    """Whether an exchange between processes failed: gloo says so by a plain RuntimeError, others by one of their own."""
    if launch.world() == 1:
        return False
    from torch import distributed

    said = str(error).lower()
    return isinstance(error, distributed.DistError) or "gloo" in said or "connection " in said


def _refuse_several(command: Command) -> None:
    """Refuse a command that several processes would each carry out.

    Raises:
        InputError: for any other than `train` and `resume`.
    """
    from latentloop.commands.resume import Resume
    from latentloop.commands.train import Train
    from latentloop.errors import InputError

    if not isinstance(command, Train | Resume):
        name = type(command).__name__.lower()
        raise InputError(f"{name} runs in one process, but {launch.world()} were launched: start it without a launcher")


def _part() -> None:
    """Leave the other processes in order.

    gloo's threads end with the last reference to their group, and models in DDP hold one. A thread that outlives Python
    aborts the process where it lets go of a tensor.
    """
    if launch.world() > 1:
        from torch import distributed

        if distributed.is_initialized():
            gc.collect()
            distributed.destroy_process_group()


_FIRST_SPEAKS = 3.0
"""Seconds: what stops all processes is told by the first, and the launcher ends the others when it has ended; what stops
another alone, or because it waits for one that died, is told after that."""


def _complain(error: BaseException, command: Command) -> None:
    from latentloop.commands.naming import in_options

    who = ""
    if launch.rank():
        time.sleep(_FIRST_SPEAKS)
        who = f" in process {launch.rank()}"
    _say(f"error{who}: {in_options(error, command)}")


def _say(text: str) -> None:
    with contextlib.suppress(OSError):  # the exit code says it too, where there is no room for words
        sys.stderr.write(f"latentloop: {text}\n")
        sys.stderr.flush()


def _interrupted(kept: str) -> int:
    if launch.rank():
        return INTERRUPTED
    newline = "\n" if sys.stderr.isatty() else ""  # behind the terminal's ^C
    sys.stderr.write(f"{newline}latentloop: interrupted{kept}\n")
    return INTERRUPTED


@contextlib.contextmanager
def _no_interrupt_lost() -> Iterator[None]:
    """Raise `KeyboardInterrupt` behind imports that swallowed it: torch goes on without numpy where its import fails."""
    handler = signal.getsignal(signal.SIGINT)
    if handler is not signal.default_int_handler or threading.current_thread() is not threading.main_thread():
        yield
        return
    heard = False

    def hear(number: int, frame: FrameType | None) -> None:
        nonlocal heard
        heard = True
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, hear)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
    if heard:
        raise KeyboardInterrupt


def _kept(command: Command) -> str:
    """What to say of an interrupted command's work."""
    from latentloop.commands.resume import Resume
    from latentloop.commands.train import Train

    if isinstance(command, Resume):
        return "; what was finished is kept, give the same command to continue"
    if not isinstance(command, Train):
        return ""
    how = command.continued() if launch.world() == 1 else None
    return f"; what was finished is kept, continue with {how or '--resume'}"


def _silence_output() -> None:
    """Send what is still buffered for standard output nowhere: Python flushes it once more when it exits."""
    with contextlib.suppress(OSError):  # an output without a descriptor has nothing to flush
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def _open_closed_outputs() -> None:
    """Let what is said go nowhere where the caller closed an output: Python then has none, and a file may take its number."""
    if sys.stdout is None:
        sys.stdout = Path(os.devnull).open("w")
    if sys.stderr is None:
        sys.stderr = Path(os.devnull).open("w")


def _let_threads_wait_briefly() -> None:
    """Read when torch is imported, which is later than here; what the user chose stays."""
    if launch.world() > 1:  # DDP warns of a price of steps that may leave parameters without a gradient
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", _SPINS)


if __name__ == "__main__":
    sys.exit(main())
