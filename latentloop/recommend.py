"""From histories in original ids to the k best items in original ids."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from latentloop.checks import at_least, is_whole
from latentloop.errors import InputError, InputTypeError
from latentloop.histories import from_ids, from_tensor, of_users
from latentloop.items.bonus import Bonus, bonus_of, check_bonus
from latentloop.items.ids import ItemId, ItemIds
from latentloop.items.top_k import top_k
from latentloop.modes.dropout import evaluating

if TYPE_CHECKING:
    from latentloop.data.interactions import Interactions
    from latentloop.data.splits import Split
    from latentloop.recommender import Recommender

__all__ = ["Recommendations", "recommend", "top_k"]

logger = logging.getLogger(__name__)


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


@torch.no_grad()
def recommend(
    model: Recommender,
    histories: Sequence[Sequence[ItemId]] | Tensor | None = None,
    *,
    users: Sequence[ItemId] | None = None,
    data: Interactions | Split | None = None,
    k: int = 10,
    depth: int | None = None,
    exclude_history: bool = True,
    allow: Sequence[ItemId] | None = None,
    deny: Sequence[ItemId] | None = None,
    strict: bool = False,
    batch_size: int = 1024,
    bonus: Bonus | None = None,
) -> Recommendations:
    """See `Recommender.recommend`."""
    if not is_whole(k) or not 1 <= k <= model.num_items:
        raise InputError(f"k must lie in 1..{model.num_items}, the size of the catalog, got {k!r}")
    k, batch_size = int(k), at_least("batch_size", batch_size, 1)
    if (histories is None) == (users is None):
        raise InputError("give either histories or users (with data), and not both")
    if data is not None:
        _check_data(data)
    ids = _catalog(model, data)
    check_bonus(bonus, model.num_items, None if model.item_ids is None and data is None else ids.ids)
    if users is not None:
        rows = of_users(users, data, ids, strict=strict)
    elif isinstance(histories, Tensor):
        rows = from_tensor(histories, model.num_items)
    else:
        named = model.item_ids is not None or data is not None
        rows = from_ids(histories if histories is not None else (), ids, strict=strict, named=named)
    candidates = _candidates(ids, allow, deny, strict, model.device)
    items: list[list[ItemId]] = []
    scores: list[list[float]] = []
    names = ids.ids
    with evaluating(model):
        keys = model.keys()
        for start in range(0, len(rows), batch_size):
            part = rows.part(start, start + batch_size)
            padded = part.left_padded(model.max_length).to(model.device)
            queries = model.queries(model.think(padded, depth=depth).final)
            row, item = part.pairs()
            exclude = (row.to(model.device), item.to(model.device)) if exclude_history else None
            # as in an evaluation, a bonus may look further back than the model
            more = None if bonus is None else bonus_of(bonus, part.to(model.device), model.num_items)
            best, chosen = top_k(queries, keys, k, exclude=exclude, candidates=candidates, bonus=more)
            kept = (best > -torch.inf).sum(1).tolist()
            scores += [found[:count] for found, count in zip(best.tolist(), kept, strict=True)]
            items += [[names[i - 1] for i in found[:count]] for found, count in zip(chosen.tolist(), kept, strict=True)]
    return Recommendations(items, scores)


def _check_data(data: object) -> None:
    """Refuse what is read nowhere here, such as a DataFrame."""
    from latentloop.data.interactions import Interactions  # serving raw histories needs no data
    from latentloop.data.splits import Split

    if not isinstance(data, Interactions | Split):
        raise InputTypeError(
            f"data must be Interactions or a Split of them, got {type(data).__name__}: load_interactions makes "
            "Interactions of a table or a file"
        )


def _catalog(model: Recommender, data: Interactions | Split | None) -> ItemIds:
    """The model's original ids; of a model that was never given any, those of `data`, else the numbers themselves."""
    if model.item_ids is not None:
        return model.item_ids
    if data is None:
        return ItemIds(range(1, model.num_items + 1))
    if len(data.item_ids) != model.num_items:
        raise InputError(f"data must hold the model's {model.num_items} items, found {len(data.item_ids)}")
    return ItemIds(data.item_ids)


def _candidates(
    ids: ItemIds,
    allow: Sequence[ItemId] | None,
    deny: Sequence[ItemId] | None,
    strict: bool,
    device: torch.device,
) -> Tensor | None:
    """(N,) bool, which items may be recommended; None for all."""
    if allow is None and deny is None:
        return None
    candidates = torch.full((len(ids),), allow is None, dtype=torch.bool)
    for name, listed, value in (("allow", allow, True), ("deny", deny, False)):
        listed = () if listed is None else listed
        if isinstance(listed, str | bytes) or not isinstance(listed, Iterable):  # the letters of a text may be items
            raise InputTypeError(f"{name} must be a list of item ids, got {listed!r}")
        known, unknown = ids.numbers(listed if hasattr(listed, "tolist") else list(listed))
        if unknown and strict:
            raise InputError(f"{name} names item {unknown[0]!r}, which the model does not know", settings=(name,))
        if unknown:
            logger.warning("%s: skipped %d unknown item(s), the first is %r", name, len(unknown), unknown[0])
        candidates[torch.tensor(known, dtype=torch.int64) - 1] = value
    return candidates.to(device)
