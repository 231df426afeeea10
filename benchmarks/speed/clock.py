"""What time is: the wall's, or this process's own, which a busy machine does not stretch; a GPU is waited for."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from benchmarks.speed.options import Clock, Device

__all__ = ["choose", "seconds_of"]

_CLOCKS: dict[Clock, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time}
_chosen: list[Clock] = ["wall"]
_awaited: list[Device] = ["cpu"]


def choose(clock: Clock, device: Device = "cpu") -> None:
    """Let `seconds_of` count so, and wait for that device, from now on."""
    _chosen[0], _awaited[0] = clock, device


def seconds_of(action: Callable[[], object]) -> float:
    """How long a call takes."""
    now = _CLOCKS[_chosen[0]]
    _wait()
    began = now()
    action()
    _wait()
    return now() - began


def _wait() -> None:
    if _awaited[0] == "cuda":
        torch.cuda.synchronize()
