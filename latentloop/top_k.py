"""The k best items of each query, a block of items at a time."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from latentloop.errors import InputError

__all__ = ["ITEMS_AT_A_TIME", "top_k"]

ITEMS_AT_A_TIME = 1 << 16
"""Items scored at once: with 1024 rows, 256 MiB of float32 scores."""


def top_k(
    queries: Float[Tensor, "B d"],
    keys: Float[Tensor, "N d"],
    k: int,
    *,
    exclude: tuple[Int[Tensor, " n"], Int[Tensor, " n"]] | None = None,
    candidates: Bool[Tensor, " N"] | None = None,
) -> tuple[Float[Tensor, "B k"], Int[Tensor, "B k"]]:
    """The k best items of each row, holding scores of a block of items only; -inf marks what is no candidate.

    Naively: `(queries @ keys.T).masked_fill(excluded, -inf).topk(k)`. Ties go to the smaller item number. Scores are
    float32, under autocast too.

    Args:
        queries: (B, d).
        keys: (N, d), row i - 1 for item i.
        k: 1..N.
        exclude: (row, item) pairs to leave out, as two equally long vectors.
        candidates: (N,) which items may come at all.

    Returns:
        Scores (B, k), descending, and item numbers 1..N (B, k).

    Raises:
        InputError: where a score is NaN.
    """
    queries, keys = queries.float(), keys.float()
    best = queries.new_empty(queries.shape[0], 0)
    best_items = torch.empty(queries.shape[0], 0, dtype=torch.int64, device=queries.device)
    for start in range(0, keys.shape[0], ITEMS_AT_A_TIME):
        block = keys[start : start + ITEMS_AT_A_TIME]
        with torch.autocast(queries.device.type, enabled=False):
            scores = queries @ block.T
        if bool(scores.isnan().any()):
            raise InputError("the model's scores hold NaN: it cannot rank; load an earlier checkpoint")
        if candidates is not None:
            scores[:, ~candidates[start : start + ITEMS_AT_A_TIME]] = -torch.inf
        if exclude is not None:
            row, item = exclude
            inside = (item > start) & (item <= start + block.shape[0])
            scores[row[inside], item[inside] - 1 - start] = -torch.inf
        numbers = torch.arange(start + 1, start + 1 + block.shape[0], device=keys.device).expand_as(scores)
        best, best_items = _merge(torch.cat([best, scores], 1), torch.cat([best_items, numbers], 1), k)
    return best, best_items


def _merge(scores: Tensor, items: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k best columns; topk alone leaves the order among equal scores open, so ties at the cut are settled here."""
    kept, place = scores.topk(min(k, scores.shape[1]), dim=1)
    chosen = items.gather(1, place)
    cut = kept[:, -1:]
    if bool(((scores >= cut).sum(1) > kept.shape[1]).any()):
        order = scores.sort(dim=1, descending=True, stable=True).indices[:, : kept.shape[1]]
        return scores.gather(1, order), items.gather(1, order)
    by_item = chosen.argsort(dim=1)
    order = by_item.gather(1, kept.gather(1, by_item).sort(dim=1, descending=True, stable=True).indices)
    return kept.gather(1, order), chosen.gather(1, order)
