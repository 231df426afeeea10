"""Opening files that may be gzipped, and the mistakes that all of them share."""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa

from latentloop.errors import InputError

__all__ = ["arrow_stream", "damaged_gzip", "find_undecodable", "is_gzip", "open_bytes", "read_bytes"]


def is_gzip(path: Path) -> bool:
    """Whether the content is gzipped, whatever the name says."""
    with path.open("rb") as file:
        return file.read(2) == b"\x1f\x8b"


def open_bytes(path: Path) -> gzip.GzipFile | io.BufferedReader:
    """The unpacked content as a binary file."""
    return gzip.open(path, "rb") if is_gzip(path) else path.open("rb")


def arrow_stream(path: Path) -> Any:
    """The unpacked content as an arrow stream, unpacked while it is read."""
    return pa.input_stream(str(path.absolute()), compression="gzip" if is_gzip(path) else None)


def read_bytes(path: Path) -> bytes:
    """The whole unpacked content.

    Raises:
        InputError: a damaged gzip file.
    """
    with damaged_gzip(path), open_bytes(path) as file:
        return file.read()


@contextmanager
def damaged_gzip(path: Path) -> Iterator[None]:
    """Say so in one line when what lies inside cannot be unpacked."""
    try:
        yield
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise InputError(f"{path}: damaged or cut-off gzip file ({error}); fetch or make it again") from error


def find_undecodable(path: Path) -> int | None:
    """The number (from 1) of the first line that is not UTF-8, or None."""
    with damaged_gzip(path), open_bytes(path) as file:
        for number, line in enumerate(file, start=1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError:
                return number
    return None
