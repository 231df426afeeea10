"""Several processes on this machine, launched as users do."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
WORKER, DYING, ENDING = (Path(__file__).with_name(name) for name in ("worker.py", "dying.py", "ending.py"))
SECONDS = float(os.environ.get("LATENTLOOP_RANKS_SECONDS", "240"))


def torchrun(*arguments: str, processes: int = 2) -> subprocess.CompletedProcess[str]:
    """So many processes of a script, or of `-m` a module."""
    return launched("torch.distributed.run", "--standalone", "--nproc-per-node", str(processes), *arguments)


def launched(*module: str) -> subprocess.CompletedProcess[str]:
    """What `python -m` says and ends with.

    Raises:
        TimeoutExpired: for a job that hangs; none of its processes is left then.
    """
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", *module]
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    ) as job:  # fmt: skip
        try:
            said, complained = job.communicate(timeout=SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(job.pid, signal.SIGKILL)
            raise
    return subprocess.CompletedProcess(command, job.returncode, said, complained)
