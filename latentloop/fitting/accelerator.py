"""Where training runs and who is told: device, precision, processes and experiment trackers, by Accelerate."""

from __future__ import annotations

import logging
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch

from latentloop import launch
from latentloop.errors import InputError, InputTypeError

if TYPE_CHECKING:
    from accelerate import Accelerator
    from accelerate.tracking import GeneralTracker

__all__ = ["Precision", "allow_unused", "check_tracker", "closing_trackers", "make_accelerator", "warn_of_emulation"]

Precision = Literal["fp32", "bf16"]

logger = logging.getLogger(__name__)


def check_tracker(tracker: object, directory: object) -> None:
    """Refuse a tracker that `make_accelerator` would refuse, before any work is done.

    Raises:
        InputError: for an unknown name, a package that is not installed, or no directory to write to.
        InputTypeError: for an object that is no tracker.
    """
    if tracker is None:
        return
    if not isinstance(tracker, str):
        from accelerate.tracking import GeneralTracker

        if not isinstance(tracker, GeneralTracker):
            raise InputTypeError(
                f"tracker must be 'tensorboard' or an accelerate.tracking.GeneralTracker, got {tracker!r}"
            )
        return
    if tracker != "tensorboard":
        raise InputError(
            f"tracker must be 'tensorboard' or an accelerate.tracking.GeneralTracker of your own, got {tracker!r}"
        )
    if all(find_spec(name) is None for name in ("tensorboard", "tensorboardX")):
        raise InputError("tracker 'tensorboard' needs a package that is missing: pip install latentloop[tracking]")
    if directory is None:
        raise InputError("tracker 'tensorboard' needs a directory to write to: pass directory= (two_stage: run=)")


@contextmanager
def closing_trackers(accelerator: Accelerator) -> Iterator[None]:
    """Let the trackers finish when the block ends, however it does; the processes stay together."""
    try:
        yield
    finally:
        for tracker in accelerator.trackers:
            tracker.finish()


def allow_unused(accelerator: Accelerator) -> None:
    """Let steps leave parameters without a gradient (a depth of 1 does), where DDP's settings are not the user's own."""
    from accelerate.utils import DistributedDataParallelKwargs

    if accelerator.ddp_handler is None:
        accelerator.ddp_handler = DistributedDataParallelKwargs(find_unused_parameters=True)


def warn_of_emulation(accelerator: Accelerator) -> None:
    """Say where bf16 was asked for of a CPU that emulates it, slower than float32 is."""
    if accelerator.device.type != "cpu" or accelerator.mixed_precision != "bf16" or not accelerator.is_main_process:
        return
    if platform.machine() in ("x86_64", "AMD64") and not _multiplies_bf16():
        logger.warning(
            "precision bf16: torch uses %s of this CPU, without AVX-512's products of bf16, and emulates them, which took "
            "1.3 to 8 times as long as fp32 where we measured it: fp32 is faster",
            torch.backends.cpu.get_cpu_capability(),
        )


def _multiplies_bf16() -> bool:
    """Whether torch has instructions of an x86 CPU for it; AVX-512 of itself has none."""
    if torch.backends.cpu.get_cpu_capability() in ("DEFAULT", "NO AVX", "AVX2"):
        return False
    supported = getattr(torch.cpu, "_is_avx512_bf16_supported", None)  # torch may call it otherwise one day
    return supported is None or bool(supported())


def make_accelerator(
    *,
    device: str | None = None,
    precision: str = "fp32",
    tracker: str | GeneralTracker | None = None,
    directory: str | Path | None = None,
) -> Accelerator:
    """An `accelerate.Accelerator` for a device and a precision; under torchrun the processes meet here.

    Args:
        device: "cpu", "cuda", or None for the best there is.
        precision: "fp32", or "bf16" for autocast.
        tracker: who is told of each epoch: "tensorboard", or an `accelerate.tracking.GeneralTracker` of one's own.
        directory: where a tracker writes; TensorBoard's files go to `directory`/tensorboard.

    Raises:
        InputError: for a device that is not there, an unknown precision, or a tracker that cannot be had.
        InputTypeError: for an object that is no tracker.
    """
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState, PartialState
    from accelerate.utils import GradientAccumulationPlugin

    if precision not in ("fp32", "bf16"):
        raise InputError(f"precision must be 'fp32' or 'bf16', got {precision!r}")
    if device not in (None, "cpu", "cuda"):
        raise InputError(f"device must be 'cpu' or 'cuda', got {device!r}")
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("device is 'cuda', but torch sees no CUDA device: choose 'cpu'")
    check_tracker(tracker, directory)
    if PartialState._shared_state and PartialState().num_processes == 1:
        # Accelerate keeps one global state, which would refuse another precision or device in the same process
        AcceleratorState._reset_state(reset_partial_state=True)
    if launch.world() > 1:
        # imported later, by DDP, its functions' defaults would hold the processes' group for good, and gloo's threads
        import torch.distributed.nn.functional as _  # noqa: F401
    accelerator = Accelerator(
        # Accelerate leaves processes without a GPU alone unless it is told that they compute on the CPU
        cpu=device == "cpu" or (launch.world() > 1 and not torch.cuda.is_available()),
        mixed_precision="bf16" if precision == "bf16" else "no",
        # or the launcher's number would divide every gradient, and nothing be added up
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
        log_with=tracker,
        project_dir=None if directory is None else str(directory),
    )
    if tracker is not None:
        accelerator.init_trackers("tensorboard" if tracker == "tensorboard" else "latentloop")
    return accelerator
