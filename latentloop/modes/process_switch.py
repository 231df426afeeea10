"""Switches of the whole process that are off while any thread needs them to be."""

from __future__ import annotations

import threading
from collections.abc import Callable

import torch

__all__ = ["CUDNN", "FAST_PATH", "OffWithin"]


class OffWithin:
    """A context manager: the switch is off while any thread is within, and then as the first one found it.

    Args:
        read: whether it is on.
        write: turns it on or off.
    """

    def __init__(self, read: Callable[[], bool], write: Callable[[bool], None]) -> None:
        self._read, self._write = read, write
        self._lock, self._inside, self._found = threading.Lock(), 0, True

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                self._found = self._read()
                self._write(False)
            self._inside += 1

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                self._write(self._found)


def _cudnn() -> bool:
    return bool(torch.backends.cudnn.enabled)


def _set_cudnn(on: bool) -> None:
    torch.backends.cudnn.enabled = on


FAST_PATH = OffWithin(torch.backends.mha.get_fastpath_enabled, torch.backends.mha.set_fastpath_enabled)
"""Torch's path through attention and transformer layers for an answer, which training does not take."""
CUDNN = OffWithin(_cudnn, _set_cudnn)
"""cuDNN, whose RNNs can be differentiated in training mode only."""
