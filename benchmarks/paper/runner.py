"""Run the cells of an experiment that are not done yet, within a budget of time.

    python -m benchmarks.paper figure3 --data amazon2018-scientific --folder DATA --budget 9m --workers 2
    python -m benchmarks.paper figure3 --data beauty sports --epochs 20      # what training costs can be set

`tuning` runs a grid of settings for every model on one seed, `tuned` what won of it, with the same options, on all.

A finished cell is one JSON line in `benchmarks/results/cells/`; a cell that the budget cuts off continues from its last
epoch the next time, on any machine that has its `--work` folder. Without a budget everything is run.
"""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import re
import signal
import threading
import time
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import tyro

from benchmarks.paper.cell import CAUSAL, Cell
from benchmarks.paper.grids import EXPERIMENTS
from benchmarks.paper.models import reads_texts, text_path
from benchmarks.paper.rows import TRAINING, Row
from benchmarks.paper.stored import CELLS, finished
from benchmarks.paper.train import run_cell
from benchmarks.paper.tuning import BUDGET, GRID, SEED, TUNED, choices, tuned
from latentloop.checks import at_least
from latentloop.runs.lock import Taken

__all__ = ["Options", "end_with", "main", "seconds"]


@dataclass(frozen=True)
class Options:
    """Which cells, and how long."""

    experiment: tyro.conf.Positional[Literal["table1", "table2", "table4", "figure2", "figure3", "figure4", "figure5", "figure6", "study", "study_rpt", "tuning", "tuned"]]  # fmt: skip
    """A table or a figure of the paper, a study of the recipe, or the tuning of every model."""
    data: tuple[str, ...] = ("amazon2018-scientific",)
    """Names of data sets."""
    folder: Path = Path("../shared/data")
    """Where their files lie."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """A cell for each; `tuning` is run on seed 0 only."""
    workers: int = 1
    """Processes; each computes with one thread on a CPU."""
    budget: str | None = None
    """Stop after so long, such as 9m or 2h."""
    work: Path = Path("runs/paper")
    """Where unfinished cells are kept."""
    device: Literal["cpu", "cuda"] | None = None
    """The best there is when not given."""
    epochs: int | None = None
    """Pre-training epochs at most, instead of the cell's."""
    rpt_epochs: int | None = None
    """Post-training epochs at most, instead of the cell's."""
    learning_rate: float | None = None
    """Of pre-training, instead of the cell's."""
    batch_size: int | None = None
    """Rows of a pre-training step, instead of the cell's."""
    positions: Literal["newest", "all"] | None = None
    """What pre-training of causal backbones learns from, instead of the cell's; the others keep to "newest"."""
    dropout: float | None = None
    """Everywhere, instead of the cell's."""
    schedule: Literal["constant", "cosine"] | None = None
    """Of the learning rate of pre-training, instead of the cell's."""
    max_length: int | None = None
    """L, instead of the cell's."""
    choose_without_history: bool = False
    """Choose epochs by a validation that leaves the history out of the ranking."""
    only: tuple[str, ...] = ()
    """Rows of these labels only."""

    def cells(self) -> list[Cell]:
        """All cells, each once, all of a seed before the next seed's; those that read texts only where the data have any."""
        rows = [row for data in self.data for row in self._rows(data)]
        unknown = [label for label in self.only if label not in {row.label for row in rows}]
        if unknown:
            labels = ", ".join(dict.fromkeys(repr(row.label) for row in rows))
            raise SystemExit(f"--only: {self.experiment} has no row {unknown[0]!r}; it has {labels}")
        rows = [row for row in rows if not self.only or row.label in self.only]
        rows = [row for row in rows if not reads_texts(row.cell) or text_path(row.cell, self.folder).is_file()]
        seeds = (SEED,) if self.experiment == "tuning" else self.seeds
        cells = [replace(row.cell, seed=seed, **self._changes_of(row)) for seed in seeds for row in rows]
        return list(dict.fromkeys(cells))

    def _changes_of(self, row: Row) -> dict[str, Any]:
        """What the command line decides of a row: of what it reads, and models that see later items keep to prefix
        samples."""
        changes = self._changes([name for name in TRAINING if name not in row.own])
        if row.cell.backbone not in CAUSAL:
            changes.pop("positions", None)
        if not row.cell.rpt:
            changes.pop("rpt_epochs", None)
        return changes

    def _rows(self, data: str) -> Sequence[Row]:
        if self.experiment != "tuned":
            return EXPERIMENTS[self.experiment](data)
        for name in TUNED:
            if getattr(self, name) is not None:
                raise SystemExit(f"--{name.replace('_', '-')}: `tuned` takes what won in `tuning`; leave it out")
        lines, budget = finished(), self._changes(BUDGET)
        for choice in choices(data, lines, budget):
            if not choice.complete:
                logging.info("%s: only %d of %d points of the grid are finished", choice.model, len(choice.values), len(GRID))  # fmt: skip
        return tuned(data, lines, budget)

    def _changes(self, names: Sequence[str]) -> dict[str, Any]:
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}


