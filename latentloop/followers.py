"""What follows what: a count of the training part, a rival that nothing has to be trained for, and a bonus on a model.

How often item b followed item a, over all pairs of places of one user of the training part that lie at most `window` apart:
n(b | a) = sum of decay^(distance - 1). A history with the items a_1 (the newest), a_2, ... counts
n(b) = sum over j of fade^(j - 1) n(b | a_j) for item b; most items have none.

Shapes: B histories, n counted (row, item) pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float32, Int, Int64
from torch import Tensor

from latentloop.checks import at_least, zero_or_more
from latentloop.data.interactions import Id
from latentloop.data.splits import Split
from latentloop.errors import InputError, InputTypeError
from latentloop.evaluation import Thinker, weighted_ranks
from latentloop.items.bonus import Scores
from latentloop.measures.metrics import parse_metric

if TYPE_CHECKING:
    from latentloop.data.sequences import Samples

__all__ = ["WEIGHTS", "Followers"]

WEIGHTS = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)
"""What `tuned` chooses from."""
_ENTRIES = 1 << 23  # followers that are gathered at once
_DENSE = 8  # adding up in whole rows is faster than sorting the pairs up to so many items a follower


@dataclass(frozen=True, eq=False)
class Followers:
    """Counts of what follows what; called with histories, the bonus `weight * log(1 + n(b))` of each item that has one.

    Args:
        offsets: (N + 2,) int64: item a's followers are places offsets[a]..offsets[a + 1]; the padding has none.
        items: (m,) int64, which.
        counts: (m,) float32, n(b | a), above 0.
        newest: items of a history that count, the newest ones.
        fade: what the next older item of a history counts by that of the newer one, 0..1.
        weight: of the bonus, at least 0.
        item_ids: the original ids of items 1..N, so that samples of another numbering are refused; None where nobody said.

    Raises:
        InputError: for a value out of range.
    """

    offsets: Int64[Tensor, " N_and_two"]
    items: Int64[Tensor, " m"]
    counts: Float32[Tensor, " m"]
    newest: int = 10
    fade: float = 0.3
    weight: float = 1.0
    item_ids: Sequence[Id] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "newest", at_least("newest", self.newest, 1))
        _share("fade", self.fade)
        zero_or_more("weight", self.weight)

    @classmethod
    def of(
        cls,
        split: Split,
        *,
        window: int = 5,
        decay: float = 0.7,
        newest: int = 10,
        fade: float = 0.3,
        weight: float = 1.0,
        most: int = 4096,
    ) -> Followers:
        """Count the training part of a split.

        The defaults are the best on validation of the few that were tried on two public logs; see
        `benchmarks/findings/counting.md`.

        Args:
            split: its training part is counted.
            window: how many places apart two items of a user may be, at least 1.
            decay: what a pair counts by one that is a place closer, 0..1.
            newest: see the class.
            fade: see the class.
            weight: see the class.
            most: followers that are kept of an item, those that followed it most; it bounds what a history costs.

        Raises:
            InputError: for a value out of range.
            InputTypeError: for anything but a split.
        """
        if not isinstance(split, Split):
            raise InputTypeError(f"split must be a split, such as leave_one_out(log), got {type(split).__name__}")
        window = at_least("window", window, 1)
        _share("decay", decay)
        most = at_least("most", most, 1)
        size = split.num_items + 1
        kept = torch.nonzero(split.training)[:, 0]
        item, user = split.interactions.item[kept].long(), split.interactions.user[kept]
        pairs, counts = torch.empty(0, dtype=torch.int64), torch.empty(0, dtype=torch.float64)
        for distance in range(1, window + 1):
            same = user[distance:] == user[:-distance]
            found = (item[:-distance] * size + item[distance:])[same]
            weights = torch.full((len(found),), decay ** (distance - 1), dtype=torch.float64)
            # after each distance, so that a pair of a long log is held once
            pairs, counts = _added(torch.cat([pairs, found]), torch.cat([counts, weights]))
        single = counts.float()
        kept = (single > 0) & _largest(pairs // size, single, most)
        pairs = pairs[kept]
        offsets = torch.zeros(size + 1, dtype=torch.int64)
        torch.cumsum(torch.bincount(pairs // size, minlength=size), 0, out=offsets[1:])
        return cls(offsets, pairs % size, single[kept], newest, fade, weight, split.item_ids)

    @property
    def num_items(self) -> int:
        """N."""
        return len(self.offsets) - 2

    def to(self, device: torch.device | str) -> Followers:
        """The same counts on `device`."""
        return replace(
            self, offsets=self.offsets.to(device), items=self.items.to(device), counts=self.counts.to(device)
        )

    def counted(self, history: Int[Tensor, "B L"]) -> Scores:
        """The items that have followed something in each history: their row, their number, and n(b) above 0.

        Naive equivalent: `for row: for j, a in enumerate(newest first): for b: n[row, b] += fade ** j * n(b | a)`. Pairs
        of row and item come in rising order, each once.

        Args:
            history: (B, L) item ids, left-padded with 0; the answer is on the device of the counts.

        Raises:
            InputError: for an item id outside 0..N.
        """
        if history.numel() and (int(history.min()) < 0 or int(history.max()) > self.num_items):
            wrong = int(history.min()) if int(history.min()) < 0 else int(history.max())
            raise InputError(f"history must hold item ids 0..{self.num_items}, got {wrong}: count the split it is of")
        read = history[:, -self.newest :].flip(1).long().to(self.offsets.device)
        many = self.offsets.diff()[read].sum(1)  # followers of a row
        bounds = torch.div(many.cumsum(0) - many, _ENTRIES, rounding_mode="floor")
        parts = torch.unique_consecutive(bounds, return_counts=True)[1].tolist()
        found, start = [], 0
        for rows in parts:
            row, item, count = self._counted(read[start : start + rows])
            found.append((row + start, item, count))
            start += rows
        if not found:
            nothing = read.new_empty(0)
            return nothing, nothing, nothing.float()
        row, item, count = (torch.cat(column) for column in zip(*found, strict=True))
        return row, item, count

    def _counted(self, read: Int64[Tensor, "B R"]) -> tuple[Tensor, Tensor, Tensor]:
        first, many = self.offsets[read].flatten(), self.offsets.diff()[read].flatten()
        # the place of each follower: those of the first item of the first row, of its second item, ...
        which = torch.repeat_interleave(many)
        place = torch.arange(len(which), device=read.device) - (many.cumsum(0) - many)[which] + first[which]
        row, age = which // read.shape[1], which % read.shape[1]
        size = self.num_items + 1
        faded = torch.pow(self.counts.new_tensor(self.fade, dtype=torch.float64), torch.arange(read.shape[1]).to(age))
        pairs, counts = row * size + self.items[place], self.counts[place].double() * faded[age]
        if len(read) * size <= _DENSE * len(pairs):
            total = torch.zeros(len(read) * size, dtype=torch.float64, device=read.device).index_add_(0, pairs, counts)
            pairs = torch.nonzero(total)[:, 0]
            total = total[pairs]
        else:
            pairs, total = _added(pairs, counts)
        single = total.float()
        pairs = pairs[single > 0]  # with fade = 0 only the newest item counts
        return pairs // size, pairs % size, single[single > 0]

    def __call__(self, history: Int[Tensor, "B L"]) -> Scores:
        """(row, item, score) of what `evaluate` and `recommend` add to a model's scores: weight * log(1 + n(b)).

        Args:
            history: (B, L) item ids, left-padded with 0.
        """
        row, item, count = self.counted(history)
        return row, item, self.weight * torch.log1p(count)

    def tuned(
        self,
        model: Thinker,
        validation: Samples,
        *,
        weights: Sequence[float] = WEIGHTS,
        metric: str = "ndcg@10",
        exclude_history: bool = False,
        depth: int | None = None,
        batch_size: int = 1024,
    ) -> Followers:
        """The same counts with the weight that is best for a model on validation; of equal ones the smallest.

        The model thinks once, whatever the number of weights.

        Args:
            model: whose scores they are added to.
            validation: what to choose on, never the test part.
            weights: to choose from, at least one.
            metric: what decides.
            exclude_history: as in `evaluate`.
            depth: as in `evaluate`.
            batch_size: as in `evaluate`.

        Raises:
            InputError: for no weights, one that is no finite number of at least 0, or as `evaluate`.
        """
        if not len(weights):
            raise InputError("weights: none given, expected at least one")
        depth = model.inference_depth if depth is None else depth
        measure = parse_metric(metric)
        ordered = sorted(zero_or_more("weights", weight) for weight in weights)
        ranked = weighted_ranks(
            model, validation, depths=[depth], bonus=replace(self, weight=1.0), weights=ordered,
            exclude_history=exclude_history, batch_size=batch_size,
        )  # fmt: skip
        found = {weight: float(measure(got[depth]).mean()) for weight, got in ranked.items()}
        return replace(self, weight=max(found, key=lambda weight: found[weight]))

    def __repr__(self) -> str:
        return f"followers * {self.weight:g}"


def _largest(group: Tensor, counts: Tensor, most: int) -> Tensor:
    """Which of the counts are among the `most` largest of their group; groups rise."""
    order = torch.argsort(counts, descending=True, stable=True)
    order = order[torch.argsort(group[order], stable=True)]
    first = torch.searchsorted(group, group)  # where each one's group begins
    kept = torch.empty(len(group), dtype=torch.bool)
    kept[order] = torch.arange(len(group)) - first < most
    return kept


def _added(pairs: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """Each pair once, in rising order, with the sum of its counts."""
    unique, where = torch.unique(pairs, return_inverse=True)
    return unique, torch.zeros(len(unique), dtype=counts.dtype, device=counts.device).index_add_(0, where, counts)


def _share(name: str, value: float) -> None:
    if zero_or_more(name, value) > 1:
        raise InputError(f"{name} must be at most 1, got {value!r}")
