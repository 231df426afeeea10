"""Run the cells of an experiment that are not done yet, within a budget of time.

    python -m benchmarks.paper figure3 --data amazon2018-scientific --folder DATA --budget 9m --workers 2
    python -m benchmarks.paper figure3 --data beauty sports --epochs 20      # what training costs can be set

`tuning` runs a grid of settings for every model on one seed, `tuned` what won of it, with the same options, on all.

A finished cell is one JSON line in `benchmarks/results/cells/`; a cell that the budget cuts off continues from its last
epoch the next time, on any machine that has its `--work` folder. Without a budget everything is run. The exit code is 3
while cells are left, and 1 where one failed.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import re
import signal
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import tyro

from benchmarks.paper.cell import CAUSAL, UNTRAINED, Cell
from benchmarks.paper.data import check_there, load_split
from benchmarks.paper.grids import EXPERIMENTS
from benchmarks.paper.models import reads_texts, text_hash, text_path
from benchmarks.paper.rows import TRAINING, Row
from benchmarks.paper.stored import Line, finished, keep
from benchmarks.paper.train import run_cell
from benchmarks.paper.tuning import BUDGET, GRID, SEED, TUNED, choices, tuned
from latentloop.checks import at_least
from latentloop.data.card import content_hash
from latentloop.errors import InputError
from latentloop.runs.lock import Taken

__all__ = ["Options", "end_with", "main", "seconds"]

AGAIN = 30.0
"""Seconds after which a cell is asked for again whose run another command is at work on."""


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
        """All cells, each once, all of a seed before the next seed's; those that read texts only where the data have any.

        Raises:
            SystemExit: for a label that no row has, or a row that was asked for and reads texts that are not there.
        """
        rows = [row for data in self.data for row in self._rows(data)]
        unknown = [label for label in self.only if label not in {row.label for row in rows}]
        if unknown:
            labels = ", ".join(dict.fromkeys(repr(row.label) for row in rows))
            raise SystemExit(f"--only: {self.experiment} has no row {unknown[0]!r}; it has {labels}")
        rows = [row for row in rows if not self.only or row.label in self.only]
        silent = [row for row in rows if reads_texts(row.cell) and not text_path(row.cell, self.folder).is_file()]
        if silent and self.only:
            path = text_path(silent[0].cell, self.folder)
            raise SystemExit(f"--only: {silent[0].label!r} reads the items' texts, and there is no {path}")
        rows = [row for row in rows if row not in silent]
        seeds = (SEED,) if self.experiment == "tuning" else self.seeds
        cells = [
            # what is only counted is the same for each seed
            replace(row.cell, seed=SEED if row.cell.kind in UNTRAINED else seed, **self._changes_of(row))
            for seed in seeds
            for row in rows
        ]
        return list(dict.fromkeys(cells))

    def _changes_of(self, row: Row) -> dict[str, Any]:
        """What the command line decides of a row: of what it reads, and models that see later items keep to prefix
        samples."""
        if row.cell.kind in UNTRAINED:
            return self._changes(["max_length"])
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
        rows = tuned(data, lines, budget)
        if not rows:
            raise SystemExit(f"tuned: no cell of `tuning` is finished for {data} with these options: run it first")
        return rows

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
    """Run pending cells; returns how many are left.

    Raises:
        SystemExit: for what cannot be run, or where a cell failed, once the others are done.
    """
    at_least("workers", options.workers, 1)
    end = time.monotonic() + seconds(options.budget)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    for data in options.data:
        check_there(data, options.folder)
    cells, done = options.cells(), finished()
    _check_same(options, cells, done)
    pending = [cell for cell in cells if cell.key not in done]
    logging.info("%s: %d cells done, %d to run", options.experiment, len(cells) - len(pending), len(pending))
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(options.workers, context, initializer=_worker, initargs=(logging.INFO,))
    running: dict[Future[dict[str, Any]], Cell] = {}
    queue, failed = list(pending), 0
    later: dict[Cell, float] = {}
    try:
        while (queue or running) and (left := end - time.monotonic()) > 0:
            # cells that share a pre-training wait for it: two processes may not write one run directory
            busy = {cell.pretrained.key for cell in running.values()}
            for cell in [cell for cell in queue if later.get(cell, 0.0) <= time.monotonic()]:
                if len(running) == options.workers or cell.pretrained.key in busy:
                    continue
                queue.remove(cell)
                if cell.key in finished():  # by another command at work on the same list
                    continue
                running[pool.submit(run_cell, cell, options.folder, options.work, options.device)] = cell
                busy.add(cell.pretrained.key)
            if not running:  # all wait for other commands
                time.sleep(min(1.0, left))
            for future in wait(running, timeout=min(AGAIN, left), return_when=FIRST_COMPLETED).done:
                cell = running.pop(future)
                try:
                    line = future.result()
                except Taken as error:
                    if cell not in later:
                        logging.warning("%s: tried again from time to time", error)
                    queue.append(cell)
                    later[cell] = time.monotonic() + AGAIN
                except BrokenExecutor:
                    raise
                except (Exception, SystemExit) as error:  # the other cells can still be run
                    told = isinstance(error, InputError | SystemExit)
                    logging.error("%s %s failed: %s", cell.key, cell.kind, error, exc_info=None if told else error)
                    failed += 1
                else:
                    keep(options.experiment, line)  # where this fails no other cell could be kept either
                    logging.info("%s %s: test ndcg@10 %.4f", cell.key, cell.kind, line["test"]["ndcg@10"])
    finally:
        _stop(pool)
    left_over = len(queue) + len(running)
    logging.info("%d cells are left", left_over + failed)
    if failed:
        raise SystemExit(f"{failed} cells failed, see above")
    return left_over


def _check_same(options: Options, cells: Sequence[Cell], done: Mapping[str, Line]) -> None:
    """Refuse data, or texts, of a name whose finished cells were trained on others."""
    for data in options.data:
        own = [line for line in done.values() if line["cell"]["data"] == data]
        hashes = {line["data_hash"] for line in own if "data_hash" in line}
        if hashes and content_hash(load_split(data, options.folder, Cell.max_length).interactions) not in hashes:
            raise SystemExit(f"{data} in {options.folder} is not what the finished cells were trained on: rename it")
        hashes = {line["text_hash"] for line in own if "text_hash" in line}
        reading = [cell for cell in cells if cell.data == data and reads_texts(cell)]
        if hashes and reading and text_hash(path := text_path(reading[0], options.folder)) not in hashes:
            raise SystemExit(f"{path} is not what the finished cells were trained on: rename it and the data")


def _stop(pool: ProcessPoolExecutor) -> None:
    """End the workers at once: each cell keeps its last whole epoch."""
    for process in list((pool._processes or {}).values()):
        process.terminate()
    pool.shutdown(wait=True, cancel_futures=True)
