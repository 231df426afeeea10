"""Files that are either whole or absent: written under a temporary name, then renamed."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from latentloop.errors import InputError
from latentloop.json_text import parse_json

__all__ = [
    "folder_for",
    "is_leftover",
    "json_text",
    "read_json",
    "remove_leftovers",
    "umask",
    "write_atomically",
    "write_json",
    "write_together",
    "writing",
]

_LEFTOVER = re.compile(r"\.(?P<name>.+)\.\d+\.tmp|\.tmp\w{6}|\.(?P<folder>data)-(old-)?[a-z0-9_]{8}")
"""Our temporary files, those of safetensors, and prepared data that was never renamed."""


@contextmanager
def write_atomically(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it takes the place of `path`, on failure it is removed.

    Raises:
        OSError: naming `path`, where it cannot be written.
    """
    temporary = _beside(path)
    try:
        with writing(path):
            yield temporary
            _settle(temporary)
            temporary.replace(path)
            _settle_folder(path.parent)
    finally:
        _remove(temporary)


def write_together(
    folder: Path, writers: Mapping[str, Callable[[Path], object]], *, before: Callable[[], object]
) -> None:
    """Write several files under temporary names, then rename all of them; none is touched where one cannot be written.

    Args:
        folder: where.
        writers: what writes each file to the path it is given, by name, in the order in which they are renamed.
        before: called between the last write and the first rename.

    Raises:
        OSError: naming the file that cannot be written.
    """
    drafts = {folder / name: _beside(folder / name) for name in writers}
    try:
        for path, draft in drafts.items():
            with writing(path):
                writers[path.name](draft)
                _settle(draft)
        before()
        for path, draft in drafts.items():
            draft.replace(path)
        _settle_folder(folder)
    finally:
        for draft in drafts.values():
            _remove(draft)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Name `path` in what the system says of a write that failed, safetensors' errors included.

    Raises:
        OSError: of the system's number, where it gave one.
    """
    try:
        yield
    except SafetensorError as error:
        number = re.search(r"\(os error (\d+)\)", str(error))
        if number is None:
            raise OSError(f"{path} cannot be written: {' '.join(str(error).split())[:200]}") from None
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from None
    except OSError as error:
        if error.errno is None:
            raise
        raise OSError(error.errno, os.strerror(error.errno), str(path)) from None


@contextmanager
def folder_for(path: Path) -> Iterator[None]:
    """Make the folder that `path` lies in for the time of writing it; on failure those made for it are removed again."""
    missing = [place for place in path.parents if not place.exists()]
    try:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException:
        with contextlib.suppress(OSError):  # the first that something lies in stays, and all above it
            for place in missing:
                place.rmdir()
        raise


def write_json(path: Path, value: Any) -> None:
    """Write `value` as JSON, atomically; NaN is refused because JSON has none."""
    with write_atomically(path) as temporary:
        temporary.write_text(json_text(value), encoding="utf-8")


def json_text(value: Any) -> str:
    """What `write_json` writes; NumPy's numbers as plain ones."""
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False, default=_plain_number) + "\n"


def _plain_number(value: object) -> int | float:
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        return float(value)
    raise TypeError(f"{type(value).__name__} has no place in JSON")


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        InputError: where the file is missing or damaged.
    """
    try:
        return parse_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path} is missing") from None
    except ValueError as error:
        raise InputError(f"{path} is damaged: {error}") from None


def is_leftover(path: Path, names: tuple[str, ...] = ()) -> bool:
    """Whether a killed process left `path` half-written.

    Args:
        path: a file or folder.
        names: the files it may have been meant for; empty is any.
    """
    found = _LEFTOVER.fullmatch(path.name)
    if found is None:
        return False
    meant = found["name"] or found["folder"]
    return not names or (meant is not None and meant in names)


def remove_leftovers(folder: Path, names: tuple[str, ...] = ()) -> None:
    """Remove what killed processes left half-written in `folder`, see `is_leftover`; nobody may be writing there."""
    for path in list(folder.iterdir()) if folder.is_dir() else []:
        if is_leftover(path, names):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)


def umask() -> int:
    """The permissions that new files of this process lack."""
    with contextlib.suppress(OSError, StopIteration):  # Linux tells without changing it, even for an instant
        lines = Path("/proc/self/status").read_bytes().split(b"\n")  # the process's name may be any bytes
        return int(next(line for line in lines if line.startswith(b"Umask:")).split()[1], 8)
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{threading.get_native_id()}.tmp")


def _settle(draft: Path) -> None:
    """Bring a written file to the disk before its name, with the permissions of any new file."""
    with draft.open("rb") as written:
        os.fsync(written.fileno())
    draft.chmod(0o666 & ~umask())  # some writers make files that only their owner can read


def _settle_folder(folder: Path) -> None:
    """Bring renames in a folder to the disk, where the system knows how."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _remove(draft: Path) -> None:
    with contextlib.suppress(OSError):  # what stopped the write says more
        draft.unlink(missing_ok=True)
