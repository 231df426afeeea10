"""Whom to recommend to: the rows of a file, and which of them a run can answer."""

from __future__ import annotations

import csv
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latentloop.checks import is_whole
from latentloop.errors import InputError

if TYPE_CHECKING:
    from latentloop.item_ids import ItemIds

__all__ = ["SUFFIXES", "Requests", "read_requests"]

SUFFIXES = (".csv", ".jsonl", ".parquet")
_COLUMNS = ("user", "history")
_NAMED = 5  # unknown ids that a warning names

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Requests:
    """The rows of a file, in its order.

    Args:
        path: the file.
        users: ids of the column `user`, None where it is not there.
        histories: item ids of the column `history`, oldest first, None where it is not there.
    """

    path: Path
    users: list[Any] | None
    histories: list[list[Any]] | None

    def known(self, users: ItemIds, items: ItemIds, *, strict: bool) -> Requests:
        """Without users that have no history here and none in the run, and without items that the model does not know.

        Args:
            users: the run's users.
            items: the model's items.
            strict: whether these are errors; otherwise they are skipped with a warning.

        Raises:
            InputError: (strict) for an unknown user or item, or an empty history of a known user; where no user is left.
        """
        if self.histories is not None:
            unknown = [
                (row, item)
                for row, history in enumerate(self.histories)
                for item in history
                if items.number(item) is None
            ]
            self._complain("item", unknown, strict=strict)
            self._complain_of_blanks(users, strict=strict)
            return replace(self, histories=[[i for i in h if items.number(i) is not None] for h in self.histories])
        asked = self.users or []
        strangers = [(row, user) for row, user in enumerate(asked) if users.number(user) is None]
        if asked and len(strangers) == len(asked):
            raise InputError(f"{self.path}: the run knows none of its users: {self._listed(strangers)}")
        self._complain("user", strangers, strict=strict)
        return replace(self, users=[user for user in asked if users.number(user) is not None])

    def _complain_of_blanks(self, users: ItemIds, *, strict: bool) -> None:
        """Where both columns are there, `history` is what answers."""
        rows = enumerate(zip(self.users or (), self.histories or (), strict=False))  # either column may not be there
        blank = [(row, user) for row, (user, history) in rows if not history and users.number(user) is not None]
        if blank and strict:
            row, user = blank[0]
            raise InputError(
                f"{self.path}: {_place(self.path, row)}: no history, though the run knows the user {user!r}; without "
                "--strict it is answered like a stranger's, and without the column `history` from the run"
            )
        if blank:
            logger.warning(
                "%s: %d row(s) have no history and are answered like a stranger's, though the run knows the user: %s; leave "
                "the column `history` out to answer from the run",
                self.path,
                len(blank),
                self._listed(blank),
            )

    def _complain(self, what: str, unknown: list[tuple[int, Any]], *, strict: bool) -> None:
        if unknown and strict:
            row, name = unknown[0]
            raise InputError(
                f"{self.path}: {_place(self.path, row)}: unknown {what} {name!r}; without --strict it is skipped"
            )
        if unknown:
            logger.warning("%s: skipped %d unknown %s(s): %s", self.path, len(unknown), what, self._listed(unknown))

    def _listed(self, unknown: Sequence[tuple[int, Any]]) -> str:
        named = ", ".join(f"{name!r} ({_place(self.path, row)})" for row, name in unknown[:_NAMED])
        return named + (f" and {len(unknown) - _NAMED} more" if len(unknown) > _NAMED else "")


def read_requests(path: Path) -> Requests:
    """Read a CSV, JSON Lines or Parquet file with a column `user`, a column `history` or both.

    Args:
        path: the file.

    Raises:
        InputError: for a file that is missing, empty or damaged, without either column, or with a row that lacks a user
            or whose history is no list.
    """
    if path.suffix not in SUFFIXES:
        raise InputError(f"--input must end in {', '.join(SUFFIXES)}, got {path}")
    if not path.is_file():
        raise InputError(f"--input: there is no file {path}")
    if path.stat().st_size == 0:
        raise InputError(f"{path} is empty: it needs a column `user` or `history`")
    names, columns = _jsonl(path) if path.suffix == ".jsonl" else _table(path)
    if "user" not in names and "history" not in names:
        raise InputError(f"{path} needs a column `user` or `history`, found {', '.join(names)}")
    for name in _COLUMNS:
        if names.count(name) > 1:
            raise InputError(f"{path} has {names.count(name)} columns named {name}, expected one")
    users = columns.get("user")
    for row, user in enumerate(users or ()):
        if user is None:
            raise InputError(f"{path}: {_place(path, row)}: no user")
        if not _is_id(user):
            raise InputError(f"{path}: {_place(path, row)}: user must be text or a whole number, got {user!r}")
    if "history" not in names:
        return Requests(path, users, None)
    histories = [history.split() if isinstance(history, str) else history for history in columns["history"]]
    for row, history in enumerate(histories):
        if not isinstance(history, list) or not all(map(_is_id, history)):
            raise InputError(f"{path}: {_place(path, row)}: history must be a list of item ids, got {history!r}")
    return Requests(path, users, histories)


