"""Where a command computes, and where it writes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from latentloop.errors import InputError

if TYPE_CHECKING:
    import torch

__all__ = ["Device", "check_output", "choose_device", "spare_runs"]

Device = Literal["cpu", "cuda"]


def choose_device(asked: Device | None) -> torch.device:
    """The device that was asked for, or the best there is.

    Raises:
        InputError: for a device that is not there.
    """
    import torch

    there = torch.cuda.is_available()
    if asked == "cuda" and not there:
        raise InputError("--device is cuda, but torch sees no CUDA device: choose cpu")
    return torch.device(asked or ("cuda" if there else "cpu"))


def check_output(path: Path, *, overwrite: bool, read: Sequence[Path | None] = ()) -> None:
    """Refuse a file that must not be written, before any work is done; nothing of a run is ever replaced.

    Args:
        path: the file.
        overwrite: whether it may replace one.
        read: files that the command reads, None for those it is not given.

    Raises:
        InputError: where something is there and `overwrite` is not given, it is no file, or it is read.
    """
    spare_runs(path)
    if os.path.realpath(path) in (os.path.realpath(other) for other in read if other is not None):
        raise InputError(f"--out: {path} is what the command reads: choose another name")
    if path.is_dir():
        raise InputError(f"--out: {path} is a folder; name a file")
    if path.is_symlink() or (path.exists() and not path.is_file()):  # a rename would put a file in a device's place
        raise InputError(f"--out: {path} is a link or no plain file; name a file")
    for parent in path.parents:
        if parent.exists() and not parent.is_dir():
            raise InputError(f"--out: {path} cannot be written, {parent} is a file and no folder")
    if path.exists() and not overwrite:
        raise InputError(f"{path} already exists: replace it with --overwrite, or choose another --out")


def spare_runs(path: Path) -> None:
    """Refuse a file or folder that is one of a run's own: the run would go on with it, or be lost.

    Raises:
        InputError: naming the run.
    """
    from latentloop.runs.directory import RunDirectory

    run = RunDirectory.owning(path)
    if run is not None:
        raise InputError(f"--out: {path} is of the run {run.path}: choose another name")
