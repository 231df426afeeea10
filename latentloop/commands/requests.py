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
    from latentloop.items.ids import ItemIds

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
        users: ids of the column `user`, however it is called; None where it is not there.
        histories: item ids of the column `history`, oldest first, None where it is not there.
    """

    path: Path
    users: list[Any] | None
    histories: list[list[Any]] | None

    def known(self, users: ItemIds, items: ItemIds, *, strict: bool, k_core: int = 0) -> Requests:
        """Without users that have no history here and none in the run, and without items that the model does not know.

        Args:
            users: the run's users.
            items: the model's items.
            strict: whether these, and rows whose history is nothing, are errors; otherwise they are warned of.
            k_core: actions that the run asked of its users, for advice; 0 and 1 asked for none.

        Raises:
            InputError: (strict) for an unknown user or item, or an empty history; where no row can be answered.
        """
        if self.histories is not None:
            unknown = [
                (row, item)
                for row, history in enumerate(self.histories)
                for item in history
                if items.number(item) is None
            ]
            self._complain("item", unknown, strict=strict, advice=self._about_commas(unknown))
            known = replace(self, histories=[[i for i in h if items.number(i) is not None] for h in self.histories])
            known._complain_of_blanks(users, strict=strict)
            return known
        asked = self.users or []
        strangers = [(row, user) for row, user in enumerate(asked) if users.number(user) is None]
        advice = ""
        if k_core > 1:
            advice = (
                f" (fewer actions than --k-core {k_core} keeps? give their `history`, or train with a smaller --k-core)"
            )
        if asked and len(strangers) == len(asked):
            raise InputError(
                f"{self.path}: no row can be answered, the run knows none of its users: "
                f"{self._listed(strangers)}{advice}"
            )
        self._complain("user", strangers, strict=strict, advice=advice)
        return replace(self, users=[user for user in asked if users.number(user) is not None])

    def _complain_of_blanks(self, users: ItemIds, *, strict: bool) -> None:
        """Rows whose history is nothing: it is what answers, where both columns are there too."""

        def ours(user: Any) -> bool:
            return user is not None and users.number(user) is not None

        histories = self.histories or []
        names = [None] * len(histories) if self.users is None else self.users
        blank = [(row, names[row]) for row, history in enumerate(histories) if not history]
        if blank and strict:
            row, user = blank[0]
            whose = "" if user is None else f", and the run does not know the user {user!r}"
            if ours(user):
                whose = f", though the run knows the user {user!r} and answers from that without the column `history`"
            raise InputError(
                f"{self.path}: {_place(self.path, row)}: no history{whose}; without --strict it is answered like a "
                "stranger's"
            )
        said = "%s: %d row(s) have no known item in their history and are answered like a stranger's"
        known = [(row, user) for row, user in blank if ours(user)]
        if known:
            advice = "leave the column `history` out to answer from the run"
            logger.warning(
                f"{said}, though the run knows the user: %s; {advice}", self.path, len(known), self._listed(known)
            )
        others = [(row, user) for row, user in blank if not ours(user)]
        if others:
            logger.warning(f"{said}: %s", self.path, len(others), self._listed(others))

    def _complain(self, what: str, unknown: list[tuple[int, Any]], *, strict: bool, advice: str) -> None:
        if unknown and strict:
            row, name = unknown[0]
            raise InputError(
                f"{self.path}: {_place(self.path, row)}: unknown {what} {name!r}; without --strict it is skipped{advice}"
            )
        if unknown:
            logger.warning(
                "%s: skipped %d unknown %s(s): %s%s", self.path, len(unknown), what, self._listed(unknown), advice
            )

    def _about_commas(self, unknown: Sequence[tuple[int, Any]]) -> str:
        """What to say where a comma between two items of a CSV was taken for a part of an id."""
        commas = self.path.suffix == ".csv" and any("," in item for _, item in unknown)
        return " (items of a history are separated by spaces)" if commas else ""

    def _listed(self, unknown: Sequence[tuple[int, Any]]) -> str:
        """Where they are, by name where they have one."""
        places = [(name, _place(self.path, row)) for row, name in unknown[:_NAMED]]
        named = ", ".join(place if name is None else f"{name!r} ({place})" for name, place in places)
        return named + (f" and {len(unknown) - _NAMED} more" if len(unknown) > _NAMED else "")


def read_requests(path: Path) -> Requests:
    """Read a CSV, JSON Lines or Parquet file with a column `user`, a column `history` or both.

    Where no column is called `user`, one is taken for it that readers of logs recognise, such as `user_id`.

    Args:
        path: the file.

    Raises:
        InputError: for a file that is missing, empty or damaged, without either column or with several of one, or with
            a row that lacks a user or whose history is no list.
    """
    if path.suffix not in SUFFIXES:
        raise InputError(f"--input must end in {', '.join(SUFFIXES)}, got {path}")
    if not path.is_file():
        raise InputError(f"--input: there is no file {path}")
    if path.stat().st_size == 0:
        raise InputError(f"{path} is empty: it needs a column `user` or `history`")
    names, columns = _jsonl(path) if path.suffix == ".jsonl" else _table(path)
    if not columns:
        raise InputError(f"{path} needs a column `user` or `history`, found {', '.join(names)}")
    users = columns.get("user")
    if "history" in columns and "user" not in names and not all(_is_id(user) and user != "" for user in users or ()):
        users = None  # what only looks like it is no column of users
    for row, user in enumerate(users or ()):
        if user is None:
            raise InputError(f"{path}: {_place(path, row)}: no user")
        if not _is_id(user):
            raise InputError(f"{path}: {_place(path, row)}: user must be text or a whole number, got {user!r}")
    if "history" not in columns:
        return Requests(path, users, None)
    histories = [history.split() if isinstance(history, str) else history for history in columns["history"]]
    for row, history in enumerate(histories):
        if not isinstance(history, list) or not all(map(_is_id, history)):
            raise InputError(f"{path}: {_place(path, row)}: history must be a list of item ids, got {history!r}")
    return Requests(path, users, histories)


def _is_id(value: object) -> bool:
    return isinstance(value, str) or is_whole(value)


def _places(path: Path, names: list[str]) -> dict[str, int]:
    """Which columns are the user and the history, of those that are there.

    Raises:
        InputError: for two columns of either name, or none called `user` and several that could be.
    """
    from latentloop.data.formats.names import find_user

    for name in _COLUMNS:
        if names.count(name) > 1:
            raise InputError(f"{path} has {names.count(name)} columns named {name}, expected one")
    found = {name: names.index(name) for name in _COLUMNS if name in names}
    if "user" not in found:
        try:
            user = find_user(names, str(path))
        except InputError as error:  # no option of this command names it
            if "history" in found:  # which answers by itself, whatever stands beside it
                return found
            raise InputError(f"{error}; call it `user`") from None
        if user is not None:
            found["user"] = user
    return found


def _jsonl(path: Path) -> tuple[list[str], dict[str, list[Any]]]:
    """Names of all fields, and the values of user and history; None where a line lacks one."""
    from latentloop.data.formats.jsonl import objects

    rows = [value for _, value in objects(path)]
    names = list(dict.fromkeys(name for row in rows for name in row))
    return names, {name: [row.get(names[place]) for row in rows] for name, place in _places(path, names).items()}


def _table(path: Path) -> tuple[list[str], dict[str, list[Any]]]:
    """The same of CSV or Parquet."""
    import pyarrow as pa
    from pyarrow import csv as arrow_csv
    from pyarrow import parquet

    from latentloop.data.formats.delimited import explained, refuse_open_quote

    text = path.suffix == ".csv"
    delimiter = _delimiter(path) if text else ","
    try:
        if text:
            table = arrow_csv.read_csv(
                path.absolute(),  # arrow reads a leading ~ as somebody's home
                # a row lies within one block, and a history may be long
                read_options=arrow_csv.ReadOptions(block_size=min(max(path.stat().st_size, 1 << 20), 2**31 - 1)),
                # an empty line is a row of its own: the answer keeps the rows' order
                parse_options=arrow_csv.ParseOptions(
                    delimiter=delimiter, ignore_empty_lines=False, newlines_in_values=True
                ),
                convert_options=arrow_csv.ConvertOptions(
                    column_types=dict.fromkeys(_columns(path, delimiter), pa.string()), strings_can_be_null=False
                ),
            )
            refuse_open_quote(path, delimiter)
        else:
            table = parquet.read_table(path.absolute())
        names = [name.strip() for name in table.column_names]  # "user, history" is two columns as well
        found = {name: table.column(place).to_pylist() for name, place in _places(path, names).items()}
        if text and any(name.startswith(" ") for name in table.column_names):  # as a log's ids are read
            found = {name: [value and value.strip() for value in values] for name, values in found.items()}
        return names, found
    except (pa.ArrowException, OSError, UnicodeDecodeError, OverflowError) as error:  # overflow: a day too far
        if text:
            raise explained(path, delimiter, True, None, error) from None
        raise InputError(f"{path} cannot be read: {' '.join(str(error).split())}") from None


def _delimiter(path: Path) -> str:
    """What separates fields; what cannot be read is told where the file is."""
    from latentloop.data.formats.delimited import delimiter_of

    try:
        return delimiter_of(path)
    except InputError:
        return ","


def _columns(path: Path, delimiter: str) -> list[str]:
    """The names of the CSV's columns that matter, as they stand there; without a header the reader says so itself."""
    from latentloop.data.formats.delimited import records

    try:
        header = next(records(path, delimiter), (1, []))[1]
    except InputError:  # before Python 3.11 of a NUL; what is wrong is told where the file is read
        return []
    return [header[place] for place in _places(path, [name.strip() for name in header]).values()]


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
            reader = csv.reader(file, delimiter=_delimiter(path))
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
