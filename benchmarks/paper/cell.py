"""A cell: one model trained once on one data set, everything that decides its numbers, and how it is run."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import time
import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from latentloop.accelerator import make_accelerator
from latentloop.backbones.sasrec import SASRec
from latentloop.baselines import chance, popularity
from latentloop.data.card import content_hash
from latentloop.data.readers import load_interactions
from latentloop.data.splits import Split, leave_one_out
from latentloop.data.text_encoders import load_text_features
from latentloop.depth import DepthLaw, FixedDepth, LogNormalPoisson
from latentloop.evaluation import evaluate
from latentloop.objectives import (
    RPT,
    SPT,
    NDCGReward,
    NextItem,
    NextItemEverywhere,
    RecallReward,
    select,
)
from latentloop.randomness import dropout_seed, fold
from latentloop.recipes import BACKBONES, build_recommender
from latentloop.recommender import Recommender
from latentloop.recurrence import RecurrentDepth
from latentloop.results import Evaluation
from latentloop.run_directory import RunDirectory
from latentloop.training import Fitted, fit

__all__ = ["POST_TRAINING", "Cell", "load_split", "run_cell", "unpack_ranks"]

POST_TRAINING = (
    "policy", "reward", "rpt_epochs", "rpt_learning_rate", "kl", "kl_weight", "clip_norm", "rollout_dropout", "ratio",
    "updates",
)  # fmt: skip
"""Fields that pre-training does not read."""
Kind = Literal["chance", "popularity", "plain", "plain-deep", "loop"]
_LARGEST = 254  # a rank beyond it adds nothing to any metric that is reported


@dataclass(frozen=True)
class Cell:
    """What is trained.

    Args:
        data: name of a data set, see `load_split`.
        kind: "plain": pre- and core-layers stacked once (equal parameters); "plain-deep": as many layers as the loop
            passes at its inference depth (equal FLOPs); "loop".
        backbone: of `BACKBONES`.
        pre_layers: 0 leaves the pre-block out.
        core_layers: of the core-block.
        alpha: trajectory-level alignment; 0 leaves it out.
        gamma: step-level alignment; 0 leaves it out. Plain models have no steps.
        mean_depth: k-bar.
        depth: "sampled" by the log-normal Poisson law, or "fixed" at k-bar + 1.
        rpt: whether post-training follows.
        policy: RPT's.
        reward: RPT's, "recall@10" or "ndcg@5", say.
        seed: of everything random.
        learning_rate: of pre-training.
        dropout: everywhere.
        epochs: of pre-training, at most.
        rpt_epochs: at most.
        patience: epochs without a better validation NDCG@10.
        batch_size: rows of a pre-training step.
        dim: d.
        max_length: L.
        positions: "newest": a sample for each prefix; "all": causal backbones learn from every position of a row.
        norm: "pre" or "post" layer norm.
        aggregate: f.
        state_std: s1 in training.
        inference_state: T_0 of an answer.
        temperature: tau of both alignments.
        similarity: of both alignments.
        positives: of the trajectory-level alignment.
        keep_false_negatives: whether rows with the same target stay among an anchor's negatives.
        weight_decay: of pre-training.
        rpt_learning_rate: of post-training.
        kl: "full" or "target".
        kl_weight: beta.
        clip_norm: largest gradient norm of post-training; None does not clip.
        rollout_dropout: whether rollouts keep dropout.
        ratio: "joint" or "step".
        updates: optimizer steps for each batch of rollouts.
    """

    data: str
    kind: Kind = "loop"
    backbone: str = "sasrec"
    pre_layers: int = 2
    core_layers: int = 2
    alpha: float = 0.1
    gamma: float = 0.1
    mean_depth: int = 3
    depth: Literal["sampled", "fixed"] = "sampled"
    rpt: bool = False
    policy: Literal["target", "hybrid", "top"] = "target"
    reward: str = "recall@10"
    seed: int = 0
    learning_rate: float = 1e-3
    dropout: float = 0.5
    epochs: int = 200
    rpt_epochs: int = 20
    patience: int = 10
    batch_size: int = 1024
    dim: int = 64
    max_length: int = 20
    positions: Literal["newest", "all"] = "newest"
    norm: Literal["pre", "post"] = "pre"
    aggregate: str = "add"
    state_std: float = 1.0
    inference_state: Literal["shared", "fresh", "zero"] = "shared"
    temperature: float = 0.2
    similarity: Literal["cosine", "dot"] = "cosine"
    positives: Literal["same_target", "self"] = "same_target"
    keep_false_negatives: bool = False
    weight_decay: float = 0.0
    rpt_learning_rate: float = 3e-4
    kl: Literal["full", "target"] = "full"
    kl_weight: float = 1.0
    clip_norm: float | None = None
    rollout_dropout: bool = False
    ratio: Literal["joint", "step"] = "joint"
    updates: int = 1

    @property
    def key(self) -> str:
        """A name that no other configuration has."""
        text = json.dumps(dataclasses.asdict(self), sort_keys=True)
        return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()

    @property
    def pretrained(self) -> Cell:
        """The cell whose pre-training this one's post-training starts from: itself without RPT."""
        plain = Cell(self.data)
        return replace(self, rpt=False, **{name: getattr(plain, name) for name in POST_TRAINING})

    @property
    def law(self) -> DepthLaw:
        """What depths are drawn from."""
        return LogNormalPoisson(self.mean_depth) if self.depth == "sampled" else FixedDepth(self.mean_depth + 1)


