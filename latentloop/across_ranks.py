"""Several processes that train one model: who has which rows, and the few things that they exchange.

A step's loss is the mean over the rows of all processes. DDP averages gradients over processes, so process r with n_r of
the step's n rows, of `world` processes, differentiates its own mean times `world` n_r / n. Rows that other processes have
too (InfoNCE's negatives) are gathered with their gradients. One process exchanges nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import torch
import torch.distributed as dist
from jaxtyping import Shaped
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

if TYPE_CHECKING:
    from accelerate import Accelerator

__all__ = ["ALONE", "Processes", "Share", "processes_of"]

T = TypeVar("T")


@dataclass(frozen=True)
class Processes:
    """This process among all that work together; every method is called by all of them.

    Args:
        rank: which one this is, 0..world - 1.
        world: how many there are.
        device: where they exchange tensors.
    """

    rank: int = 0
    world: int = 1
    device: torch.device | str = "cpu"

    def mine(self, things: Sequence[T]) -> Sequence[T]:
        """Every `world`-th of them; the processes together have each exactly once."""
        return things[self.rank :: self.world]

    def add_up(self, values: Shaped[Tensor, "*n"]) -> Shaped[Tensor, "*n"]:
        """The sum over processes, where `values` were."""
        return values if self.world == 1 else _sum(values.to(self.device)).to(values.device)

    def each(self, value: int) -> list[int]:
        """Every process's value."""
        values = torch.zeros(self.world, dtype=torch.int64)
        values[self.rank] = value
        found: list[int] = self.add_up(values).tolist()
        return found

    def share_weights(self, module: nn.Module, *, buffers_only: bool = False) -> None:
        """Give all processes the first one's parameters and buffers.

        Args:
            module: on the processes' device.
            buffers_only: leave parameters, which DDP keeps alike.
        """
        if self.world == 1:
            return
        for tensor in [*([] if buffers_only else module.parameters()), *module.buffers()]:
            if tensor.numel():
                dist.broadcast(tensor.detach(), 0)


ALONE = Processes()


def processes_of(accelerator: Accelerator) -> Processes:
    """The processes that an accelerator was started in."""
    return Processes(accelerator.process_index, accelerator.num_processes, accelerator.device)


@dataclass(frozen=True)
class Share:
    """How the rows of one step are shared out: process r has rows r, r + world, ... of them.

    Where a step has fewer rows than there are processes, the others hold a row that stands in and counts nothing: they
    take part in everything that is exchanged.

    Args:
        rank: which process this is.
        counts: rows of each process that count.
    """

    rank: int
    counts: tuple[int, ...]

    @classmethod
    def of(cls, total: int, *, rank: int, world: int) -> Share:
        """The share of process `rank` in `total` rows."""
        return cls(rank, tuple(len(range(each, total, world)) for each in range(world)))

    @property
    def own(self) -> int:
        """Rows of this process that count."""
        return self.counts[self.rank]

    @property
    def total(self) -> int:
        """Rows of all processes."""
        return sum(self.counts)

    @property
    def weight(self) -> float:
        """What this process's mean weighs in the mean over all rows."""
        return self.own / self.total

    @property
    def factor(self) -> float:
        """What this process's mean is multiplied by, so that DDP's average of gradients is that of the global mean."""
        return len(self.counts) * self.weight

    def add_up(self, values: Shaped[Tensor, "*n"]) -> Shaped[Tensor, "*n"]:
        """The sum over processes of sums over their rows, without gradient; a row that stands in adds nothing."""
        return _sum(values if self.own else torch.zeros_like(values))

    def gather(self, rows: Shaped[Tensor, "B ..."]) -> Shaped[Tensor, "total ..."]:
        """The rows of all processes, one process after the other, differentiable in all of them.

        What each process computes from the gathered rows must be the value for the whole step. A remote row's gradient
        comes from every process: the factors of `factor` sum to `world`, so DDP's average is the gradient once.

        Args:
            rows: (B, ...) of this process, in the batch's order.
        """
        # all processes send as many rows: the collectives know no others
        sent = torch.cat([rows[: self.own], rows.new_zeros(max(self.counts) - self.own, *rows.shape[1:])])
        received: Tensor = _Gathered.apply(sent, self.rank, len(self.counts))  # type: ignore[no-untyped-call]
        return torch.cat([part[:count] for part, count in zip(received, self.counts, strict=True)])


class _Gathered(torch.autograd.Function):
    """All processes' rows (world, n, ...); a row's gradient is the sum of what every process has for it."""

    @staticmethod
    def forward(ctx: Any, sent: Tensor, rank: int, world: int) -> Tensor:
        ctx.rank = rank
        received = sent.new_empty(world, *sent.shape)
        dist.all_gather(list(received.unbind()), sent)
        return received

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        # gloo can't scatter sums on every torch that we allow; these are a step's rows, d numbers each
        return _sum(gradient)[ctx.rank], None, None


def _sum(values: Tensor) -> Tensor:
    total = values.detach().clone(memory_format=torch.contiguous_format)
    dist.all_reduce(total)
    return total
