"""Scores of a chunk of rows against all items, tile after tile of the items, while a tile is in the cache.

A softmax needs every score of a row, but not at once: each tile is made probabilities of its own, and its log-sum-exp
tells later what share of the whole they are. So what has to be done to every score is done to it in the cache.

Shapes: R rows, N items, d latent size.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from latentloop.item_scores import ACCELERATOR_BUDGET

__all__ = ["RowNorms", "Tile", "TileMemory", "row_chunks", "tiles_of"]

# On a CPU 256 rows x 4,096 items are fastest of 64 to 512 rows x 1,024 to 8,192 items, from 4,344 to 100,000 items
# (d 64, one thread and two). An accelerator wants few, large kernels: it takes all items in one tile.
ROWS, WIDTH = 256, 4096
LEAST_SCORES = 2**20  # where items are few a chunk takes more rows: as many as make so many scores
MOST_SCORES = 2**25  # that a chunk may hold at once, however many items there are
LEAST_ROWS = 64  # but for so few rows: a product of fewer reads all keys for too little work


def row_chunks(rows: int, keys: Tensor) -> Iterator[slice]:
    """Slices of rows whose scores against all keys are held at once, tile by tile."""
    items = keys.shape[0]
    if keys.device.type == "cpu":
        size = min(max(ROWS, LEAST_SCORES // items), max(LEAST_ROWS, MOST_SCORES // items))
    else:
        size = max(LEAST_ROWS, ACCELERATOR_BUDGET // items)
    for start in range(0, rows, size):
        yield slice(start, min(rows, start + size))


class Tile(NamedTuple):
    """Some of the items, and where in their scores the rows' own columns are."""

    items: slice
    rows: Tensor | slice
    """The rows whose own column lies among these items."""
    places: Tensor
    """Of these columns in the scores, counted row after row."""

    def own(self, scores: Tensor) -> Tensor:
        """What `scores` (rows, width) hold in the rows' own columns, one value for each of `rows`."""
        return scores.view(-1)[self.places]

    def add_to_own_(self, scores: Tensor, values: Tensor) -> None:
        """Add `values`, one for each of all rows, in the rows' own columns."""
        flat = scores.view(-1)
        flat[self.places] += values[self.rows]


def tiles_of(column: Tensor, keys: Tensor) -> list[Tile]:
    """The tiles of all items, in order, for rows whose own columns, (rows,) int64 from 0, are given."""
    items, rows = keys.shape[0], len(column)
    count = max(1, round(items / WIDTH)) if keys.device.type == "cpu" else 1
    if count == 1:  # nothing is read back: an accelerator need not be waited for
        return [Tile(slice(0, items), slice(None), torch.arange(rows, device=column.device) * items + column)]
    width = -(-items // count)
    width += -width % 16  # whole cache lines
    edges = [*range(0, items, width), items]
    order = column.argsort()
    bounds = torch.searchsorted(column[order], torch.tensor(edges)).tolist()
    found = []
    for start, stop, first, last in zip(edges, edges[1:], bounds, bounds[1:], strict=False):
        of_tile = order[first:last]
        found.append(Tile(slice(start, stop), of_tile, of_tile * (stop - start) + column[of_tile] - start))
    return found


class TileMemory:
    """Where a chunk's tiles are written, each in one piece: allocating afresh costs more than the product itself.

    Args:
        keep: whether all tiles of a chunk are there at once; else each is written over the one before.
    """

    def __init__(self, *, keep: bool) -> None:
        self.keep = keep
        self._memory: Tensor | None = None

    def tile(self, rows: int, items: slice, keys: Tensor) -> Tensor:
        """Room for (rows, width) numbers, in the dtype and on the device of `keys`; the first chunk is the largest."""
        if not self.keep:
            items = slice(0, items.stop - items.start)
        if self._memory is None:
            # without `keep` no tile is wider than the first
            self._memory = keys.new_empty(rows * (keys.shape[0] if self.keep else items.stop))
        return self._memory[rows * items.start : rows * items.stop].view(rows, -1)

    def scores(self, queries: Tensor, keys: Tensor, items: slice) -> Tensor:
        """Scores of all `queries` against the keys of a tile."""
        return torch.mm(queries, keys[items].T, out=self.tile(len(queries), items, keys))


class RowNorms:
    """The log-sum-exp of each row, gathered tile by tile: its highest score, and what comes on top of that.

    Both apart, because where scores are large their sum would round away what a log-probability is made of.
    """

    def __init__(self, like: Tensor, rows: int, tiles: int) -> None:
        self._highest, self._above = like.new_empty(2, rows, tiles)

    def softmax_(self, scores: Tensor, number: int) -> Tensor:
        """Turn the scores of a tile into probabilities among its items, in place."""
        highest = scores.amax(1)
        torch.softmax(scores, 1, out=scores)
        self._highest[:, number] = highest
        # the highest probability is at least 1 / width, so its logarithm is safe
        self._above[:, number] = -scores.amax(1).log()
        return scores

    def close(self) -> tuple[Tensor, Tensor, Tensor]:
        """Of each row the highest score, how far its log-sum-exp is above that, and each tile's share (rows, tiles)."""
        highest = self._highest.amax(1)
        shares = self._above + (self._highest - highest[:, None])
        above = shares.logsumexp(1)
        return highest, above, shares.sub_(above[:, None]).exp_()
