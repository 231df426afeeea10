"""Answering: the target's rank among all items, the ten best, and what thinking costs beside as many layers."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from benchmarks.speed.flops import Work, layer, score
from benchmarks.speed.options import Options
from benchmarks.speed.timing import Action, Pair
from benchmarks.speed.twins import best_ten, full_ranks
from benchmarks.speed.world import base, loop, padded_twin, random_split
from latentloop.data.sequences import Samples
from latentloop.evaluation import evaluate
from latentloop.recommender import Recommender

__all__ = ["inference", "ranking", "recommending"]

BATCH = 1024
DEPTH, LAYERS = 4, 10
"""Two pre-layers and four times two core-layers, and a plain stack of as many."""


def ranking(options: Options) -> Iterator[Pair]:
    """The target's rank among all items."""
    samples = _asked(options)
    every = torch.arange(len(samples), device=samples.device)

    def fast(precision: str = "fp32") -> Action:
        model = loop(samples.num_items, device=options.device).eval()

        def run() -> None:
            with torch.autocast(options.device, torch.bfloat16, enabled=precision == "bf16"):
                evaluate(model, samples)

        return run

    def twin() -> Action:
        model = padded_twin(samples.num_items, device=options.device).eval()
        history, target = samples.history(every).split(BATCH), samples.target(every).split(BATCH)

        def run() -> None:
            with torch.no_grad():
                for rows, wanted in zip(history, target, strict=True):
                    full_ranks(model, rows, wanted)

        return run

    yield Pair(
        "full ranking", "users", len(samples), fast, twin, work=_work(samples, "fp32"), target=options.on_cpu(8_000),
        memory=True,
    )  # fmt: skip
    yield Pair(
        "full ranking, bf16", "users", len(samples), lambda: fast("bf16"), fast, beside="ours in float32",
        work=_work(samples, "bf16"), target=options.on_cpu(13_500),
    )  # fmt: skip


def recommending(options: Options) -> Iterator[Pair]:
    """The ten best items of each user, the history left out."""
    samples = _asked(options)
    history = samples.history(torch.arange(len(samples), device=samples.device))

    def fast() -> Action:
        model = loop(samples.num_items, device=options.device).eval()
        return lambda: model.recommend(history)

    def twin() -> Action:
        model = padded_twin(samples.num_items, device=options.device).eval()

        def run() -> None:
            with torch.no_grad():
                for rows in history.split(BATCH):
                    best_ten(model, rows)

        return run

    yield Pair("recommend", "users", len(samples), fast, twin, work=_work(samples, "fp32"), memory=True)


def inference(options: Options) -> Iterator[Pair]:
    """The answer's vector of a ranking's batch: depth 4 of 2 + 2 layers beside 10 layers of SASRec, as many products.

    Both run on the same fast paths, so what differs is the loop's own cost.
    """
    samples = _asked(options)
    history = samples.history(torch.arange(min(BATCH, len(samples)), device=samples.device))

    def encoding(model: Recommender, depth: int) -> Action:
        model.eval()

        def run() -> None:
            with torch.no_grad():
                model.encode(history, depth=depth)

        return run

    yield Pair(
        f"encode at depth {DEPTH}", "users", len(history),
        lambda: encoding(loop(samples.num_items, device=options.device), DEPTH),
        lambda: encoding(base(samples.num_items, LAYERS, device=options.device), 1),
        beside=f"ours, {LAYERS} layers without a loop",
        work=Work(_blocks(samples) * len(history) / len(samples)), least_ratio=options.on_cpu(1 / 1.05),
    )  # fmt: skip


def _asked(options: Options) -> Samples:
    """Histories as long as training's, the length that the targets are set for; tests' are a third longer."""
    size = options.sizes
    samples = random_split(size.users, size.items, size.actions).train.to(options.device)
    return samples.select(torch.linspace(0, len(samples) - 1, min(size.asked, len(samples))).long())


def _blocks(samples: Samples) -> float:
    tokens = samples.lengths(torch.arange(len(samples), device=samples.device)).sum().item()
    return layer(tokens) * LAYERS


def _work(samples: Samples, precision: str) -> Work:
    return Work(_blocks(samples), score(len(samples), samples.num_items), precision)
