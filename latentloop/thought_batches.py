"""What a model thinks of all samples, a batch at a time: the same batches and start states whoever has which."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from tqdm import tqdm

from latentloop.across_ranks import ALONE, Processes
from latentloop.catalog import check_catalog
from latentloop.checks import at_least
from latentloop.data.sequences import Samples
from latentloop.errors import InputError, InputTypeError
from latentloop.randomness import dropout_seed, fold

if TYPE_CHECKING:
    from latentloop.evaluation import Thinker

__all__ = ["check_asked", "thought_batches"]

_THOUGHTS_AT_ONCE = 1 << 26  # 256 MiB of float32


def check_asked(model: Thinker, samples: Samples) -> None:
    """Refuse what does not think, and samples that it cannot be asked.

    Raises:
        InputTypeError: for a model without `think`, or what are no samples.
        InputError: for no samples, or a catalog unlike the model's.
    """
    if not callable(getattr(model, "think", None)):
        raise InputTypeError(f"model must think and score as a Recommender does, got {type(model).__name__}")
    if not isinstance(samples, Samples):
        raise InputTypeError(f"samples must be samples such as split.test, got {type(samples).__name__}")
    if not len(samples):
        raise InputError("samples: none, there is nothing to evaluate")
    check_catalog(model, samples)


def thought_batches(
    model: Thinker,
    samples: Samples,
    *,
    depth: int,
    dim: int,
    batch_size: int,
    progress: bool = False,
    processes: Processes = ALONE,
) -> Iterator[tuple[Int64[Tensor, " B"], Float[Tensor, "k B d"]]]:
    """Positions of samples, and the thoughts of each; every sample comes once, to one of the processes.

    A fresh T_0 is the batch's own: as the global generator stands, the same for all who ask for the same batches.

    Args:
        model: what thinks, in eval mode.
        samples: on the model's device.
        depth: k.
        dim: d.
        batch_size: samples at a time, at most.
        progress: whether to show a progress bar.
        processes: who has a part each.
    """
    # thoughts of all depths are held at once: a deep curve goes through fewer rows at a time
    batch_size = min(at_least("batch_size", batch_size, 1), max(1, _THOUGHTS_AT_ONCE // (depth * dim)))
    every = torch.arange(len(samples), device=samples.device)
    # rows of like length together: what pads to a batch's longest row then pads least
    order = torch.argsort(samples.lengths(every), stable=True)
    mine = processes.mine(list(enumerate(torch.split(order, batch_size))))
    fresh = int(torch.randint(1 << 62, ())) if getattr(model, "inference_state", "") == "fresh" else None
    for number, index in tqdm(mine, desc="evaluate", unit="batch", disable=not progress, leave=False):
        with nullcontext() if fresh is None else dropout_seed(fold(fresh, number), samples.device):
            steps = model.think(samples.history(index), depth=depth).steps
        yield index, steps
