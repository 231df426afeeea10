"""Recall, NDCG and MRR of one target a sample, each as its expectation over random order among ties.

A sample's rank is known by two counts: `greater`, how many candidates score higher than the target, and `ties`, how
many others score the same. The target's place is then uniform on greater + 1 .. greater + ties + 1, and the mean of a
metric over these places is a difference of cumulative sums. A scorer that says nothing thus gets chance level, and no
order of items can be exploited.

Shapes: S samples.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float64, Int64
from torch import Tensor

from latentloop.checks import at_least
from latentloop.errors import InputError

__all__ = [
    "CUTOFFS",
    "Metric",
    "Ranks",
    "as_cutoff",
    "metric_names",
    "metric_table",
    "mrr",
    "ndcg",
    "parse_metric",
    "recall",
]

CUTOFFS = (5, 10, 20)
"""The K of Recall@K and NDCG@K in every table, unless asked otherwise."""
_LARGEST = 2**62
"""The largest cut-off: torch counts with 64 bits."""


@dataclass(frozen=True, eq=False)
class Ranks:
    """Where each sample's target stands among its candidates.

    Args:
        greater: (S,) int64, candidates with a higher score than the target.
        ties: (S,) int64, other candidates with the same score.
    """

    greater: Int64[Tensor, " S"]
    ties: Int64[Tensor, " S"]

    def __len__(self) -> int:
        return len(self.greater)

    def select(self, index: Int64[Tensor, " n"] | Bool[Tensor, " S"]) -> Ranks:
        """The ranks of the samples at `index` (positions or a mask)."""
        return Ranks(self.greater[index], self.ties[index])


@dataclass(frozen=True)
class Metric:
    """A metric by kind and cut-off; `str` of it is its name in tables, such as "ndcg@10" or "mrr".

    Args:
        kind: "recall", "ndcg" or "mrr".
        cutoff: K, or None for "mrr".
    """

    kind: str
    cutoff: int | None = None

    def __str__(self) -> str:
        return self.kind if self.cutoff is None else f"{self.kind}@{self.cutoff}"

    def __call__(self, ranks: Ranks) -> Float64[Tensor, " S"]:
        """The metric of each sample."""
        if self.cutoff is None:
            return mrr(ranks)
        return (recall if self.kind == "recall" else ndcg)(ranks, self.cutoff)


def parse_metric(name: str) -> Metric:
    """The metric of a name: "recall@K", "ndcg@K" or "mrr".

    Raises:
        InputError: for any other name.
    """
    if name == "mrr":
        return Metric("mrr")
    found = re.fullmatch(r"(recall|ndcg)@([1-9][0-9]*)", name) if isinstance(name, str) else None
    if found is None:
        raise InputError(f"metric must be recall@K, ndcg@K (K a whole number of at least 1) or mrr, got {name!r}")
    return Metric(found[1], as_cutoff("the metric's K", int(found[2])))


def as_cutoff(name: str, value: object) -> int:
    """Return `value` if it is a cut-off that can be counted with, else raise `InputError`."""
    cutoff = at_least(name, value, 1)
    if cutoff > _LARGEST:
        raise InputError(f"{name} must be at most {_LARGEST}, got {cutoff}")
    return cutoff


def metric_names(cutoffs: Sequence[int] = CUTOFFS) -> tuple[str, ...]:
    """Names of all metrics in the order of tables: recall@K and ndcg@K for each K, then mrr.

    Raises:
        InputError: for a cut-off below 1.
    """
    for cutoff in cutoffs:
        as_cutoff("each of cutoffs", cutoff)
    return (*(f"{kind}@{cutoff}" for cutoff in cutoffs for kind in ("recall", "ndcg")), "mrr")


def metric_table(ranks: Ranks, cutoffs: Sequence[int] = CUTOFFS) -> dict[str, float]:
    """The mean of every metric over samples, by name.

    Args:
        ranks: of S samples, at least one.
        cutoffs: the K of Recall@K and NDCG@K.

    Raises:
        InputError: for a cut-off below 1, or no samples.
    """
    names = metric_names(cutoffs)
    if not len(ranks):
        raise InputError("ranks: no samples, and the mean of nothing is not a number")
    return {name: float(parse_metric(name)(ranks).mean()) for name in names}


def recall(ranks: Ranks, cutoff: int) -> Float64[Tensor, " S"]:
    """Expected Recall@K: the share of the target's possible places that are at most K.

    Naive equivalent: `mean(place <= K for place in range(greater + 1, greater + ties + 2))`.

    Args:
        ranks: of S samples.
        cutoff: K; above the number of candidates it gives 1.

    Raises:
        InputError: for a cut-off below 1.
    """
    as_cutoff("cutoff", cutoff)
    places = ranks.ties + 1
    return (cutoff - ranks.greater).clamp_min(0).minimum(places).double() / places


def ndcg(ranks: Ranks, cutoff: int) -> Float64[Tensor, " S"]:
    """Expected NDCG@K of a single relevant item: the mean of 1 / log2(place + 1) over places, 0 beyond K.

    Naive equivalent: `mean((place <= K) / log2(place + 1) for place in range(greater + 1, greater + ties + 2))`.

    Args:
        ranks: of S samples.
        cutoff: K; may exceed the number of candidates.

    Raises:
        InputError: for a cut-off below 1.
    """
    as_cutoff("cutoff", cutoff)
    return _expected(ranks, cutoff, lambda place: 1.0 / torch.log2(place + 1.0))


def mrr(ranks: Ranks) -> Float64[Tensor, " S"]:
    """Expected reciprocal rank: the mean of 1 / place over places.

    Naive equivalent: `mean(1 / place for place in range(greater + 1, greater + ties + 2))`.

    Args:
        ranks: of S samples.
    """
    return _expected(ranks, None, torch.reciprocal)


def _expected(ranks: Ranks, cutoff: int | None, gain: Callable[[Tensor], Tensor]) -> Float64[Tensor, " S"]:
    """The mean of `gain(place)`, 0 beyond the cut-off, over places greater + 1 .. greater + ties + 1."""
    if not len(ranks):
        return torch.zeros(0, dtype=torch.float64, device=ranks.ties.device)
    last = ranks.greater + ranks.ties + 1
    length = int(last.max()) if cutoff is None else min(cutoff, int(last.max()))
    gains = gain(torch.arange(1, length + 1, dtype=torch.float64, device=last.device))
    sums = torch.cat([gains.new_zeros(1), gains.cumsum(0)])
    mean = (sums[last.clamp_max(length)] - sums[ranks.greater.clamp_max(length)]) / (ranks.ties + 1)
    # without ties the gain itself: a difference of sums would lose its last digits to the sums' size
    alone = torch.where(ranks.greater < length, gains[ranks.greater.clamp_max(length - 1)], 0.0)
    return torch.where(ranks.ties == 0, alone, mean)
