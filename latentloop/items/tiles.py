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

from latentloop.items.scores import ACCELERATOR_BUDGET, pick

__all__ = ["RowNorms", "Tile", "TileMemory", "row_chunks", "tiles_of"]

# On a CPU 256 rows x 4,096 items are fastest of 64 to 512 rows x 1,024 to 8,192 items, from 4,344 to 100,000 items
# (d 64, one thread and two). An accelerator wants few, large kernels: it takes all items in one tile.
ROWS, WIDTH = 256, 4096
ALIGNED = 16  # widths are multiples of it: whole cache lines
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
    """Some of the items, and which of the rows' own columns are among them."""

    items: slice
    rows: Tensor | None
    """The rows whose own column lies among these items; None is all."""
    column: Tensor
    """Their own columns, counted from the tile's first."""

    def read_own(self, scores: Tensor, into: Tensor) -> None:
        """Write what `scores` (R, width) hold in the rows' own columns to these rows of `into` (R,)."""
        if self.rows is None:
            into.copy_(pick(scores, self.column)[:, 0])
        else:
            into[self.rows] = scores[self.rows, self.column]

    def add_to_own_(self, scores: Tensor, values: Tensor) -> None:
        """Add `values` (R,) in the rows' own columns."""
        if self.rows is None:
            scores.scatter_add_(1, self.column[:, None], values[:, None])
        else:
            scores[self.rows, self.column] += values[self.rows]


def tiles_of(column: Tensor, keys: Tensor) -> list[Tile]:
    """The tiles of all items, in order, for rows whose own columns, (R,) int64 from 0, are given."""
    items = keys.shape[0]
    count = max(1, round(items / WIDTH)) if keys.device.type == "cpu" else 1
    # with one tile nothing is read back: an accelerator need not be waited for, and checks columns as it looks them up
    if count == 1:
        return [Tile(slice(0, items), None, column)]
    width = -(-items // count)
    width += -width % ALIGNED
    edges = [*range(0, items, width), items]
    order = column.argsort()
    bounds = torch.searchsorted(column[order], torch.tensor(edges)).tolist()
    found = []
    for start, stop, first, last in zip(edges, edges[1:], bounds, bounds[1:], strict=False):
        of_tile = order[first:last]
        found.append(Tile(slice(start, stop), of_tile, column[of_tile] - start))
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
        """Room for (rows, width) numbers, in the dtype and on the device of `keys`."""
        if not self.keep:
            items = slice(0, items.stop - items.start)
        needed = rows * (keys.shape[0] if self.keep else items.stop)
        if self._memory is None or self._memory.numel() < needed:
            self._memory = keys.new_empty(needed)
        return self._memory[rows * items.start : rows * items.stop].view(rows, -1)

    def scores(self, queries: Tensor, keys: Tensor, items: slice) -> Tensor:
        """Scores of all `queries` against the keys of a tile."""
        return torch.mm(queries, keys[items].T, out=self.tile(len(queries), items, keys))


class RowNorms:
    """The log-sum-exp of each row, gathered tile by tile: its highest score, and what comes on top of that.

    Both apart, because where scores are large their sum would round away what a log-probability is made of.
    """

    def __init__(self, like: Tensor, rows: int, tiles: int) -> None:
        self.highest, self.above, self._sums = like.new_empty(3, rows, tiles)
        # a CPU makes probabilities of a tile in more passes than exponentials; an accelerator in one kernel
        self.scaled = like.device.type != "cpu"

    def exp_(self, scores: Tensor, number: int, highest: Tensor | None = None) -> Tensor:
        """Turn the scores of a tile into numbers in proportion to their items' probabilities, in place; see `scales`.

        Args:
            scores: (R, width).
            number: which tile it is.
            highest: what was taken off the scores before; nothing where not given.
        """
        if highest is None and self.scaled:
            highest = scores.amax(1)
            torch.softmax(scores, 1, out=scores)
            # the highest probability is at least 1 / width, so its logarithm is safe
            above = -scores.amax(1).log()
            log_sum = torch.zeros_like(above)
        else:
            if highest is None:
                highest = scores.amax(1)
                scores.sub_(highest[:, None])
            above = log_sum = scores.exp_().sum(1).log_()  # of at least 1
        if self.highest.shape[1] > 1 and bool((nothing := highest == -torch.inf).any()):
            scores[nothing], above[nothing], log_sum[nothing] = 0.0, 0.0, 0.0  # it has no share, not a number by itself
        self.highest[:, number], self.above[:, number], self._sums[:, number] = highest, above, log_sum
        return scores

    def close(self) -> tuple[Tensor, Tensor, Tensor]:
        """Of each row the highest score and how far its log-sum-exp is above that; log of the tiles' shares (R, tiles)."""
        highest = self.highest.amax(1)
        shares = self.above + (self.highest - highest[:, None])
        above = shares.logsumexp(1)
        return highest, above, shares.sub_(above[:, None])

    def scales(self, log_shares: Tensor) -> Tensor:
        """(R, tiles): what the numbers of each tile are to be multiplied by to be probabilities of all items."""
        scales: Tensor = log_shares - self._sums
        return scales.exp_()
