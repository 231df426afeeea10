"""Training: a step of both stages, in float32 and bfloat16, a whole epoch, a step at each depth; several on CUDA."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import count, islice

import torch
from torch import Tensor

from benchmarks.speed.flops import Work, layer, score
from benchmarks.speed.options import Device, Options
from benchmarks.speed.timing import Action, Pair
from benchmarks.speed.twins import rpt_loss, spt_loss
from benchmarks.speed.world import LENGTH, loop, padded_twin, random_split
from latentloop.data.batch import Batch, at_once, batches, num_batches
from latentloop.data.counted import counted
from latentloop.data.positives import SameTarget
from latentloop.data.sequences import Samples
from latentloop.data.splits import Split
from latentloop.depth import DepthLaw, FixedDepth, LogNormalPoisson, draw_depth
from latentloop.fitting.accelerator import make_accelerator
from latentloop.fitting.optimizer import build_optimizer
from latentloop.fitting.step import StepModule, updates
from latentloop.graphed_thinking import GraphedThinking
from latentloop.objectives import RPT, SPT
from latentloop.objectives.contract import Objective, views_of
from latentloop.randomness import dropout_seed, fold
from latentloop.recommender import Recommender
from latentloop.training import fit

__all__ = ["depths", "epoch", "rpt", "spt"]

MEAN_DEPTH = 4
"""Thoughts of an average step at k-bar 3: a step costs in proportion, so one at this depth stands for all."""
ROLLOUTS = 4
_STAGE = "spt"
SPT_STEPS, RPT_STEPS, EPOCHS = 48, 5, 2
"""Of a call on CUDA: one step's time would be that of launching it, and graphs are made once for all epochs."""


@dataclass(frozen=True)
class _Stretch:
    """The stretch of an epoch that a call goes through, from its start: every call sees the same batches.

    Args:
        split: whose training samples.
        batch_size: rows of a step.
        depth_law: thoughts of each.
        device: where.
        count: how many, or as many as there are in the epoch.
        key: of their order and depths.
    """

    split: Split
    batch_size: int
    depth_law: DepthLaw
    device: Device
    count: int
    key: int = 0

    @property
    def rows(self) -> int:
        """Of all steps together."""
        return min(self.count * self.batch_size, len(self.split.train))

    def batches(self, samples: Samples, positives: SameTarget | bool) -> Iterable[Batch]:
        """The steps' batches, as `fit` makes them."""
        every = islice(batches(samples, self.batch_size, key=self.key, epoch=1, same_target=positives), self.count)
        return counted(every, LENGTH, at_once(samples.device, self.batch_size)) if self.device == "cuda" else every


def spt(options: Options) -> Iterator[Pair]:
    """Pre-training steps at the mean depth, the making of batches included."""
    steps = _spt_stretch(options, options.sizes.spt_batch, MEAN_DEPTH)
    make, work = partial(_steps, steps), partial(_spt_work, steps.split, steps.rows, MEAN_DEPTH)
    yield Pair(
        "SPT", "samples", steps.rows, partial(make, SPT), partial(_twin_steps, steps, _spt_twin), work=work(),
        target=options.on_cpu(830, 200_000), memory=True,
    )  # fmt: skip
    yield Pair(
        "SPT, bf16", "samples", steps.rows, partial(make, SPT, precision="bf16"), partial(make, SPT),
        beside="ours in float32", work=work("bf16"),
    )  # fmt: skip


def rpt(options: Options) -> Iterator[Pair]:
    """Post-training steps of 4 rollouts at the mean depth: rollouts, rewards, reference and update."""
    size, count = options.sizes, 1 if options.device == "cpu" else RPT_STEPS
    steps = _Stretch(_split(options), size.rpt_batch, FixedDepth(MEAN_DEPTH), options.device, count)
    yield _rpt_pair("RPT", steps, options)
    yield Pair(
        "RPT, bf16", "samples", steps.rows, partial(_steps, steps, RPT, precision="bf16"), partial(_steps, steps, RPT),
        beside="ours in float32", work=_rpt_work(steps.split, steps.rows, MEAN_DEPTH, "bf16"),
    )  # fmt: skip
    if options.device == "cuda":  # which the smaller batch does not fill
        yield _rpt_pair(f"RPT, batch {size.spt_batch}", replace(steps, batch_size=size.spt_batch), options)


def _rpt_pair(case: str, steps: _Stretch, options: Options) -> Pair:
    return Pair(
        case, "samples", steps.rows, partial(_steps, steps, RPT), partial(_twin_steps, steps, _rpt_twin),
        work=_rpt_work(steps.split, steps.rows, MEAN_DEPTH), target=options.on_cpu(200, 100_000), memory=True,
        limit=options.on_cpu(1.2 * 1000**3 / 2**20),
    )  # fmt: skip


