"""Full ranking: every sample's target against all items, at one depth or several from a single run."""

from __future__ import annotations

import operator
import typing
from collections.abc import Iterable, Sequence
from contextlib import nullcontext

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from latentloop.across_ranks import ALONE, Processes
from latentloop.catalog import warn_of_cut
from latentloop.checks import as_deep, at_least
from latentloop.data.sequences import Samples
from latentloop.encoder import Thoughts
from latentloop.errors import InputError, InputTypeError
from latentloop.histories import Histories
from latentloop.items.bonus import Bonus, Scores, bonus_of, check_bonus, looks_back, name_of, times
from latentloop.items.ranks import count_ranks
from latentloop.items.same_keys import same_keys
from latentloop.measures.metrics import CUTOFFS, Ranks, metric_names
from latentloop.measures.results import Evaluation, Protocol, Subgroup
from latentloop.modes.dropout import evaluating
from latentloop.thought_batches import check_asked, thought_batches

__all__ = ["Evaluation", "Protocol", "Subgroup", "Thinker", "describe_protocol", "evaluate", "ranks", "weighted_ranks"]


@typing.runtime_checkable
class Thinker(typing.Protocol):
    """What is evaluated: `Recommender`, or anything that thinks and scores like it."""

    @property
    def num_items(self) -> int:
        """N, the number of items."""
        ...

    @property
    def inference_depth(self) -> int:
        """The depth of an answer when none is asked for."""
        ...

    def think(self, history: Tensor, *, depth: int | None = None) -> Thoughts:
        """(B, L) left-padded item ids -> thoughts with `steps` (k, B, d)."""
        ...

    def queries(self, thoughts: Tensor) -> Tensor:
        """(*n, d) -> (*n, d); score(thought, item i) = queries(thought) . keys()[i - 1]."""
        ...

    def keys(self) -> Tensor:
        """(N, d), one an item."""
        ...


def evaluate(
    model: Thinker,
    samples: Samples,
    *,
    depth: int | None = None,
    depths: Sequence[int] | None = None,
    exclude_history: bool = False,
    cutoffs: Sequence[int] = CUTOFFS,
    batch_size: int = 1024,
    split: str | None = None,
    stage: str | None = None,
    seeds: int | Iterable[int] | None = None,
    subgroups: bool = False,
    item_counts: Int64[Tensor, " N_and_one"] | None = None,
    rule: str | None = None,
    data: str | None = None,
    progress: bool = False,
    processes: Processes = ALONE,
    bonus: Bonus | None = None,
) -> Evaluation:
    """Rank every sample's target among all N items and sum up, with the protocol beside the numbers.

    Args:
        model: what to evaluate; it runs on its own device, in eval mode, and gets its mode back.
        samples: what to ask for; on any device.
        depth: thoughts before the answer; None is the model's inference depth.
        depths: further depths for the per-depth curve; all come from one run to the deepest.
        exclude_history: whether items of the user's whole past are no candidates; the target always is one.
        cutoffs: the K of Recall@K and NDCG@K.
        batch_size: samples at a time.
        split: the samples' name, for the protocol; None is what they say themselves.
        stage: what trained the model, for the protocol.
        seeds: the seed of the training or several, for the protocol.
        subgroups: whether to add metrics by quartile of history length and of the target's popularity.
        item_counts: (N + 1,) how often each item occurs in training (`split.item_counts`), for `subgroups`.
        rule: how the data was split, for the protocol.
        data: hash of the data, for the protocol.
        progress: whether to show a progress bar.
        processes: who ranks a part each; every one of them calls this, and gets the whole.
        bonus: what is added to the scores of some items of each history, such as `Followers`.

    Raises:
        InputError: for no samples, a depth the model cannot run at, a NaN score, or a catalog unlike the model's.
        InputTypeError: for seeds that are no whole numbers, or one number for `depths` or `cutoffs`.
    """
    cutoffs, depths = _several("cutoffs", cutoffs), () if depths is None else _several("depths", depths)
    metric_names(cutoffs)  # before the work, not after it
    seeds = _seeds(seeds)
    if subgroups and item_counts is None:
        raise InputError("item_counts: needed for subgroups by popularity; pass split.item_counts")
    check_asked(model, samples)
    depth = model.inference_depth if depth is None else depth
    by_depth = ranks(
        model,
        samples,
        depths=[depth, *depths],
        exclude_history=exclude_history,
        batch_size=batch_size,
        progress=progress,
        processes=processes,
        bonus=bonus,
    )
    protocol = describe_protocol(
        samples,
        exclude_history=exclude_history,
        depth=depth,
        split=split,
        stage=stage,
        seeds=seeds,
        rule=rule,
        data=data,
        cut=warn_of_cut(model, samples),
        bonus=name_of(bonus),
    )
    return Evaluation.of(
        by_depth[depth],
        samples,
        cutoffs=cutoffs,
        protocol=protocol,
        depth_ranks=by_depth,
        item_counts=item_counts if subgroups else None,
    )


