"""What a model has to beat: chance, Popularity and Followers, as evaluations of the same shape and protocol.

None holds rows x items: chance needs a count of candidates, Popularity a sorted list of counts, Followers the few items
that followed something in a history, some thousand histories at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Int64
from torch import Tensor

from latentloop.data.sequences import Samples
from latentloop.data.splits import Split
from latentloop.errors import InputError
from latentloop.evaluation import describe_protocol
from latentloop.followers import Followers
from latentloop.items.bonus import check_bonus
from latentloop.measures.metrics import CUTOFFS, Ranks
from latentloop.measures.results import Evaluation

__all__ = ["chance", "chance_ranks", "followers", "followers_ranks", "popularity", "popularity_ranks"]

_ROWS = 4096  # samples whose whole past is gathered at a time


def chance(
    split: Split,
    samples: Samples,
    *,
    name: str | None = None,
    exclude_history: bool = False,
    cutoffs: Sequence[int] = CUTOFFS,
    subgroups: bool = False,
    data: str | None = None,
) -> Evaluation:
    """Expected metrics of a random order of the candidates: Recall@K = K / N.

    Args:
        split: where the samples come from.
        samples: what to ask for, such as `split.test`.
        name: the samples' name, for the protocol; None is what they say themselves.
        exclude_history: whether items of the user's past are no candidates.
        cutoffs: the K of Recall@K and NDCG@K.
        subgroups: whether to add metrics by quartile of history length and of the target's popularity.
        data: hash of the data, for the protocol.

    Raises:
        InputError: for no samples.
    """
    ranks = chance_ranks(samples, exclude_history=exclude_history)
    protocol = describe_protocol(
        samples, exclude_history=exclude_history, split=name, stage="chance", rule=split.protocol, data=data
    )
    groups = split.item_counts if subgroups else None
    return Evaluation.of(ranks, samples, cutoffs=cutoffs, protocol=protocol, item_counts=groups)


def popularity(
    split: Split,
    samples: Samples,
    *,
    name: str | None = None,
    exclude_history: bool = False,
    cutoffs: Sequence[int] = CUTOFFS,
    subgroups: bool = False,
    data: str | None = None,
) -> Evaluation:
    """Metrics of ranking by how often each item occurs in training, the same order for everyone, equal counts tied.

    All interactions of the training part count, not only those that are a sample's target. The arguments are those
    of `chance`.

    Raises:
        InputError: for no samples.
    """
    ranks = popularity_ranks(samples, split.item_counts, exclude_history=exclude_history)
    protocol = describe_protocol(
        samples, exclude_history=exclude_history, split=name, stage="Popularity", rule=split.protocol, data=data
    )
    groups = split.item_counts if subgroups else None
    return Evaluation.of(ranks, samples, cutoffs=cutoffs, protocol=protocol, item_counts=groups)


def followers(
    split: Split,
    samples: Samples,
    *,
    name: str | None = None,
    exclude_history: bool = False,
    cutoffs: Sequence[int] = CUTOFFS,
    subgroups: bool = False,
    data: str | None = None,
    counts: Followers | None = None,
) -> Evaluation:
    """Metrics of ranking by how often each item followed those of the history in training, see `Followers`.

    Nothing is trained; items that never followed any are tied. The other arguments are those of `chance`.

    Args:
        counts: of the split's training part, where they are there already; None counts.

    Raises:
        InputError: for no samples.
    """
    counts = Followers.of(split) if counts is None else counts
    ranks = followers_ranks(samples, counts, exclude_history=exclude_history)
    protocol = describe_protocol(
        samples, exclude_history=exclude_history, split=name, stage="Followers", rule=split.protocol, data=data
    )
    groups = split.item_counts if subgroups else None
    return Evaluation.of(ranks, samples, cutoffs=cutoffs, protocol=protocol, item_counts=groups)


def chance_ranks(samples: Samples, *, exclude_history: bool = False) -> Ranks:
    """Ranks of a scorer that gives every candidate the same score.

    Args:
        samples: S samples.
        exclude_history: whether items of the user's past are no candidates; the target always is one.
    """
    samples = samples.to("cpu")
    others = torch.full((len(samples),), samples.num_items - 1)
    if exclude_history:
        for index, row, _ in _excluded(samples):
            others[index] -= torch.bincount(row, minlength=len(index))
    return Ranks(torch.zeros_like(others), others)


def popularity_ranks(
    samples: Samples, item_counts: Int64[Tensor, " N_and_one"], *, exclude_history: bool = False
) -> Ranks:
    """Ranks of the targets in the order of `item_counts`, equal counts tied.

    Naive equivalent: `greater = sum(counts[i] > counts[target] for i in candidates)`, ties alike with `==`.

    Args:
        samples: S samples.
        item_counts: (N + 1,) occurrences in training; place 0 is padding and not a candidate.
        exclude_history: whether items of the user's past are no candidates; the target always is one.

    Raises:
        InputError: for counts of another catalog.
    """
    samples, counts = samples.to("cpu"), item_counts.cpu()
    if len(counts) != samples.num_items + 1:
        raise InputError(
            f"item_counts must have {samples.num_items + 1} places, padding and {samples.num_items} items, "
            f"got {len(counts)}"
        )
    ordered = counts[1:].sort().values
    target = counts[samples.target(torch.arange(len(samples)))]
    above = torch.searchsorted(ordered, target, right=True)
    greater, ties = len(ordered) - above, above - torch.searchsorted(ordered, target) - 1
    if exclude_history:
        for index, row, item in _excluded(samples):
            count, wanted = counts[item], target[index][row]
            greater[index] -= torch.bincount(row[count > wanted], minlength=len(index))
            ties[index] -= torch.bincount(row[count == wanted], minlength=len(index))
    return Ranks(greater, ties)


def followers_ranks(samples: Samples, counts: Followers, *, exclude_history: bool = False) -> Ranks:
    """Ranks of the targets in the order of their counts after each history, equal counts tied.

    Naive equivalent: `greater = sum(n[i] > n[target] for i in candidates)`, ties alike with `==`.

    Args:
        samples: S samples.
        counts: of the training part.
        exclude_history: whether items of the user's past are no candidates; the target always is one.

    Raises:
        InputError: for counts of another catalog or numbering.
    """
    check_bonus(counts, samples.num_items, samples.sequences.item_ids)
    samples, counts, size = samples.to("cpu"), counts.to("cpu"), samples.num_items + 1
    greater, ties = torch.empty(2, len(samples), dtype=torch.int64)
    excluded = _excluded(samples) if exclude_history else None
    for index in torch.split(torch.arange(len(samples)), _ROWS):
        row, item, count = counts.counted(samples.whole(index, counts.newest))
        left = torch.full((len(index),), samples.num_items)  # candidates
        if excluded is not None:
            _, past, known = next(excluded)
            left -= torch.bincount(past, minlength=len(index))
            kept = ~torch.isin(row * size + item, past * size + known)
            row, item, count = row[kept], item[kept], count[kept]
        own = torch.zeros(len(index))
        hit = item == samples.target(index)[row]
        own[row[hit]] = count[hit]
        greater[index] = torch.bincount(row[count > own[row]], minlength=len(index))
        equal = torch.bincount(row[count == own[row]], minlength=len(index))
        uncounted = left - torch.bincount(row, minlength=len(index))
        ties[index] = torch.where(own > 0, equal, uncounted) - 1
    return Ranks(greater, ties)


def _excluded(samples: Samples) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Which items are no candidates, a few samples at a time: (index (B,), row of each (n,), item (n,)).

    An item occurs once a row, however often the user had it, and the target never.
    """
    size = samples.num_items + 1
    for index in torch.split(torch.arange(len(samples)), _ROWS):
        items, offsets = samples.past(index)
        rows = torch.repeat_interleave(torch.arange(len(index)), offsets.diff())
        pairs = torch.unique(rows * size + items)
        row, item = pairs // size, pairs % size
        other = item != samples.target(index)[row]
        yield index, row[other], item[other]
