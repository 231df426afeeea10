"""Where items rank among all N, a chunk of rows at a time: the best item of a row, and the place of a given one.

Shapes: R rows, N items, d latent size.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from latentloop.errors import InputError
from latentloop.item_scores import ACCELERATOR_BUDGET, ChunkScorer, check_ids, checked, chunks, no_autocast, pick

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

    Raises:
        InputError: for shapes that do not fit, an id outside 1..N, or a score that is NaN.
    """
    queries, keys = checked(queries, keys, target=target)
    rows = queries.shape[0]
    greater = torch.empty(rows, dtype=torch.int64, device=queries.device)
    ties = torch.empty_like(greater)
    may_be_nan = _may_be_nan(queries, keys)
    copies, originals = _same_keys(keys)
    bounds = _check_exclude(exclude, rows, keys.shape[0]) if exclude is not None else []
    with no_autocast(queries):
        score = ChunkScorer(queries, keys)
        for part in chunks(rows, keys):
            scores = score(part)
            if may_be_nan and bool((bad := scores.isnan().any(1)).any()):
                row = part.start + int(bad.nonzero()[0])
                raise InputError(f"scores must be numbers, found NaN in row {row}: the model has diverged")
            if copies.numel():
                scores.index_copy_(1, copies, scores.index_select(1, originals))
            own = pick(scores, target[part] - 1)
            if exclude is not None:
                flat, offsets = exclude
                hidden = flat[bounds[part.start] : bounds[part.stop]]
                row_of = torch.repeat_interleave(offsets[part.start : part.stop + 1].diff())
                # below any number; NaN, where a score may itself be infinite, is neither above nor equal to anything
                scores[row_of, hidden - 1] = torch.nan if may_be_nan else -torch.inf
                scores.scatter_(1, target[part, None] - 1, own)
            greater[part], ties[part] = _count(scores, own, may_be_nan)
    return greater, ties


def _count(scores: Tensor, own: Tensor, may_be_nan: bool) -> tuple[Tensor, Tensor]:
    """Columns above `own` (rows, 1), and others equal to it; overwrites `scores`."""
    items = scores.shape[1]
    if may_be_nan or items > 2**24:
        return (scores > own).sum(1), (scores == own).sum(1) - 1
    # the same through signs, whose float32 sums are exact up to 2^24 of them: half the time of counting booleans
    balance = scores.sub_(own).sign_().sum(1)
    unequal = scores.abs_().sum(1)
    return ((unequal + balance) / 2).long(), items - 1 - unequal.long()


def _may_be_nan(queries: Tensor, keys: Tensor) -> bool:
    """False where the norms rule it out (|q . k| <= |q| |k|, and no partial sum is larger): saves a pass over scores."""
    if not queries.numel():
        return False
    bound = queries.norm(dim=1).amax() * keys.norm(dim=1).amax()
    return not bool(bound < torch.finfo(bound.dtype).max / 2)


def _check_exclude(exclude: tuple[Tensor, Tensor], rows: int, num_items: int) -> list[int]:
    flat, offsets = exclude
    bounds: list[int] = offsets.tolist()
    if len(bounds) != rows + 1 or bounds[0] != 0 or bounds[-1] != flat.numel() or bool((offsets.diff() < 0).any()):
        raise InputError(f"exclude must be (flat ids, offsets) with {rows + 1} rising offsets from 0 to {flat.numel()}")
    check_ids("exclude", flat, num_items)
    return bounds


def _same_keys(keys: Tensor) -> tuple[Tensor, Tensor]:
    """Columns whose key equals an earlier one, bit for bit, and for each the first such column."""
    # most often no two keys begin alike, and then no more than their beginnings need be read
    alike = _repeated(_hashes(keys[:, :2]))
    if not alike.numel():
        return alike, alike
    hashes = _hashes(keys[alike])
    values, order = hashes.sort(stable=True)
    first = torch.ones_like(values, dtype=torch.bool)
    first[1:] = values[1:] != values[:-1]
    leader = order[first][first.cumsum(0) - 1]
    copies, originals = alike[order[~first]], alike[leader[~first]]
    equal = (keys[copies] == keys[originals]).all(1)  # two keys of one hash that differ keep their own scores
    return copies[equal], originals[equal]


def _hashes(keys: Tensor) -> Tensor:
    """A hash of each key's bits, (N,) int64."""
    width = torch.int64 if keys.dtype == torch.float64 else torch.int32
    mixer = torch.Generator().manual_seed(0)
    weights = torch.randint(-(2**62), 2**62, (keys.shape[1],), generator=mixer).to(keys.device) * 2 + 1
    hashes = torch.empty(keys.shape[0], dtype=torch.int64, device=keys.device)
    step = max(1, ACCELERATOR_BUDGET // max(1, keys.shape[1]))
    for start in range(0, keys.shape[0], step):
        bits = (keys[start : start + step] + 0.0).view(width).long() * weights  # + 0.0: minus zero becomes zero
        hashes[start : start + step] = ((bits ^ (bits >> 29)) * weights).sum(1)
    return hashes


def _repeated(values: Tensor) -> Tensor:
    """Places, rising, of values that occur more than once."""
    ordered, order = values.sort(stable=True)
    same = ordered[1:] == ordered[:-1]
    repeated = torch.zeros_like(ordered, dtype=torch.bool)
    repeated[1:] |= same
    repeated[:-1] |= same
    return order[repeated].sort().values
