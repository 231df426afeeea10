"""Where training runs: device, precision and processes, by Accelerate."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch

from latentloop.errors import InputError

if TYPE_CHECKING:
    from accelerate import Accelerator

__all__ = ["Precision", "make_accelerator"]

Precision = Literal["fp32", "bf16"]


def make_accelerator(*, device: str | None = None, precision: str = "fp32") -> Accelerator:
    """An `accelerate.Accelerator` for a device and a precision.

    Args:
        device: "cpu", "cuda", or None for the best there is.
        precision: "fp32", or "bf16" for autocast.

    Raises:
        InputError: for a device that is not there, or an unknown precision.
    """
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState, PartialState

    if precision not in ("fp32", "bf16"):
        raise InputError(f"precision must be 'fp32' or 'bf16', got {precision!r}")
    if device not in (None, "cpu", "cuda"):
        raise InputError(f"device must be 'cpu' or 'cuda', got {device!r}")
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("device is 'cuda', but torch sees no CUDA device: choose 'cpu'")
    if PartialState._shared_state and PartialState().num_processes == 1:
        # Accelerate keeps one global state, which would refuse another precision or device in the same process
        AcceleratorState._reset_state(reset_partial_state=True)
    return Accelerator(cpu=device == "cpu", mixed_precision="bf16" if precision == "bf16" else "no")
