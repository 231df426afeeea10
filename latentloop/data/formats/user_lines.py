"""The text format of sequential recommendation: `user item item ...`, one user a line, oldest item first."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from latentloop.data.formats.bytes import find_undecodable, read_bytes
from latentloop.data.formats.log import Log
from latentloop.data.formats.names import Wanted
from latentloop.errors import InputError

__all__ = ["read_user_lines"]


def read_user_lines(path: Path, wanted: Wanted) -> Log:
    """Read whitespace-separated lines; a user's order is the order in the file, and there are no timestamps.

    Blank lines are skipped. Lines of the same user are joined in file order (so `user item` pairs work too). A line
    with a user and no item is an error rather than a silently missing user.

    Args:
        path: the file, gzipped or not.
        wanted: column names given by the user, of which this format has none.

    Raises:
        InputError: column names were given, an empty file, a user without items, a header line.
    """
    if wanted.any:
        raise InputError(
            f"{path}: the `user item item ...` format has no columns to name; for a table name its format",
            settings=("format",),
        )
    content = read_bytes(path)
    try:
        lines = content.decode("utf-8-sig").split("\n")
    except UnicodeDecodeError:
        raise InputError(
            f"{path}: line {find_undecodable(path)}: bytes that are not UTF-8; convert the file to UTF-8"
        ) from None
    trimmed = pc.ascii_trim_whitespace(pa.array(lines, pa.large_string()))
    numbers = np.flatnonzero(pc.not_equal(trimmed, "").to_numpy(zero_copy_only=False))
    if not len(numbers):
        raise InputError(f"{path}: the file is empty, expected lines of `user item item ...`")
    _refuse_table(path, lines[numbers[0]], int(numbers[0]) + 1)
    tokens = pc.ascii_split_whitespace(trimmed.take(pa.array(numbers)))
    first = tokens.offsets.to_numpy().astype(np.int64)
    counts = np.diff(first) - 1
    alone = numbers[counts == 0]
    if len(alone):
        line = lines[alone[0]].strip()[:60]
        raise InputError(
            f"{path}: line {alone[0] + 1}: {line!r} is a user without items; remove the line, or name "
            "the format if this is no `user item item ...` file",
            settings=("format",),
        )
    words = tokens.values
    row = np.repeat(np.arange(len(numbers)), counts)
    is_item = np.ones(len(words), dtype=bool)
    is_item[first[:-1]] = False
    return Log(
        name=str(path),
        user=pa.chunked_array([words.take(pa.array(first[row]))]),
        item=pa.chunked_array([words.filter(pa.array(is_item))]),
        timestamp=None,
        names=("user", "item", ""),
        typed=False,
        where=lambda number: f"line {numbers[row[number]] + 1}",
    )


def _refuse_table(path: Path, line: str, number: int) -> None:
    """A table under the wrong name would otherwise read its header as a user."""
    for delimiter, kind in (("\t", "tsv"), (",", "csv"), (";", "csv"), ("|", "csv"), (" ", "csv")):
        columns = line.strip().split(delimiter)
        try:
            Wanted().find(columns, str(path))
        except InputError:
            continue
        raise InputError(
            f"{path}: line {number}: {line.strip()[:60]!r} looks like column names, not "
            f"`user item item ...`; name the format {kind}",
            settings=("format",),
        )
