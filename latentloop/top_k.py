"""The k best items of each query, a tile of rows x items at a time: never all scores at once.

The k best items of a row lie in the k blocks of items with the highest maxima: maxima cost one cheap pass, and only a
few blocks are searched.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from latentloop.bonus import Scores, add_bonus, of_rows
from latentloop.errors import InputError
from latentloop.item_ranks import may_be_nan
from latentloop.item_scores import ACCELERATOR_BUDGET, no_autocast

__all__ = ["top_k"]

BLOCK = 64
"""Items whose maximum is looked at first."""
ROWS = 256
"""Rows of a tile: a product of few rows with all items reads the keys for too little work."""
CPU_BUDGET = 2**22
"""Scores of a tile: a larger one leaves the cache, a smaller one is searched as often for less work."""


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
    float32, under autocast too.

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
        InputError: where a score is NaN.
    """
    queries, keys = queries.float(), keys.float()
    rows, num_items = queries.shape[0], keys.shape[0]
    best = queries.new_empty(rows, k)
    best_items = torch.empty(rows, k, dtype=torch.int64, device=queries.device)
    never = None if candidates is None else ~candidates
    budget = CPU_BUDGET if queries.device.type == "cpu" else ACCELERATOR_BUDGET
    width = max(1, min(budget // ROWS, num_items) // BLOCK) * BLOCK
    # an accelerator waits at each tile, whose search is launches more than work
    height = ROWS if queries.device.type == "cpu" else max(ROWS, budget // width)
    buffer, unsure = queries.new_empty(min(rows, height), width), may_be_nan(queries, keys)
    with no_autocast(queries):
        for top in range(0, rows, height):
            part = slice(top, min(rows, top + height))
            scores, pairs = buffer[: part.stop - top], None if exclude is None else _of_rows(exclude, part)
            won = None if bonus is None else of_rows(bonus, part)
            found, numbers = queries.new_empty(len(scores), 0), best_items.new_empty(len(scores), 0)
            for first in range(0, num_items, width):
                stop = min(num_items, first + width)
                known = scores[:, : stop - first]
                torch.mm(queries[part], keys[first:stop].T, out=known)
                scores[:, stop - first :] = -torch.inf  # what fills the last tile up
                if unsure and bool(_block_maxima(scores).isnan().any()):  # a maximum is NaN where any of its block is
                    raise InputError("the model's scores hold NaN: it cannot rank; load an earlier checkpoint")
                if won is not None:
                    add_bonus(known, won, first + 1)
                if never is not None:
                    known.masked_fill_(never[first:stop], -torch.inf)
                if pairs is not None:
                    row, item = pairs
                    inside = (item > first) & (item <= stop)
                    known[row[inside], item[inside] - 1 - first] = -torch.inf
                more, places = _best(scores, _block_maxima(scores), k)
                numbers = torch.cat([numbers, places + first], 1)
                found, numbers = _sorted(torch.cat([found, more], 1), numbers, k)
            best[part], best_items[part] = found, numbers
    return best, best_items.clamp_max_(num_items)  # -inf may have come from what fills the last tile up


def _of_rows(pairs: tuple[Tensor, Tensor], part: slice) -> tuple[Tensor, Tensor]:
    row, item = pairs
    inside = (row >= part.start) & (row < part.stop)
    return row[inside] - part.start, item[inside]


def _block_maxima(scores: Tensor) -> Tensor:
    maxima: Tensor = scores.unflatten(1, (-1, BLOCK)).amax(2)
    return maxima


def _best(scores: Tensor, highest: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k best columns (counted from 1), all where there are fewer, of scores whose blocks' maxima are known."""
    blocks = highest.shape[1]
    if 4 * (k + 1) >= blocks:
        return _sorted(scores, _numbers(scores), k)
    maxima, chosen = highest.topk(k + 1, dim=1)
    chosen = chosen.sort(dim=1).values[:, :, None]  # so that places rise with item numbers
    inside = scores.unflatten(1, (blocks, BLOCK)).gather(1, chosen.expand(-1, -1, BLOCK)).flatten(1)
    numbers = (chosen * BLOCK + torch.arange(1, BLOCK + 1, device=scores.device)).flatten(1)
    best, items = _sorted(inside, numbers, k)
    # the blocks left out may hold scores equal to the last one chosen, and then a smaller number
    tied = (maxima[:, -1] == best[:, -1]) & (best[:, -1] > -torch.inf)
    if bool(tied.any()):
        best[tied], items[tied] = _sorted(scores[tied], _numbers(scores[tied]), k)
    return best, items


def _numbers(scores: Tensor) -> Tensor:
    return torch.arange(1, scores.shape[1] + 1, device=scores.device).expand_as(scores)


def _sorted(scores: Tensor, items: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k best columns; topk alone leaves the order among equal scores open, so ties at the cut are settled here."""
    k = min(k, scores.shape[1])
    kept, place = scores.topk(k, dim=1)
    cut = kept[:, -1:]
    tied = ((scores >= cut) & (cut > -torch.inf)).sum(1) > k
    if bool(tied.any()):
        order = scores[tied].sort(dim=1, descending=True, stable=True).indices[:, :k]
        place[tied] = order
        kept[tied] = scores[tied].gather(1, order)
    chosen = items.gather(1, place)
    by_item = chosen.argsort(dim=1)
    order = by_item.gather(1, kept.gather(1, by_item).sort(dim=1, descending=True, stable=True).indices)
    return kept.gather(1, order), chosen.gather(1, order)
