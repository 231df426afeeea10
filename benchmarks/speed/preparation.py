"""Data preparation: from a Parquet file to what training draws from."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from benchmarks.speed.options import Options
from benchmarks.speed.timing import Pair
from benchmarks.speed.world import LENGTH, write_log
from latentloop.data.kcore import k_core
from latentloop.data.positives import SameTarget
from latentloop.data.readers import load_interactions
from latentloop.data.splits import leave_one_out

__all__ = ["data"]

CORE = 5


def data(options: Options) -> Iterator[Pair]:
    """Reading Parquet, 5-core, sequences and the index of same targets, each turn in a process of its own."""
    import pyarrow.parquet as pq

    size, scratch = options.sizes, options.scratch or Path()
    for rows, text in itertools.product(size.rows, (False, True)):
        path = scratch / f"log-{rows}{'-text' if text else ''}.parquet"
        if not path.exists():
            write_log(path, rows, text=text)
        yield Pair(
            f"data, {rows:,} rows{', ids as text' if text else ''}", "rows", pq.read_metadata(path).num_rows,
            partial(partial, _fast, path), partial(partial, _twin, path) if rows <= size.pandas_rows else None,
            beside="pandas",
            target=1_500_000, memory=True, limit=4 * 1000**3 / 2**20, apart=True,
        )  # fmt: skip


def _fast(path: Path) -> None:
    split = leave_one_out(k_core(load_interactions(path), CORE), LENGTH)
    SameTarget(split.train)


def _twin(path: Path) -> None:
    import pandas as pd

    table = pd.read_parquet(path).sort_values(["user", "timestamp"], kind="stable")
    while True:
        by_user, by_item = (table.groupby(name)[name].transform("size") for name in ("user", "item"))
        kept = table[(by_user >= CORE) & (by_item >= CORE)]
        if len(kept) == len(table):
            break
        table = kept
    table["user"], table["item"] = table["user"].factorize()[0], table["item"].factorize()[0] + 1
    sequences = table.groupby("user")["item"].agg(list)
    _ = table.groupby("item").indices, sequences
