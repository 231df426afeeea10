"""A cell: one model trained once on one data set, and everything that decides its numbers."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass, replace
from typing import Literal

from latentloop.depth import DepthLaw, FixedDepth, LogNormalPoisson

__all__ = ["CAUSAL", "POST_TRAINING", "UNTRAINED", "Cell"]

POST_TRAINING = (
    "policy", "reward", "rpt_epochs", "rpt_learning_rate", "kl", "kl_weight", "clip_norm", "rollout_dropout", "ratio",
    "updates", "own_depth",
)  # fmt: skip
"""Fields that pre-training does not read."""
CAUSAL = ("sasrec",)
"""Backbones that can learn from every position of a history."""
UNTRAINED = ("chance", "popularity", "followers")
"""Kinds that nothing is trained for."""
Kind = Literal["chance", "popularity", "followers", "plain", "plain-deep", "loop"]
_LATER = ("schedule", "tied", "own_depth", "scorer", "items", "held_out", "choose_without_history", "own")
"""Fields that cells were stored without: at their defaults they are no part of a key."""


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
        policy: RPT's; "none" is its rival: pre-training goes on at `rpt_learning_rate` for as many epochs.
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
        schedule: of the learning rate of pre-training.
        tied: whether one block is both pre- and core-block, which has `core_layers` then.
        own_depth: whether each rollout draws a depth of its own.
        scorer: how a thought meets the items; None is the backbone's own, dot products where it has none; "mapped" are
            dot products of a linear map of the thought.
        items: what the item table starts from: "random" numbers; "texts", the principal components of the items' text
            embeddings; "shuffled texts", the same rows at other items, which say nothing.
        held_out: whether each user's newest training target is kept from pre-training and is what post-training learns
            from; else both learn from all.
        own: what of the core-block is each thought's own, of the first k-bar + 1: "nothing", its layer "norms", these
            and a change of rank 8 of each matrix ("ranks"), or its "layers" (then about as many weights as "plain-deep").
        choose_without_history: whether items of a user's past are no candidates in the validation that chooses the epoch.
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
    policy: Literal["target", "hybrid", "top", "none"] = "target"
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
    schedule: Literal["constant", "cosine"] = "constant"
    tied: bool = False
    own_depth: bool = False
    scorer: Literal["dot", "cosine", "mapped"] | None = None
    items: Literal["random", "texts", "shuffled texts"] = "random"
    held_out: bool = False
    choose_without_history: bool = False
    own: Literal["nothing", "norms", "ranks", "layers"] = "nothing"

    @property
    def key(self) -> str:
        """A name that no other configuration has, and that fields made later do not change."""
        fields = dataclasses.asdict(self)
        for name in _LATER:
            if fields[name] == getattr(Cell, name):  # a dataclass keeps a default as its attribute
                del fields[name]
        text = json.dumps(fields, sort_keys=True)
        return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()

    @property
    def pretrained(self) -> Cell:
        """The cell whose pre-training this one's post-training starts from: itself without RPT."""
        plain = Cell(self.data)
        return replace(self, rpt=False, **{name: getattr(plain, name) for name in POST_TRAINING})

    @property
    def law(self) -> DepthLaw:
        """What depths are drawn from."""
        return LogNormalPoisson(self.mean_depth) if self.depth == "sampled" else FixedDepth(self.passes)

    @property
    def passes(self) -> int:
        """How often the core-block is applied in an answer: k-bar + 1."""
        return self.mean_depth + 1

    @property
    def layers(self) -> int:
        """Layers that an answer passes."""
        pre = self.core_layers if self.tied else self.pre_layers
        return pre + self.core_layers * (1 if self.kind == "plain" else self.passes)
