"""From histories in original ids to the k best items, a block of items at a time."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from latentloop.errors import InputError
from latentloop.item_ids import ItemId, ItemIds

if TYPE_CHECKING:
    from latentloop.data.interactions import Interactions
    from latentloop.recommender import Recommender

__all__ = ["Recommendations", "recommend", "top_k"]

logger = logging.getLogger(__name__)

ITEMS_AT_A_TIME = 1 << 16
"""Items scored at once: with 1024 rows, 256 MiB of float32 scores."""


@dataclass(frozen=True)
class Recommendations:
    """Ranked items, best first, one list a user.

    Args:
        items: original item ids.
        scores: their scores; shorter than k where fewer candidates were left.
    """

    items: list[list[ItemId]]
    scores: list[list[float]]

    def __len__(self) -> int:
        return len(self.items)


def top_k(
    queries: Float[Tensor, "B d"],
    keys: Float[Tensor, "N d"],
    k: int,
    *,
    exclude: tuple[Int[Tensor, " n"], Int[Tensor, " n"]] | None = None,
    candidates: Bool[Tensor, " N"] | None = None,
) -> tuple[Float[Tensor, "B k"], Int[Tensor, "B k"]]:
    """The k best items of each row, holding scores of a block of items only; -inf marks what is no candidate.

    Naively: `(queries @ keys.T).masked_fill(excluded, -inf).topk(k)`. Ties go to the smaller item number.

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
    best = queries.new_full((queries.shape[0], 0), 0.0)
    best_items = torch.empty(queries.shape[0], 0, dtype=torch.int64, device=queries.device)
    for start in range(0, keys.shape[0], ITEMS_AT_A_TIME):
        block = keys[start : start + ITEMS_AT_A_TIME]
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


@torch.no_grad()
def recommend(
    model: Recommender,
    histories: Sequence[Sequence[ItemId]] | Tensor | None = None,
    *,
    users: Sequence[ItemId] | None = None,
    data: Interactions | None = None,
    k: int = 10,
    depth: int | None = None,
    exclude_history: bool = True,
    allow: Sequence[ItemId] | None = None,
    deny: Sequence[ItemId] | None = None,
    strict: bool = False,
    batch_size: int = 1024,
) -> Recommendations:
    """See `Recommender.recommend`."""
    if isinstance(k, bool) or not isinstance(k, int) or not 1 <= k <= model.num_items:
        raise InputError(f"k must lie in 1..{model.num_items}, the size of the catalog, got {k!r}")
    ids = model.item_ids or ItemIds(range(1, model.num_items + 1))
    rows = _histories(model, histories, users, data, ids, strict)
    candidates = _candidates(ids, allow, deny, strict, model.device)
    keys = model.keys()
    training = model.training
    model.eval()
    items: list[list[ItemId]] = []
    scores: list[list[float]] = []
    try:
        for start in range(0, len(rows), batch_size):
            part = rows[start : start + batch_size]
            padded = _left_padded(part, model.max_length).to(model.device)
            queries = model.queries(model.think(padded, depth=depth).final)
            exclude = _pairs(part, model.device) if exclude_history else None
            best, chosen = top_k(queries, keys, k, exclude=exclude, candidates=candidates)
            for row_scores, row_items in zip(best.tolist(), chosen.tolist(), strict=True):
                kept = [(s, i) for s, i in zip(row_scores, row_items, strict=True) if s != float("-inf")]
                scores.append([s for s, _ in kept])
                items.append([ids.original(i) for _, i in kept])
    finally:
        model.train(training)
    return Recommendations(items, scores)


def _histories(
    model: Recommender,
    histories: Sequence[Sequence[ItemId]] | Tensor | None,
    users: Sequence[ItemId] | None,
    data: Interactions | None,
    ids: ItemIds,
    strict: bool,
) -> list[list[int]]:
    """Item numbers of each user, oldest first, without padding."""
    if (histories is None) == (users is None):
        raise InputError("give either histories or users (with data), and not both")
    if users is not None:
        if data is None:
            raise InputError("users are looked up in data: pass the interactions as data=")
        return [data.history_of(user).tolist() for user in users]
    if isinstance(histories, Tensor):
        return [[i for i in row if i != 0] for row in histories.tolist()]
    rows: list[list[int]] = []
    for place, history in enumerate(histories or ()):
        known, unknown = ids.numbers(list(history))
        if unknown and strict:
            raise InputError(f"history {place} names item {unknown[0]!r}, which the model does not know")
        if unknown:
            logger.warning("history %d: skipped %d unknown item(s), the first is %r", place, len(unknown), unknown[0])
        rows.append(known)
    return rows


def _candidates(
    ids: ItemIds,
    allow: Sequence[ItemId] | None,
    deny: Sequence[ItemId] | None,
    strict: bool,
    device: torch.device,
) -> Tensor | None:
    if allow is None and deny is None:
        return None
    candidates = torch.full((len(ids),), allow is None, dtype=torch.bool)
    for name, listed, value in (("allow", allow or (), True), ("deny", deny or (), False)):
        known, unknown = ids.numbers(list(listed))
        if unknown and strict:
            raise InputError(f"{name} names item {unknown[0]!r}, which the model does not know")
        if unknown:
            logger.warning("%s: skipped %d unknown item(s), the first is %r", name, len(unknown), unknown[0])
        candidates[torch.tensor(known, dtype=torch.int64) - 1] = value
    return candidates.to(device)


def _left_padded(rows: list[list[int]], max_length: int) -> Tensor:
    length = max(1, min(max_length, max(map(len, rows), default=1)))
    padded = torch.zeros(len(rows), length, dtype=torch.int64)
    for place, row in enumerate(rows):
        if row:
            padded[place, -min(len(row), length) :] = torch.tensor(row[-length:])
    return padded


def _pairs(rows: list[list[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    row = torch.repeat_interleave(torch.arange(len(rows)), torch.tensor([len(r) for r in rows]))
    return row.to(device), torch.tensor([i for r in rows for i in r], dtype=torch.int64).to(device)
