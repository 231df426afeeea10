"""The measured table as Markdown and JSON, and what fell since a stored one."""

from __future__ import annotations

import itertools
import json
import math
import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from benchmarks.speed.options import Device
from benchmarks.speed.timing import Timing

__all__ = ["fallen", "growth", "load", "machine", "row", "save", "table"]

_HEAD = (
    "| case | rate | spread | of target | twin | ratio (spread) | twin is | GFLOP/s | of the limit | peak MiB "
    "| above set-up | twin's |\n|---|---:|---:|---:|---:|---:|---|---:|---:|---:|---:|---:|"
)
_RATES = (
    "Rates are medians, the spread is from the slowest turn to the fastest; case and twin take turns. GFLOP/s counts "
    "the matrix products that cannot be avoided, and the limit is the time that they alone take at the measured "
    "ceilings. "
)
_EXPLAINED = {
    "cpu": _RATES + "Peaks are of a process that does nothing else; above set-up leaves out what was there before "
    "(torch, the model's tables, the data). Targets are for two quiet cores: a lower thread count or a busy machine "
    "misses them.",
    "cuda": _RATES + "A call of a training case is several steps. Peaks are what torch allocated on the device in a "
    "case's first call, in which its CUDA graphs are made; above set-up leaves out what was there before (the model's "
    "tables, the data).",
}  # fmt: skip
SLACK = 0.95
"""A ratio that keeps so much of the stored one has not fallen, whatever the spreads say."""


def machine(device: Device = "cpu") -> dict[str, Any]:
    """What the numbers were measured on."""
    found = {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
    return found if device == "cpu" else {"device": device, "gpu": torch.cuda.get_device_name(), **found}


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    names = [line for line in info.read_text().splitlines() if line.startswith("model name")] if info.is_file() else []
    return names[0].partition(":")[2].strip() if names else platform.processor()


def row(timing: Timing) -> str:
    """One line of the table."""
    t = timing
    ratio = "" if t.ratio is None else f"{t.ratio:.2f} ({t.ratio_low:.2f}-{t.ratio_high:.2f})"
    if t.least_ratio is not None:
        ratio += f", wanted {t.least_ratio:.2f}"
    cells = [
        t.case,
        f"{t.fast:,.0f} {t.unit}/s",
        f"{t.low:,.0f}-{t.high:,.0f}",
        "" if t.target is None else f"{t.fast / t.target:.0%} of {t.target:,.0f}",
        "" if t.twin is None else f"{t.twin:,.0f}",
        ratio,
        t.beside,
        "" if t.gigaflops is None else f"{t.gigaflops:.1f}",
        "" if t.share is None else f"{t.share:.0%}",
        _mebibytes(t.memory, t.limit),
        _mebibytes(t.above, t.limit_above),
        "" if t.twin_memory is None else f"{t.twin_memory:,.0f} ({t.twin_above:,.0f})",
    ]
    return f"| {' | '.join(cells)} |"


def _mebibytes(found: float | None, limit: float | None) -> str:
    if found is None:
        return ""
    return f"{found:,.0f}" if limit is None else f"{found:,.0f} of {limit:,.0f}"


def table(timings: Sequence[Timing], about: Mapping[str, Any], ceilings: Mapping[str, float]) -> str:
    """The machine, its ceilings, a Markdown table, and how time grows with the catalog and the depth."""
    limits = ", ".join(f"{name} {value / 1e9:.0f}" for name, value in ceilings.items() if name != "copy")
    if "copy" in ceilings:
        limits += f"; a copy on the device, GB/s read and written: {ceilings['copy'] / 1e9:.0f}"
    lines = [
        "# Speed and memory",
        "",
        "; ".join(f"{name}: {value}" for name, value in about.items()),
        "",
        f"Matrix products alone, GFLOP/s: {limits}",
        "",
        _HEAD,
        *map(row, timings),
        "",
        _EXPLAINED[about.get("device", "cpu")],
    ]
    grown = growth(timings)
    if grown:
        lines += ["", *(f"* {line}" for line in grown)]
    return "\n".join(lines) + "\n"


def growth(timings: Iterable[Timing]) -> list[str]:
    """Between neighbours of a sweep: time as a power of the items, and the milliseconds of one thought more."""
    lines: list[str] = []
    catalogs: dict[str, list[tuple[int, float]]] = {}
    depths: list[tuple[int, float]] = []
    for t in timings:
        seconds = t.units / t.fast
        if t.case.endswith(" items"):
            name, _, items = t.case.removesuffix(" items").rpartition(", ")
            catalogs.setdefault(name, []).append((int(items.replace(",", "")), seconds))
        elif t.case.startswith("SPT at depth "):
            depths.append((int(t.case.rpartition(" ")[2]), seconds * 1000))
    for name, points in catalogs.items():
        for (few, before), (many, after) in itertools.pairwise(points):
            power = math.log(after / before) / math.log(many / few)
            lines.append(f"{name}: {few:,} to {many:,} items, time grows as items^{power:.2f}")
    for (low, before), (high, after) in itertools.pairwise(depths):
        lines.append(f"SPT: depth {low} to {high}, {(after - before) / (high - low):.0f} ms for each further thought")
    return lines


def save(folder: Path, timings: Sequence[Timing], about: Mapping[str, Any], ceilings: Mapping[str, float]) -> None:
    """Write `folder`/speed.json and `folder`/speed.md."""
    folder.mkdir(parents=True, exist_ok=True)
    found = {
        "machine": dict(about),
        "ceilings": dict(ceilings),
        "timings": [asdict(timing) for timing in timings],
        "growth": growth(timings),
    }
    (folder / "speed.json").write_text(json.dumps(found, indent=1) + "\n")
    (folder / "speed.md").write_text(table(timings, about, ceilings))


def load(path: Path, about: Mapping[str, Any]) -> list[Timing]:
    """The timings of a stored speed.json.

    Raises:
        SystemExit: where it was measured with other threads, at another size, by another clock or on another device
            than `about` says.
    """
    stored = json.loads(path.read_text())
    before, now = ({"device": "cpu", **of} for of in (stored["machine"], about))
    for name in ("threads", "size", "clock", "device"):
        if before.get(name) != now[name]:
            found = f"{name} {before.get(name)}, and this run has {now[name]}"
            raise SystemExit(f"{path} was measured with {found}: set --{name}")
    return [Timing(**timing) for timing in stored["timings"]]


def fallen(now: Sequence[Timing], stored: Sequence[Timing]) -> list[str]:
    """Cases whose every turn had a lower ratio to the twin than any turn of the stored run, and clearly so."""
    before = {timing.case: timing for timing in stored}
    lines: list[str] = []
    for timing in now:
        old = before.get(timing.case)
        if old is None or None in (timing.ratio, timing.ratio_high, old.ratio, old.ratio_low):
            continue
        if timing.ratio_high < old.ratio_low and timing.ratio < SLACK * old.ratio:
            lines.append(
                f"{timing.case}: ratio {timing.ratio:.2f} ({timing.ratio_low:.2f}-{timing.ratio_high:.2f}), "
                f"was {old.ratio:.2f} ({old.ratio_low:.2f}-{old.ratio_high:.2f})"
            )
    return lines
