"""What time is: the wall's, or this process's own, which a busy machine does not stretch."""

from __future__ import annotations

import time
from collections.abc import Callable

from benchmarks.speed.options import Clock

__all__ = ["choose", "seconds_of"]

_CLOCKS: dict[Clock, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time}
_chosen: list[Clock] = ["wall"]


def choose(clock: Clock) -> None:
    """Let `seconds_of` count so from now on."""
    _chosen[0] = clock


def seconds_of(action: Callable[[], object]) -> float:
    """How long a call takes."""
    now = _CLOCKS[_chosen[0]]
    began = now()
    action()
    return now() - began
