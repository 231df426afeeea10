"""Parquet files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from latentloop.data.formats.bytes import is_gzip, read_bytes
from latentloop.data.formats.log import Log, counted_rows
from latentloop.data.formats.names import Wanted
from latentloop.errors import InputError

__all__ = ["read_parquet"]


def read_parquet(path: Path, wanted: Wanted) -> Log:
    """Read the two or three columns that matter.

    Args:
        path: the file, gzipped or not.
        wanted: column names given by the user.

    Raises:
        InputError: a damaged or empty file, no rows, unknown columns.
    """
    if path.stat().st_size == 0:
        raise InputError(f"{path}: the file is empty, expected Parquet")
    source: Any = pa.BufferReader(read_bytes(path)) if is_gzip(path) else str(path.absolute())
    try:
        schema = pq.read_schema(source)
        places = wanted.find_and_tell(schema.names, str(path))
        names = [schema.names[place] for place in places if place is not None]
        text = [n for n in names[:2] if pa.types.is_string(schema.field(n).type)]
        if is_gzip(path):
            source.seek(0)
        table = pq.ParquetFile(source, read_dictionary=text).read(columns=names)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"{path}: cannot be read as Parquet ({str(error).splitlines()[0]}); the file is damaged or "
            "of another format: name the format",
            settings=("format",),
        ) from error
    if not len(table):
        raise InputError(f"{path}: no rows, expected at least one interaction")
    time = names[2] if len(names) == 3 else None
    return Log(
        name=str(path),
        user=table.column(names[0]),
        item=table.column(names[1]),
        timestamp=None if time is None else table.column(time),
        names=(names[0], names[1], time or ""),
        typed=True,
        where=counted_rows,
    )
