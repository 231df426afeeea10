"""Prepared data as a folder that says what it holds and is checked against that when it is read again."""

from __future__ import annotations

import json
import shutil
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from latentloop.checks import is_whole
from latentloop.data.card import DataCard, content_hash
from latentloop.data.interactions import Id, Interactions
from latentloop.errors import InputError
from latentloop.files import folder_for, umask, writing
from latentloop.json_text import parse_json

__all__ = ["load_saved_interactions", "save_interactions"]

_VERSION = 1
_CARD = "card.json"


def save_interactions(interactions: Interactions, directory: str | Path, *, overwrite: bool = False) -> DataCard:
    """Write a table as three Parquet files and `card.json`, and return the card.

    Everything is written beside the target first and then renamed, so a killed run leaves nothing half-written.

    Args:
        interactions: the table to save.
        directory: where to; it must not exist yet, but its parent may or may not.
        overwrite: replace what is there, if that is prepared data too.

    Raises:
        InputError: the directory exists (without `overwrite`), is a link, or holds something else than prepared data.
        OSError: where it cannot be written; what was there is whole then.
    """
    directory = Path(directory)
    if directory.is_symlink():
        raise InputError(f"{directory}: is a link; name the folder that it leads to, or another one")
    if directory.exists():
        if not overwrite:
            raise InputError(f"{directory}: exists already; choose another name or overwrite")
        if not (directory / _CARD).is_file():
            raise InputError(f"{directory}: exists and is not prepared data, so it is not overwritten; remove it first")
    card = DataCard.of(interactions)
    with folder_for(directory), writing(directory):
        _write(interactions, card, directory)
    return card


def _write(interactions: Interactions, card: DataCard, directory: Path) -> None:
    """Write beside `directory` and rename."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    directory = directory.absolute()  # arrow reads a leading ~ as somebody's home
    draft = Path(tempfile.mkdtemp(prefix=f".{directory.name}-", dir=directory.parent))
    try:
        rows = {"user": interactions.user.numpy(), "item": interactions.item.numpy()}
        if interactions.timestamp is not None:
            rows["timestamp"] = interactions.timestamp.numpy()
        pq.write_table(pa.table(rows), draft / "interactions.parquet")
        for name, ids in (("users", interactions.user_ids), ("items", interactions.item_ids)):
            try:
                column = pa.array(list(ids))
            except OverflowError:
                far = max(map(int, ids), key=abs)
                raise InputError(
                    f"{name}: no file holds the id {far}, which is beyond 64 bits: write ids as text"
                ) from None
            pq.write_table(pa.table({"id": column}), draft / f"{name}.parquet")
        text = json.dumps({"version": _VERSION, **asdict(card)}, indent=2)
        (draft / _CARD).write_text(text + "\n", encoding="utf-8")
        draft.chmod(0o777 & ~umask())  # mkdtemp makes it private
        if directory.exists():
            old = Path(tempfile.mkdtemp(prefix=f".{directory.name}-old-", dir=directory.parent))
            try:
                directory.replace(old)
                draft.replace(directory)
            except BaseException:
                old.rmdir() if directory.exists() else old.replace(directory)
                raise
            shutil.rmtree(old)
        else:
            draft.replace(directory)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def load_saved_interactions(directory: str | Path) -> Interactions:
    """Read what `save_interactions` wrote, and check it against the hash in its card.

    Args:
        directory: the folder that holds `card.json`.

    Raises:
        InputError: no such folder, another version, or content that is damaged or does not match the card.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    directory = Path(directory)
    if not (directory / _CARD).is_file():
        raise InputError(f"{directory}: no {_CARD} in it, so it is no prepared data; make it with `latentloop prepare`")
    version, expected = _stamp(directory / _CARD)
    if version != _VERSION:
        raise InputError(f"{directory}: version {version}, this release reads version {_VERSION}; prepare it again")
    try:
        table = pq.read_table((directory / "interactions.parquet").absolute())
        _refuse_types(table)
        columns = {name: torch.from_numpy(table.column(name).to_numpy().copy()) for name in table.column_names}
        ids = [_ids(directory / f"{name}.parquet") for name in ("users", "items")]
        loaded = Interactions(columns["user"], columns["item"], columns.get("timestamp"), ids[0], ids[1])
        found = content_hash(loaded)
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{directory}: prepared data is damaged ({reason}); prepare it again") from error
    if found != expected:
        raise InputError(
            f"{directory}: content does not match the hash in {_CARD} ({found[:12]} instead of "
            f"{expected[:12]}); the data was changed or damaged, prepare it again"
        )
    return loaded


def _refuse_types(table: Any) -> None:
    """Whatever another type would be taken for, we never wrote it.

    Raises:
        ValueError: for a column of another name or type, or a time that is no number.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    kinds = {"user": (pa.int64(),), "item": (pa.int64(),), "timestamp": (pa.int64(), pa.float64())}
    for field in table.schema:
        if field.type not in kinds.get(field.name, ()) or table.column(field.name).null_count:
            raise ValueError(f"column {field.name!r} of {field.type} is not what was written")
    if "timestamp" in table.column_names and not pc.all(pc.is_finite(table.column("timestamp"))).as_py():
        raise ValueError("a timestamp is not finite")


def _ids(path: Path) -> list[Id]:
    """The ids in a file, all of one type and all different.

    Raises:
        ValueError: for other ids.
    """
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    ids = pq.read_table(path.absolute()).column("id")
    if ids.type not in (pa.int64(), pa.string(), pa.large_string()) or ids.null_count:
        raise ValueError(f"ids of {ids.type} in {path.name}")
    if pc.count_distinct(ids).as_py() != len(ids):
        raise ValueError(f"one id twice in {path.name}")
    found: list[Id] = ids.to_pylist()
    return found


def _stamp(path: Path) -> tuple[int, str]:
    """Version and hash that the card states."""
    try:
        card = parse_json(path.read_text(encoding="utf-8"))
        if is_whole(card["version"]) and isinstance(card["hash"], str):
            return card["version"], card["hash"]
    except (OSError, ValueError, KeyError, TypeError):
        pass
    raise InputError(f"{path}: damaged, it states no version and hash; prepare the data again")