def load_split(name: str, folder: Path, max_length: int) -> Split:
    """A file `<name>.txt.gz` or `<name>.inter.gz` of `folder`, or "amazon-2023:<Category>"."""
    if name.startswith("amazon-2023:"):
        return leave_one_out(load_interactions(name), max_length)
    found = [path for suffix in ("txt", "inter", "csv") if (path := folder / f"{name}.{suffix}.gz").is_file()]
    if not found:
        raise SystemExit(f"no {name}.txt.gz in {folder}: set --folder")
    return leave_one_out(load_interactions(found[0]), max_length)


def build(cell: Cell, split: Split, folder: Path) -> Recommender:
    """The cell's model with its own seed's weights."""
    settings: dict[str, Any] = {"dropout": cell.dropout, "core_layers": cell.core_layers, "norm": cell.norm}
    settings["pre_layers"] = max(1, cell.pre_layers)
    if cell.kind == "plain-deep":
        settings["core_layers"] = cell.core_layers * (cell.mean_depth + 1)
    if cell.backbone == "tedrec":
        array = folder / f"{cell.data}.text.npy"
        settings["text"] = load_text_features(split.item_ids, item_embeddings=array)
    backbone = BACKBONES[cell.backbone](**settings)
    common: dict[str, Any] = {"dim": cell.dim, "max_length": cell.max_length, "dropout": cell.dropout}
    common["inference_state"] = cell.inference_state
    with dropout_seed(fold(cell.seed, "weights"), torch.device("cpu")):
        if cell.kind == "loop" and cell.pre_layers == 0:
            core = SASRec(core_layers=cell.core_layers, dropout=cell.dropout, norm=cell.norm).blocks(cell.dim)[1]
            encoder = RecurrentDepth(nn.Identity(), core, cell.aggregate, depth_law=cell.law, state_std=cell.state_std)
            return Recommender(split.num_items, encoder, seed=cell.seed, **common)
        loop = cell.kind == "loop"
        return build_recommender(
            backbone, split.num_items, loop=loop, depth_law=cell.law if loop else None, seed=cell.seed,
            aggregate=cell.aggregate, state_std=cell.state_std, **common,
        )  # fmt: skip


