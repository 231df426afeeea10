"""`latentloop recommend`: ranked items for histories in a file, or for users the run knows."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from latentloop.errors import InputError

if TYPE_CHECKING:
    import pyarrow as pa

    from latentloop.recommend import Recommendations

__all__ = ["Recommend"]

_SUFFIXES = (".csv", ".jsonl", ".parquet")


@dataclass(frozen=True)
class Recommend:
    """The k best items for each row of a file.

    The input (CSV, JSON Lines or Parquet) has a column `user`, a column `history`, or both. `history` holds item ids,
    oldest first: a list, or in CSV separated by spaces. Without it, each `user` is looked up in the data the run was
    trained on. The output has the columns user, rank, item and score, best first.
    """

    run_directory: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    """A directory made by `latentloop train`."""
    input: Path
    """Whom to recommend to: .csv, .jsonl or .parquet."""
    out: Path
    """Where to write: .csv, .jsonl or .parquet."""
    k: int = 10
    """Items a user."""
    depth: int | None = None
    """Thoughts before the answer; k-bar + 1 when not given."""
    stage: Literal["best", "base", "spt", "rpt"] = "best"
    """Which of the run's models."""
    encoder: str | None = None
    """The package.module:function that the run was trained with, for blocks of your own."""
    include_history: bool = False
    """Let items of the history come again."""
    allow: Path | None = None
    """A text file of item ids, one a line: only these are recommended."""
    deny: Path | None = None
    """A text file of item ids, one a line: these never are."""
    strict: bool = False
    """An unknown item is an error, not a warning."""
    overwrite: bool = False
    """Replace the output file if it is there."""

    def run(self) -> None:
        """Carry it out."""
        from latentloop.commands.evaluate import open_run
        from latentloop.run_directory import RunDirectory

        if self.out.suffix not in _SUFFIXES:
            raise InputError(f"--out must end in {', '.join(_SUFFIXES)}, got {self.out}")
        if self.out.exists() and not self.overwrite:
            raise InputError(f"{self.out} already exists: replace it with --overwrite, or choose another --out")
        run = RunDirectory.open(self.run_directory)
        users, histories = _read(self.input)
        model, split, _ = open_run(run, self.stage, self.encoder)
        found = model.recommend(
            histories,
            users=users if histories is None else None,
            data=split.interactions if histories is None else None,
            k=self.k,
            depth=self.depth,
            exclude_history=not self.include_history,
            allow=_lines(self.allow),
            deny=_lines(self.deny),
            strict=self.strict,
        )
        _write(self.out, users if users is not None else list(range(1, len(found) + 1)), found)


def _read(path: Path) -> tuple[list[Any] | None, list[list[Any]] | None]:
    """The columns `user` and `history`, None for one that is not there."""
    from pyarrow import ArrowException, csv, parquet
    from pyarrow import json as arrow_json

    if path.suffix not in _SUFFIXES:
        raise InputError(f"--input must end in {', '.join(_SUFFIXES)}, got {path}")
    if not path.is_file():
        raise InputError(f"--input: there is no file {path}")
    if path.stat().st_size == 0:
        raise InputError(f"{path} is empty: it needs a column `user` or `history`")
    table: pa.Table
    try:
        if path.suffix == ".csv":
            import pyarrow as pa

            text = {"user": pa.string(), "history": pa.string()}
            # an empty line is a row of its own: the answer keeps the rows' order
            parse = csv.ParseOptions(ignore_empty_lines=False)
            table = csv.read_csv(
                path,
                parse_options=parse,
                convert_options=csv.ConvertOptions(column_types=text, strings_can_be_null=False),
            )
        else:
            table = arrow_json.read_json(path) if path.suffix == ".jsonl" else parquet.read_table(path)
        names = table.column_names
    except (ArrowException, OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read: {' '.join(str(error).split())}") from None
    if "user" not in names and "history" not in names:
        raise InputError(f"{path} needs a column `user` or `history`, found {', '.join(names)}")
    for name in ("user", "history"):
        if names.count(name) > 1:
            raise InputError(f"{path} has {names.count(name)} columns named {name}, expected one")
    users = table["user"].to_pylist() if "user" in names else None
    if users is not None and None in users:
        raise InputError(f"{path}: row {users.index(None) + 1} has no user")
    if "history" not in names:
        return users, None
    histories = [history.split() if isinstance(history, str) else history for history in table["history"].to_pylist()]
    for row, history in enumerate(histories, start=1):
        if not isinstance(history, list) or not all(isinstance(item, str | int) for item in history):
            raise InputError(f"{path}: row {row}: history must be a list of item ids, got {history!r}")
    return users, histories


def _write(path: Path, users: list[Any], found: Recommendations) -> None:
    import pyarrow as pa
    from pyarrow import csv, parquet

    from latentloop.files import write_atomically

    rows = [
        (str(user), rank, str(item), score)
        for user, items, scores in zip(users, found.items, found.scores, strict=True)
        for rank, (item, score) in enumerate(zip(items, scores, strict=True), start=1)
    ]
    names = ["user", "rank", "item", "score"]
    kinds = [pa.string(), pa.int64(), pa.string(), pa.float64()]
    columns = [pa.array([row[place] for row in rows], kind) for place, kind in enumerate(kinds)]
    table = pa.table(columns, names=names)
    path.parent.mkdir(parents=True, exist_ok=True)
    with write_atomically(path) as temporary:
        if path.suffix == ".csv":
            csv.write_csv(table, temporary, csv.WriteOptions(quoting_style="needed"))
        elif path.suffix == ".jsonl":
            lines = [json.dumps(dict(zip(names, row, strict=True)), ensure_ascii=False) + "\n" for row in rows]
            temporary.write_text("".join(lines), encoding="utf-8")
        else:
            parquet.write_table(table, temporary)


def _lines(path: Path | None) -> list[str] | None:
    if path is None:
        return None
    if not path.is_file():
        raise InputError(f"there is no file {path}")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise InputError(f"{path} is not UTF-8 text: save it as UTF-8, one item id a line") from None
    return [line.strip() for line in text.splitlines() if line.strip()]
