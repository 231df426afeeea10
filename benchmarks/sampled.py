"""Pre-training steps with sampled negatives as the catalog grows: row-sparse gradients and state against dense ones.

python -m benchmarks.sampled    # about a minute on one core
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import tyro
from torch import Tensor

from benchmarks.timing import Timing, paired, save, table
from benchmarks.world import LENGTH, loop, random_split
from latentloop.data.batch import Batch, batches
from latentloop.data.sequences import Samples, Sequences
from latentloop.depth import FixedDepth
from latentloop.objectives import SPT, SampledNextItem
from latentloop.objectives.contract import touches_few_items, views_of
from latentloop.optimizer import build_optimizer
from latentloop.randomness import dropout_seed
from latentloop.training_step import StepModule

USERS, AVERAGE_LENGTH = 5_000, 8.9


@dataclass(frozen=True)
class Options:
    """What to measure."""

    items: tuple[int, ...] = (25_000, 100_000, 1_000_000)
    """Catalogs."""
    negatives: int = 512
    """Sampled negatives a step."""
    batch_size: int = 1024
    """Rows of a step."""
    threads: int = 1
    """CPU threads."""
    repeats: int = 3
    """Turns of each pair."""
    out: Path = Path("benchmarks/results")
    """Folder for sampled.json and sampled.md."""


class Densely:
    """The same loss, that of an objective which does not say that it touches few items."""

    def __init__(self, objective: SPT) -> None:
        self.objective, self.views = objective, views_of(objective)

    def __call__(self, views: Any, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Its loss and terms."""
        return self.objective(views, batch)


def measure(items: int, options: Options) -> Timing:
    """A whole step at depth 4 (forward, backward, optimizer) with both; memory is what it takes beyond the model."""
    split = random_split(USERS, 1000, AVERAGE_LENGTH)
    known = split.train.sequences
    drawn = torch.randint(
        1, items + 1, known.items.shape, dtype=torch.int32, generator=torch.Generator().manual_seed(0)
    )
    samples = Samples(Sequences(drawn, known.offsets, items), split.train.user, split.train.end, LENGTH)
    batch = next(iter(batches(samples, options.batch_size, key=0, epoch=1, same_target=True)))
    objective = SPT(
        next_item=SampledNextItem(options.negatives, item_counts=torch.bincount(drawn, minlength=items + 1)[1:])
    )
    fast, twin = stepper(objective, items, batch), stepper(Densely(objective), items, batch)
    memory, twin_memory = peak_beyond(fast), peak_beyond(twin)
    case = f"sampled SPT, {items:,} items"
    timing = paired(case, "samples", options.batch_size, fast, twin, repeats=options.repeats)
    return replace(timing, memory=memory, twin_memory=twin_memory)


def stepper(objective: Any, items: int, batch: Batch) -> Callable[[], None]:
    """One optimizer step as `fit` takes it."""
    model = loop(items).train()
    model.encoder.depth_law = FixedDepth(4)
    module = StepModule(model, objective)
    optimizer = build_optimizer(model, learning_rate=1e-3, weight_decay=0.0, few_items=touches_few_items(objective))

    def step() -> None:
        with dropout_seed(batch.key, model.device):
            module(batch)[0].backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def peak_beyond(action: Callable[[], object]) -> float | None:
    """MiB by which resident memory rose at its peak during `action`; None where the system does not say."""
    if sys.platform != "linux" or not hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        return None
    libc.malloc_trim(0)  # what earlier steps have freed
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = _status("VmRSS")
    action()
    return _status("VmHWM") - before


def _status(name: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1]) / 1024


def main() -> None:
    """Measure, print the table, and write both files."""
    options = tyro.cli(Options)
    torch.set_num_threads(options.threads)
    measure(1000, replace(options, repeats=1))  # what the first steps of a process load is not the catalog's
    timings = []
    for items in options.items:
        timings.append(measure(items, options))
        print(table(timings[-1:]).splitlines()[-1], flush=True)
    options.out.mkdir(parents=True, exist_ok=True)
    save(options.out / "sampled.json", timings)
    (options.out / "sampled.md").write_text(table(timings) + "\n")


if __name__ == "__main__":
    main()
