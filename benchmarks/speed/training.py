"""Training: a step of both stages, in float32 and bfloat16, a whole epoch, and a step at each depth."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice

import torch
from torch import Tensor

from benchmarks.speed.flops import Work, layer, score
from benchmarks.speed.options import Options
from benchmarks.speed.timing import Action, Pair
from benchmarks.speed.twins import rpt_loss, spt_loss
from benchmarks.speed.world import loop, padded_twin, random_split
from latentloop.accelerator import make_accelerator
from latentloop.data.batch import Batch, batches
from latentloop.data.positives import SameTarget
from latentloop.data.sequences import Samples
from latentloop.data.splits import Split
from latentloop.depth import DepthLaw, FixedDepth, LogNormalPoisson
from latentloop.objectives import RPT, SPT
from latentloop.objectives.contract import Objective, views_of
from latentloop.optimizer import build_optimizer
from latentloop.randomness import dropout_seed
from latentloop.recommender import Recommender
from latentloop.training import fit
from latentloop.training_step import StepModule, updates

__all__ = ["depths", "epoch", "rpt", "spt"]

MEAN_DEPTH = 4
"""Thoughts of an average step at k-bar 3: a step costs in proportion, so one at this depth stands for all."""
ROLLOUTS = 4


def spt(options: Options) -> Iterator[Pair]:
    """Pre-training steps at the mean depth, the making of batches included."""
    size, split = options.sizes, _split(options)
    make = partial(_steps, split, size.spt_batch, _at(MEAN_DEPTH))
    plain = partial(_twin_steps, split, size.spt_batch, _at(MEAN_DEPTH), _spt_twin)
    yield Pair(
        "SPT", "samples", size.spt_batch, partial(make, SPT), plain, work=_spt_work(split, size.spt_batch, MEAN_DEPTH),
        target=830, memory=True,
    )  # fmt: skip
    yield Pair(
        "SPT, bf16", "samples", size.spt_batch, partial(make, SPT, precision="bf16"), partial(make, SPT),
        beside="ours in float32", work=_spt_work(split, size.spt_batch, MEAN_DEPTH, "bf16"),
    )  # fmt: skip


def rpt(options: Options) -> Iterator[Pair]:
    """Post-training steps of 4 rollouts at the mean depth: rollouts, rewards, reference and update."""
    size, split = options.sizes, _split(options)
    make = partial(_steps, split, size.rpt_batch, _at(MEAN_DEPTH))
    plain = partial(_twin_steps, split, size.rpt_batch, _at(MEAN_DEPTH), _rpt_twin)
    yield Pair(
        "RPT", "samples", size.rpt_batch, partial(make, RPT), plain, work=_rpt_work(split, size.rpt_batch, MEAN_DEPTH),
        target=200, memory=True, limit=1.2 * 1000**3 / 2**20,
    )  # fmt: skip
    yield Pair(
        "RPT, bf16", "samples", size.rpt_batch, partial(make, RPT, precision="bf16"), partial(make, RPT),
        beside="ours in float32", work=_rpt_work(split, size.rpt_batch, MEAN_DEPTH, "bf16"),
    )  # fmt: skip


def epoch(options: Options) -> Iterator[Pair]:
    """One epoch of `fit` with random depths and its validation, on a smaller log with the whole catalog."""
    size = options.sizes
    split = random_split(size.epoch_users, size.items, size.actions)
    validation = split.validation.select(torch.arange(min(256, len(split.validation))))

    def fast() -> Action:
        model, accelerator = loop(split.num_items), make_accelerator(device="cpu")
        return lambda: fit(
            model, split.train, validation, SPT(), epochs=1, batch_size=size.spt_batch, accelerator=accelerator,
            progress_bar=False,
        )  # fmt: skip

    steps = len(split.train) // size.spt_batch + 1
    plain = partial(_twin_steps, split, size.spt_batch, LogNormalPoisson(3), _spt_twin, steps=steps)
    yield Pair(
        "SPT epoch", "samples", len(split.train), fast, plain, beside="padded, without validation",
        work=_spt_work(split, len(split.train), MEAN_DEPTH), target=830,
    )  # fmt: skip


def depths(options: Options) -> Iterator[Pair]:
    """A pre-training step at each depth: a line, and the same code at every depth."""
    size, split = options.sizes, _split(options)
    for depth in size.depths:
        fast = partial(_steps, split, size.depth_batch, _at(depth), SPT)
        plain = partial(_twin_steps, split, size.depth_batch, _at(depth), _spt_twin)
        work = _spt_work(split, size.depth_batch, depth)
        yield Pair(f"SPT at depth {depth}", "samples", size.depth_batch, fast, plain, work=work, memory=options.full)


def _split(options: Options) -> Split:
    size = options.sizes
    return random_split(size.users, size.items, size.actions)


def _at(depth: int) -> DepthLaw:
    return FixedDepth(depth)


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


def _steps(
    split: Split,
    batch_size: int,
    depth_law: DepthLaw,
    objective_of: Callable[[], Objective],
    precision: str = "fp32",
    steps: int = 1,
) -> Action:
    """Optimizer steps as `fit` takes them, from the start of an epoch: every call sees the same batches."""
    accelerator = make_accelerator(device="cpu", precision=precision)
    model, objective = loop(split.num_items), objective_of()
    model.encoder.depth_law = depth_law
    start = getattr(objective, "start", None)
    if start is not None:
        start(model)
    optimizer = build_optimizer(model, learning_rate=1e-3, weight_decay=0.0)
    module, optimizer = accelerator.prepare(StepModule(model, objective), optimizer)
    positives = SameTarget(split.train) if "same_target" in views_of(objective) else False
    model.train()

    def run() -> None:
        for batch in islice(batches(split.train, batch_size, key=0, epoch=1, same_target=positives), steps):
            for _ in updates(module, model, objective, optimizer, accelerator, batch, None):
                pass

    return run


def _twin_steps(
    split: Split,
    batch_size: int,
    depth_law: DepthLaw,
    loss_of: Callable[[Recommender], Callable[[Batch], Tensor]],
    steps: int = 1,
) -> Action:
    """The same steps, plainly."""
    model = padded_twin(split.num_items)
    model.encoder.depth_law = depth_law
    loss, optimizer = loss_of(model), torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    positives = SameTarget(split.train)
    model.train()

    def run() -> None:
        for batch in islice(batches(split.train, batch_size, key=0, epoch=1, same_target=positives), steps):
            with dropout_seed(batch.key, model.device):
                loss(batch).backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    return run


def _spt_twin(model: Recommender) -> Callable[[Batch], Tensor]:
    return partial(spt_loss, model)


def _rpt_twin(model: Recommender) -> Callable[[Batch], Tensor]:
    return partial(rpt_loss, model, copy.deepcopy(model).eval(), rollouts=ROLLOUTS)
