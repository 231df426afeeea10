"""`latentloop recommend`: ranked items for histories in a file, or for users the run knows."""

from __future__ import annotations

import json
import logging
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from latentloop.checks import zero_or_more
from latentloop.commands.places import Device, check_output, choose_device
from latentloop.commands.requests import SUFFIXES, read_requests
from latentloop.errors import InputError

if TYPE_CHECKING:
    from latentloop.items.ids import ItemIds
    from latentloop.recommend import Recommendations

__all__ = ["Recommend"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Recommend:
    """The k best items for each row of a file.

    The input (CSV, JSON Lines or Parquet) has a column `user`, a column `history`, or both; where none is called
    `user`, one such as `user_id` is taken, as `train` recognises it. `history` holds item ids, oldest first: a list, or
    in CSV separated by spaces. Without it, each `user` is looked up in the data the run was trained on; users and items
    that the run does not know are skipped with a warning. The output has the columns user, rank, item and score, best
    first.
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
    """An unknown user or item, or an empty history, is an error, not a warning."""
    followers: float | None = None
    """Add counts of what followed what in the run's training data to the scores, by this weight; `latentloop evaluate
    --followers --exclude-history` names the best."""
    device: Device | None = None
    """Where to compute; the best there is when not given."""
    overwrite: bool = False
    """Replace the output file if it is there."""

    def run(self) -> None:
        """Carry it out."""
        from latentloop.commands.evaluate import check_depths, open_run
        from latentloop.commands.options import DataOptions
        from latentloop.commands.saved import saved_options
        from latentloop.followers import Followers
        from latentloop.items.ids import ItemIds
        from latentloop.runs.directory import RunDirectory

        if self.out.suffix not in SUFFIXES:
            raise InputError(f"--out must end in {', '.join(SUFFIXES)}, got {self.out}")
        if self.followers is not None:
            zero_or_more("--followers", self.followers)
        check_output(self.out, overwrite=self.overwrite, read=(self.input, self.allow, self.deny))
        device = choose_device(self.device)
        run = RunDirectory.open(self.run_directory)
        asked = read_requests(self.input)
        model, split, _ = open_run(run, self.stage, self.encoder)
        check_depths(model, () if self.depth is None else (self.depth,))
        data = split.interactions
        items = ItemIds(data.item_ids) if model.item_ids is None else model.item_ids
        k_core = saved_options(DataOptions, run.config(), "data", run.config_path).k_core
        asked = asked.known(ItemIds(data.user_ids, name="user_ids"), items, strict=self.strict, k_core=k_core)
        by_history = asked.histories is not None
        found = model.to(device).recommend(
            asked.histories,
            users=None if by_history else asked.users,
            data=None if by_history else data,
            k=self.k,
            depth=self.depth,
            exclude_history=not self.include_history,
            allow=_ids(self.allow, items),
            deny=_ids(self.deny, items),
            strict=self.strict,
            bonus=None if self.followers is None else Followers.of(split, weight=self.followers),
        )
        nothing = found.items.count([])
        if nothing and nothing == len(found) and (self.allow is not None or self.deny is not None):
            raise InputError("nothing is left to recommend to anybody: --allow, --deny and the histories leave no item")
        if nothing:
            logger.warning("nothing is left to recommend to %d of %d", nothing, len(found))
        _write(self.out, asked.users if asked.users is not None else list(range(1, len(found) + 1)), found)


def _write(path: Path, users: list[Any], found: Recommendations) -> None:
    import pyarrow as pa
    from pyarrow import csv, parquet

    from latentloop.files import folder_for, write_atomically

    rows = [
        (str(user), rank, str(item), score)
        for user, items, scores in zip(users, found.items, found.scores, strict=True)
        for rank, (item, score) in enumerate(zip(items, scores, strict=True), start=1)
    ]
    names = ["user", "rank", "item", "score"]
    kinds = [pa.string(), pa.int64(), pa.string(), pa.float64()]
    columns = [pa.array([row[place] for row in rows], kind) for place, kind in enumerate(kinds)]
    table = pa.table(columns, names=names)
    with folder_for(path), write_atomically(path) as temporary:
        if path.suffix == ".csv":
            csv.write_csv(table, temporary.absolute(), csv.WriteOptions(quoting_style="needed"))
        elif path.suffix == ".jsonl":
            lines = [json.dumps(dict(zip(names, row, strict=True)), ensure_ascii=False) + "\n" for row in rows]
            temporary.write_text("".join(lines), encoding="utf-8")
        else:
            parquet.write_table(table, temporary.absolute())


def _ids(path: Path | None, items: ItemIds) -> list[str] | None:
    """The ids of a file, one a line: as they stand, or without the space around them where only that is known."""
    if path is None:
        return None
    if not path.is_file():
        raise InputError(f"there is no file {path}")
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError:
        raise InputError(f"{path} is not UTF-8 text: save it as UTF-8, one item id a line") from None
    lines = [line for line in re.split("\r\n|\n|\r", text) if line.strip()]
    return [line.strip() if items.number(line) is None else line for line in lines]