def run_cell(cell: Cell, folder: Path, work: Path, device: str | None = None) -> dict[str, Any]:
    """Train a cell where it stands in `work`, test once, and return its line."""
    split = load_split(cell.data, folder, cell.max_length)
    began = time.perf_counter()
    if cell.kind in ("chance", "popularity"):
        make = chance if cell.kind == "chance" else popularity
        found = {name: make(split, part, name=name) for name, part in _parts(split)}
        return _line(cell, split, found, None, None, 0.0)
    model = build(cell, split, folder)
    accelerator = make_accelerator(device=device)
    pre = cell.pretrained
    settings: dict[str, Any] = {"patience": cell.patience, "seed": cell.seed, "accelerator": accelerator}
    run = RunDirectory.create(
        work / pre.key, dataclasses.asdict(pre), resume=(work / pre.key / "config.json").is_file()
    )
    objective = SPT(
        alpha=cell.alpha, gamma=cell.gamma if cell.kind == "loop" else 0.0, temperature=cell.temperature,
        similarity=cell.similarity, positives=cell.positives, mask_same_target=not cell.keep_false_negatives,
        next_item=NextItemEverywhere() if cell.positions == "all" else NextItem(),
    )  # fmt: skip
    fitted = fit(
        model, split.train, split.validation, objective, run=run, epochs=cell.epochs, batch_size=cell.batch_size,
        learning_rate=cell.learning_rate, weight_decay=cell.weight_decay, **settings,
    )  # fmt: skip
    if cell.rpt:
        number = int(cell.reward.partition("@")[2])
        reward = RecallReward(number) if cell.reward.startswith("recall") else NDCGReward(number)
        samples = select(model, split.train, key=fold(cell.seed, "selection"))
        policy = RPT(
            policy=cell.policy, reward=reward, kl=cell.kl, kl_weight=cell.kl_weight, dropout=cell.rollout_dropout,
            ratio=cell.ratio, updates=cell.updates,
        )  # fmt: skip
        fitted = fit(
            model, samples, split.validation, policy, stage=f"rpt-{cell.key}", run=run, epochs=cell.rpt_epochs,
            batch_size=256, learning_rate=cell.rpt_learning_rate, clip_norm=cell.clip_norm, validate_first=True,
            **settings,
        )  # fmt: skip
    depths = [1, 2, 3, 4, 6, 8] if cell.kind == "loop" else None
    evaluations = {
        name: evaluate(model, part, split=name, stage=cell.kind, depths=depths, seeds=(cell.seed,))
        for name, part in _parts(split)
    }
    return _line(cell, split, evaluations, model, fitted, time.perf_counter() - began)


def unpack_ranks(text: str) -> np.ndarray:
    """The test ranks of a line: 0 is the best, and 255 stands for all beyond 254."""
    return np.frombuffer(zlib.decompress(base64.b85decode(text)), dtype=np.uint8)


def _parts(split: Split) -> list[tuple[str, Any]]:
    return [("validation", split.validation), ("test", split.test)]


def _line(
    cell: Cell,
    split: Split,
    evaluations: dict[str, Evaluation],
    model: Recommender | None,
    fitted: Fitted | None,
    seconds: float,
) -> dict[str, Any]:
    test = evaluations["test"]
    ranks = test.ranks.greater.clamp(max=_LARGEST + 1).to(torch.uint8).numpy()
    line: dict[str, Any] = {
        "key": cell.key,
        "cell": dataclasses.asdict(cell),
        "data_hash": content_hash(split.interactions),
        "protocol": str(test.protocol),
        "validation": dict(evaluations["validation"].metrics),
        "test": dict(test.metrics),
        "by_depth": {str(depth): metrics["ndcg@10"] for depth, metrics in test.per_depth.items()},
        "seconds": round(seconds, 1),
        "ranks": base64.b85encode(zlib.compress(ranks.tobytes(), 9)).decode(),
    }
    if model is not None and fitted is not None:
        line["parameters"] = sum(p.numel() for p in model.encoder.parameters())
        line["best_epoch"], line["epochs"] = fitted.best_epoch, fitted.epochs
        kept = ("epoch", "loss", "ndcg@10", "reward_mean", "zero_variance", "kl")
        line["history"] = [{name: entry[name] for name in kept if name in entry} for entry in fitted.history]
    return line
