"""Learning from every position or from prefix samples: validation NDCG@10 against seconds of training, one thread.

    python -m benchmarks.positions FILE --seconds 40 --looks 5       # Base
    python -m benchmarks.positions FILE --seconds 100 --looks 4 --loop

Every way trains from the same weights for as many seconds of CPU; validation is not counted. A way is written
positions:rows of a step.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count

import torch
import tyro

from benchmarks.told import told
from latentloop.backbones.sasrec import SASRec
from latentloop.data.batch import Batch, batches
from latentloop.data.readers import load_interactions
from latentloop.data.splits import Split, leave_one_out
from latentloop.data.windows import Windows
from latentloop.evaluation import evaluate
from latentloop.fitting.optimizer import build_optimizer
from latentloop.objectives import NextItem, NextItemEverywhere, Objective, encode_views, views_of
from latentloop.randomness import dropout_seed, fold
from latentloop.recipes import build_recommender


@dataclass(frozen=True)
class Options:
    """What is compared, and for how long."""

    source: tyro.conf.Positional[str]
    """A file of interactions, filtered already."""
    ways: tuple[str, ...] = ("newest:256", "newest:1024", "all:64", "all:256")
    """What to compare."""
    loop: bool = False
    """Think, instead of the plain backbone."""
    seconds: float = 60.0
    """Training time of each way."""
    looks: int = 6
    """Validations, evenly spread."""
    learning_rate: float = 3e-3
    """AdamW's."""
    seed: int = 0
    """Of everything random."""


def _steps(split: Split, everywhere: bool, rows: int, seed: int) -> Iterator[Batch]:
    samples = Windows.of(split.train) if everywhere else split.train
    for epoch in count(1):
        yield from batches(samples, rows, key=seed, epoch=epoch)


def measure(options: Options, split: Split, way: str) -> str:
    """Train one way; a row of the table."""
    positions, rows = way.split(":")
    everywhere = positions == "all"
    objective: Objective = NextItemEverywhere() if everywhere else NextItem()
    torch.manual_seed(options.seed)
    model = build_recommender(SASRec(), split.num_items, loop=options.loop, seed=options.seed)
    optimizer = build_optimizer(model, learning_rate=options.learning_rate, weight_decay=0.0)
    spent, targets, found = 0.0, 0, []
    steps = _steps(split, everywhere, int(rows), options.seed)
    for look in range(1, options.looks + 1):
        model.train()
        while spent < options.seconds * look / options.looks:
            began = time.process_time()
            batch = next(steps)
            with dropout_seed(fold(batch.key, "dropout"), model.device):
                loss, _ = objective(encode_views(model, batch, views_of(objective)), batch)
                loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            spent += time.process_time() - began
            targets += len(batch) if batch.targets is None else int((batch.targets != 0).sum())
        found.append(evaluate(model, split.validation, split="validation").metrics["ndcg@10"])
    rate, epochs = targets / spent, targets / len(split.train)
    return f"| {way} | {rate:,.0f} | {epochs:.1f} | {' | '.join(f'{value:.4f}' for value in found)} |"


def main() -> None:
    """Print the table, a row at a time."""
    options = tyro.cli(Options)
    torch.set_num_threads(1)
    split = leave_one_out(load_interactions(options.source))
    marks = [f"{options.seconds * look / options.looks:.0f} s" for look in range(1, options.looks + 1)]
    print(f"| {'loop' if options.loop else 'Base'} | targets/s | epochs | {' | '.join(marks)} |")
    print("|---" * (3 + len(marks)) + "|", flush=True)
    for way in options.ways:
        print(measure(options, split, way), flush=True)


if __name__ == "__main__":
    with told():
        main()
