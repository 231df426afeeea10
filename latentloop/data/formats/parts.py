"""Which files are the parts of one table: those of a folder, as Spark writes it, or those that a pattern names."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterator
from pathlib import Path

from latentloop.errors import InputError

__all__ = ["find_parts"]

_ENDINGS = (".parquet", ".pq", ".parquet.gz", ".pq.gz")


def find_parts(path: Path) -> list[Path]:
    """Parquet parts in the order of their names, `part-10` behind `part-9`; hidden files and `_SUCCESS` are no parts.

    Args:
        path: a folder, or a pattern such as `log/part-*.parquet`.

    Returns:
        The parts; none where a folder holds none, or a pattern matches nothing.

    Raises:
        InputError: there are other files or folders beside them, whose rows would silently be missing.
    """
    folder = path.is_dir()
    if (path / "_delta_log").is_dir():
        raise InputError(
            f"{path}: is a Delta table, whose files hold rows that were deleted; export it as Parquet first"
        )
    found = sorted((file for file in _found(path) if not file.name.startswith((".", "_"))), key=_counted)
    parts = [file for file in found if file.name.lower().endswith(_ENDINGS) and file.is_file()]
    if len(parts) < len(found) and (parts or not folder):
        other = next(file for file in found if file not in parts)
        advice = (
            f"move it away, or name the parts by a pattern such as {path}/*.parquet" if folder else "narrow the pattern"
        )
        raise InputError(f"{path}: {other} is no Parquet file, and only those are read as parts of one table; {advice}")
    return parts


def _found(path: Path) -> Iterator[Path]:
    if path.is_dir():
        yield from path.iterdir()
    elif glob.has_magic(str(path)):  # a link that leads nowhere would match itself
        yield from map(Path, glob.glob(str(path), recursive=True))  # noqa: PTH207 (Path.glob refuses some patterns)


def _counted(file: Path) -> tuple[list[str | int], str]:
    """A name to sort by, its digits as numbers."""
    words = re.split("([0-9]+)", str(file))
    return [int(word) if place % 2 else word for place, word in enumerate(words)], str(file)
