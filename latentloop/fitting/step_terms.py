"""The terms of an epoch's steps: their means, and a stop at the first one that is no number."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from latentloop.across_ranks import ALONE, Processes, Share
from latentloop.finite import NotFinite

__all__ = ["StepTerms", "steps_together"]


def steps_together(device: torch.device) -> int:
    """How many steps' terms come to the host at once: waiting for an accelerator at each step would leave it idle."""
    return 1 if device.type == "cpu" else 16


@dataclass(frozen=True)
class _Step:
    number: int
    rows: int
    names: tuple[str, ...]
    values: Tensor  # one a name, where the step was computed
    weight: float  # of this process's values in the step's


class StepTerms:
    """Terms stay on their device until those of `every` steps come to the host in one transfer.

    A number that broke is therefore seen up to `every` - 1 steps late, but named with its own step. Whoever keeps
    weights calls `settle` first.

    Args:
        epoch: number of the epoch, for the message.
        every: steps of a transfer, at least 1.
        processes: who has rows of each step; all of them get the step's terms, the means over its rows, and stop alike.
    """

    def __init__(self, epoch: int, *, every: int = 1, processes: Processes = ALONE) -> None:
        self.epoch, self.every, self._processes = epoch, every, processes
        self.latest: dict[str, float] = {}
        """The terms of the last step that has come to the host."""
        self._waiting: list[_Step] = []
        self._sums: dict[str, float] = {}
        self._rows: dict[str, int] = {}

    @torch.no_grad()
    def add(self, step: int, terms: Mapping[str, Tensor], rows: int, share: Share | None = None) -> None:
        """Take a step's terms.

        Args:
            step: its number.
            terms: one-element tensors by name, the same names on all processes.
            rows: rows of the step on all processes, its weight in the means.
            share: which of them are this process's; None has all.

        Raises:
            NotFinite: see `settle`.
        """
        dtype = functools.reduce(torch.promote_types, (value.dtype for value in terms.values()), torch.float32)
        device = next((value.device for value in terms.values()), None)
        values = [value.detach().reshape(()).to(device, dtype) for value in terms.values()]
        if values:
            weight = 1.0 if share is None else share.weight
            self._waiting.append(_Step(step, rows, tuple(terms), torch.stack(values), weight))
        if len(self._waiting) >= self.every:
            self.settle()

    def settle(self, *, alone: bool = False) -> None:
        """Bring what waits to the host.

        Args:
            alone: look at this process's own terms only, where the others may not come to exchange theirs.

        Raises:
            NotFinite: naming the first step with a term that is NaN or infinite, and the term: a part's before the
                loss, which is their sum.
        """
        waiting, self._waiting = self._waiting, []
        values = iter(self._gathered(waiting, alone).tolist() if waiting else ())
        for step in waiting:
            self.latest = dict(zip(step.names, values, strict=False))
            broken = [name for name, value in self.latest.items() if not math.isfinite(value)]
            if broken:
                named = next((name for name in broken if name != "loss"), "loss")
                where = f"step {step.number} of epoch {self.epoch}"
                raise NotFinite(f"{named} is {self.latest[named]} at {where}", learned=step.number > 1)
            for name, value in self.latest.items():
                self._sums[name] = self._sums.get(name, 0.0) + value * step.rows
                self._rows[name] = self._rows.get(name, 0) + step.rows

    def means(self) -> dict[str, float]:
        """Of each term the mean over the epoch's steps that told it, weighted by their rows; settles first."""
        self.settle()
        return {name: total / self._rows[name] for name, total in self._sums.items()}

    def _gathered(self, waiting: list[_Step], alone: bool) -> Tensor:
        """All waiting terms one behind the other, added up over processes."""
        if alone or self._processes.world == 1:
            return torch.cat([step.values for step in waiting])
        return self._processes.add_up(torch.cat([step.values * step.weight for step in waiting]))
