"""Whether one evaluation beats another on the same users by more than chance: paired tests over users.

Users are the independent units: where a user has several samples, the user's mean difference counts once.
Differences of ranking metrics take few distinct values, so both resampling tests draw how often each value comes up
(the same distribution as drawing users one by one) and cost resamples x values, not resamples x users. MRR takes as
many values as there are users: there, fewer resamples save time.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from latentloop.errors import InputError
from latentloop.measures.metrics import parse_metric
from latentloop.measures.results import Evaluation
from latentloop.measures.student import two_sided_p, two_sided_quantile
from latentloop.randomness import fold

__all__ = ["PairedTest", "bootstrap_interval", "caveat", "compare", "paired_t", "sign_flip_p", "user_differences"]

_CELLS = 1 << 22  # numbers drawn at a time
_SEEDS = 3  # with fewer, a difference is those seeds'
_EXACT = 16  # at most so many differences have all their sign patterns tried


@dataclass(frozen=True)
class PairedTest:
    """A paired comparison over users. `str` of it is one line.

    Args:
        metric: what was compared.
        users: number of users.
        difference: mean over users of first minus second.
        confidence: of both intervals.
        interval: of the mean difference, from the t distribution.
        p_t: two-sided p of the paired t-test.
        bootstrap: percentile interval of the mean difference over resampled users.
        p_sign_flip: two-sided p of the sign-flip permutation test.
    """

    metric: str
    users: int
    difference: float
    confidence: float
    interval: tuple[float, float]
    p_t: float
    bootstrap: tuple[float, float]
    p_sign_flip: float

    def __str__(self) -> str:
        return (
            f"{self.metric} {self.difference:+.4f}, {self.confidence:.0%} interval [{self.interval[0]:+.4f}, "
            f"{self.interval[1]:+.4f}] (bootstrap [{self.bootstrap[0]:+.4f}, {self.bootstrap[1]:+.4f}]), "
            f"p {self.p_t:.2g} (t), {self.p_sign_flip:.2g} (sign flips), {self.users:,} users"
        )


def compare(
    first: Evaluation,
    second: Evaluation,
    metric: str = "ndcg@10",
    *,
    confidence: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> PairedTest:
    """Compare two evaluations of the same samples.

    Args:
        first: the candidate.
        second: what it is held against.
        metric: "recall@K", "ndcg@K" or "mrr", any K.
        confidence: of the intervals, in (0, 1).
        resamples: draws of the bootstrap and of the sign flips.
        seed: keys both.

    Raises:
        InputError: for evaluations of different samples or under different protocols, or fewer than 2 users.
    """
    differences = user_differences(first, second, metric)
    mean, interval, p_t = paired_t(differences, confidence=confidence)
    return PairedTest(
        metric=metric,
        users=len(differences),
        difference=mean,
        confidence=confidence,
        interval=interval,
        p_t=p_t,
        bootstrap=bootstrap_interval(differences, confidence=confidence, resamples=resamples, seed=seed),
        p_sign_flip=sign_flip_p(differences, resamples=resamples, seed=seed),
    )


def caveat(seeds: int, p: float) -> str:
    """What to add to a difference: p is about the users of the trained weights, and says nothing of other seeds.

    Args:
        seeds: how many seeds' training it is of.
        p: of a paired test over users.
    """
    if seeds < _SEEDS:
        return f" in {'one seed' if seeds <= 1 else f'{seeds} seeds'}: another may differ"
    return "" if p < 0.05 else ", which may be noise"


def user_differences(first: Evaluation, second: Evaluation, metric: str = "ndcg@10") -> Float64[Tensor, " U"]:
    """Each user's mean difference of a metric, first minus second, users in ascending order.

    Args:
        first: the candidate.
        second: what it is held against.
        metric: see `compare`.

    Raises:
        InputError: for evaluations of different samples or under different protocols.
    """
    for name in ("split", "candidates", "history", "ties", "rule", "data"):
        a, b = getattr(first.protocol, name), getattr(second.protocol, name)
        if a != b and not (name in ("rule", "data") and None in (a, b)):
            raise InputError(f"evaluations differ in {name}: {a!r} and {b!r}; evaluate both under one protocol")
    if not torch.equal(first.user, second.user):
        raise InputError(
            f"evaluations are of different samples ({len(first.user)} and {len(second.user)}); evaluate both on one set"
        )
    if not _ask_alike(first, second):
        raise InputError("evaluations ask for different items of the same users; evaluate both on one set")
    score = parse_metric(metric)
    users, place, samples = torch.unique(first.user, return_inverse=True, return_counts=True)
    sums = torch.zeros(len(users), dtype=torch.float64).index_add_(0, place, score(first.ranks) - score(second.ranks))
    means: Tensor = sums / samples
    return means


def _ask_alike(first: Evaluation, second: Evaluation) -> bool:
    """Whether the targets are the same items, as far as both say."""
    if first.target is None or second.target is None or torch.equal(first.target, second.target):
        return True
    if first.item_ids is None or second.item_ids is None:
        return False
    names = zip(first.target.tolist(), second.target.tolist(), strict=True)
    return all(str(first.item_ids[one - 1]) == str(second.item_ids[other - 1]) for one, other in names)


def paired_t(
    differences: Float64[Tensor, " U"], *, confidence: float = 0.95
) -> tuple[float, tuple[float, float], float]:
    """The mean difference, its interval and the two-sided p of the paired t-test.

    Args:
        differences: one a user, at least 2.
        confidence: of the interval, in (0, 1).

    Raises:
        InputError: for fewer than 2 users or a confidence out of range.
    """
    count = _checked(differences, confidence)
    mean, error = float(differences.mean()), float(differences.std()) / math.sqrt(count)
    margin = two_sided_quantile(confidence, count - 1) * error
    if error == 0:
        return mean, (mean, mean), 1.0 if mean == 0 else 0.0
    return mean, (mean - margin, mean + margin), two_sided_p(mean / error, count - 1)


def bootstrap_interval(
    differences: Float64[Tensor, " U"], *, confidence: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> tuple[float, float]:
    """The percentile interval of the mean over resampled users.

    Naive equivalent: quantiles of `mean(choice(differences, U, replace=True))` over the resamples.

    Args:
        differences: one a user, at least 2.
        confidence: of the interval, in (0, 1).
        resamples: number of draws.
        seed: keys the draws.

    Raises:
        InputError: for fewer than 2 users, no resamples or a confidence out of range.
    """
    count = _checked(differences, confidence, resamples)
    values, often = np.unique(differences.numpy(), return_counts=True)
    draw = np.random.default_rng(fold(seed, "bootstrap"))
    means = np.concatenate(
        [draw.multinomial(count, often / count, size) @ values for size in _chunks(resamples, len(values))]
    )
    low, high = np.quantile(means / count, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def sign_flip_p(differences: Float64[Tensor, " U"], *, resamples: int = 10_000, seed: int = 0) -> float:
    """Two-sided p of the mean under random signs; exact where all patterns of signs are few.

    If neither were better, each user's difference could as well have had the other sign. p is the share of sign
    patterns whose mean is at least as far from 0; drawn ones count the observed pattern too, so p is never 0.

    Args:
        differences: one a user, at least 2.
        resamples: number of draws.
        seed: keys the draws.

    Raises:
        InputError: for fewer than 2 users or no resamples.
    """
    _checked(differences, resamples=resamples)
    array = differences.numpy()
    array = array[array != 0]  # whose sign changes nothing
    # sums of equal terms in another order may differ in the last digits, which must not make them unequal
    bar = abs(array.sum()) - 1e-12 * np.abs(array).sum()
    if len(array) <= _EXACT and 1 << len(array) <= resamples:
        signs = 1 - 2 * (np.arange(1 << len(array))[:, None] >> np.arange(len(array)) & 1)
        return float((np.abs(signs @ array) >= bar).mean())
    sizes, often = np.unique(np.abs(array), return_counts=True)
    draw = np.random.default_rng(fold(seed, "sign flips"))
    reached = 1
    for size in _chunks(resamples, len(sizes)):
        positive = draw.binomial(often, 0.5, (size, len(sizes)))
        reached += int((np.abs((2 * positive - often) @ sizes) >= bar).sum())
    return reached / (resamples + 1)


def _chunks(resamples: int, values: int) -> Iterator[int]:
    """Numbers of draws that sum to `resamples`, each of bounded memory."""
    step = max(1, _CELLS // max(1, values))
    for begin in range(0, resamples, step):
        yield min(step, resamples - begin)


def _checked(differences: Tensor, confidence: float = 0.95, resamples: int = 1) -> int:
    if len(differences) < 2:
        raise InputError(f"differences: {len(differences)} user(s), a paired test needs at least 2")
    if not bool(differences.abs().sum().isfinite()):
        raise InputError("differences must be finite, and so must be their sum")
    if not 0 < confidence < 1:
        raise InputError(f"confidence must lie between 0 and 1, got {confidence!r}")
    if resamples < 1:
        raise InputError(f"resamples must be at least 1, got {resamples!r}")
    return len(differences)