def epoch(options: Options) -> Iterator[Pair]:
    """One epoch of `fit` with random depths and its validation, on a smaller log with the whole catalog.

    An epoch of so few steps may think twice as deep as the law does: the seed is the first whose depths average that of
    the other cases, and the twin draws the same. On CUDA two epochs on the whole log, and no twin: each call of `fit`
    makes its graphs anew.
    """
    size, on_cpu = options.sizes, options.device == "cpu"
    split = random_split(size.epoch_users if on_cpu else size.users, size.items, size.actions)
    validation = split.validation.select(torch.arange(min(256, len(split.validation))))
    epochs, law = 1 if on_cpu else EPOCHS, LogNormalPoisson(3)
    seed = next(seed for seed in count(1) if abs(_depth(split, size.spt_batch, law, seed, epochs) - MEAN_DEPTH) < 0.1)

    def fast() -> Action:
        model, accelerator = loop(split.num_items, device=options.device), make_accelerator(device=options.device)
        return lambda: fit(
            model, split.train, validation, SPT(), epochs=epochs, batch_size=size.spt_batch, accelerator=accelerator,
            progress_bar=False, stage=_STAGE, seed=seed,
        )  # fmt: skip

    rows, steps_of_epoch = epochs * len(split.train), num_batches(len(split.train), size.spt_batch)
    steps = _Stretch(split, size.spt_batch, law, options.device, steps_of_epoch, fold(seed, _STAGE))
    yield Pair(
        "SPT epoch" if on_cpu else f"{epochs} SPT epochs, graphs made anew", "samples", rows, fast,
        partial(_twin_steps, steps, _spt_twin) if on_cpu else None, beside="padded, without validation",
        work=_spt_work(split, rows, MEAN_DEPTH), target=options.on_cpu(830, 200_000), turns=None if on_cpu else 2,
    )  # fmt: skip


def _depth(split: Split, batch_size: int, law: DepthLaw, seed: int, epochs: int) -> float:
    """How deep an average sample of `fit`'s epochs thinks."""
    every = [
        batch
        for epoch in range(1, epochs + 1)
        for batch in batches(split.train, batch_size, key=fold(seed, _STAGE), epoch=epoch)
    ]
    thoughts = sum(len(batch) * draw_depth(law, fold(batch.key, "depth")) for batch in every)
    return thoughts / sum(map(len, every))


def depths(options: Options) -> Iterator[Pair]:
    """A pre-training step at each depth: a line, and the same code at every depth."""
    for depth in options.sizes.depths:
        steps = _spt_stretch(options, options.sizes.depth_batch, depth)
        yield Pair(
            f"SPT at depth {depth}", "samples", steps.rows, partial(_steps, steps, SPT),
            partial(_twin_steps, steps, _spt_twin), work=_spt_work(steps.split, steps.rows, depth), memory=options.full,
        )  # fmt: skip


def _split(options: Options) -> Split:
    size = options.sizes
    return random_split(size.users, size.items, size.actions)


def _spt_stretch(options: Options, batch_size: int, depth: int) -> _Stretch:
    count = 1 if options.device == "cpu" else SPT_STEPS
    return _Stretch(_split(options), batch_size, FixedDepth(depth), options.device, count)


def _tokens(samples: Samples) -> float:
    """Items of an average history."""
    return samples.lengths(torch.arange(len(samples))).double().mean().item()


def _spt_work(split: Split, rows: int, depth: int, precision: str = "fp32") -> Work:
    """Both views forwards and backwards; the anchor's scores and their two gradients."""
    blocks = 2 * rows * layer(_tokens(split.train)) * (2 + 2 * depth)
    return Work(3 * blocks, 3 * score(rows, split.num_items), precision)


def _rpt_work(split: Split, rows: int, depth: int, precision: str = "fp32") -> Work:
    """Policy forwards and backwards, reference forwards; the scores of both at every step, two gradients."""
    tokens = rows * layer(_tokens(split.train))
    policy = tokens * 2 + ROLLOUTS * tokens * 2 * depth
    return Work(4 * policy, 4 * score(ROLLOUTS * depth * rows, split.num_items), precision)


def _steps(steps: _Stretch, objective_of: Callable[[], Objective], precision: str = "fp32") -> Action:
    """Optimizer steps as `fit` takes them; on CUDA the first call makes their graphs."""
    accelerator = make_accelerator(device=steps.device, precision=precision)
    samples = steps.split.train.to(steps.device)
    model, objective = loop(samples.num_items, device=steps.device), objective_of()
    model.encoder.depth_law = steps.depth_law
    start = getattr(objective, "start", None)
    if start is not None:
        start(model)
    optimizer = build_optimizer(model, learning_rate=1e-3, weight_decay=0.0)
    graphed = GraphedThinking(model) if GraphedThinking.suits(model) else None
    module, optimizer = accelerator.prepare(StepModule(model, objective, graphed=graphed), optimizer)
    positives = SameTarget(samples) if "same_target" in views_of(objective) else False
    model.train()

    def run() -> None:
        for batch in steps.batches(samples, positives):
            for _ in updates(module, model, objective, optimizer, accelerator, batch, None):
                pass

    return run


def _twin_steps(steps: _Stretch, loss_of: Callable[[Recommender], Callable[[Batch], Tensor]]) -> Action:
    """The same steps, plainly."""
    samples = steps.split.train.to(steps.device)
    model = padded_twin(samples.num_items, device=steps.device)
    model.encoder.depth_law = steps.depth_law
    loss, optimizer = loss_of(model), torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    positives = SameTarget(samples)
    model.train()

    def run() -> None:
        for batch in steps.batches(samples, positives):
            with dropout_seed(batch.key, model.device):
                loss(batch).backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    return run


def _spt_twin(model: Recommender) -> Callable[[Batch], Tensor]:
    return partial(spt_loss, model)


def _rpt_twin(model: Recommender) -> Callable[[Batch], Tensor]:
    return partial(rpt_loss, model, copy.deepcopy(model).eval(), rollouts=ROLLOUTS)
