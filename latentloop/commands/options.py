"""Options that commands share, grouped as `--help` shows them, and what they build."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from latentloop.checks import at_least
from latentloop.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from latentloop.data.interactions import Interactions
    from latentloop.data.splits import Split
    from latentloop.objectives import RPT, Objective

__all__ = [
    "CoreOptions",
    "DataOptions",
    "RPTOptions",
    "ReadOptions",
    "SPTOptions",
    "SplitOptions",
    "TrainingOptions",
]

logger = logging.getLogger(__name__)

_WIDEST_CLIP = 1e30
"""Beyond what a ratio of float32 reaches."""
_MOST_NEGATIVES = 10_000_000
"""A step holds so many rows of the item table at once."""


@dataclass(frozen=True)
class CoreOptions:
    """Which interactions are kept."""

    k_core: int = 5
    """Drop users and items with fewer actions than this, again and again until none is left; 0 keeps all."""

    def filter(self, interactions: Interactions) -> Interactions:
        """The k-core; what it drops is told."""
        from latentloop.data.kcore import k_core

        if not at_least("k_core", self.k_core, 0):
            return interactions
        kept = k_core(interactions, self.k_core)
        told = _kept(interactions, kept)
        if told:
            logger.info("%d-core: kept %s (--k-core 0 keeps all)", self.k_core, told)
        return kept


@dataclass(frozen=True)
class ReadOptions(CoreOptions):
    """Which interactions are read."""

    user: str | None = None
    """Column of user ids; recognised when not given."""
    item: str | None = None
    """Column of item ids; recognised when not given."""
    timestamp: str | None = None
    """Column of timestamps; recognised when not given, and "none" takes the rows' order instead."""
    format: Literal["csv", "tsv", "inter", "parquet", "jsonl", "text"] | None = None
    """The file's format, where its name does not say."""

    def load(self, source: str) -> Interactions:
        """Read, and filter to the k-core."""
        from latentloop.data.readers import load_interactions

        at_least("k_core", self.k_core, 0)  # before the work
        return self.filter(
            load_interactions(source, user=self.user, item=self.item, timestamp=self.timestamp, format=self.format)
        )


@dataclass(frozen=True)
class SplitOptions(CoreOptions):
    """Which interactions are kept, and how they are split."""

    split: Literal["leave-one-out", "global-time"] = "leave-one-out"
    """Hold out each user's last two items, or everything after two moments in time."""
    max_length: int = 20
    """L: the most recent items that are read."""

    def divide(self, interactions: Interactions) -> Split:
        """Training, validation and test samples."""
        from latentloop.data.splits import global_time, leave_one_out

        rule = leave_one_out if self.split == "leave-one-out" else global_time
        return rule(interactions, self.max_length)


@dataclass(frozen=True)
class DataOptions(SplitOptions, ReadOptions):
    """Which interactions are read, and how they are split."""


@dataclass(frozen=True)
class SPTOptions:
    """Pre-training (SPT): next item + alpha x trajectory-level + gamma x step-level alignment."""

    alpha: float = 0.1
    """Weight of the trajectory-level alignment."""
    gamma: float = 0.1
    """Weight of the step-level alignment."""
    temperature: float = 0.2
    """tau of both alignments."""
    similarity: Literal["cosine", "dot"] = "cosine"
    """s of both alignments."""
    positives: Literal["same_target", "self"] = "same_target"
    """Another sample with the same target, or the same one again."""
    keep_false_negatives: bool = False
    """Leave rows with the same target among an anchor's negatives."""
    negatives: int = 0
    """Estimate the next-item softmax from so many sampled negatives a step, for huge catalogs; 0 is all items."""
    positions: Literal["newest", "all"] = "newest"
    """Give the newest position of every prefix of a history its loss, or, in one pass over the whole, all positions;
    all needs a causal encoder (sasrec), and a step's rows are then users' histories, of several targets each."""

    def build(self, item_counts: Tensor | None = None) -> Objective:
        """The objective; negatives are sampled by `item_counts` (N + 1,), how often each item occurs, else uniformly."""
        from latentloop.objectives import SPT, NextItemEverywhere, SampledNextItem

        if self.negatives < 0:
            raise InputError(f"--negatives must be at least 0, got {self.negatives}")
        if self.negatives > _MOST_NEGATIVES:
            raise InputError(f"--negatives must be at most {_MOST_NEGATIVES}, got {self.negatives}")
        counts = None if item_counts is None else item_counts[1:]
        next_item: Objective | None = SampledNextItem(self.negatives, item_counts=counts) if self.negatives else None
        if self.positions == "all":
            next_item = NextItemEverywhere(next_item)
        return SPT(
            next_item=next_item,
            alpha=self.alpha,
            gamma=self.gamma,
            temperature=self.temperature,
            similarity=self.similarity,
            positives=self.positives,
            mask_same_target=not self.keep_false_negatives,
        )


