"""One process at a time writes a run: a lock of the operating system's, which ends with the process that holds it."""

from __future__ import annotations

import contextlib
import errno
import functools
import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import ParamSpec, TypeVar

from filelock import BaseFileLock, FileLock, Timeout

from latentloop import launch
from latentloop.errors import InputError, InputTypeError
from latentloop.files import umask, writing

__all__ = ["LOCK", "Taken", "alone", "held"]

LOCK = ".latentloop.lock"
"""An empty file that stays in a run: removing it would let two processes lock two files of this name."""

_NO_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP}

_ours: set[tuple[Path, int, int]] = set()
"""What is held now: folder, process, thread."""

_warned: set[Path] = set()

logger = logging.getLogger(__name__)

P = ParamSpec("P")
R = TypeVar("R")


class Taken(InputError):
    """A run that another process is at work on."""


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Keep a run directory, which is made where it is missing, to this thread; taken again inside, it goes through.

    A process that is killed holds it no longer. Of processes that train together the first holds it for all.
    Where nothing but the lock came to lie in the directory, it is left as it was found.

    Args:
        folder: the run directory.

    Raises:
        Taken: where another process or thread holds it.
        OSError: where it cannot be written.
    """
    me = (folder.resolve(), os.getpid(), threading.get_ident())
    if me in _ours or launch.rank():
        yield
        return
    missing = [place for place in (folder, *folder.parents) if not place.exists()]
    try:
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        lock = _acquire(folder)
        _ours.add(me)
        try:
            yield
        finally:
            _ours.discard(me)
            _tidy(folder)
            if lock is not None:
                lock.release()
    finally:
        with contextlib.suppress(OSError):  # the first that something lies in stays, and all above it
            for place in missing:
                place.rmdir()


def alone(function: Callable[P, R]) -> Callable[P, R]:
    """Let a function hold the run that it is given as `run`, where it is given one, until it returns."""

    @functools.wraps(function)
    def holding(*arguments: P.args, **named: P.kwargs) -> R:
        folder = getattr(run := named.get("run"), "path", None)
        if run is not None and not isinstance(folder, Path):
            raise InputTypeError(f"run must be a RunDirectory, such as RunDirectory.create(path, {{}}), got {run!r}")
        with nullcontext() if folder is None else held(folder):
            return function(*arguments, **named)

    return holding


def _acquire(folder: Path) -> BaseFileLock | None:
    """The lock; None, with a warning, on a file system that has none."""
    path = folder / LOCK
    if path.is_symlink() or (path.exists() and not path.is_file()):
        raise InputError(f"{path} is a link or no plain file, and a run holds none: remove it")
    ours = not path.exists()
    # the library's own fallback is a file whose existence is the lock: it would outlive a killed process
    lock = FileLock(path, timeout=0, mode=0o666 & ~umask(), thread_local=False, fallback_to_soft=False)
    try:
        with writing(folder):
            lock.acquire()
        return lock
    except Timeout:
        raise Taken(
            f"{folder} is being trained by another process: wait until it ends, or choose another directory"
        ) from None
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            if ours:  # another's lock goes on under its name
                _tidy(folder)
            raise
    if folder not in _warned:
        _warned.add(folder)
        logger.warning("%s cannot be locked on this file system: see to it that only one process trains there", folder)
    return None


def _tidy(folder: Path) -> None:
    """Remove the lock, while nobody else can hold it, from a directory that holds nothing else."""
    with contextlib.suppress(OSError):
        if [place.name for place in folder.iterdir()] == [LOCK]:
            (folder / LOCK).unlink()
