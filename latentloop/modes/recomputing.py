"""A step computed again in the backward pass: under the modes it first ran under, and what it counts is counted once."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

from torch import Tensor, nn

from latentloop.modes.dropout import Modes, modes_of, restore, training_kernels

__all__ = ["recomputing"]

_Buffers = dict[tuple[nn.Module, str], Tensor | None]


def recomputing(module: nn.Module) -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
    """For `torch.utils.checkpoint`'s `context_fn`: around a pass of `module`, and around the same pass made again.

    Buffers that the first pass changes, such as a batch norm's statistics or the vectors of a spectral norm, are again
    what they were before it while it is made again, and afterwards what they have become since.

    Args:
        module: what is passed, with all its parts.
    """
    first = _First(module)
    return first, _Again(first)


class _First:
    """Notes the modes of a pass, and what the buffers held that it changes."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.modes: Modes = modes_of(module)
        self.changed: _Buffers = {}

    def __enter__(self) -> None:
        buffers = _buffers(self.module)
        copies = {id(buffer): buffer.clone() for buffer in buffers.values() if buffer is not None}
        self._held = {key: (buffer, copies.get(id(buffer))) for key, buffer in buffers.items()}

    def __exit__(self, *raised: object) -> None:
        after = _buffers(self.module)
        for key in after.keys() | self._held.keys():
            buffer, before = self._held.get(key, (None, None))
            now = after.get(key)
            # by value: batch norm's kernels and whoever writes to `.data` do not tell the version counter
            if now is not buffer or (now is not None and before is not None and not now.equal(before)):
                self.changed[key] = before
        del self._held


class _Again:
    """A pass under the modes and buffers of `first`; more than one backward pass may come through here."""

    def __init__(self, first: _First) -> None:
        self.first = first

    def __enter__(self) -> None:
        self._modes, self._now = modes_of(self.first.module), _buffers(self.first.module)
        copies = {id(before): before.clone() for before in self.first.changed.values() if before is not None}
        restore(self.first.modes)
        self._kernels = training_kernels(self.first.module)
        self._kernels.__enter__()
        for (part, name), before in self.first.changed.items():  # a buffer of two modules stays one
            part._buffers[name] = copies.get(id(before))

    def __exit__(self, *raised: object) -> None:
        for part, name in self.first.changed:
            part._buffers[name] = self._now.get((part, name))
        self._kernels.__exit__(None, None, None)
        restore(self._modes)


def _buffers(module: nn.Module) -> _Buffers:
    return {(part, name): buffer for part in module.modules() for name, buffer in part._buffers.items()}