@dataclass(frozen=True)
class RPTOptions:
    """Post-training (RPT): group-relative policy optimisation over rollouts that differ in T_0."""

    rollouts: int = 4
    """G: rollouts of each sample, at least 2."""
    reward: Literal["recall", "ndcg"] = "recall"
    """What a rollout earns."""
    reward_cutoff: int = 10
    """K of Recall@K or NDCG@K."""
    policy: Literal["target", "hybrid", "top"] = "target"
    """Which item's probability a step's policy is."""
    ratio: Literal["joint", "step"] = "joint"
    """One ratio for the whole rollout, or one a step."""
    kl: Literal["full", "target"] = "full"
    """Divergence from the pre-trained model over all items, or the k3 penalty on the target."""
    kl_weight: float = 1.0
    """beta."""
    clip: float = 0.2
    """eps; with one update per batch the ratio is 1 and the clip never acts."""
    updates: int = 1
    """Optimizer steps per batch of rollouts."""
    rollout_dropout: bool = False
    """Keep dropout on in rollouts."""
    own_depth: bool = False
    """Let every rollout draw its own depth."""
    drop_kl_of_ties: bool = False
    """Groups whose rewards tie pay no KL either."""
    cut: int = 100
    """Keep a training sample whose target is in the top `cut` ..."""
    trials: int = 3
    """... in at least one of so many inference trials."""

    def build(self) -> RPT:
        """The objective."""
        from latentloop.measures.metrics import as_cutoff
        from latentloop.objectives import RPT, NDCGReward, RecallReward

        if self.clip > _WIDEST_CLIP:
            raise InputError(f"clip must be at most {_WIDEST_CLIP:g}, got {self.clip}")
        cutoff = as_cutoff("reward_cutoff", self.reward_cutoff)
        reward = RecallReward(cutoff) if self.reward == "recall" else NDCGReward(cutoff)
        return RPT(
            rollouts=self.rollouts,
            reward=reward,
            policy=self.policy,
            ratio=self.ratio,
            kl=self.kl,
            kl_weight=self.kl_weight,
            clip=self.clip,
            updates=self.updates,
            dropout=self.rollout_dropout,
            own_depth=self.own_depth,
            keep_kl=not self.drop_kl_of_ties,
        )


@dataclass(frozen=True)
class TrainingOptions:
    """The budget of training."""

    epochs: int = 200
    """Pre-training epochs at most; 0 leaves pre-training out: the model as it came is measured and kept."""
    rpt_epochs: int = 50
    """Post-training epochs at most; 0 leaves post-training out."""
    patience: int = 10
    """Stop a stage after so many epochs without a better validation NDCG@10."""
    batch_size: int = 1024
    """Samples of a pre-training step; with --positions all, histories."""
    rpt_batch_size: int = 256
    """Samples of a post-training step, each with its rollouts."""
    learning_rate: float = 1e-3
    """Of pre-training."""
    rpt_learning_rate: float = 3e-4
    """Of post-training."""
    schedule: Literal["constant", "cosine"] = "constant"
    """Of both learning rates: as they are, or a short rise, then down to 0 at the last of a stage's --epochs."""
    weight_decay: float = 0.0
    """AdamW's, on the encoder's matrices."""
    clip_norm: float | None = None
    """Largest gradient norm; no clipping when not given."""


def _kept(before: Interactions, after: Interactions) -> str:
    """How much of a table is left, for people; empty where that is everything."""
    counts = {
        "users": (after.num_users, before.num_users),
        "items": (after.num_items, before.num_items),
        "actions": (len(after), len(before)),
    }
    if all(left == there for left, there in counts.values()):
        return ""
    return ", ".join(f"{left:,} of {there:,} {what}" for what, (left, there) in counts.items())
