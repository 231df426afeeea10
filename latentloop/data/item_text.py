"""Texts of items from a file: an id and one or more columns of text a row."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from latentloop.data.formats.names import find_item, listed
from latentloop.errors import InputError
from latentloop.items.ids import ItemId

__all__ = ["TEXT_FORMATS", "load_item_text"]

TEXT_FORMATS = ("csv", "tsv", "jsonl", "parquet")
_BY_SUFFIX = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".item": "tsv",
    ".txt": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".parquet": "parquet",
    ".pq": "parquet",
}
_TEXT_NAMES = (  # joined in this order where no column is called "text"
    "title",
    "name",
    "item_name",
    "movie_title",
    "product_title",
    "product_name",
    "brand",
    "store",
    "category",
    "categories",
    "genre",
    "genres",
    "class",
    "description",
)

_Row = tuple[str, Any, list[Any]]
"""Where it stands, for people; the id; the texts."""


def load_item_text(
    path: str | Path,
    *,
    item: str | None = None,
    text: str | Sequence[str] | None = None,
    format: str | None = None,
) -> dict[ItemId, str]:
    """Read the text of each item, in the order of the file.

    CSV, TSV and RecBole's `.item` start with a line of column names; where that names nothing known and there are two
    columns, every line is an id and a text. Several columns of text are joined by ". ", a list by ", ". An item whose
    text is blank is kept: it is one without text.

    Args:
        path: CSV, TSV (also `.txt`, `.item`), JSON Lines or Parquet, gzipped or not.
        item: name of the column of ids; recognised when None.
        text: name or names of the columns of text; recognised when None: "text", or else title, brand, categories
            and the like.
        format: one of `TEXT_FORMATS` when the file's name does not say.

    Raises:
        InputError: a missing, empty or damaged file, unknown columns, a row without an id, two texts of one item.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file; give a file of item ids and texts")
    if format is not None and format not in TEXT_FORMATS:
        raise InputError(f"format: {format!r}, expected one of {', '.join(TEXT_FORMATS)}")
    wanted = _Wanted(str(path), item, (text,) if isinstance(text, str) else text)
    found: dict[ItemId, str] = {}
    try:
        for where, original, texts in _rows(path, format or _format_of(path), wanted):
            if isinstance(original, bool) or not isinstance(original, (str, int)) or original == "":
                raise InputError(f"{path}: {where}: the id is {original!r}, expected text or a whole number")
            joined = ". ".join(filter(None, (_plain(value) for value in texts)))
            if found.setdefault(original, joined) != joined:
                raise InputError(f"{path}: {where}: a second text of item {original!r}; keep one of them")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error
    if not found:
        raise InputError(f"{path}: no rows, expected an item id and a text in each")
    return found


@dataclass(frozen=True)
class _Wanted:
    name: str
    item: str | None
    text: Sequence[str] | None

    def find(self, columns: Sequence[str]) -> tuple[int, list[int]] | None:
        """Places of the id and of the texts; None where nothing was asked for and nothing is recognised."""
        plain = [column.partition(":")[0].strip().lower() for column in columns]
        item = find_item(columns, self.item, self.name)
        if item is None and plain.count("id") == 1:
            item = plain.index("id")
        if self.text is not None:
            texts = [self._given(columns, name) for name in self.text]
        elif "text" in plain:
            texts = [plain.index("text")]
        else:
            texts = [plain.index(name) for name in _TEXT_NAMES if name in plain and plain.index(name) != item]
        if item is not None and not texts and self.text is None and len(columns) == 2:
            texts = [1 - item]
        if item is not None and texts:
            return item, texts
        if item is None and self.item is None and self.text is None and not texts and len(columns) == 2:
            return None
        what, setting, usual = ("item ids", "item", "id") if item is None else ("texts", "text", "text")
        raise InputError(
            f"{self.name}: no column recognised as the {what}; call it {usual!r} or name the {setting} column; "
            f"columns found: {listed(columns)}",
            settings=(setting,),
        )

    def _given(self, columns: Sequence[str], name: str) -> int:
        for place, column in enumerate(columns):
            if name in (column, column.partition(":")[0].strip()):
                return place
        raise InputError(
            f"{self.name}: no column {name!r} for the text; columns found: {listed(columns)}", settings=("text",)
        )


