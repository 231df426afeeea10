"""Paired timings: the fast path and its twin take turns in one run, so that a noisy machine slows both alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.speed.clock import seconds_of
from benchmarks.speed.flops import Work

__all__ = ["Action", "Pair", "Timing", "summed_up", "take_turns"]

Action = Callable[[], object]


@dataclass(frozen=True)
class Pair:
    """A case: the library and a plain twin of it, each set up by a function that returns what is timed.

    Args:
        case: its name.
        unit: what is counted, such as "samples".
        units: how many a call goes through.
        fast: sets the library up.
        twin: sets the twin up; None where there is none.
        beside: what the twin is.
        work: operations of a call of `fast` that cannot be avoided; None where they are not matrix products.
        target: units a second to reach, on the CPU on two cores; None where there is none.
        least_ratio: ratio to the twin to reach; None where there is none.
        memory: whether peak memory is measured.
        limit: MiB of peak memory to stay below; None where there is none.
        limit_above: the same for the memory above what was there before the work.
        apart: whether every turn is taken in a process of its own.
        turns: turns at most where they are few, whatever is asked for; the first counts too, as each makes all anew.
    """

    case: str
    unit: str
    units: float
    fast: Callable[[], Action]
    twin: Callable[[], Action] | None = None
    beside: str = "padded, whole scores"
    work: Work | None = None
    target: float | None = None
    least_ratio: float | None = None
    memory: bool = False
    limit: float | None = None
    limit_above: float | None = None
    apart: bool = False
    turns: int | None = None


@dataclass(frozen=True)
class Timing:
    """What a case came to.

    Args:
        case: its name.
        unit: what is counted.
        units: how many a call goes through.
        fast: units a second of the library, median over the turns.
        low: of the slowest turn.
        high: of the fastest turn.
        turns: how many there were.
        twin: units a second of the twin, median; None where there is none.
        beside: what the twin is.
        ratio: median of the turns' ratios.
        ratio_low: smallest of them.
        ratio_high: largest of them.
        gigaflops: unavoidable floating-point operations a second of the fast path, in 1e9; None where not counted.
        share: of the rate at which this machine's matrix products alone would do that work.
        target: units a second to reach, on the CPU on two cores.
        least_ratio: ratio to the twin to reach.
        memory: peak resident memory of the fast path alone in a process, on CUDA what torch allocated, in MiB; None
            where not measured.
        above: the same above what was there before the work.
        twin_memory: peak of the twin.
        twin_above: the same above what was there before.
        limit: MiB that `memory` should stay below.
        limit_above: MiB that `above` should stay below.
    """

    case: str
    unit: str
    units: float
    fast: float
    low: float
    high: float
    turns: int
    twin: float | None = None
    beside: str = ""
    ratio: float | None = None
    ratio_low: float | None = None
    ratio_high: float | None = None
    gigaflops: float | None = None
    share: float | None = None
    target: float | None = None
    least_ratio: float | None = None
    memory: float | None = None
    above: float | None = None
    twin_memory: float | None = None
    twin_above: float | None = None
    limit: float | None = None
    limit_above: float | None = None


def take_turns(
    fast: Action, twin: Action | None, *, repeats: int = 5, enough: float = 60.0, warm: bool = True
) -> tuple[list[float], list[float]]:
    """Seconds of each call of `fast` and of `twin`, in turns, after one call of each that does not count.

    Args:
        fast: the library.
        twin: the same work done plainly.
        repeats: turns at most.
        enough: after so many seconds no turn follows the third.
        warm: whether to make those calls that do not count.
    """
    fast_seconds: list[float] = []
    twin_seconds: list[float] = []
    for action in (fast, twin) if warm else ():
        if action is not None:
            action()
    began = time.perf_counter()
    while len(fast_seconds) < repeats and (len(fast_seconds) < 3 or time.perf_counter() - began < enough):
        fast_seconds.append(seconds_of(fast))
        if twin is not None:
            twin_seconds.append(seconds_of(twin))
    return fast_seconds, twin_seconds


def summed_up(pair: Pair, fast: list[float], twin: list[float], limit: float | None = None) -> Timing:
    """Rates and ratios of a pair's turns.

    Args:
        pair: what was measured.
        fast: seconds of the library's calls.
        twin: seconds of the twin's, as many, or none.
        limit: seconds that the matrix products of a call take alone.
    """
    rates = [pair.units / seconds for seconds in fast]
    median = statistics.median(rates)
    ratios = [plain / quick for quick, plain in zip(fast, twin, strict=False)]
    return Timing(
        case=pair.case,
        unit=pair.unit,
        units=pair.units,
        fast=median,
        low=min(rates),
        high=max(rates),
        turns=len(rates),
        twin=statistics.median(pair.units / seconds for seconds in twin) if twin else None,
        beside=pair.beside if twin else "",
        ratio=statistics.median(ratios) if ratios else None,
        ratio_low=min(ratios, default=None),
        ratio_high=max(ratios, default=None),
        gigaflops=None if pair.work is None else pair.work.total * median / pair.units / 1e9,
        share=None if limit is None else limit * median / pair.units,
        target=pair.target,
        least_ratio=pair.least_ratio,
        limit=pair.limit,
        limit_above=pair.limit_above,
    )
