"""What a case takes of a GPU's memory, in this process: torch counts what it allocates there."""

from __future__ import annotations

import gc
from collections.abc import Callable

import torch

from benchmarks.speed.timing import Action

__all__ = ["allocated"]


def allocated(make: Callable[[], Action]) -> tuple[float, float]:
    """MiB that torch holds at most in a case's first call, and how much of it above what its set-up holds.

    In the first call, because graphs are made in it: they keep its memory, which is not counted in later ones.

    Args:
        make: sets the case up.
    """
    gc.collect()  # models of earlier cases lie in cycles
    action = make()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    action()
    torch.cuda.synchronize()
    peak = torch.cuda.max_memory_allocated()
    return peak / 2**20, (peak - before) / 2**20
