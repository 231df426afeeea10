"""Whether a graph is being made for elsewhere, which values of tensors and the number of rows may not decide."""

from __future__ import annotations

import torch

__all__ = ["exporting"]


def exporting() -> bool:
    """Whether `torch.export` or `torch.jit.trace` is at work."""
    # torch 2.6 tells of compiling alone, which an export is a kind of
    asked = getattr(torch.compiler, "is_exporting", torch.compiler.is_compiling)
    return bool(asked()) or bool(torch.jit.is_tracing())  # type: ignore[no-untyped-call, attr-defined]
