"""Schedules of the learning rate: by which factor each optimizer step multiplies it.

A factor is a function of the step and of how many steps there can be, so a run that is continued repeats it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, get_args, runtime_checkable

from latentloop.checks import one_of, zero_or_more
from latentloop.errors import InputError, InputTypeError

if TYPE_CHECKING:
    import torch

    from latentloop.runs.train_state import Progress

__all__ = ["Constant", "Cosine", "Schedule", "ScheduleName", "ScheduledRate", "build_schedule"]

ScheduleName = Literal["constant", "cosine"]


@runtime_checkable
class Schedule(Protocol):
    """What `fit` asks before each optimizer step; a plain function of this signature is one too."""

    def __call__(self, step: int, total_steps: int, /) -> float:
        """The factor of the learning rate at `step` of 0..total_steps-1, at least 0."""
        ...


@dataclass(frozen=True)
class Constant:
    """The learning rate as it is; the only schedule that does not look at how long a stage may go on."""

    def __call__(self, step: int, total_steps: int, /) -> float:
        """1."""
        return 1.0


@dataclass(frozen=True)
class Cosine:
    """Up in a straight line, then down to 0 along half a cosine at the end of the last epoch that is allowed.

    Early stopping cuts it off: set `epochs` to what a stage needs, or the rate never gets low.

    Args:
        warmup: share of all steps in which the factor rises to 1, from 0 to below 1.

    Raises:
        InputError: for a share out of range.
    """

    warmup: float = 0.05

    def __post_init__(self) -> None:
        if zero_or_more("warmup", self.warmup) >= 1:
            raise InputError(f"warmup must be a share of all steps below 1, got {self.warmup!r}")

    def __call__(self, step: int, total_steps: int, /) -> float:
        """(step + 1) / rising while the rate rises, then (1 + cos(pi x)) / 2, x from 0 to below 1."""
        rising = int(self.warmup * total_steps)
        if step < rising:
            return (step + 1) / rising
        return (1 + math.cos(math.pi * (step - rising) / (total_steps - rising))) / 2


def build_schedule(schedule: ScheduleName | Schedule) -> Schedule:
    """A schedule by its name, or the one that is given.

    Raises:
        InputError: for an unknown name.
        InputTypeError: for what cannot be called.
    """
    if isinstance(schedule, str):
        return Cosine() if one_of("schedule", schedule, get_args(ScheduleName)) == "cosine" else Constant()
    if not callable(schedule):
        raise InputTypeError(f"schedule must be a name or a function of (step, total_steps), got {schedule!r}")
    return schedule


class ScheduledRate:
    """The learning rate of a stage, step by step.

    Args:
        rate: what the factors multiply.
        schedule: where they come from.
        total_steps: optimizer steps of all epochs that there may be.
    """

    def __init__(self, rate: float, schedule: Schedule, total_steps: int) -> None:
        self.rate, self.schedule, self.total_steps = rate, schedule, total_steps

    def take_up(self, stage: str, progress: Progress) -> None:
        """Note in `progress` how many steps the schedule is laid over; one that went on over others would break off.

        Args:
            stage: its name, for the message.
            progress: the stage's counters.

        Raises:
            InputError: where the steps so far belong to another schedule.
        """
        own = None if isinstance(self.schedule, Constant) else self.total_steps
        if progress.step and progress.total_steps != own:
            before, now = ("constant" if n is None else f"over {n} steps" for n in (progress.total_steps, own))
            raise InputError(
                f"{stage}: the learning rate's schedule was {before} and is now {now}: repeat the original epochs, "
                "batch size and schedule, or start over"
            )
        progress.total_steps = own

    def set(self, optimizer: torch.optim.Optimizer, step: int) -> None:
        """Give the optimizer the learning rate of step 0..total_steps-1, the next that it takes.

        Raises:
            InputError: where the schedule's factor is no finite number of at least 0.
        """
        if step == self.total_steps:  # behind the last one
            return
        factor = zero_or_more(f"the schedule's factor at step {step}", self.schedule(step, self.total_steps))
        for group in optimizer.param_groups:
            group["lr"] = self.rate * factor
