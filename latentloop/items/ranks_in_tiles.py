"""Ranks of given items, counted tile by tile of the scores: a tile never leaves the cache, and none is kept.

The place of an item is found by its own score, which must be known before the first tile. It is computed beforehand, in
blocks of the same product; where a tile then disagrees with it in the last bit, the row is left to be counted otherwise.

Shapes: R rows, N items, d latent size.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

from latentloop.items.pairs import Pairs

__all__ = ["count_in_tiles"]

# 4 MiB of scores a tile: with two threads 1,024 rows x 24,587 items take 27 ms, against 43 ms by chunks of rows that are
# scored against all items before they are counted. Fewer rows are slower, other widths are no faster.
ROWS = 1024
TILE = 2**20
BLOCK = 32  # rows whose targets are scored by one product, of which the diagonal is wanted


def count_in_tiles(
    queries: Float[Tensor, "R d"],
    keys: Float[Tensor, "N d"],
    target: Int[Tensor, " R"],
    hidden: Pairs | None = None,
) -> tuple[Int[Tensor, " R"], Int[Tensor, " R"], Bool[Tensor, " R"]]:
    """How many items score above the target, how many others exactly as high, and whether the row's counts are sure.

    Equals `count_ranks` in every row that is sure, where no score can be NaN and no two keys are the same.

    Args:
        queries: (R, d) float32 or float64.
        keys: (N, d) of the same dtype; row i - 1 is item i.
        target: (R,) int64 item ids 1..N.
        hidden: (row, item) of the items left out of the ranking; never a row's target.
    """
    found = torch.empty(2, len(queries), dtype=torch.int64, device=queries.device)
    sure = torch.empty(len(queries), dtype=torch.bool, device=queries.device)
    for start in range(0, len(queries), ROWS):
        part = slice(start, min(start + ROWS, len(queries)))
        out = None if hidden is None else Pairs(*hidden.between(part.start, part.stop)).swapped()
        found[:, part], sure[part] = _count(queries[part], keys, target[part] - 1, out)
    return found[0], found[1], sure


def _count(queries: Tensor, keys: Tensor, column: Tensor, out: Pairs | None) -> tuple[Tensor, Tensor]:
    """Both counts, (2, rows), and which rows are sure; `out` are (item, row) of the items left out."""
    rows, items = len(queries), len(keys)
    own = _own(queries, keys[column])
    sure = torch.ones(rows, dtype=torch.bool, device=queries.device)
    balance, unequal = torch.zeros(2, rows, dtype=torch.float64, device=queries.device)
    targets = Pairs(column, torch.arange(rows, device=queries.device))
    for tile, scores in _tiles(queries, keys):
        at, row = targets.between(tile.start, tile.stop)
        sure[row] = scores[row, at] == own[row]
        scores.sub_(own[:, None])
        if out is not None:
            at, row = out.between(tile.start + 1, tile.stop + 1)
            scores[row, at] = -1.0  # below its target
        # signs count faster than comparisons: their sums are exact
        balance += scores.sign_().sum(1)
        unequal += scores.abs_().sum(1)
    return torch.stack([(unequal + balance) / 2, items - 1 - unequal]).long(), sure


def _tiles(queries: Tensor, keys: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Every range of items with its scores, (R, items in it), which the next one's overwrite."""
    width = max(1, TILE // max(1, len(queries)))
    buffer = queries.new_empty(len(queries) * min(width, len(keys)))
    for start in range(0, len(keys), width):
        tile = slice(start, min(start + width, len(keys)))
        scores = buffer[: len(queries) * (tile.stop - start)].view(len(queries), -1)
        yield tile, torch.mm(queries, keys[tile].T, out=scores)


def _own(queries: Tensor, keys: Tensor) -> Tensor:
    """queries[r] . keys[r], summed in the order in which a product of matrices sums (an elementwise one does not)."""
    rows = len(queries)
    place = torch.arange(-(-rows // BLOCK) * BLOCK, device=queries.device).clamp_(max=rows - 1)
    left, right = (rearrange(x[place], "(n block) d -> n block d", block=BLOCK) for x in (queries, keys))
    return rearrange(torch.bmm(left, right.mT).diagonal(dim1=1, dim2=2), "n block -> (n block)")[:rows]