def _is_id(value: object) -> bool:
    return isinstance(value, str) or is_whole(value)


def _jsonl(path: Path) -> tuple[list[str], dict[str, list[Any]]]:
    """Names of all fields, and the values of those that matter; None where a line lacks one."""
    from latentloop.data.formats.jsonl import objects

    rows = [value for _, value in objects(path)]
    names = list(dict.fromkeys(name for row in rows for name in row))
    return names, {name: [row.get(name) for row in rows] for name in _COLUMNS if name in names}


def _table(path: Path) -> tuple[list[str], dict[str, list[Any]]]:
    """The same of CSV or Parquet."""
    import pyarrow as pa
    from pyarrow import csv as arrow_csv
    from pyarrow import parquet

    from latentloop.data.formats.delimited import explained, refuse_open_quote

    text = path.suffix == ".csv"
    try:
        if text:
            table = arrow_csv.read_csv(
                path.absolute(),  # arrow reads a leading ~ as somebody's home
                # a row lies within one block, and a history may be long
                read_options=arrow_csv.ReadOptions(block_size=min(max(path.stat().st_size, 1 << 20), 2**31 - 1)),
                # an empty line is a row of its own: the answer keeps the rows' order
                parse_options=arrow_csv.ParseOptions(ignore_empty_lines=False, newlines_in_values=True),
                convert_options=arrow_csv.ConvertOptions(
                    column_types=dict.fromkeys(_columns(path), pa.string()), strings_can_be_null=False
                ),
            )
            refuse_open_quote(path, ",")
        else:
            table = parquet.read_table(path.absolute())
        names = [name.strip() for name in table.column_names]  # "user, history" is two columns as well
        found = {name: table.column(names.index(name)) for name in _COLUMNS if names.count(name) == 1}
        return names, {name: column.to_pylist() for name, column in found.items()}
    except (pa.ArrowException, OSError, UnicodeDecodeError, OverflowError) as error:  # overflow: a day too far
        if text:
            raise explained(path, ",", True, None, error) from None
        raise InputError(f"{path} cannot be read: {' '.join(str(error).split())}") from None


def _columns(path: Path) -> list[str]:
    """The names of the CSV's columns that matter, as they stand there; without a header the reader says so itself."""
    from latentloop.data.formats.delimited import records

    try:
        header = next(records(path, ","), (1, []))[1]
    except InputError:  # before Python 3.11 of a NUL; what is wrong is told where the file is read
        return []
    return [name for name in header if name.strip() in _COLUMNS]


def _place(path: Path, row: int) -> str:
    """Where row `row` (from 0) stands in the file, for people: lines count from 1, a CSV's header is line 1."""
    if path.suffix == ".parquet":
        return f"row {row + 1}"
    starts = _csv_lines(path) if path.suffix == ".csv" else _json_lines(path)
    return f"line {next(islice(starts, row, None))}"


def _csv_lines(path: Path) -> Iterator[int]:
    """The line on which each record begins, the header's left out."""
    limit = csv.field_size_limit(2**31 - 1)  # a history may be long; the limit is the whole process's
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file)
            next(reader)
            before = reader.line_num
            for _ in reader:
                yield before + 1
                before = reader.line_num
    finally:
        csv.field_size_limit(limit)


def _json_lines(path: Path) -> Iterator[int]:
    from latentloop.data.formats.bytes import open_bytes

    with open_bytes(path) as file:  # gzipped or not, and broken where `objects` breaks them
        yield from (number for number, line in enumerate(file, start=1) if line.strip())
