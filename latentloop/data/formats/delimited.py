"""CSV, TSV and RecBole's `.inter`: a line of column names, then a row a line."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.csv

from latentloop.data.formats.bytes import arrow_stream, damaged_gzip, find_undecodable, open_bytes
from latentloop.data.formats.log import Log
from latentloop.data.formats.names import Wanted
from latentloop.errors import InputError

__all__ = ["delimiter_of", "explained", "read_delimited", "records", "refuse_open_quote"]

_BLOCK = 1 << 24
_DELIMITERS = (",", ";", "|", "\t")


def read_delimited(path: Path, wanted: Wanted, *, delimiter: str, quoted: bool = True) -> Log:
    """Read the two or three columns that matter; the others are split off but never converted.

    Args:
        path: the file, gzipped or not.
        wanted: column names given by the user.
        delimiter: what separates fields; where the header has none and fields may be quoted, what else it has.
        quoted: whether fields may stand in double quotes (`.inter` files know no quotes).

    Raises:
        InputError: an empty file, a header without rows, unknown columns, a row that does not parse (with its line), a
            header that several characters may separate.
    """
    header = next(records(path, delimiter, quoted), None)
    if header is None:
        raise InputError(f"{path}: the file is empty, expected a line of column names and rows")
    columns = header[1]
    if any("\udc80" <= character <= "\udcff" for character in "".join(columns)):
        raise _not_utf8(path, header[0])
    if quoted and len(columns) == 1 and (other := _other_delimiter(path, columns[0], delimiter)) is not None:
        return read_delimited(path, wanted, delimiter=other)
    places = wanted.find_and_tell(columns, str(path))
    user, item, time = places
    labels = [str(place) for place in range(len(columns))]
    text = pa.string()
    kinds = {labels[user]: pa.dictionary(pa.int32(), text), labels[item]: pa.dictionary(pa.int32(), text)}
    if time is not None:
        kinds[labels[time]] = text
    try:
        with damaged_gzip(path):
            table = pa.csv.read_csv(
                arrow_stream(path),
                # positions for names: the file's own may repeat
                read_options=pa.csv.ReadOptions(
                    block_size=_BLOCK, column_names=labels, skip_rows=header[0] - 1, skip_rows_after_names=1
                ),
                parse_options=pa.csv.ParseOptions(
                    delimiter=delimiter, quote_char='"' if quoted else False, newlines_in_values=quoted
                ),
                convert_options=pa.csv.ConvertOptions(
                    column_types=kinds, include_columns=list(kinds), strings_can_be_null=False
                ),
            )
    except (pa.ArrowInvalid, OSError) as error:
        raise explained(path, delimiter, quoted, len(columns), error) from error
    if quoted:
        refuse_open_quote(path, delimiter)
    if not len(table):
        raise InputError(f"{path}: a header and no rows, expected at least one interaction")
    names = (columns[user], columns[item], "" if time is None else columns[time])
    return Log(
        name=str(path),
        user=table.column(labels[user]),
        item=table.column(labels[item]),
        timestamp=None if time is None else table.column(labels[time]),
        names=names,
        typed=False,
        where=lambda row: f"line {_line_of(path, delimiter, quoted, row)}",
        spaced=quoted and delimiter != "\t" and any(name.startswith(" ") for name in names),
    )


def delimiter_of(path: Path) -> str:
    """What separates the names of a file's header: a comma, or what else it has.

    Raises:
        InputError: where it may be several, or the header cannot be read.
    """
    header = next(records(path, ","), (1, []))[1]
    return (_other_delimiter(path, header[0], ",") if len(header) == 1 else None) or ","


def _other_delimiter(path: Path, header: str, delimiter: str) -> str | None:
    """What separates the names of a header that has no `delimiter`, as files of any kind are called .csv."""
    found = [other for other in _DELIMITERS if other in header and len(next(records(path, other))[1]) > 1]
    if len(found) > 1:
        raise InputError(
            f"{path}: the header {header[:60]!r} has no {delimiter!r}, and fields may be separated by "
            f"{' or '.join(map(repr, found))}; keep one of these in it, or write the file with {delimiter!r}"
        )
    return found[0] if found else None


def records(path: Path, delimiter: str, quoted: bool = True) -> Iterator[tuple[int, list[str]]]:
    """(first line number, fields) of every record that is not blank, the slow way: for the header and for errors."""
    with damaged_gzip(path), open_bytes(path) as file:
        lines = io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape", newline="")
        reader = csv.reader(lines, delimiter=delimiter, quoting=csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE)
        before = 0
        try:
            for record in reader:
                if record:
                    yield before + 1, record
                before = reader.line_num
        except csv.Error as reason:  # before Python 3.11 of a NUL, which files of other encodings are full of
            if (line := find_undecodable(path)) is not None:
                raise _not_utf8(path, line) from None
            raise InputError(f"{path}: line {before + 1}: cannot be split into fields ({reason}); mend it") from reason


def refuse_open_quote(path: Path, delimiter: str) -> None:
    """Refuse a last record whose quote is never closed: it would silently swallow all lines to the end.

    Args:
        path: the file, which could be read.
        delimiter: what separates fields.

    Raises:
        InputError: with the line on which the record begins.
    """
    with damaged_gzip(path), open_bytes(path) as file:
        any_quote, tail = False, b""
        for block in iter(lambda: file.read(_BLOCK), b""):
            any_quote, tail = any_quote or b'"' in block, (tail + block)[-_BLOCK:]
    if not any_quote or not _may_end_open(tail, delimiter.encode()):
        return
    start = max((line for line, _ in records(path, delimiter, True)), default=1)
    with damaged_gzip(path), open_bytes(path) as file:
        lines = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
        try:
            for _ in csv.reader(islice(lines, start - 1, None), delimiter=delimiter, strict=True):
                pass
        except csv.Error:
            raise InputError(f"{path}: line {start}: a quote that is never closed; close or remove it") from None


def _may_end_open(tail: bytes, delimiter: bytes) -> bool:
    """Whether a quote may still be open at a file's end, of which `tail` is the last part.

    Within quotes every other quote is written twice, so the last odd number of quotes in a row is what opened the last
    field, and then stands where a field begins, or nothing is open: what an even number opens it closes.
    """
    end = len(tail)
    while (last := tail.rfind(b'"', 0, end)) >= 0:
        end = last
        while end and tail[end - 1 : end] == b'"':
            end -= 1
        if (last + 1 - end) % 2:
            return end == 0 or tail[end - 1 : end] in (delimiter, b"\r", b"\n")
    return True


def _line_of(path: Path, delimiter: str, quoted: bool, row: int) -> int:
    lines = (line for line, _ in records(path, delimiter, quoted))
    return next(islice(lines, row + 1, None), row + 2)


def explained(path: Path, delimiter: str, quoted: bool, width: int | None, error: Exception) -> InputError:
    """Why a file could not be read, with the line at fault where one is.

    Args:
        path: the file.
        delimiter: what separates fields.
        quoted: see `read_delimited`.
        width: fields of a row; None is as many as the first line has.
        error: what went wrong.
    """
    line = find_undecodable(path)
    if line is not None:
        return _not_utf8(path, line)
    for line, record in records(path, delimiter, quoted):
        width = len(record) if width is None else width
        if len(record) != width:
            return InputError(
                f"{path}: line {line}: {len(record)} fields, expected {width} as in the header; mend or remove the line"
            )
    return InputError(f"{path}: cannot be read ({str(error).splitlines()[0]})")


def _not_utf8(path: Path, line: int) -> InputError:
    return InputError(f"{path}: line {line}: bytes that are not UTF-8; convert the file to UTF-8")
