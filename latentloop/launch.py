"""How this process was launched: alone, or as one of several by torchrun, `accelerate launch` or mpirun.

Read from the environment, before anything that takes time is imported.
"""

from __future__ import annotations

import os

__all__ = ["rank", "world"]

# torchrun's and accelerate's; mpirun's of Intel, OpenMPI, MVAPICH
_RANK = ("RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK")
_WORLD = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")


def rank() -> int:
    """Which of the processes this is; 0 writes and speaks."""
    return _number(_RANK, 0) if world() > 1 else 0


def world() -> int:
    """How many processes were launched together."""
    return _number(_WORLD, 1) if _number(_RANK, -1) >= 0 else 1


def _number(names: tuple[str, ...], default: int) -> int:
    return next((int(value) for name in names if (value := os.environ.get(name, "")).isdecimal()), default)
