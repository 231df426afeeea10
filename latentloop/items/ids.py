"""The map between a catalog's original item ids and 1..N."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from decimal import Decimal
from numbers import Number

from latentloop.errors import InputError, InputTypeError

__all__ = ["ItemId", "ItemIds", "check_numbering", "check_writable"]

ItemId = str | int

_WHOLE = re.compile(r"0|-?[1-9][0-9]{0,63}")
"""How a whole number is written; "007" is another id than 7."""


class ItemIds:
    """Original ids of items 1..N, and back.

    Args:
        ids: N ids, all different; strings or whole numbers.
        name: what errors call them.

    Raises:
        InputTypeError: for an id that is neither.
        InputError: for an id that occurs twice, or that no file can hold.
    """

    def __init__(self, ids: Iterable[ItemId], *, name: str = "item_ids") -> None:
        if isinstance(ids, ItemIds):
            self.ids: list[ItemId] = ids.ids
            self._number: dict[ItemId, int] = ids._number
            return
        self.ids = [self._plain(i, name) for i in ids]
        self._number = {original: number for number, original in enumerate(self.ids, start=1)}
        if len(self._number) != len(self.ids):
            seen: set[ItemId] = set()
            twice = next(i for i in self.ids if i in seen or seen.add(i))  # type: ignore[func-returns-value]
            raise InputError(f"{name} must all differ, {twice!r} occurs twice")

    def __len__(self) -> int:
        return len(self.ids)

    def __iter__(self) -> Iterator[ItemId]:
        return iter(self.ids)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ItemIds) and self.ids == other.ids

    def __deepcopy__(self, memo: object) -> ItemIds:
        return self  # nothing changes one; copies of a model share it

    __hash__ = None  # type: ignore[assignment]

    def original(self, number: int) -> ItemId:
        """The original id of item `number`, 1..N."""
        return self.ids[number - 1]

    def number(self, original: ItemId) -> int | None:
        """The number 1..N of an original id, None where it is unknown; "7" also finds 7, and 7 and 7.0 find "7".

        What is no id, such as None, NaN or a bool, is unknown.
        """
        asked = original if type(original) is str or type(original) is int else _as_id(original)
        if asked is None:
            return None
        found = self._number.get(asked)
        if found is None:
            if isinstance(asked, int):
                found = self._number.get(str(asked))
            elif _WHOLE.fullmatch(asked):
                found = self._number.get(int(asked))
        return found

    def numbers(self, originals: Sequence[ItemId]) -> tuple[list[int], list[ItemId]]:
        """The numbers of the known ids, in order, and the unknown ids."""
        plain = originals.tolist() if hasattr(originals, "tolist") else originals  # an array or a tensor
        pairs = [(self.number(original), original) for original in plain]
        return [n for n, _ in pairs if n is not None], [original for n, original in pairs if n is None]

    @staticmethod
    def _plain(original: ItemId, name: str) -> ItemId:
        item = getattr(original, "item", None)  # a NumPy scalar
        plain = original if item is None else item()
        if isinstance(plain, bool) or not isinstance(plain, str | int):
            raise InputTypeError(f"{name} must be strings or whole numbers, got {original!r}")
        check_writable(plain, name)
        return plain


def check_writable(original: ItemId, name: str) -> None:
    """Refuse an id that no file can hold.

    Raises:
        InputError: for text with half of a pair of surrogates.
    """
    if isinstance(original, str) and not original.isascii():
        try:
            original.encode()
        except UnicodeEncodeError:
            raise InputError(f"{name} must be text that UTF-8 can write, got {original!r}") from None


def _as_id(value: object) -> ItemId | None:
    """A scalar of torch or NumPy, a whole float or a UUID as the id that it stands for; None for what is none."""
    try:
        plain = value.item() if hasattr(value, "item") else value
        hash(plain)
    except (RuntimeError, ValueError, TypeError):  # several numbers, or what has no hash, such as a list
        raise InputTypeError(f"an id must be a string or a whole number, got {value!r}") from None
    if isinstance(plain, bool):
        return None
    if isinstance(plain, int) or (isinstance(plain, float | Decimal) and math.isfinite(plain) and plain == plain // 1):
        return int(plain)
    if plain is None or isinstance(plain, Number | bytes | tuple) or type(plain).__name__ in ("NAType", "NaTType"):
        return None
    return str(plain)  # text of any class, and what is written as text, such as a UUID


def check_numbering(known: Sequence[ItemId], ids: Sequence[ItemId] | None, name: str) -> None:
    """Refuse ids of which some are the model's and not all have its numbers; "7" and 7 are one id.

    Args:
        known: the model's ids of items 1..N.
        ids: those of what is to be learned from or ranked; None where nobody said.
        name: what errors call it.

    Raises:
        InputError: naming the first number that means two items.
    """
    if ids is None or known == ids or list(known) == list(ids):
        return
    ours, theirs = list(map(str, known)), list(map(str, ids))
    if ours == theirs or set(ours).isdisjoint(theirs):
        return
    if len(ours) != len(theirs):
        raise InputError(f"{name}: ids of {len(theirs)} items, but the model knows {len(ours)}")
    number = next(place for place, pair in enumerate(zip(ours, theirs, strict=True)) if pair[0] != pair[1])
    raise InputError(
        f"{name}: item {number + 1} is {ids[number]!r} there and {known[number]!r} in the model: number the data's items "
        "as the model does (`model.item_ids`), or make a new model"
    )
