"""What an evaluation came to: metrics that carry the protocol they were measured with, and each sample's rank."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Int64
from torch import Tensor

from latentloop.data.interactions import Id
from latentloop.data.sequences import Samples
from latentloop.errors import InputError
from latentloop.measures.metrics import Ranks, metric_table

__all__ = ["Evaluation", "Protocol", "Subgroup", "subgroups_of"]


@dataclass(frozen=True)
class Protocol:
    """Everything a number depends on beside the model's weights.

    Args:
        split: which samples were asked for, such as "validation" or "test"; "unnamed" where nobody said.
        candidates: what the target competes with.
        history: "kept" or "excluded": whether items of the user's past are candidates too (the target always is).
        depth: thoughts before the answer; None where nothing thinks.
        stage: what trained the model, such as "spt"; None where not said.
        seeds: seeds of the training.
        users: number of users with a sample.
        samples: number of samples.
        ties: what a target that shares its score with others gets.
        rule: how the data was split, such as "leave-one-out"; None where not said.
        data: hash of the data; None where not said.
        cut: the most items of a history that the samples held, where some had more and the model reads more; else None.
        bonus: what was added to the model's scores; None for nothing.
    """

    split: str
    candidates: str
    history: str
    depth: int | None
    stage: str | None
    seeds: tuple[int, ...]
    users: int
    samples: int
    ties: str = "expectation over random order"
    rule: str | None = None
    data: str | None = None
    cut: int | None = None
    bonus: str | None = None

    def parts(self) -> dict[str, str]:
        """Each thing that is known, in words, by field."""
        part = {
            "split": f"{self.split} split",
            "rule": self.rule or "",
            "users": f"{self.users:,} users",
            "samples": f"{self.samples:,} samples" if self.samples != self.users else "",
            "candidates": self.candidates,
            "history": f"history {self.history}",
            "cut": f"histories cut to {self.cut} items" if self.cut is not None else "",
            "depth": f"depth {self.depth}" if self.depth is not None else "",
            "stage": f"stage {self.stage}" if self.stage else "",
            "bonus": f"plus {self.bonus}" if self.bonus else "",
            "seeds": f"seed{'s' * (len(self.seeds) > 1)} {', '.join(map(str, self.seeds))}" if self.seeds else "",
            "ties": f"ties: {self.ties}",
            "data": f"data {self.data[:12]}" if self.data else "",
        }
        return {name: words for name, words in part.items() if words}

    def __str__(self) -> str:
        return ", ".join(self.parts().values())


@dataclass(frozen=True)
class Subgroup:
    """The metrics of a part of the samples.

    Args:
        by: what the samples were grouped by, "history length" or "target popularity".
        low: the group's smallest value.
        high: its largest.
        size: number of samples.
        metrics: means over the group, by name.
    """

    by: str
    low: int
    high: int
    size: int
    metrics: Mapping[str, float]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {"by": self.by, "low": self.low, "high": self.high, "size": self.size, "metrics": dict(self.metrics)}


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Metrics with their protocol, and what they were computed from. `str` tells both, and of other depths the metrics.

    Args:
        metrics: means over samples, by name ("recall@5", "ndcg@5", ..., "mrr").
        protocol: what they were measured with.
        ranks: of S samples, in the samples' order, on the CPU.
        user: (S,) int64, each sample's user, for tests over users.
        cutoffs: the K of the metrics.
        depth_ranks: the ranks at each depth that was asked for, the protocol's depth included.
        subgroups: metrics of parts of the samples; empty where not asked for.
        target: (S,) int64, the item that each sample asks for; None where nobody said.
        item_ids: the original ids of items 1..N, so that targets of another numbering are known; None where nobody said.
    """

    metrics: Mapping[str, float]
    protocol: Protocol
    ranks: Ranks
    user: Int64[Tensor, " S"]
    cutoffs: tuple[int, ...]
    depth_ranks: Mapping[int, Ranks] = field(default_factory=dict)
    subgroups: tuple[Subgroup, ...] = ()
    target: Int64[Tensor, " S"] | None = None
    item_ids: Sequence[Id] | None = None

    @classmethod
    def of(
        cls,
        ranks: Ranks,
        samples: Samples,
        *,
        cutoffs: Iterable[int],
        protocol: Protocol,
        depth_ranks: Mapping[int, Ranks] | None = None,
        item_counts: Int64[Tensor, " N_and_one"] | None = None,
    ) -> Evaluation:
        """Sum up ranks.

        Args:
            ranks: of the samples, in their order.
            samples: what was ranked.
            cutoffs: the K of Recall@K and NDCG@K.
            protocol: what the ranks were measured with.
            depth_ranks: ranks at other depths.
            item_counts: how often each item occurs in training; given, the metrics of subgroups come too.
        """
        cutoffs = tuple(cutoffs)
        groups = () if item_counts is None else subgroups_of(ranks, samples, item_counts, cutoffs)
        metrics, user = metric_table(ranks, cutoffs), samples.user.cpu()
        target = _targets(samples) if samples.has_target else None
        ids = samples.sequences.item_ids
        return cls(metrics, protocol, ranks, user, cutoffs, dict(depth_ranks or {}), groups, target, ids)

    @property
    def per_depth(self) -> dict[int, dict[str, float]]:
        """The metrics at each depth that was asked for, shallow to deep; empty where nothing thinks."""
        return {depth: metric_table(ranks, self.cutoffs) for depth, ranks in sorted(self.depth_ranks.items())}

    def at(self, depth: int) -> Evaluation:
        """The same evaluation at another depth that was asked for, without subgroups: to compare depths pairwise.

        Args:
            depth: one of `per_depth`.

        Raises:
            InputError: for a depth that was not asked for.
        """
        if depth not in self.depth_ranks:
            known = ", ".join(map(str, sorted(self.depth_ranks))) or "none"
            raise InputError(f"depth: {depth} was not evaluated; pass depths= to evaluate (evaluated: {known})")
        ranks = self.depth_ranks[depth]
        metrics, protocol = metric_table(ranks, self.cutoffs), replace(self.protocol, depth=depth)
        return replace(self, metrics=metrics, protocol=protocol, ranks=ranks, subgroups=())

    def to_dict(self) -> dict[str, Any]:
        """Metrics, protocol, depths and subgroups as plain values; single samples' ranks stay out."""
        protocol = {name: getattr(self.protocol, name) for name in self.protocol.__dataclass_fields__}
        return {
            "metrics": dict(self.metrics),
            "protocol": protocol | {"seeds": list(self.protocol.seeds)},
            "per_depth": {str(depth): metrics for depth, metrics in self.per_depth.items()},
            "subgroups": [group.to_dict() for group in self.subgroups],
        }

    def to_json(self, *, indent: int | None = None) -> str:
        """`to_dict` as JSON text."""
        return json.dumps(self.to_dict(), indent=indent, allow_nan=False)

    def __str__(self) -> str:
        lines = [_words(self.metrics), f"[{self.protocol}]"]
        if len(self.depth_ranks) > 1:
            lines += [f"depth {depth}: {_words(metrics)}" for depth, metrics in self.per_depth.items()]
        return "\n".join(lines)


