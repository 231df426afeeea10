"""A process that forks one training after another, each told where it is killed: imports are paid for once.

Reads a JSON object a line, writes one: {"arguments": [...], "log": FILE, "at": KIND, "nth": N, "after": SECONDS,
"largest": BYTES, "obey": whether permissions hold for root too, "pause": whether it is stopped there instead} or
{"shell": COMMAND} or {"go_on": true}, what was stopped last, -> {"code": exit code, or minus the signal}.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import accelerate  # noqa: F401
import datasets  # noqa: F401
import matplotlib.figure  # noqa: F401
import pyarrow.parquet  # noqa: F401
import torch
import torch._dynamo

from latentloop import cli, evaluation
from latentloop.commands import parser  # noqa: F401
from latentloop.data import store
from latentloop.fitting import step as training_step
from latentloop.objectives import rpt, selection
from latentloop.runs import report, train_state
from latentloop.saving import weights

# `latentloop.two_stage` is a function of the package too
two_stage = importlib.import_module("latentloop.two_stage")

PLACES: dict[str, tuple[Any, str]] = {
    "data": (store, "umask"),
    "step": (training_step, "call"),
    "evaluation": (evaluation, "count_ranks"),
    "state": (train_state, "save_file"),
    "model": (weights, "save_file"),
    "between": (two_stage, "select"),
    "selection": (selection, "count_ranks"),
    "rollouts": (rpt.RPT, "prepare"),
    "report": (report, "write_report"),
    "rename": (Path, "replace"),
    "append": (Path, "open"),
}
"""What is counted, by phase: a call of this function."""


_stopped: list[int] = []


def main() -> None:
    """Serve until the input ends."""
    for line in sys.stdin:
        order = json.loads(line)
        if "shell" in order:
            answer = _shell(order["shell"])
        else:
            answer = _go_on(_stopped.pop()) if "go_on" in order else _fork(order)
        sys.stdout.write(json.dumps({"code": answer}) + "\n")
        sys.stdout.flush()
    os._exit(0)  # taking so many modules down takes seconds


def _shell(command: str) -> int:
    return subprocess.run(command, shell=True, check=False, stdout=subprocess.DEVNULL).returncode


def _fork(order: dict[str, Any]) -> int:
    child = os.fork()
    if child == 0:
        _carry_out(order)
    if order["after"] is not None:
        time.sleep(order["after"])
        os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, os.WUNTRACED)[1]
    if os.WIFSTOPPED(status):
        _stopped.append(child)
        return -os.WSTOPSIG(status)
    return os.waitstatus_to_exitcode(status)


def _go_on(child: int) -> int:
    os.kill(child, signal.SIGCONT)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _carry_out(order: dict[str, Any]) -> None:
    """Run a command in this process, which never returns from here."""
    code = 99
    try:
        log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(log, 1)
        os.dup2(log, 2)
        torch.set_num_threads(1)
        if order["at"] is not None:
            _kill_at(order["at"], order["nth"], pause=order["pause"])
        if order["largest"] is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (order["largest"],) * 2)
        if order["obey"] and sys.platform == "linux":  # elsewhere root passes, and nobody tests as root
            _obey_permissions()
        code = cli.main(order["arguments"])
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _kill_at(kind: str, nth: int, *, pause: bool) -> None:
    """Kill this process in the nth call of a kind, or stop it there for a while."""
    place, name = PLACES[kind]
    real, count = getattr(place, name), 0

    def counting(*given: Any, **named: Any) -> Any:
        nonlocal count
        if kind == "append" and "a" not in given[1:2]:
            return real(*given, **named)
        count += 1
        if pause and count == nth:
            os.kill(os.getpid(), signal.SIGSTOP)
        if count < nth or pause:
            return real(*given, **named)
        if kind in ("state", "model"):  # half-way through the file
            real(*given, **named)
            path = given[1]
            os.truncate(path, Path(path).stat().st_size // 2)
        if kind == "append":  # half-way through the line
            with real(*given, **named) as file:
                file.write('{"stage": "spt", "epo')
        os.kill(os.getpid(), signal.SIGKILL)
        threading.Event().wait()

    setattr(place, name, counting)


def _obey_permissions() -> None:
    """Let permission bits hold for root too: drop the capability to override them."""
    libc = ctypes.CDLL(None, use_errno=True)
    header, sets = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    if libc.capget(header, sets):
        raise OSError(ctypes.get_errno(), "capget")
    sets[0] &= ~(1 << 1)  # CAP_DAC_OVERRIDE, of the effective set
    if libc.capset(header, sets):
        raise OSError(ctypes.get_errno(), "capset")


if __name__ == "__main__":
    main()
