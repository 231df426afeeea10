"""What Table 4's models cost: operations and parameters counted, time and memory of an answer measured.

    python -m benchmarks.paper.costs --data amazon2018-scientific     # one line a depth to benchmarks/results/costs.jsonl

The models are untrained, which costs the same. LARES and the SASRec that passes as many layers take turns on the same
1,024 histories of the test part, and each side's peak memory is that of a process of its own.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Literal

import torch
import tyro
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.paper.cell import Cell
from benchmarks.paper.data import load_split
from benchmarks.paper.grids import table4
from benchmarks.paper.models import build
from benchmarks.speed.alone import measure, run_alone
from benchmarks.speed.clock import choose
from benchmarks.speed.options import Clock
from benchmarks.speed.report import machine
from benchmarks.speed.timing import Pair, summed_up, take_turns
from benchmarks.told import told
from latentloop.data.splits import Split

__all__ = ["COSTS", "Options", "counted_flops", "counted_parameters", "main", "stored_costs"]

COSTS = Path("benchmarks/results/costs.jsonl")
ROWS = 1024
Side = Literal["sasrec", "LARES"]


@dataclass(frozen=True)
class Options:
    """What is measured."""

    data: str = "amazon2018-scientific"
    """Name of a data set: its histories and its number of items."""
    folder: Path = Path("../shared/data")
    """Where its file lies."""
    depths: tuple[int, ...] = (1, 2, 3, 4)
    """Thoughts of LARES; SASRec passes 2 + 2 x depth layers."""
    threads: int = 1
    """CPU threads."""
    clock: Clock = "cpu"
    """What time is: the process's own, which others on the machine do not stretch so much, or the wall's."""
    repeats: int = 15
    """Turns of each pair."""
    alone: Side | None = None
    """Measure the memory of this side at the first depth only, in this process; used by the benchmark itself."""


@cache
def counted_flops(cell: Cell) -> int:
    """Operations of the matrix products that a model's encoder takes to answer one history of L items.

    A multiplication and an addition are two. The attention of all pairs of positions is counted, masked ones too; the
    last layer of the last pass computes the newest position only, as `think` does.
    """
    model = build(cell, num_items=cell.max_length).eval()
    history = torch.arange(1, cell.max_length + 1)[None]
    # the fused kernels of attention are no operation that torch counts, its plain products are
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model.think(history)
    return counter.get_total_flops()


@cache
def counted_parameters(cell: Cell) -> int:
    """The encoder's, without item table and positions."""
    return sum(parameter.numel() for parameter in build(cell, num_items=1).encoder.parameters())


def stored_costs(path: Path = COSTS) -> dict[tuple[str, str], dict[str, float]]:
    """By data set and row of Table 4: the last measured milliseconds and MiB, of LARES also the ratio of times."""
    found: dict[tuple[str, str], dict[str, float]] = {}
    for line in path.read_text().splitlines() if path.is_file() else []:
        entry = json.loads(line)
        found |= {(entry["data"], label): costs for label, costs in entry["rows"].items()}
    return found


def main(options: Options) -> None:
    """Measure every depth and add a line for each."""
    torch.set_num_threads(options.threads)
    choose(options.clock)
    split = load_split(options.data, options.folder, Cell(options.data).max_length)
    if options.alone is not None:
        action = _answer(_rows(options.data, options.depths[0])[options.alone][1], split)
        print(json.dumps(asdict(measure(action))))
        return
    for depth in options.depths:
        line = _measured(options, depth, split)
        print(json.dumps(line), flush=True)
        COSTS.parent.mkdir(parents=True, exist_ok=True)
        with COSTS.open("a") as file:
            file.write(json.dumps(line) + "\n")


def _rows(data: str, depth: int) -> dict[Side, tuple[str, Cell]]:
    """The label and the model of each side; post-training changes weights, not costs."""
    rows = {row.label: row for row in table4(data)}
    loop = rows[f"LARES, depth {depth}"]
    plain = rows[loop.baseline or ""]
    return {"sasrec": (plain.label, plain.cell), "LARES": (loop.label, replace(loop.cell, rpt=False))}


def _answer(cell: Cell, split: Split) -> Callable[[], Tensor]:
    """What is timed: 1,024 histories are encoded and all items scored."""
    model = build(cell, split.num_items).eval()
    history = split.test.history(torch.arange(len(split.test))[:ROWS])

    def answer() -> Tensor:
        with torch.no_grad():
            return model.score(history)

    return answer


def _measured(options: Options, depth: int, split: Split) -> dict[str, object]:
    rows = _rows(options.data, depth)
    pair = Pair(
        case=f"depth {depth}",
        unit="histories",
        units=min(ROWS, len(split.test)),
        fast=lambda: _answer(rows["LARES"][1], split),
        twin=lambda: _answer(rows["sasrec"][1], split),
    )
    taken = take_turns(pair.fast(), pair.twin() if pair.twin else None, repeats=options.repeats)
    timing = summed_up(pair, *taken)
    peaks = {
        side: run_alone(
            "--data", options.data, "--folder", str(options.folder), "--depths", str(depth), "--threads",
            str(options.threads), "--alone", side, module="benchmarks.paper.costs",
        )
        for side in rows
    }  # fmt: skip
    costs: dict[str, dict[str, float]] = {
        rows[side][0]: {
            "ms": round(1000 * pair.units / (rate or 1.0), 1),
            "mib": round(peaks[side].peak, 1),
            "mib_above": round(peaks[side].above, 1),
        }
        for side, rate in (("sasrec", timing.twin), ("LARES", timing.fast))
    }
    # of times, where a timing's ratio is that of rates
    ratios = [own / its for own, its in zip(*taken, strict=True)]
    costs[rows["LARES"][0]] |= {
        "ratio": round(statistics.median(ratios), 3),
        "ratio_low": round(min(ratios), 3),
        "ratio_high": round(max(ratios), 3),
    }
    about = {name: machine()[name] for name in ("processor", "cores", "threads", "load", "torch")} | {
        "clock": options.clock
    }
    return {"data": options.data, "histories": pair.units, "turns": timing.turns, "rows": costs, "machine": about}


if __name__ == "__main__":
    with told():
        main(tyro.cli(Options, description=__doc__))
