"""How far a policy is from its reference over all items, tile by tile of the scores.

The divergence of a whole is that among the tiles, and that inside of each by its share. How far both models' scores are
from each other is no matter of it, and would drown it: so in each tile what is highest in each model is taken off first,
exactly, and what is left is a gap of small numbers.

Shapes: R rows, N items, d latent size, n tiles.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from latentloop.items.tiles import RowNorms, Tile, TileMemory, tiles_of

__all__ = ["ChunkDivergence", "Divergence"]


class Divergence(NamedTuple):
    """Of each row of a chunk; log-sum-exps are `highest + above`."""

    kl: Tensor
    """(R,) sum p log(p / p_ref)."""
    own: Tensor
    """(R,) the score of the row's own column."""
    highest: Tensor
    above: Tensor
    ref_highest: Tensor
    ref_above: Tensor
    scales: Tensor
    """(R, n) what the numbers of each tile are to be multiplied by to be probabilities."""
    among: Tensor
    """(R, n) what log(p / p_ref) is more than the gap."""
    held: list[tuple[Tile, Tensor, Tensor]]
    """Each tile with numbers in proportion to its probabilities, (R, width), and these times the gap: of use where they are
    kept."""


class ChunkDivergence:
    """Chunks of divergences from a reference, in the same pieces of memory.

    Args:
        keys: (N, d) float; row i - 1 is item i.
        ref_keys: (N, d) float, the reference's.
        keep: whether all tiles of a chunk are there at once; else each is written over the one before.
    """

    def __init__(self, keys: Tensor, ref_keys: Tensor, *, keep: bool) -> None:
        self.keys, self.ref_keys = keys, ref_keys
        self._memory, self._gaps, self._ref_memory = (TileMemory(keep=kept) for kept in (keep, keep, False))

    def __call__(self, queries: Tensor, ref_queries: Tensor, column: Tensor) -> Divergence:
        """Of a chunk's rows: queries (R, d), the reference's (R, d), and the rows' own columns (R,) from 0."""
        rows, tiles, held = len(column), tiles_of(column, self.keys), []
        norms, ref_norms = RowNorms(queries, rows, len(tiles)), RowNorms(queries, rows, len(tiles))
        own, inside = queries.new_empty(rows), queries.new_empty(rows, len(tiles))
        for number, tile in enumerate(tiles):
            scores = self._memory.scores(queries, self.keys, tile.items)
            ref_scores = self._ref_memory.scores(ref_queries, self.ref_keys, tile.items)
            tile.read_own(scores, own)
            highest, ref_highest = scores.amax(1), ref_scores.amax(1)
            scores.sub_(highest[:, None])
            ref_scores.sub_(ref_highest[:, None])
            gap = torch.sub(scores, ref_scores, out=self._gaps.tile(rows, tile.items, self.keys))
            norms.exp_(scores, number, highest)
            ref_norms.exp_(ref_scores, number, ref_highest)
            inside[:, number] = gap.mul_(scores).sum(1)
            held.append((tile, scores, gap))
        # less what log p - log p_ref among a tile's items is more than the gap of its scores
        more = norms.above - ref_norms.above
        highest, above, log_shares = norms.close()
        ref_highest, ref_above, ref_log_shares = ref_norms.close()
        among, scales = (log_shares - ref_log_shares) - more, norms.scales(log_shares)
        kl = (inside * scales + among * log_shares.exp()).sum(1)
        return Divergence(kl, own, highest, above, ref_highest, ref_above, scales, among, held)