def seconds(budget: str | None) -> float:
    """ "9m" as 540.0; None is no end."""
    if budget is None:
        return float("inf")
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", budget)
    if match is None:
        raise SystemExit(f"--budget must be a number of seconds, minutes or hours such as 9m, got {budget!r}")
    return float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[match[2]]


def _worker(level: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent stops the work
    threading.Thread(target=end_with, args=(os.getppid(),), daemon=True).start()
    logging.basicConfig(level=level, format="%(message)s")


def end_with(parent: int) -> None:
    """End this process once its parent has gone, which nobody would give its result to."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def main(options: Options) -> int:
    """Run pending cells; returns how many are left."""
    at_least("workers", options.workers, 1)
    end = time.monotonic() + seconds(options.budget)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    done = finished()
    pending = [cell for cell in options.cells() if cell.key not in done]
    logging.info("%s: %d cells done, %d to run", options.experiment, len(options.cells()) - len(pending), len(pending))
    CELLS.mkdir(parents=True, exist_ok=True)
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(options.workers, context, initializer=_worker, initargs=(logging.INFO,))
    running: dict[Future[dict[str, Any]], Cell] = {}
    queue, taken = list(pending), 0
    try:
        while (queue or running) and time.monotonic() < end:
            # cells that share a pre-training wait for it: two processes may not write one run directory
            busy = {cell.pretrained.key for cell in running.values()}
            ready = [cell for cell in queue if cell.pretrained.key not in busy]
            for cell in ready[: options.workers - len(running)]:
                if cell.pretrained.key in {other.pretrained.key for other in running.values()}:
                    continue
                queue.remove(cell)
                if cell.key in finished():  # by another command at work on the same list
                    continue
                running[pool.submit(run_cell, cell, options.folder, options.work, options.device)] = cell
            left = end - time.monotonic()
            for future in wait(running, timeout=min(60.0, max(0.1, left)), return_when=FIRST_COMPLETED).done:
                running.pop(future)
                try:
                    _keep(options.experiment, future.result())
                except Taken as error:
                    logging.warning("%s: left to it", error)
                    taken += 1
    finally:
        _stop(pool)
    left_over = len(queue) + len(running) + taken
    logging.info("%d cells are left", left_over)
    return left_over


def _keep(experiment: str, line: dict[str, Any]) -> None:
    with (CELLS / f"{experiment}.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")
    logging.info("%s %s: test ndcg@10 %.4f", line["key"], line["cell"]["kind"], line["test"]["ndcg@10"])


def _stop(pool: ProcessPoolExecutor) -> None:
    """End the workers at once: each cell keeps its last whole epoch."""
    for process in list((pool._processes or {}).values()):
        process.terminate()
    pool.shutdown(wait=True, cancel_futures=True)
