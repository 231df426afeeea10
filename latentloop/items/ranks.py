"""Where items rank among all N, without rows x items scores: the best item of a row, and the place of a given one.

Shapes: R rows, N items, d latent size.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from latentloop.errors import InputError
from latentloop.finite import ScoresBroke
from latentloop.items.bonus import Scores, add_bonus, of_rows
from latentloop.items.pairs import Pairs
from latentloop.items.ranks_in_tiles import count_in_tiles
from latentloop.items.same_keys import same_keys
from latentloop.items.scores import ChunkScorer, check_ids, checked, chunks, no_autocast, pick

__all__ = ["count_ranks", "top1"]


@torch.no_grad()
def top1(
    queries: Float[Tensor, "R d"], keys: Float[Tensor, "N d"], exclude: Int[Tensor, " R"] | None = None
) -> Int[Tensor, " R"]:
    """The highest-scored item of each row, ids 1..N; among equals any of them.

    Args:
        queries: (R, d) float.
        keys: (N, d) float; row i - 1 is item i.
        exclude: (R,) int64, one item a row that may not be the answer.

    Raises:
        InputError: for shapes that do not fit, an id outside 1..N, or nothing left to choose.
    """
    queries, keys = checked(queries, keys, **({} if exclude is None else {"exclude": exclude}))
    if exclude is not None and keys.shape[0] < 2:
        raise InputError("exclude leaves nothing to choose from: keys holds one item")
    best = torch.empty(queries.shape[0], dtype=torch.int64, device=queries.device)
    with no_autocast(queries):
        score = ChunkScorer(queries, keys)
        for part in chunks(queries.shape[0], keys):
            scores = score(part)
            if exclude is not None:
                scores.scatter_(1, exclude[part, None] - 1, -torch.inf)
            best[part] = scores.argmax(1) + 1
    return best


@torch.no_grad()
def count_ranks(
    queries: Float[Tensor, "R d"],
    keys: Float[Tensor, "N d"],
    target: Int[Tensor, " R"],
    *,
    exclude: tuple[Int[Tensor, " n"], Int[Tensor, " R1"]] | None = None,
    bonus: Scores | None = None,
    same: tuple[Int[Tensor, " c"], Int[Tensor, " c"]] | None = None,
) -> tuple[Int[Tensor, " R"], Int[Tensor, " R"]]:
    """How many items score above the target, and how many others exactly as high.

    Equals `scores = queries @ keys.T; own = scores[target - 1]; (scores > own).sum(), (scores == own).sum() - 1` for
    each row. Items with the same key score the same to the last bit here, which a matrix product alone does not
    promise: its kernels sum the columns at the edge of a block in another order.

    Args:
        queries: (R, d) float.
        keys: (N, d) float; row i - 1 is item i.
        target: (R,) int64 item ids 1..N.
        exclude: items left out of the ranking: (flat ids, offsets (R + 1,)), row r's are
            `flat[offsets[r]:offsets[r + 1]]`; repeats are fine, and the target is never left out.
        bonus: (row, item, score), rows rising, what is added to the scores of some items.
        same: what `same_keys(keys)` says, where many batches meet the same keys.

    Raises:
        InputError: for shapes that do not fit, an id outside 1..N, or a score that is NaN.
    """
    queries, keys = checked(queries, keys, target=target)
    hidden = None if exclude is None else _hidden(exclude, target, keys.shape[0])
    unsure = _may_be_nan(queries, keys)
    copies, originals = same_keys(keys) if same is None else same
    with no_autocast(queries):
        # the tiles never hold a whole row, to which a bonus could be added
        if queries.device.type != "cpu" or unsure or copies.numel() or bonus is not None:
            return _count_in_rows(queries, keys, target, hidden, copies, originals, unsure, bonus)
        greater, ties, sure = count_in_tiles(queries, keys, target, hidden)
        if not bool(sure.all()):
            left = (~sure).nonzero()[:, 0]
            of_left = None if hidden is None else hidden.of(left)
            again = _count_in_rows(queries[left], keys, target[left], of_left, copies, originals, unsure)
            greater[left], ties[left] = again
        return greater, ties


def _count_in_rows(
    queries: Tensor,
    keys: Tensor,
    target: Tensor,
    hidden: Pairs | None,
    copies: Tensor,
    originals: Tensor,
    unsure: bool,
    bonus: Scores | None = None,
) -> tuple[Tensor, Tensor]:
    """The counts, by chunks of rows that are scored against all items first: each score is taken from there."""
    greater, ties = torch.empty(2, len(queries), dtype=torch.int64, device=queries.device)
    score = ChunkScorer(queries, keys)
    for part in chunks(len(queries), keys):
        scores = score(part)
        if unsure and bool((bad := scores.isnan().any(1)).any()):
            row = part.start + int(bad.nonzero()[0])
            raise ScoresBroke(f"scores must be numbers, found NaN in row {row}: the model has diverged")
        if copies.numel():
            scores.index_copy_(1, copies, scores.index_select(1, originals))
        if bonus is not None:
            add_bonus(scores, of_rows(bonus, part))
        own = pick(scores, target[part] - 1)
        if hidden is not None:
            rows, items = hidden.between(part.start, part.stop)
            scores[rows, items - 1] = torch.nan  # neither above nor equal to anything, infinity included
        greater[part], ties[part] = (scores > own).sum(1), (scores == own).sum(1) - 1
    return greater, ties


def _may_be_nan(queries: Tensor, keys: Tensor) -> bool:
    """False where the norms rule it out (|q . k| <= |q| |k|, and no partial sum is larger): saves a pass over scores."""
    if not queries.numel():
        return False
    bound = queries.norm(dim=1).amax() * keys.norm(dim=1).amax()
    return not bool(bound < torch.finfo(bound.dtype).max / 2)


def _hidden(exclude: tuple[Tensor, Tensor], target: Tensor, num_items: int) -> Pairs:
    """(row, item) of each item that is left out: never the row's own target."""
    flat, offsets = exclude
    rows = len(target)
    bounds: list[int] = offsets.tolist()
    if len(bounds) != rows + 1 or bounds[0] != 0 or bounds[-1] != flat.numel() or bool((offsets.diff() < 0).any()):
        raise InputError(f"exclude must be (flat ids, offsets) with {rows + 1} rising offsets from 0 to {flat.numel()}")
    check_ids("exclude", flat, num_items)
    row = torch.repeat_interleave(offsets.diff())
    other = flat != target[row]
    return Pairs(row[other], flat[other])
