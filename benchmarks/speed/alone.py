"""A case alone in a process of its own: how long its call takes there, and how much memory."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from benchmarks.speed.clock import seconds_of
from benchmarks.speed.timing import Action

__all__ = ["Alone", "measure", "run_alone"]


@dataclass(frozen=True)
class Alone:
    """What a call of a case took.

    Args:
        seconds: of the first call.
        peak: resident memory at most, in MiB.
        above: the same above what was there before the call; 0 where the kernel keeps an older, higher peak.
    """

    seconds: float
    peak: float
    above: float


def run_alone(*arguments: str, module: str = "benchmarks.speed") -> Alone:
    """What `python -m module arguments` prints as its last line.

    Raises:
        RuntimeError: where that process failed.
    """
    command = [sys.executable, "-m", module, *arguments]
    found = subprocess.run(command, check=False, capture_output=True, text=True)
    if found.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{found.stderr}")
    return Alone(**json.loads(found.stdout.splitlines()[-1]))


def measure(action: Action, *, calls: int = 2) -> Alone:
    """Call it in this process; the memory is that of so many calls, for buffers that only the second one meets."""
    before_peak = _status("VmHWM")
    reset = _forget_peak()
    before = _status("VmRSS")
    seconds = seconds_of(action)
    for _ in range(calls - 1):
        action()
    peak = _status("VmHWM")
    return Alone(seconds, max(peak, before_peak), peak - before if reset or peak > before_peak else 0.0)


def _forget_peak() -> bool:
    """Let the kernel count this process's peak anew; False where it does not."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def _status(field: str) -> float:
    """A line of this process's status in MiB; `getrusage` would count what the parent held when it forked."""
    status = Path("/proc/self/status")
    if not status.is_file():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    line = next(line for line in status.read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) / 1024