def describe_protocol(
    samples: Samples,
    *,
    exclude_history: bool,
    depth: int | None = None,
    split: str | None = None,
    stage: str | None = None,
    seeds: int | Iterable[int] | None = None,
    rule: str | None = None,
    data: str | None = None,
    cut: int | None = None,
    bonus: str | None = None,
) -> Protocol:
    """The protocol of a full ranking of `samples`; `cut` and `bonus` as in `Protocol`, the others as in `evaluate`."""
    return Protocol(
        split=split or samples.part or "unnamed",
        candidates=f"all {samples.num_items:,} items",
        history="excluded" if exclude_history else "kept",
        depth=depth,
        stage=stage,
        seeds=_seeds(seeds),
        users=len(torch.unique(samples.user)),
        samples=len(samples),
        rule=rule,
        data=data,
        cut=cut,
        bonus=bonus,
    )


def ranks(
    model: Thinker,
    samples: Samples,
    *,
    depths: Sequence[int],
    exclude_history: bool = False,
    batch_size: int = 1024,
    progress: bool = False,
    processes: Processes = ALONE,
    bonus: Bonus | None = None,
) -> dict[int, Ranks]:
    """Each sample's rank at each depth, in the samples' order, on the CPU.

    One run to the deepest depth gives all of them, since the first j of k thoughts are those of a run of depth j.
    Scores of a batch never exist at once beyond a chunk of `count_ranks`.

    Args:
        model: what to rank with.
        samples: S samples.
        depths: at least one.
        exclude_history: whether items of the user's whole past are no candidates; the target always is one.
        batch_size: samples at a time.
        progress: whether to show a progress bar.
        processes: see `evaluate`; a batch is ranked by one of them, the same batches whatever their number.
        bonus: see `evaluate`.

    Raises:
        InputError: see `evaluate`.
    """
    return weighted_ranks(
        model, samples, depths=depths, bonus=bonus, weights=(1.0,), exclude_history=exclude_history,
        batch_size=batch_size, progress=progress, processes=processes,
    )[1.0]  # fmt: skip


def weighted_ranks(
    model: Thinker,
    samples: Samples,
    *,
    depths: Sequence[int],
    bonus: Bonus | None,
    weights: Sequence[float],
    exclude_history: bool = False,
    batch_size: int = 1024,
    progress: bool = False,
    processes: Processes = ALONE,
) -> dict[float, dict[int, Ranks]]:
    """Ranks at each depth with a bonus times each weight, for which the model thinks once.

    Naive equivalent: `{weight: ranks(..., bonus=lambda history: weight * bonus(history)) for weight in weights}`, from the
    same start states.

    Args:
        model: see `ranks`, as all that is not named here.
        samples: S samples.
        depths: at least one.
        bonus: what is weighted; of None every weight has the model's own ranks.
        weights: any number of them; of 0 the scores are the model's own.

    Raises:
        InputError: see `evaluate`.
    """
    deepest = max((as_deep("depth", depth) for depth in depths), default=0)
    if not deepest:
        raise InputError("depths: none given, expected at least one")
    batch_size = at_least("batch_size", batch_size, 1)
    check_asked(model, samples)
    check_bonus(bonus, samples.num_items, samples.sequences.item_ids)
    with evaluating(model) if isinstance(model, nn.Module) else nullcontext(), torch.no_grad():
        keys = model.keys()
        same = same_keys(keys)
        samples = samples.to(keys.device)
        found = {
            weight: {depth: torch.zeros(2, len(samples), dtype=torch.int64) for depth in depths} for weight in weights
        }
        for index, steps in thought_batches(
            model, samples, depth=deepest, dim=keys.shape[1], batch_size=batch_size, progress=progress,
            processes=processes,
        ):  # fmt: skip
            target, exclude = samples.target(index), samples.past(index) if exclude_history else None
            # as when recommending, a bonus may look further back than the model
            more = None
            if bonus is not None:
                more = bonus_of(bonus, Histories(*samples.past(index, looks_back(bonus))), len(keys))
            for weight, by_depth in found.items():
                own = None if more is None or not weight else times(more, weight)
                for depth, place in by_depth.items():
                    place[:, index.cpu()] = _count(model, steps[depth - 1], keys, same, target, exclude, own)
    return {
        weight: {depth: Ranks(*processes.add_up(place)) for depth, place in sorted(by_depth.items())}
        for weight, by_depth in found.items()
    }


def _several(name: str, numbers: Iterable[int]) -> tuple[int, ...]:
    if not isinstance(numbers, Iterable):
        raise InputTypeError(f"{name} must be several whole numbers, such as (5, 10), got {numbers!r}")
    return tuple(numbers)


def _seeds(seeds: int | Iterable[int] | None) -> tuple[int, ...]:
    """Seeds as a protocol holds them: plain ints, of which JSON is made."""
    if seeds is None:
        return ()
    try:
        return tuple(map(operator.index, seeds if isinstance(seeds, Iterable) else (seeds,)))
    except TypeError:
        raise InputTypeError(f"seeds must be a whole number or several, such as (0, 1, 2), got {seeds!r}") from None


def _count(
    model: Thinker,
    thoughts: Float[Tensor, "B d"],
    keys: Float[Tensor, "N d"],
    same: tuple[Tensor, Tensor],
    target: Int64[Tensor, " B"],
    exclude: tuple[Tensor, Tensor] | None,
    bonus: Scores | None,
) -> Int64[Tensor, "2 B"]:
    greater, ties = count_ranks(model.queries(thoughts), keys, target, exclude=exclude, bonus=bonus, same=same)
    return torch.stack([greater, ties]).cpu()