def subgroups_of(
    ranks: Ranks,
    samples: Samples,
    item_counts: Int64[Tensor, " N_and_one"],
    cutoffs: Iterable[int],
) -> tuple[Subgroup, ...]:
    """Metrics by quartile of history length, uncut, and of the target's popularity in training.

    Samples of equal value always share a group, so groups may differ in size and there may be fewer than four.

    Args:
        ranks: of the samples, in their order.
        samples: S samples with targets.
        item_counts: (N + 1,) how often each item occurs in training, place 0 is padding.
        cutoffs: the K of the metrics.

    Raises:
        InputError: for counts of another catalog.
    """
    if len(item_counts) != samples.num_items + 1:
        raise InputError(
            f"item_counts must have {samples.num_items + 1} places, padding and {samples.num_items} items, "
            f"got {len(item_counts)}"
        )
    length = samples.end - samples.sequences.offsets[samples.user]
    values = {"history length": length.cpu(), "target popularity": item_counts.cpu()[_targets(samples)]}
    return tuple(
        _subgroup(by, value, ranks, group, tuple(cutoffs))
        for by, value in values.items()
        for group in _quartiles(value)
    )


def _targets(samples: Samples) -> Int64[Tensor, " S"]:
    return samples.target(torch.arange(len(samples), device=samples.device)).cpu()


def _words(metrics: Mapping[str, float]) -> str:
    return "  ".join(f"{name} {value:.4f}" for name, value in metrics.items())


def _subgroup(by: str, value: Tensor, ranks: Ranks, index: Tensor, cutoffs: tuple[int, ...]) -> Subgroup:
    inside = value[index]
    metrics = metric_table(ranks.select(index), cutoffs)
    return Subgroup(by, int(inside.min()), int(inside.max()), len(index), metrics)


def _quartiles(value: Int64[Tensor, " S"]) -> list[Int64[Tensor, " _"]]:
    """Positions of the samples of each group, low values to high: a quarter ends at a value, never within one."""
    ordered = value.sort().values
    edges = ordered[[len(value) * quarter // 4 for quarter in (1, 2, 3)]]
    group = torch.bucketize(value, torch.unique(edges), right=True)
    return [index for number in range(4) if len(index := torch.nonzero(group == number)[:, 0])]
