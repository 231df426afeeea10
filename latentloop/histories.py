"""Whose recommendations are asked for: histories in original ids, or known users, as item numbers."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, chain
from typing import TYPE_CHECKING

import torch
from jaxtyping import Int, Int64
from torch import Tensor

from latentloop.errors import InputError, InputTypeError
from latentloop.items.ids import ItemId, ItemIds

if TYPE_CHECKING:
    from latentloop.data.interactions import Interactions
    from latentloop.data.splits import Split

__all__ = ["Histories", "from_ids", "from_tensor", "of_users"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Histories:
    """B histories, one after the other, on the CPU unless moved.

    Args:
        items: (n,) int64 item numbers 1..N, each history's oldest first; history b's are `items[offsets[b]:offsets[b + 1]]`.
        offsets: (B + 1,) int64, from 0 to n.
    """

    items: Int64[Tensor, " n"]
    offsets: Int64[Tensor, " B1"]

    @classmethod
    def of(cls, rows: Sequence[Sequence[int]]) -> Histories:
        """The same as lists of numbers."""
        items = torch.tensor(list(chain.from_iterable(rows)), dtype=torch.int64)
        return cls(items, torch.tensor([0, *accumulate(map(len, rows))]))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> Int64[Tensor, " B"]:
        """Items of each history."""
        return self.offsets.diff()

    def part(self, start: int, stop: int) -> Histories:
        """Histories start..stop - 1; as many as there are."""
        offsets = self.offsets[start : stop + 1]
        return Histories(self.items[offsets[0] : offsets[-1]], offsets - offsets[0])

    def left_padded(self, max_length: int | None = None) -> Int64[Tensor, "B L"]:
        """The newest items of each history, as long as the longest and at most `max_length`; 0 is padding."""
        longest = max(1, int(self.lengths.max()) if len(self) else 0)
        length = longest if max_length is None else min(max_length, longest)
        back = torch.arange(length, 0, -1, device=self.offsets.device)  # how far before the history's end
        place = self.offsets[1:, None] - back
        if not len(self.items):
            return torch.zeros_like(place)
        return self.items[place.clamp(min=0)].masked_fill(back > self.lengths[:, None], 0)

    def to(self, device: torch.device | str) -> Histories:
        """The same histories on `device`."""
        return Histories(self.items.to(device), self.offsets.to(device))

    def pairs(self) -> tuple[Int64[Tensor, " n"], Int64[Tensor, " n"]]:
        """(history, item) of all items."""
        return torch.repeat_interleave(self.lengths), self.items


def from_ids(histories: Sequence[Sequence[ItemId]], ids: ItemIds, *, strict: bool, named: bool = True) -> Histories:
    """Item numbers of each history, oldest first.

    Args:
        histories: original item ids of each user, oldest first.
        ids: the model's catalog.
        strict: an item that the catalog lacks is an error; otherwise it is skipped with one warning for all.
        named: whether the catalog has ids of its own; where it has none, they are the numbers 1..N.

    Raises:
        InputError: (strict) for an unknown item, or where none is known, some are text and the catalog has numbers only.
        InputTypeError: for one flat history where a list of histories is meant.
    """
    rows: list[list[int]] = []
    missing: list[tuple[int, list[ItemId]]] = []
    for place, history in enumerate(histories):
        if isinstance(history, str | bytes) or not hasattr(history, "__iter__"):
            raise InputTypeError(
                f"histories must be a list of histories, each a list of item ids, found {history!r} at {place}: "
                "put one history into a list of its own"
            )
        known, unknown = ids.numbers(history if hasattr(history, "tolist") else list(history))
        rows.append(known)
        if unknown:
            missing.append((place, unknown))
    if missing:
        place, unknown = missing[0]
        texts = any(isinstance(item, str) and not item.isdecimal() for _, items in missing for item in items)
        if texts and not named and not any(rows):  # ids of the data, which the answer would not have either
            raise InputError(
                f"history {place} names item {unknown[0]!r}, and no item of any history is known: this model has no "
                f"item ids, only the numbers 1..{len(ids)}; pass item_ids= when it is made, or data="
            )
        if strict:
            raise InputError(f"history {place} names item {unknown[0]!r}, which the model does not know")
        count = sum(len(unknown) for _, unknown in missing)
        logger.warning(
            "skipped %d unknown item(s) in %d of %d histories; the first is %r in history %d",
            count,
            len(missing),
            len(rows),
            unknown[0],
            place,
        )
    return Histories.of(rows)


def from_tensor(histories: Int[Tensor, "B L"], num_items: int) -> Histories:
    """Item numbers of each left-padded row.

    Args:
        histories: (B, L) whole numbers 0..N, 0 is padding.
        num_items: N.

    Raises:
        InputError: for another shape, dtype or number.
    """
    if histories.ndim != 2 or histories.dtype not in (torch.int64, torch.int32):
        raise InputError(f"histories must be (B, L) whole numbers, got {tuple(histories.shape)} {histories.dtype}")
    histories = histories.cpu().long()
    strange = ((histories < 0) | (histories > num_items)).nonzero()
    if len(strange):
        place, column = strange[0].tolist()
        raise InputError(
            f"histories must hold item numbers 0..{num_items}, found {int(histories[place, column])} in row {place}"
        )
    there = histories != 0
    return Histories(histories[there], torch.cat([torch.zeros(1, dtype=torch.int64), there.sum(1).cumsum(0)]))


def of_users(users: Sequence[ItemId], data: Interactions | Split | None, ids: ItemIds, *, strict: bool) -> Histories:
    """Item numbers of known users' whole histories, by the items' original ids.

    Args:
        users: original user ids.
        data: the interactions in which they are looked up, or a split of them.
        ids: the model's catalog, which may have numbered the items otherwise than `data`.
        strict: see `from_ids`.

    Raises:
        InputError: without `data`, for an unknown user, or (strict) an item that the model does not know.
        InputTypeError: for one bare id where a list is meant.
    """
    from latentloop.data.interactions import Interactions  # serving raw histories needs no data

    if data is None:
        raise InputError("users are looked up in data: pass the interactions as data=")
    if isinstance(users, str | bytes) or not hasattr(users, "__iter__"):
        raise InputTypeError(f"users must be a list of user ids, got {users!r}")
    table = data if isinstance(data, Interactions) else data.interactions
    users, known = list(users), ItemIds(table.user_ids, name="user_ids")
    numbers = [known.number(user) for user in users]
    for user, number in zip(users, numbers, strict=True):
        if number is None:
            raise InputError(f"users names {user!r}, which data does not hold")
    wanted = torch.tensor(numbers, dtype=torch.int64) - 1
    starts = torch.searchsorted(table.user, wanted).tolist()
    stops = torch.searchsorted(table.user, wanted, right=True).tolist()
    histories = [
        [table.item_ids[number - 1] for number in table.item[start:stop].tolist()]
        for start, stop in zip(starts, stops, strict=True)
    ]
    return from_ids(histories, ids, strict=strict)
