"""Logs with something to think about: interleaved intents, and next items that take two hops to find.

Items form categories, and a category carries one of a few relations; a relation leads from each category to another.
A user follows two or three intents in turns. The next item of an intent mostly lies where the relation of its last
item leads from the category of the item *before* it, so a model has to tell the intents apart and compose two steps
of one of them. Some steps take one hop only, some are noise, and within a category few items take most of the choices:
a first-order chain beats popularity and leaves much on the table.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from latentloop.checks import above_zero, at_least
from latentloop.data.interactions import Interactions
from latentloop.errors import InputError
from latentloop.randomness import fold, keyed_uniform

__all__ = ["synthetic_log"]

_RELATIONS = 3
_ONE_HOP = 0.25  # share of an intent's steps that follow from its last item alone
_SWITCH = 0.25  # how often a user turns to another intent
_NOISE = 0.05  # how often a user takes a popular item that belongs to no intent
_SKEW = 1.3  # exponent of the popularity law within a category
_SHORTEST = 5


def synthetic_log(
    num_users: int = 2000,
    num_items: int = 600,
    seed: int = 0,
    *,
    num_categories: int = 16,
    average_length: float = 10.0,
) -> Interactions:
    """A log of interleaved intents with multi-hop transitions, popularity skew and noise.

    Every draw is keyed by (seed, step, user): the same arguments give the same log, and a user's history does not
    depend on how many users there are.

    Args:
        num_users: number of users.
        num_items: size of the catalog the users choose from; items nobody took are not in the table.
        seed: seed of everything.
        num_categories: number of categories, at most `num_items`.
        average_length: mean length of a history, more than 5, the shortest.

    Raises:
        InputError: a count out of range, or one that is not whole.
    """
    num_users, num_items = at_least("num_users", num_users, 1), at_least("num_items", num_items, 1)
    num_categories = at_least("num_categories", num_categories, 1)
    average_length = above_zero("average_length", average_length)
    if num_categories > num_items:
        raise InputError(f"num_categories: {num_categories}, expected 1..{num_items}, the number of items")
    if not average_length > _SHORTEST:
        raise InputError(f"average_length: {average_length}, expected more than {_SHORTEST}, the shortest history")
    users = torch.arange(num_users)
    lengths = _lengths(users, seed, average_length)
    leads = torch.stack([_permutation(fold(seed, "relation", r), num_categories) for r in range(_RELATIONS)])
    popularity = _popularity(num_items, num_categories, seed)

    num_intents = 2 + (keyed_uniform(fold(seed, "intents"), users) < 0.5).long()
    # each intent starts from two items of its own: the one before last, and the last
    before, last = (
        torch.stack([_draw(popularity, fold(seed, name, i), users) for i in range(3)], dim=1) for name in "ab"
    )
    active = torch.zeros_like(users)
    taken: list[Tensor] = []
    for step in range(int(lengths.max())):
        key = fold(seed, "step", step)
        turn = keyed_uniform(fold(key, "turn"), users)
        # the share of `turn` below the switch also says which of the other intents is next
        jump = 1 + (turn / _SWITCH * (num_intents - 1)).long()
        active = torch.where(turn < _SWITCH, (active + jump) % num_intents, active)
        old, new = before[users, active], last[users, active]
        relation = new % num_categories % _RELATIONS
        one_hop = keyed_uniform(fold(key, "hops"), users) < _ONE_HOP
        category = torch.where(one_hop, leads[0, new % num_categories], leads[relation, old % num_categories])
        item = _draw_within(popularity, category, num_categories, fold(key, "item"), users)
        noise = keyed_uniform(fold(key, "noise"), users) < _NOISE
        before[users, active] = torch.where(noise, old, new)
        last[users, active] = torch.where(noise, new, item)
        taken.append(torch.where(noise, _draw(popularity, fold(key, "popular"), users), item))

    table = torch.stack(taken, dim=1)
    steps = torch.arange(table.shape[1])
    real = steps < lengths[:, None]
    minutes = (keyed_uniform(fold(seed, "start"), users) * 500_000).long()
    time = 1_600_000_000 + 60 * (minutes[:, None] + 30 * steps)
    catalog, item_number = np.unique(table[real].numpy(), return_inverse=True)
    user_number = users[:, None].expand_as(table)[real].numpy()
    user_ids = [f"user-{u + 1}" for u in range(num_users)]
    item_ids = [f"item-{i + 1:0{len(str(num_items))}d}" for i in catalog]
    order = sorted(range(num_users), key=lambda u: user_ids[u])
    number = np.empty(num_users, dtype=np.int64)
    number[order] = np.arange(num_users)
    return Interactions.from_numbers(
        number[user_number], item_number + 1, time[real].numpy(), [user_ids[u] for u in order], item_ids
    )


def _lengths(users: Tensor, seed: int, average: float) -> Tensor:
    """Shortest plus a geometric number, cut at four times the average."""
    extra = average - _SHORTEST
    tail = torch.log1p(-keyed_uniform(fold(seed, "length"), users)) / math.log(extra / (1.0 + extra))
    return (_SHORTEST + tail.long()).clamp_max(math.ceil(4 * average))


def _permutation(key: int, size: int) -> Tensor:
    return torch.argsort(keyed_uniform(key, torch.arange(size)))


def _popularity(num_items: int, num_categories: int, seed: int) -> Tensor:
    """Weight of item v, the (v // C)-th of category v % C: a power law within and a milder one between categories."""
    item = torch.arange(num_items)
    liking = 0.5 + keyed_uniform(fold(seed, "category"), torch.arange(num_categories))
    return liking[item % num_categories] / (item // num_categories + 1).double() ** _SKEW


def _draw(weights: Tensor, key: int, users: Tensor) -> Tensor:
    """One item a user, in proportion to the weights."""
    edges = torch.cumsum(weights, 0)
    return torch.searchsorted(edges, keyed_uniform(key, users) * edges[-1], right=True).clamp_max(len(weights) - 1)


def _draw_within(weights: Tensor, category: Tensor, num_categories: int, key: int, users: Tensor) -> Tensor:
    """One item of the given category a user, in proportion to the weights."""
    padded = torch.zeros(-(-len(weights) // num_categories) * num_categories, dtype=weights.dtype)
    padded[: len(weights)] = weights
    edges = torch.cumsum(padded.view(-1, num_categories), 0).T.contiguous()[category]
    sizes = (len(weights) - 1 - category) // num_categories + 1
    rank = torch.searchsorted(edges, keyed_uniform(key, users)[:, None] * edges[:, -1:], right=True)[:, 0]
    return torch.minimum(rank, sizes - 1) * num_categories + category
