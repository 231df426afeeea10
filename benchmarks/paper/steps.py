"""How many steps of the training log lead from a history to what was asked for, and who answers which.

    python -m benchmarks.paper.steps --data amazon2018-scientific beauty     # one line a data set

A step leads from an item to one that some user took directly after it in the training part. Where the answer is one
step from the newest item, remembering pairs is enough; where it is two, something has to be put together. The line holds
each test user's class, so that `make paper` can tell stored ranks apart by it without the data.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro

from benchmarks.paper.cell import Cell
from benchmarks.paper.data import load_split
from benchmarks.paper.stored import Line
from benchmarks.told import told
from latentloop.data.card import content_hash
from latentloop.data.sequences import Samples
from latentloop.data.splits import Split

__all__ = ["CLASSES", "STEPS", "Options", "classes_of", "main", "steps_of", "stored_steps"]

STEPS = Path("benchmarks/results/steps.jsonl")
CLASSES = ("one step, newest item", "one step, earlier item", "two steps", "more or none")
"""Of several, the first that holds."""


@dataclass(frozen=True)
class Options:
    """Which data."""

    data: tuple[str, ...] = ("amazon2018-scientific",)
    """Names of data sets."""
    folder: Path = Path("../shared/data")
    """Where their files lie."""
    max_length: int = Cell.max_length
    """L: older items are no part of a history."""


def steps_of(split: Split, samples: Samples) -> np.ndarray:
    """The place in `CLASSES` of each sample.

    Args:
        split: whose training part tells what followed what.
        samples: with targets.
    """
    after: defaultdict[int, set[int]] = defaultdict(set)
    before: defaultdict[int, set[int]] = defaultdict(set)
    for item, following in _pairs(split):
        after[item].add(following)
        before[following].add(item)
    everyone = torch.arange(len(samples))
    found = np.empty(len(samples), dtype=np.uint8)
    for place, (row, target) in enumerate(
        zip(samples.history(everyone).tolist(), samples.target(everyone).tolist(), strict=True)
    ):
        known = [after[item] for item in row if item]
        if target in known[-1]:
            found[place] = 0
        elif any(target in items for items in known):
            found[place] = 1
        else:
            found[place] = 2 if any(not items.isdisjoint(before[target]) for items in known) else 3
    return found


def _pairs(split: Split) -> list[tuple[int, int]]:
    """Every item and the next one of the same user, of the training part."""
    item, user, kept = split.interactions.item, split.interactions.user, split.training
    first = torch.nonzero(kept[:-1] & kept[1:] & (user[:-1] == user[1:])).flatten()
    return list(zip(item[first].tolist(), item[first + 1].tolist(), strict=True))


def classes_of(entry: Line) -> np.ndarray:
    """The classes that a stored line holds."""
    return np.frombuffer(zlib.decompress(base64.b85decode(entry["classes"])), dtype=np.uint8)


def stored_steps(path: Path = STEPS) -> dict[tuple[str, int], Line]:
    """The last line of each data set and L."""
    lines = path.read_text().splitlines() if path.is_file() else []
    return {(entry["data"], entry["max_length"]): entry for entry in map(json.loads, lines)}


def main(options: Options) -> None:
    """Add a line for each data set."""
    for data in options.data:
        split = load_split(data, options.folder, options.max_length)
        found = steps_of(split, split.test)
        line = {
            "data": data,
            "max_length": options.max_length,
            "data_hash": content_hash(split.interactions),
            "classes": base64.b85encode(zlib.compress(found.tobytes(), 9)).decode(),
        }
        STEPS.parent.mkdir(parents=True, exist_ok=True)
        with STEPS.open("a") as file:
            file.write(json.dumps(line) + "\n")
        print(data, {name: f"{(found == place).mean():.2%}" for place, name in enumerate(CLASSES)}, flush=True)


if __name__ == "__main__":
    with told():
        main(tyro.cli(Options, description=__doc__))
