"""The data sets of the experiments, by name."""

from __future__ import annotations

from pathlib import Path

from latentloop.data.amazon import AMAZON_PREFIX
from latentloop.data.readers import load_interactions
from latentloop.data.splits import Split, leave_one_out

__all__ = ["COUNTS", "load_split"]

COUNTS = {
    "amazon-2023:Musical_Instruments": (57_439, 24_587, 511_836),
    "amazon-2023:Industrial_and_Scientific": (50_985, 25_848, 412_947),
    "amazon-2023:Video_Games": (94_762, 25_612, 814_586),
    "amazon-2023:Baby_Products": (150_777, 36_013, 1_241_083),
}
"""Users, items and actions of the paper's Table 3: where they differ, so do the data, and no number can be compared."""


def load_split(name: str, folder: Path, max_length: int) -> Split:
    """A file `<name>.txt.gz` or `<name>.inter.gz` of `folder`, or "amazon-2023:<Category>" with the counts it must have.

    Raises:
        SystemExit: where there is no such file, or the counts are others than the paper's.
    """
    if name.startswith(AMAZON_PREFIX):
        interactions = load_interactions(name)
        found = (interactions.num_users, interactions.num_items, len(interactions))
        if found != COUNTS.get(name, found):
            raise SystemExit(f"{name} has {_counted(found)}, where the paper's has {_counted(COUNTS[name])}")
        return leave_one_out(interactions, max_length)
    paths = [path for suffix in ("txt", "inter", "csv") if (path := folder / f"{name}.{suffix}.gz").is_file()]
    if not paths:
        raise SystemExit(f"no {name}.txt.gz in {folder}: set --folder")
    return leave_one_out(load_interactions(paths[0]), max_length)


def _counted(counts: tuple[int, int, int]) -> str:
    return "{:,} users, {:,} items and {:,} actions".format(*counts)
