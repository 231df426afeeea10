"""The data sets of the experiments, by name."""

from __future__ import annotations

from pathlib import Path

from latentloop.data.amazon import AMAZON_PREFIX, PUBLISHED_COUNTS
from latentloop.data.readers import load_interactions
from latentloop.data.splits import Split, leave_one_out

__all__ = ["check_there", "load_split"]


def load_split(name: str, folder: Path, max_length: int) -> Split:
    """A file `<name>.txt.gz` or `<name>.inter.gz` of `folder`, or "amazon-2023:<Category>" with the counts it must have.

    Raises:
        SystemExit: where there is no such file, or the counts are others than the paper's.
    """
    if name.startswith(AMAZON_PREFIX):
        interactions = load_interactions(name)
        found = (interactions.num_users, interactions.num_items, len(interactions))
        wanted = PUBLISHED_COUNTS.get(name.removeprefix(AMAZON_PREFIX), found)
        if found != wanted:  # so do the data differ, and no number can be compared
            raise SystemExit(f"{name} has {_counted(found)}, where the paper's has {_counted(wanted)}")
        return leave_one_out(interactions, max_length)
    return leave_one_out(load_interactions(_file(name, folder)), max_length)


def check_there(name: str, folder: Path) -> None:
    """Refuse a name that `load_split` has no file for; what lies elsewhere is not looked for.

    Raises:
        SystemExit: where there is no such file.
    """
    if not name.startswith(AMAZON_PREFIX):
        _file(name, folder)


def _file(name: str, folder: Path) -> Path:
    paths = [path for suffix in ("txt", "inter", "csv") if (path := folder / f"{name}.{suffix}.gz").is_file()]
    if not paths:
        raise SystemExit(f"no {name}.txt.gz in {folder}: set --folder")
    return paths[0]


def _counted(counts: tuple[int, int, int]) -> str:
    return "{:,} users, {:,} items and {:,} actions".format(*counts)
