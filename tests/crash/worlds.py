"""Tiny runs in real processes, and what must be the same of a run that was killed and one that was not."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from latentloop.runs.lock import LOCK

ROOT = Path(__file__).resolve().parents[2]
OPTIONS = ["--epochs", "3", "--rpt-epochs", "2", "--dim", "8", "--heads", "1", "--pre-layers", "1", "--core-layers", "1",
           "--inner", "8", "--batch-size", "128", "--rpt-batch-size", "128", "--rollouts", "2", "--max-length", "6",
           "--mean-depth", "2", "--cut", "20", "--k-core", "0", "--learning-rate", "0.01", "--device", "cpu"]  # fmt: skip
TIMES = ("train_seconds", "samples_per_second")


class Driver:
    """One interpreter, in which every command is a process of its own.

    Args:
        log: where a command's output goes.
        inside: a command line that runs it inside of something.
    """

    def __init__(self, log: Path, inside: Sequence[str] = ()) -> None:
        self.log = log
        environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        self._process = subprocess.Popen(
            [*inside, sys.executable, "-m", "tests.crash.driver"],
            cwd=ROOT,
            env=environment,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def run(
        self,
        *arguments: str | Path,
        at: str | None = None,
        nth: int = 1,
        after: float | None = None,
        largest: int | None = None,
        obey: bool = False,
        pause: bool = False,
    ) -> int:
        """Run a command; its exit code, or minus the signal that killed it.

        Args:
            arguments: the command line.
            at: where it is killed, see `driver.PLACES`.
            nth: how often it gets there first.
            after: kill it after so many seconds instead.
            largest: no file can grow beyond so many bytes.
            obey: permissions hold for root too.
            pause: stop it where it would be killed, until `go_on`.
        """
        settings = {"at": at, "nth": nth, "after": after, "largest": largest, "obey": obey, "pause": pause}
        return self._ask(arguments=[*map(str, arguments)], log=str(self.log), **settings)

    def go_on(self) -> int:
        """Let the command go on that was stopped; its exit code."""
        return self._ask(go_on=True)

    def shell(self, command: str) -> int:
        """Run a shell command where the commands run."""
        return self._ask(shell=command)

    def output(self) -> str:
        """What the last command wrote."""
        return self.log.read_text()

    def complaint(self) -> str:
        """The one line of error that the last command ended with."""
        text = self.output()
        assert "Traceback" not in text, text
        *_, last = text.splitlines()
        assert text.count("latentloop: error:") == 1 and last.startswith("latentloop: error: "), text
        return last

    def close(self) -> None:
        """End it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=60)

    @property
    def root(self) -> Path:
        """Its file system, as seen from here."""
        return Path(f"/proc/{self._process.pid}/root")

    def _ask(self, **order: Any) -> int:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return int(json.loads(self._process.stdout.readline())["code"])


def lines(run: Path) -> list[dict[str, Any]]:
    """metrics.jsonl, every line of which must be whole, without what differs from clock to clock."""
    found = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in TIMES} for line in found]


def whole_run(run: Path) -> dict[str, bytes | list[dict[str, Any]]]:
    """Everything that a run leaves, by file: bits, but for times, and the lock, of which there is nothing to compare."""
    left: dict[str, bytes | list[dict[str, Any]]] = {}
    for path in sorted(run.rglob("*")):
        name = str(path.relative_to(run))
        if path.is_dir() or name == LOCK:
            continue
        left[name] = path.read_bytes()
        if name == "metrics.jsonl":
            left[name] = lines(run)
        elif name == "report.md":
            left[name] = re.sub(rb"\d+ s of training", b"", path.read_bytes())
        elif name.startswith("state/"):
            left[name] = _without_times(path)
    return left


def epochs_done(run: Path) -> tuple[int | None, int | None]:
    """Epochs that the states of pre-training and post-training have; None where there is no state."""
    return _epochs(run / "state" / "spt.safetensors"), _epochs(run / "state" / "rpt.safetensors")


def _epochs(path: Path) -> int | None:
    if not path.is_file():
        return None
    content = path.read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    return int(json.loads(header["__metadata__"]["progress"])["epoch"])


def _without_times(path: Path) -> bytes:
    """A state file: its header's counters without times, and without the checksum that covers those, then its tensors."""
    content = path.read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    progress = json.loads(header["__metadata__"].pop("progress"))
    del header["__metadata__"]["checksum"]
    for line in progress["history"]:
        for name in TIMES:
            line.pop(name, None)
    return json.dumps([header, progress], sort_keys=True).encode() + content[end:]
