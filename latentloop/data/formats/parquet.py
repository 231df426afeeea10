"""Parquet files, each a table or several the parts of one."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from latentloop.data.formats.bytes import is_gzip, read_bytes
from latentloop.data.formats.log import Log, counted_rows
from latentloop.data.formats.names import Wanted
from latentloop.errors import InputError

__all__ = ["read_parquet"]


def read_parquet(name: str, parts: Sequence[Path], wanted: Wanted) -> Log:
    """Read the two or three columns that matter, of one file or of the parts of one table, one behind the other.

    Args:
        name: what errors call the source.
        parts: the files, gzipped or not; one may be without rows where others are not.
        wanted: column names given by the user; what is recognised in the first part is read from all.

    Raises:
        InputError: a damaged or empty file, no rows, unknown columns, a part without the columns of the first.
    """
    fields: list[pa.Field] = []
    tables: list[pa.Table] = []
    kept: list[Path] = []
    for path in parts:
        if path.stat().st_size == 0:
            raise InputError(f"{path}: the file is empty, expected Parquet")
        with _damaged(path):
            source: Any = pa.BufferReader(read_bytes(path)) if is_gzip(path) else str(path.absolute())
            described = pq.ParquetFile(source)
            schema = described.schema_arrow
            if len(parts) > 1 and not described.metadata.num_rows:
                continue  # of no type either
            if not fields:
                places = wanted.find_and_tell(schema.names, name)
                fields = [schema.field(place) for place in places if place is not None]
            _refuse_other(path, schema, fields, wanted, (kept or [path])[0])
            text = [field.name for field in fields[:2] if pa.types.is_string(field.type)]
            if is_gzip(path):
                source.seek(0)
            tables.append(pq.ParquetFile(source, read_dictionary=text).read(columns=[field.name for field in fields]))
            kept.append(path)
    ends = list(accumulate(len(table) for table in tables))
    if not ends or not ends[-1]:
        raise InputError(f"{name}: no rows, expected at least one interaction")

    def where(row: int) -> str:
        part = bisect_right(ends, row)
        if len(parts) == 1:
            return counted_rows(row)
        return f"{kept[part]}: {counted_rows(row - ends[part] + len(tables[part]))}"

    columns = [_joined([table.column(field.name) for table in tables]) for field in fields]
    timed = len(fields) == 3
    return Log(
        name=name,
        user=columns[0],
        item=columns[1],
        timestamp=columns[2] if timed else None,
        names=(fields[0].name, fields[1].name, fields[2].name if timed else ""),
        typed=True,
        where=where,
    )


@contextmanager
def _damaged(path: Path) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"{path}: cannot be read as Parquet ({str(error).splitlines()[0]}); the file is damaged or "
            "of another format: name the format",
            settings=("format",),
        ) from error


def _refuse_other(path: Path, schema: pa.Schema, fields: Sequence[pa.Field], wanted: Wanted, first: Path) -> None:
    """Refuse a part of another table, one whose ids are of another type, or one that has times where the first has not."""
    for field in fields:
        found = [schema.field(place).type for place in schema.get_all_field_indices(field.name)]
        if found != [field.type]:
            says = ", ".join(map(str, found)) or "missing"
            raise InputError(
                f"{path}: column {field.name!r} is {says}, expected {field.type} as in {first.name}; the parts of one "
                "table have the same columns: rewrite or move what is of another"
            )
    names = [schema.names[place] for place in wanted.find(schema.names, str(path)) if place is not None]
    if names != [field.name for field in fields]:
        raise InputError(
            f"{path}: has {names[-1]!r} besides the columns of {first.name}; the parts of one table have the same columns: "
            "rewrite or move what is of another"
        )


def _joined(columns: Sequence[pa.ChunkedArray]) -> pa.ChunkedArray:
    return pa.chunked_array([chunk for column in columns for chunk in column.chunks], columns[0].type)
