"""JSON Lines: one object a line."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.json

from latentloop.data.formats.bytes import arrow_stream, damaged_gzip, find_undecodable, open_bytes
from latentloop.data.formats.log import Log
from latentloop.data.formats.names import Wanted
from latentloop.data.formats.times import EXACT
from latentloop.errors import InputError
from latentloop.json_text import parse_json

__all__ = ["objects", "read_jsonl"]

_BLOCK = 1 << 24
_INT64 = range(-(2**63), 2**63)


def read_jsonl(path: Path, wanted: Wanted) -> Log:
    """Read the two or three fields that matter; the first object says which there are and of which type.

    Args:
        path: the file, gzipped or not.
        wanted: field names given by the user.

    Raises:
        InputError: an empty file, unknown fields, a line that does not parse or mixes types (with its number).
    """
    first = next(objects(path), None)
    if first is None:
        raise InputError(f"{path}: the file is empty, expected one JSON object a line")
    columns = list(first[1])
    names = [columns[place] for place in wanted.find_and_tell(columns, str(path)) if place is not None]
    time = names[2] if len(names) == 3 else None
    kinds = {name: _kind(path, first[0], name, first[1][name], name == time) for name in names}
    table = None
    if time is not None and kinds[time] == pa.int64():
        table = _read(path, kinds)
        if table is None:
            kinds[time] = pa.float64()
    if table is None:
        table = _read(path, kinds)
    if table is None:
        raise _explained(path, names, first[1])
    if time is not None and kinds[time] == pa.float64():
        _check_exact(path, time, table.column(time).to_numpy())
    return Log(
        name=str(path),
        user=table.column(names[0]),
        item=table.column(names[1]),
        timestamp=None if time is None else table.column(time),
        names=(names[0], names[1], time or ""),
        typed=True,
        where=lambda row: f"line {_line_of(path, row)}",
    )


def _read(path: Path, kinds: dict[str, pa.DataType]) -> pa.Table | None:
    try:
        with damaged_gzip(path):
            return pa.json.read_json(
                arrow_stream(path),
                read_options=pa.json.ReadOptions(block_size=_BLOCK),
                parse_options=pa.json.ParseOptions(
                    explicit_schema=pa.schema(list(kinds.items())), unexpected_field_behavior="ignore"
                ),
            )
    except (pa.ArrowInvalid, OSError):
        return None


def _kind(path: Path, line: int, name: str, value: Any, is_time: bool) -> pa.DataType:
    if isinstance(value, str):
        return pa.string()
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        found = "null" if value is None else type(value).__name__
        raise InputError(f"{path}: line {line}: {name!r} is {found}, expected text or a number")
    if isinstance(value, int) and (value in _INT64 or not is_time):
        return pa.int64()  # `_explained` tells of ids beyond
    return pa.float64()


def _check_exact(path: Path, name: str, times: np.ndarray) -> None:
    """Refuse whole numbers that float64 cannot hold: they would tie with others, and their order would be lost."""
    if not (np.abs(times) >= 2**53).any():
        return
    for (line, value), time in zip(_readable(path), times.tolist(), strict=False):
        found = value.get(name)
        if found is None or not math.isfinite(time):
            return  # `Log` tells of that
        if isinstance(found, int) and int(time) != found:
            raise InputError(f"{path}: line {line}: {name!r} is {found}, expected {EXACT}")


def objects(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number, object) of every line that is not blank, the slow way: for the first line and for errors."""
    with damaged_gzip(path), open_bytes(path) as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                value = parse_json(line.decode("utf-8-sig" if number == 1 else "utf-8"))
            except UnicodeDecodeError:
                raise InputError(f"{path}: line {number}: bytes that are not UTF-8; convert the file") from None
            except ValueError as error:
                raise InputError(f"{path}: line {number}: no valid JSON ({error}); mend or remove the line") from None
            if not isinstance(value, dict):
                raise InputError(f"{path}: line {number}: a JSON {type(value).__name__}, expected one object a line")
            yield number, value


def _readable(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """`objects` up to a line that holds no single one, which arrow may read all the same."""
    with contextlib.suppress(InputError):
        yield from objects(path)


def _line_of(path: Path, row: int) -> int:
    return next(islice((line for line, _ in objects(path)), row, None), row + 1)


def _explained(path: Path, names: list[str], first: dict[str, Any]) -> InputError:
    line = find_undecodable(path)
    if line is not None:
        return InputError(f"{path}: line {line}: bytes that are not UTF-8; convert the file to UTF-8")
    for line, value in objects(path):
        for place, name in enumerate(names):
            found, expected = value.get(name), first[name]
            same = isinstance(found, str) == isinstance(expected, str) and not isinstance(found, bool)
            whole = place == 2 or isinstance(found, (str, int))
            if found is None:
                return InputError(f"{path}: line {line}: no value for {name!r}; fill it in or drop the line")
            if not same or not whole or isinstance(found, (dict, list)):
                return InputError(
                    f"{path}: line {line}: {name!r} is {found!r}, expected the type of the first line "
                    f"({type(expected).__name__})"
                )
            if isinstance(found, float) and not math.isfinite(found):
                return InputError(f"{path}: line {line}: {name!r} is {found}, expected a finite number")
            if isinstance(found, int) and found not in _INT64:
                return InputError(f"{path}: line {line}: {name!r} is beyond 64-bit integers; store ids as text")
    return InputError(f"{path}: cannot be read as JSON Lines; check that every line is one object with {names}")
