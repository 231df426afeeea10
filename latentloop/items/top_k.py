"""The k best items of each query, a tile of rows x items at a time: never all scores at once.

A score and its item become one whole number that sorts by score, and among equal scores by the smaller item. So a plain
`topk` settles ties, and the k best of a row lie in the k blocks of items whose best are highest: these cost one cheap
pass, and only they are searched. An accelerator is waited for once, at the end.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from latentloop.errors import InputError
from latentloop.items.bonus import Scores, add_bonus, of_rows
from latentloop.items.scores import ACCELERATOR_BUDGET, no_autocast

__all__ = ["top_k"]

BLOCKS = {32: 10, 8: 3}
"""Items whose maximum is looked at first, and of how many blocks for each of the k items fewer save nothing."""
WHOLE = 32
"""Widths are multiples of it, and so of every size of a block."""
ROWS = 256
"""Rows of a tile: a product of few rows with all items reads the keys for too little work."""
CPU_BUDGET = 2**22
"""Scores of a tile: a larger one leaves the cache, a smaller one is searched as often for less work."""
LAST = 2**32 - 1


@torch.no_grad()
def top_k(
    queries: Float[Tensor, "B d"],
    keys: Float[Tensor, "N d"],
    k: int,
    *,
    exclude: tuple[Int[Tensor, " n"], Int[Tensor, " n"]] | None = None,
    candidates: Bool[Tensor, " N"] | None = None,
    bonus: Scores | None = None,
) -> tuple[Float[Tensor, "B k"], Int[Tensor, "B k"]]:
    """The k best items of each row; -inf marks what is no candidate, in any order.

    Naively: `(queries @ keys.T).masked_fill(excluded, -inf).topk(k)`. Ties go to the smaller item number. Scores are
    float32, under autocast too, and zeros have no sign.

    Args:
        queries: (B, d).
        keys: (N, d), row i - 1 for item i.
        k: 1..N.
        exclude: (row, item) pairs to leave out, as two equally long vectors.
        candidates: (N,) which items may come at all.
        bonus: (row, item, score), rows rising, what is added to the scores of some items.

    Returns:
        Scores (B, k), descending, and item numbers 1..N (B, k).

    Raises:
        InputError: where a score is NaN, but of an item that is no candidate.
    """
    queries, keys = queries.float(), keys.float()
    rows, num_items = queries.shape[0], keys.shape[0]
    budget = CPU_BUDGET if queries.device.type == "cpu" else ACCELERATOR_BUDGET
    width = max(1, min(budget // ROWS, num_items + WHOLE - 1) // WHOLE) * WHOLE
    # few tall tiles: an accelerator's search is launches more than work
    height = ROWS if queries.device.type == "cpu" else max(ROWS, budget // width)
    buffer = queries.new_empty(min(rows, height), width)
    best = torch.empty(rows, k, dtype=torch.int64, device=queries.device)
    broke = torch.zeros((), dtype=torch.bool, device=queries.device)
    never = None if candidates is None else ~candidates
    with no_autocast(queries):
        for top in range(0, rows, height):
            part = slice(top, min(rows, top + height))
            scores, pairs = buffer[: part.stop - top], None if exclude is None else _of_rows(exclude, part, rows)
            won = None if bonus is None else of_rows(bonus, part)
            found = best.new_empty(len(scores), 0)
            for first in range(0, num_items, width):
                stop = min(num_items, first + width)
                known = scores[:, : stop - first]
                torch.mm(queries[part], keys[first:stop].T, out=known)
                scores[:, stop - first :] = -torch.inf  # what fills the last tile up
                if won is not None:
                    add_bonus(known, won, first + 1)
                if never is not None:
                    known.masked_fill_(never[first:stop], -torch.inf)
                if pairs is not None:
                    _leave_out(scores, pairs, first, stop)
                more, bad = _best(scores, k, first)
                found = torch.cat([found, more], 1)
                found = found.topk(min(k, found.shape[1]), dim=1).values
                broke |= bad
            best[part] = found
    if bool(broke):
        raise InputError("the model's scores hold NaN: it cannot rank; load an earlier checkpoint")
    return _score(best), _item(best).clamp_max_(num_items)  # -inf may have come from what fills the last tile up


def _of_rows(pairs: tuple[Tensor, Tensor], part: slice, rows: int) -> tuple[Tensor, Tensor]:
    row, item = pairs
    if part == slice(0, rows):
        return pairs
    inside = (row >= part.start) & (row < part.stop)
    return row[inside] - part.start, item[inside]


def _leave_out(scores: Tensor, pairs: tuple[Tensor, Tensor], first: int, stop: int) -> None:
    """-inf where a pair lies in the tile of items first + 1..stop; the others stay, without asking which they are."""
    row, item = pairs
    inside = (item > first) & (item <= stop) & (row >= 0) & (row < len(scores))
    place = torch.where(inside, row * scores.shape[1] + (item - 1 - first), 0)
    lowered = scores.new_full(place.shape, torch.inf).masked_fill_(inside, -torch.inf)
    scores.view(-1).scatter_reduce_(0, place, lowered, "amin")


def _best(scores: Tensor, k: int, first: int) -> tuple[Tensor, Tensor]:
    """The k best of a tile whose column 0 is item first + 1, and whether a score is NaN.

    They come descending, as `_sortable`; all where there are fewer.
    """
    width = scores.shape[1]
    size = next((size for size, many in BLOCKS.items() if width // size >= many * k), 1)
    column = torch.arange(width, device=scores.device)
    highest = scores if size == 1 else scores.unflatten(1, (-1, size)).amax(2)  # NaN where any of a block is
    broke = highest.isnan().any()
    if size > 1:
        block = _item(_sortable(highest, column[: width // size]).topk(k, sorted=False).values)
        inside = scores.unflatten(1, (-1, size)).gather(1, block[:, :, None].expand(-1, -1, size))
        scores, column = inside.flatten(1), (block[:, :, None] * size + column[:size]).flatten(1)
    return _sortable(scores, column + first + 1).topk(min(k, scores.shape[1])).values, broke


def _sortable(scores: Tensor, item: Tensor) -> Tensor:
    """int64 that rise with the score, and among equal scores fall with the item, 0..2^32 - 1."""
    bits = (scores + 0.0).view(torch.int32)  # + 0.0: minus zero becomes zero
    bits ^= bits >> 31 & 0x7FFFFFFF
    return bits.long().mul_(2**32).add_(LAST - item)


def _score(sortable: Tensor) -> Tensor:
    bits = (sortable >> 32).int()
    return (bits ^ (bits >> 31 & 0x7FFFFFFF)).view(torch.float32)


def _item(sortable: Tensor) -> Tensor:
    return LAST - (sortable & LAST)
