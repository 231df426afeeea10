"""`load_interactions`: any source to the canonical table."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latentloop.data.amazon import AMAZON_PREFIX, check_counts, download
from latentloop.data.interactions import Interactions
from latentloop.data.store import load_saved_interactions
from latentloop.errors import InputError

if TYPE_CHECKING:
    from latentloop.data.formats.log import Log
    from latentloop.data.formats.names import Wanted

__all__ = ["FORMATS", "load_interactions"]

_BY_SUFFIX = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".inter": "inter",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".txt": "text",
}
FORMATS = ("csv", "tsv", "inter", "parquet", "jsonl", "text")


def load_interactions(
    source: Any,
    *,
    user: str | None = None,
    item: str | None = None,
    timestamp: str | None = None,
    format: str | None = None,
) -> Interactions:
    """Read interactions from a file, a table in memory, prepared data, or Amazon Reviews 2023 on the hub.

    Exact duplicates (same user, item and time) are dropped where rows carry timestamps; nothing else is filtered.
    Rows of equal time keep the order of the source, and without timestamps its order is the order in time. Integer
    ids stay integers and text stays text; in text files, ids that are all plain integers become integers. Numbers of
    time stay as they are, dates (text with the year first, or a table's own type) become seconds since 1970 in UTC.

    Args:
        source: a path (CSV, TSV, Parquet, JSON Lines, RecBole's `.inter`, or `.txt` lines of `user item item ...`,
            gzipped or not; in CSV and TSV also `;`, `|` or tabs separate fields, where the header has none of the
            format's own), a folder of Parquet parts or a pattern such as `log/part-*.parquet`, read in the order of
            their names, a folder written by `save_interactions`, `amazon-2023:<Category>`, a pandas DataFrame, a
            `datasets.Dataset`, a `pyarrow.Table`, or a table that is read already. Only the `amazon-2023:` prefix
            reaches the network.
        user: name of the column of user ids; recognised when None.
        item: name of the column of item ids; recognised when None.
        timestamp: name of the column of timestamps; recognised when None, and may be absent then; "", or "none" where
            no column has that name, reads no times, and the order of the rows is the order in time.
        format: one of `FORMATS` when the file's name does not say.

    Raises:
        InputError: a missing, empty or damaged file, unknown columns, a row that does not parse (with its line), or
            columns or a format named for what was read already.
        InputTypeError: a source of another kind.
    """
    from latentloop.data.formats.names import Wanted

    wanted = Wanted(user, item, timestamp)
    if format is not None and format not in FORMATS:
        raise InputError(f"format: {format!r}, expected one of {', '.join(FORMATS)}")
    if isinstance(source, Interactions):
        _refuse_names("Interactions", wanted, format)
        return source
    if not isinstance(source, (str, os.PathLike)):
        from latentloop.data.formats.tables import read_table

        return read_table(source, wanted).interactions()
    if isinstance(source, str) and source.startswith(AMAZON_PREFIX):
        category = source.removeprefix(AMAZON_PREFIX)
        loaded = _read(download(category), wanted, format or "csv").interactions()
        check_counts(category, loaded)
        return loaded
    path = Path(source)
    if (path / "card.json").is_file():
        _refuse_names(str(path), wanted, format)
        return load_saved_interactions(path)
    try:
        if path.is_dir() or not path.exists():
            return _read_parts(path, wanted, format).interactions()
        if not path.is_file():  # the first of several looks would empty a pipe, and the second wait forever
            raise InputError(f"{path}: is a pipe or device; save what it gives as a file first")
        return _read(path, wanted, format or _format_of(path)).interactions()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error


def _refuse_names(name: str, wanted: Wanted, format: str | None) -> None:
    """What was read already has no columns left to choose."""
    given = {"user": wanted.user, "item": wanted.item, "timestamp": wanted.timestamp, "format": format}
    settings = tuple(setting for setting, value in given.items() if value is not None)
    if settings:
        raise InputError(
            f"{name}: was read already, {settings[0]} cannot be chosen again; leave it out", settings=settings
        )


def _format_of(path: Path) -> str:
    suffixes = [suffix.lower() for suffix in path.suffixes if suffix.lower() != ".gz"]
    if suffixes and suffixes[-1] in _BY_SUFFIX:
        return _BY_SUFFIX[suffixes[-1]]
    raise InputError(
        f"{path}: the name does not tell the format; name the format, one of {', '.join(FORMATS)}",
        settings=("format",),
    )


def _read_parts(path: Path, wanted: Wanted, format: str | None) -> Log:
    """A folder that is not prepared data, or what is no file and may be a pattern."""
    from latentloop.data.formats.parquet import read_parquet
    from latentloop.data.formats.parts import find_parts

    parts = find_parts(path)
    if not parts and path.is_dir():
        raise InputError(
            f"{path}: no card.json in it, so it is no prepared data, and no Parquet files; make prepared data with "
            "`latentloop prepare`, or give the path of a file"
        )
    if not parts:
        raise InputError(f"{path}: no such file; give the path of a file, or `{AMAZON_PREFIX}<Category>` for the hub")
    if format not in (None, "parquet"):
        raise InputError(
            f"{path}: is read as Parquet parts, which are not {format}; leave it out", settings=("format",)
        )
    return read_parquet(str(path), parts, wanted)


def _read(path: Path, wanted: Wanted, format: str) -> Log:
    if format == "parquet":
        from latentloop.data.formats.parquet import read_parquet

        return read_parquet(str(path), [path], wanted)
    if format == "jsonl":
        from latentloop.data.formats.jsonl import read_jsonl

        return read_jsonl(path, wanted)
    if format == "text":
        from latentloop.data.formats.user_lines import read_user_lines

        return read_user_lines(path, wanted)
    from latentloop.data.formats.delimited import read_delimited

    return read_delimited(path, wanted, delimiter="," if format == "csv" else "\t", quoted=format != "inter")
