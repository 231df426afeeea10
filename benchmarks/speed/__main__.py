"""How fast and how large: training, answering, data, depth and catalog, each against a plain twin.

python -m benchmarks.speed                    # five minutes on two cores
python -m benchmarks.speed --full             # all sizes, some thirty minutes
python -m benchmarks.speed --device cuda      # on a GPU, a minute and a half
python -m benchmarks.speed --against FILE     # ends with 1 where a ratio fell beyond the noise of both runs
"""

from __future__ import annotations

import gc
import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path

import torch
import tyro

from benchmarks.speed.allocated import allocated
from benchmarks.speed.alone import Alone, measure, run_alone
from benchmarks.speed.answering import inference, ranking, recommending
from benchmarks.speed.catalogs import catalogs
from benchmarks.speed.clock import choose
from benchmarks.speed.flops import ceilings, shortest
from benchmarks.speed.options import Options
from benchmarks.speed.preparation import data
from benchmarks.speed.report import fallen, load, machine, row, save
from benchmarks.speed.sampled import sampled
from benchmarks.speed.timing import Pair, Timing, summed_up, take_turns
from benchmarks.speed.training import depths, epoch, rpt, spt
from benchmarks.told import told

GROUPS: dict[str, Callable[[Options], Iterator[Pair]]] = {
    "spt": spt, "rpt": rpt, "epoch": epoch, "ranking": ranking, "recommending": recommending, "inference": inference,
    "data": data, "depths": depths, "catalogs": catalogs, "sampled": sampled,
}  # fmt: skip
CPU_ONLY = ("data", "sampled")
"""Data are prepared on the CPU wherever training runs, and negatives are sampled where whole scores cost too much."""


def main(options: Options) -> list[Timing]:
    """Measure, print the table's lines as they come, write both files, and end with 1 where a ratio fell.

    Raises:
        SystemExit: where a ratio fell beyond noise, a group has no such name, or there is no such device.
    """
    if options.device == "cuda" and not torch.cuda.is_available():
        sys.exit("--device cuda: torch sees no CUDA device")
    torch.set_num_threads(options.threads)
    choose(options.clock, options.device)
    groups = _groups(options)
    if unknown := set(options.only) - set(groups):
        sys.exit(f"--only: no group {', '.join(sorted(unknown))}; there are {', '.join(groups)}")
    if options.alone is not None:
        _alone(options, *options.alone)
        return []
    about = {**machine(options.device), "clock": options.clock, "size": "full" if options.full else options.size}
    stored = None if options.against is None else load(options.against, about)
    kept = options.against is not None and options.against.resolve() == (options.folder / "speed.json").resolve()
    with tempfile.TemporaryDirectory() as folder:
        options = replace(options, scratch=options.scratch or Path(folder))
        timings: list[Timing] = []
        for name, pair in _pairs(options):
            timings.append(_measured(name, pair, options))
            if not kept:  # what is compared with stays, or the next run would find nothing slower
                # what was measured survives what comes
                save(options.folder, timings, about, ceilings(device=options.device))
    if stored is not None:
        if not {timing.case for timing in timings} & {timing.case for timing in stored}:
            sys.exit(f"{options.against} holds none of the cases that were measured")
        if slower := fallen(timings, stored):
            sys.exit("slower than stored:\n" + "\n".join(slower))
    return timings


def _groups(options: Options) -> dict[str, Callable[[Options], Iterator[Pair]]]:
    return {name: group for name, group in GROUPS.items() if options.device == "cpu" or name not in CPU_ONLY}


def _pairs(options: Options) -> Iterator[tuple[str, Pair]]:
    for name, group in _groups(options).items():
        if not options.only or name in options.only:
            for pair in group(options):
                yield name, pair


def _measured(group: str, pair: Pair, options: Options) -> Timing:
    """Rates, then peaks."""
    size, sides = options.sizes, ["fast"] if pair.twin is None else ["fast", "twin"]
    peaks = dict.fromkeys(sides, (None, None))
    if pair.apart:
        turns = [{side: _elsewhere(group, pair, side, options) for side in sides} for _ in range(_apart(options))]
        fast, twin = ([turn[side].seconds for turn in turns if side in turn] for side in ("fast", "twin"))
        peaks = {side: (max(t[side].peak for t in turns), max(t[side].above for t in turns)) for side in sides}
    else:
        if pair.memory and options.memory and options.device == "cuda":
            peaks = {side: allocated(make) for side, make in (("fast", pair.fast), ("twin", pair.twin)) if make}
        gc.collect()  # no graph of an earlier case may go while another is made
        # Accelerate keeps one precision for all, the last one's: autocast without one would be float16 on CUDA
        plain = None if pair.twin is None else pair.twin()
        fast, twin = take_turns(
            pair.fast(), plain, repeats=pair.turns or options.repeats, enough=size.seconds, warm=pair.turns is None
        )
        if pair.memory and options.memory and options.device == "cpu":
            found = {side: _elsewhere(group, pair, side, options) for side in sides}
            peaks = {side: (alone.peak, alone.above) for side, alone in found.items()}
    limit = None if pair.work is None else shortest(pair.work, options.device)
    timing = summed_up(pair, fast, twin, limit)
    timing = replace(timing, memory=peaks["fast"][0], above=peaks["fast"][1])
    if "twin" in peaks:
        timing = replace(timing, twin_memory=peaks["twin"][0], twin_above=peaks["twin"][1])
    print(row(timing), flush=True)
    return timing


def _apart(options: Options) -> int:
    """Turns of cases whose turns are processes."""
    return 1 if options.size == "toy" else min(options.repeats, 3)


def _elsewhere(group: str, pair: Pair, side: str, options: Options) -> Alone:
    return run_alone(
        "--alone", pair.case, side, "--only", group, "--size", "full" if options.full else options.size,
        "--threads", str(options.threads), "--clock", options.clock, "--scratch", str(options.scratch),
    )  # fmt: skip


def _alone(options: Options, case: str, side: str) -> None:
    """Run one side of a case in this process and print what it took."""
    pair = next(pair for _, pair in _pairs(options) if pair.case == case)
    make = pair.fast if side == "fast" else pair.twin
    if make is None:
        sys.exit(f"--alone: {case!r} has no twin")
    print(json.dumps(asdict(measure(make(), calls=1 if pair.apart else 2))))


if __name__ == "__main__":
    with told():
        main(tyro.cli(Options, description=__doc__))
