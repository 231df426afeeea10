"""All histories as one flat array, and samples as two numbers each: a batch is index arithmetic."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Int, Int32, Int64
from torch import Tensor

from latentloop.checks import at_least
from latentloop.data.interactions import Id, Interactions
from latentloop.errors import InputError

__all__ = ["Samples", "Sequences"]


@dataclass(frozen=True, eq=False)
class Sequences:
    """Every user's items, oldest first, one user after the other (compressed sparse rows).

    Args:
        items: (n,) int32 item numbers 1..N; user u's are `items[offsets[u] : offsets[u + 1]]`.
        offsets: (U + 1,) int64, from 0 to n.
        num_items: N.
        item_ids: original ids of items 1..N; None where nobody said.
    """

    items: Int32[Tensor, " n"]
    offsets: Int64[Tensor, " users_and_one"]
    num_items: int
    item_ids: Sequence[Id] | None = None

    def __repr__(self) -> str:
        return f"Sequences(users={self.num_users}, items={self.num_items}, actions={len(self.items)})"

    @classmethod
    def of(cls, interactions: Interactions) -> Sequences:
        """The sequences of a table of interactions; user u keeps its number."""
        offsets = torch.zeros(interactions.num_users + 1, dtype=torch.int64)
        torch.cumsum(torch.bincount(interactions.user, minlength=interactions.num_users), 0, out=offsets[1:])
        return cls(interactions.item.to(torch.int32), offsets, interactions.num_items, interactions.item_ids)

    @property
    def num_users(self) -> int:
        """How many users there are."""
        return len(self.offsets) - 1

    def to(self, device: torch.device | str) -> Sequences:
        """The same sequences on `device`."""
        return replace(self, items=self.items.to(device), offsets=self.offsets.to(device))

    def latest(self, max_length: int) -> Samples:
        """One sample a user that holds the whole history and no target: what to recommend from."""
        user = torch.arange(self.num_users, device=self.offsets.device)
        return Samples(self, user, self.offsets[1:].clone(), max_length)


@dataclass(frozen=True, eq=False)
class Samples:
    """Prefixes of sequences and the item that follows each, without a copy of either.

    Sample s is the history `items[offsets[user[s]] : end[s]]`, cut to the newest `max_length`, with the target
    `items[end[s]]`. Methods take positions 0..S-1 within this object; `rows` are the numbers that samples keep for
    life, so that randomness keyed by them survives `select`.

    Args:
        sequences: where the items lie.
        user: (S,) int64 user numbers.
        end: (S,) int64 places in `sequences.items`, one past the newest item of the history.
        max_length: L, the longest history handed out.
        rows: (S,) int64 distinct sample numbers; None numbers them 0..S-1.
        part: which part of a split they are, for the protocol of what is measured on them; None where not said.

    Raises:
        InputError: `max_length` is no whole number of at least 1, columns that differ in length, or a history outside
            its user's sequence.
    """

    sequences: Sequences
    user: Int64[Tensor, " S"]
    end: Int64[Tensor, " S"]
    max_length: int
    rows: Int64[Tensor, " S"] = None  # type: ignore[assignment]  # filled in below
    part: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "max_length", at_least("max_length", self.max_length, 1))
        if self.rows is None:
            object.__setattr__(self, "rows", torch.arange(len(self.user), device=self.user.device))
        if not len(self.user) == len(self.end) == len(self.rows):
            raise InputError(
                f"samples: {len(self.user)} users, {len(self.end)} ends, {len(self.rows)} rows; "
                "expected as many of each"
            )
        if bool((self.end < self._start(self.user)).any()) or bool((self.end > self._stop(self.user)).any()):
            raise InputError("end: a sample's history leaves its user's sequence")

    def __len__(self) -> int:
        return len(self.user)

    def __repr__(self) -> str:
        part = "" if self.part is None else f"part={self.part!r}, "
        within = f"users={self.sequences.num_users}, items={self.num_items}"
        return f"Samples({part}samples={len(self)}, max_length={self.max_length}, {within})"

    @property
    def num_items(self) -> int:
        """How many items the catalog has, padding not counted."""
        return self.sequences.num_items

    @property
    def device(self) -> torch.device:
        """Where the samples lie."""
        return self.user.device

    @cached_property
    def has_target(self) -> bool:
        """Whether every sample is followed by an item of its user."""
        return bool((self.end < self._stop(self.user)).all())

    def history(self, index: Int[Tensor, " B"]) -> Int64[Tensor, "B L"]:
        """The newest `max_length` items before each target, left-padded with 0.

        Naive equivalent: `([0] * L + items[offsets[user] : end])[-L:]` for each sample.

        Args:
            index: (B,) positions of samples.
        """
        return self._newest(index, self.max_length)

    def target(self, index: Int[Tensor, " B"]) -> Int64[Tensor, " B"]:
        """The item that follows each history.

        Args:
            index: (B,) positions of samples.

        Raises:
            InputError: samples made for recommending have no target.
        """
        if not self.has_target:
            raise InputError("target: these samples reach to the newest item, no item follows; use history only")
        return self.sequences.items.index_select(0, self.end[index]).long()

    def lengths(self, index: Int[Tensor, " B"]) -> Int64[Tensor, " B"]:
        """How many items of `history` are real, 0..L.

        Args:
            index: (B,) positions of samples.
        """
        return (self.end[index] - self._start(self.user[index])).clamp_max(self.max_length)

    def past(
        self, index: Int[Tensor, " B"], newest: int | None = None
    ) -> tuple[Int64[Tensor, " n"], Int64[Tensor, " B_and_one"]]:
        """The whole past before each target, however long, as (flat items, offsets); row b is `[o[b]:o[b + 1]]`.

        Args:
            index: (B,) positions of samples.
            newest: at most so many items of each; None is all.
        """
        start = self._start(self.user[index])
        if newest is not None:
            start = torch.maximum(start, self.end[index] - newest)
        lengths = self.end[index] - start
        offsets = torch.zeros(len(lengths) + 1, dtype=torch.int64, device=self.device)
        torch.cumsum(lengths, 0, out=offsets[1:])
        shift = torch.repeat_interleave(start - offsets[:-1], lengths)
        places = torch.arange(len(shift), device=self.device) + shift
        return self.sequences.items[places].long(), offsets

    def whole(self, index: Int[Tensor, " B"], newest: int | None = None) -> Int64[Tensor, "B L2"]:
        """The past before each target, left-padded with 0 to the longest of these, however long `history` may be.

        Args:
            index: (B,) positions of samples.
            newest: at most so many items; None is all.
        """
        longest = int((self.end[index] - self._start(self.user[index])).max()) if len(index) else 0
        return self._newest(index, max(1, longest if newest is None else min(longest, newest)))

    def _newest(self, index: Int[Tensor, " B"], length: int) -> Int64[Tensor, "B length"]:
        end, start = self.end[index, None], self._start(self.user[index])[:, None]
        places = end + torch.arange(-length, 0, device=self.device)
        return self.sequences.items[places.clamp_min(0)].long().masked_fill_(places < start, 0)

    def locate(self, rows: Int[Tensor, " B"]) -> Int64[Tensor, " B"]:
        """Where the samples numbered `rows` stand in this object, the inverse of `samples.rows[index]`.

        Args:
            rows: (B,) sample numbers that all occur here.

        Raises:
            InputError: a number that does not occur.
        """
        ordered, places = self._by_row
        at = torch.searchsorted(ordered, rows).clamp_max(max(len(self) - 1, 0))
        if len(rows) and (not len(self) or bool((ordered[at] != rows).any())):
            raise InputError("rows: a sample number that these samples do not hold")
        return places[at]

    def select(self, index: Tensor) -> Samples:
        """The samples at `index`, which keep their numbers.

        Args:
            index: positions (int) or a mask (bool, (S,)).
        """
        index = index.to(self.device)
        return replace(self, user=self.user[index], end=self.end[index], rows=self.rows[index])

    def to(self, device: torch.device | str) -> Samples:
        """The same samples on `device`, with their sequences."""
        sequences = self.sequences.to(device)
        user, end, rows = (column.to(device) for column in (self.user, self.end, self.rows))
        return replace(self, sequences=sequences, user=user, end=end, rows=rows)

    @cached_property
    def _by_row(self) -> tuple[Tensor, Tensor]:
        ordered, places = torch.sort(self.rows)
        return ordered, places

    def _start(self, user: Tensor) -> Tensor:
        return self.sequences.offsets.index_select(0, user)

    def _stop(self, user: Tensor) -> Tensor:
        return self.sequences.offsets[1:].index_select(0, user)