def _format_of(path: Path) -> str:
    suffixes = [suffix.lower() for suffix in path.suffixes if suffix.lower() != ".gz"]
    if suffixes and suffixes[-1] in _BY_SUFFIX:
        return _BY_SUFFIX[suffixes[-1]]
    raise InputError(
        f"{path}: the name does not tell the format; name the format, one of {', '.join(TEXT_FORMATS)}",
        settings=("format",),
    )


def _rows(path: Path, format: str, wanted: _Wanted) -> Iterator[_Row]:
    if format == "parquet":
        return _parquet(path, wanted)
    if format == "jsonl":
        return _jsonl(path, wanted)
    return _delimited(path, wanted, "," if format == "csv" else "\t")


def _delimited(path: Path, wanted: _Wanted, delimiter: str) -> Iterator[_Row]:
    from latentloop.data.formats.delimited import records, refuse_open_quote

    # titles hold stray quotes, which in a TSV would swallow lines
    quoted = delimiter == ","
    lines = records(path, delimiter, quoted)
    first = next(lines, None)
    if first is None:
        raise InputError(f"{path}: the file is empty, expected an item id and a text in each line")
    if quoted:
        refuse_open_quote(path, delimiter)
    width, places = len(first[1]), wanted.find(first[1])
    item, texts = places or (0, [1])
    spaced = quoted and places is not None and any(name.startswith(" ") for name in first[1])  # as a log's ids are read
    for number, fields in lines if places else chain([first], lines):
        where = f"line {number}"
        if len(fields) != width:
            raise InputError(f"{path}: {where}: {len(fields)} fields, expected {width} as in the first line; mend it")
        values = fields if quoted else [_unquoted(field) for field in fields]
        try:
            "".join(values).encode()
        except UnicodeEncodeError:
            raise InputError(f"{path}: {where}: bytes that are not UTF-8; convert the file to UTF-8") from None
        yield where, values[item].strip() if spaced else values[item], [values[text] for text in texts]


def _jsonl(path: Path, wanted: _Wanted) -> Iterator[_Row]:
    from latentloop.data.formats.jsonl import objects

    names: tuple[str, list[str]] | None = None
    for number, value in objects(path):
        if names is None:
            columns = list(value)
            item, texts = wanted.find(columns) or (0, [1])
            names = columns[item], [columns[text] for text in texts]
        yield f"line {number}", value.get(names[0]), [value.get(name) for name in names[1]]


def _parquet(path: Path, wanted: _Wanted) -> Iterator[_Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from latentloop.data.formats.bytes import is_gzip, read_bytes
    from latentloop.data.formats.log import counted_rows

    source: Any = pa.BufferReader(read_bytes(path)) if is_gzip(path) else str(path.absolute())
    try:
        file = pq.ParquetFile(source)
        columns = file.schema_arrow.names
        item, texts = wanted.find(columns) or (0, [1])
        names = [columns[place] for place in (item, *texts)]
        table = file.read(columns=names)
        read = [table.column(name).to_pylist() for name in names]
    except (pa.ArrowException, OSError, UnicodeDecodeError, OverflowError) as error:
        raise InputError(
            f"{path}: cannot be read as Parquet ({str(error).splitlines()[0]}); the file is damaged or of another "
            "format: name the format",
            settings=("format",),
        ) from error
    for row, (original, *values) in enumerate(zip(*read, strict=True)):
        yield counted_rows(row), original, values


def _unquoted(field: str) -> str:
    """A field that is quoted as a whole, without its quotes; any other as it is."""
    inner = field[1:-1]
    if len(field) > 1 and field[0] == field[-1] == '"' and '"' not in inner.replace('""', ""):
        return inner.replace('""', '"')
    return field


def _plain(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(filter(None, (_plain(part) for part in value)))
    return "" if value is None else str(value).strip()
