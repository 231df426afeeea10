"""Iterative k-core: drop rare users and items until none is left to drop."""

from __future__ import annotations

from itertools import compress

import torch

from latentloop.data.interactions import Interactions
from latentloop.errors import InputError

__all__ = ["k_core"]


def k_core(interactions: Interactions, k: int) -> Interactions:
    """The largest part in which every user and every item has at least k interactions.

    Repeats counting and dropping to the fix point; users and items that are left are renumbered, their ids stay.

    Args:
        interactions: the table to filter.
        k: the least number of interactions, 1 or more; 1 keeps everything that occurs.

    Raises:
        InputError: `k` below 1, or no user is left.
    """
    if k < 1:
        raise InputError(f"k: {k}, expected 1 or more (1 keeps everything)")
    user, item = interactions.user, interactions.item - 1
    users = torch.bincount(user, minlength=interactions.num_users)
    items = torch.bincount(item, minlength=interactions.num_items)
    kept = torch.ones(len(user), dtype=torch.bool)
    while True:
        frequent = (users >= k)[user].logical_and_((items >= k)[item])
        dropped = (kept > frequent).nonzero()[:, 0]
        if not len(dropped):
            break
        # only what was dropped is counted again
        kept = frequent
        users -= torch.bincount(user[dropped], minlength=len(users))
        items -= torch.bincount(item[dropped], minlength=len(items))
    if not bool(kept.any()):
        raise InputError(
            f"no user is left after the {k}-core of {interactions.num_users} users and "
            f"{interactions.num_items} items: use a smaller core, or 1 to keep everything",
            settings=("k_core",),
        )
    known_users, known_items = users >= k, items >= k
    if bool(known_users.all()) and bool(known_items.all()):
        return interactions
    time, rows = interactions.timestamp, kept.nonzero()[:, 0]
    return Interactions(  # rows keep their order
        (known_users.cumsum(0) - 1)[user[rows]],
        known_items.cumsum(0)[item[rows]],
        None if time is None else time[rows],
        list(compress(interactions.user_ids, known_users.tolist())),
        list(compress(interactions.item_ids, known_items.tolist())),
    )
