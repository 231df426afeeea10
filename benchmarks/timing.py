"""Paired timings: the fast path and its twin take turns in one run, so that a noisy machine slows both alike."""

from __future__ import annotations

import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

__all__ = ["Timing", "machine", "paired", "peak_memory", "save", "table"]


@dataclass(frozen=True)
class Timing:
    """What a case came to.

    Args:
        case: its name.
        unit: what is counted, such as "samples".
        fast: units a second of the library, median over the repeats.
        low: of the slowest repeat.
        high: of the fastest repeat.
        twin: units a second of the twin, None where there is none.
        ratio: median of the repeats' ratios.
        ratio_low: smallest of them.
        ratio_high: largest of them.
        gigaflops: floating-point operations a second of the fast path, in 1e9, counted by hand; None where not counted.
        memory: peak resident memory of the fast path alone in a process, in MiB; None where not measured.
        twin_memory: of the twin.
    """

    case: str
    unit: str
    fast: float
    low: float
    high: float
    twin: float | None = None
    ratio: float | None = None
    ratio_low: float | None = None
    ratio_high: float | None = None
    gigaflops: float | None = None
    memory: float | None = None
    twin_memory: float | None = None


def _seconds(action: Callable[[], object]) -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    began = time.perf_counter()
    action()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - began


def paired(
    case: str,
    unit: str,
    units: float,
    fast: Callable[[], object],
    twin: Callable[[], object] | None = None,
    *,
    repeats: int = 5,
    flops: float | None = None,
    twin_units: float | None = None,
) -> Timing:
    """Time `fast` and `twin` in turns, after one warm-up of each.

    Args:
        case: name.
        unit: what is counted.
        units: how many a call of `fast` goes through.
        fast: the library.
        twin: the same work done plainly.
        repeats: turns.
        flops: floating-point operations of a call of `fast`.
        twin_units: how many a call of `twin` goes through, where it is given less to do.
    """
    rates: list[float] = []
    twins: list[float] = []
    fast()
    if twin is not None:
        twin()
    for _ in range(repeats):
        rates.append(units / _seconds(fast))
        if twin is not None:
            twins.append((twin_units or units) / _seconds(twin))
    median = statistics.median(rates)
    ratios = [one / other for one, other in zip(rates, twins, strict=False)]
    return Timing(
        case,
        unit,
        median,
        min(rates),
        max(rates),
        statistics.median(twins) if twins else None,
        statistics.median(ratios) if ratios else None,
        min(ratios, default=None),
        max(ratios, default=None),
        None if flops is None else flops * median / units / 1e9,
    )


def peak_memory(*arguments: str) -> float:
    """Peak resident memory in MiB of `python -m benchmarks.speed arguments`, which prints it as its last word."""
    command = [sys.executable, "-m", "benchmarks.speed", *arguments]
    found = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(found.stdout.split()[-1])


def machine() -> dict[str, Any]:
    """What the numbers were measured on."""
    return {
        "processor": _processor(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    names = [line for line in info.read_text().splitlines() if line.startswith("model name")] if info.is_file() else []
    return names[0].partition(":")[2].strip() if names else platform.processor()


def table(timings: Sequence[Timing]) -> str:
    """A Markdown table."""
    lines = [
        "| case | rate | spread | twin | ratio (spread) | GFLOP/s | peak MiB (twin) |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for timing in timings:
        ratio = "" if timing.ratio is None else f"{timing.ratio:.2f} ({timing.ratio_low:.2f}-{timing.ratio_high:.2f})"
        memory = "" if timing.memory is None else f"{timing.memory:,.0f}"
        memory += "" if timing.twin_memory is None else f" ({timing.twin_memory:,.0f})"
        lines.append(
            f"| {timing.case} | {timing.fast:,.0f} {timing.unit}/s | {timing.low:,.0f}-{timing.high:,.0f} | "
            f"{'' if timing.twin is None else f'{timing.twin:,.0f}'} | {ratio} | "
            f"{'' if timing.gigaflops is None else f'{timing.gigaflops:.0f}'} | {memory} |"
        )
    return "\n".join(lines)


def save(path: Path, timings: Sequence[Timing]) -> None:
    """Write machine and timings as JSON."""
    path.write_text(json.dumps({"machine": machine(), "timings": [asdict(timing) for timing in timings]}, indent=1))
