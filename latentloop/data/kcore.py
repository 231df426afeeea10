"""Iterative k-core: drop rare users and items until none is left to drop."""

from __future__ import annotations

from itertools import compress

import numpy as np
import torch

from latentloop.checks import at_least
from latentloop.data.interactions import Interactions, check_interactions
from latentloop.errors import InputError

__all__ = ["k_core"]


def k_core(interactions: Interactions, k: int) -> Interactions:
    """The largest part in which every user and every item has at least k interactions.

    Repeats counting and dropping to the fix point; users and items that are left are renumbered, their ids stay.

    Args:
        interactions: the table to filter.
        k: the least number of interactions, 1 or more; 1 keeps everything that occurs.

    Raises:
        InputError: `k` is no whole number of at least 1, or no user is left.
        InputTypeError: for anything but interactions.
    """
    check_interactions(interactions)
    k = at_least("k", k, 1)
    user, item = interactions.user.numpy(), interactions.item.numpy()
    users = np.bincount(user, minlength=interactions.num_users)
    items = np.bincount(item, minlength=interactions.num_items + 1)
    kept = np.ones(len(user), dtype=bool)
    while True:
        frequent = (users >= k)[user] & (items >= k)[item]
        dropped = np.flatnonzero(kept > frequent)
        if not len(dropped):
            break
        # only what was dropped is counted again
        kept = frequent
        users -= np.bincount(user[dropped], minlength=len(users))
        items -= np.bincount(item[dropped], minlength=len(items))
    if not kept.any():
        raise InputError(
            f"no user is left after the {k}-core of {interactions.num_users} users and "
            f"{interactions.num_items} items: use a smaller core, or 1 to keep everything",
            settings=("k_core",),
        )
    known_users, known_items = users >= k, items[1:] >= k
    if known_users.all() and known_items.all():
        return interactions
    time = interactions.timestamp
    return Interactions(  # rows keep their order
        torch.from_numpy((np.cumsum(known_users) - 1)[user[kept]]),
        torch.from_numpy(np.cumsum(known_items)[item[kept] - 1]),
        None if time is None else torch.from_numpy(time.numpy()[kept]),
        list(compress(interactions.user_ids, known_users.tolist())),
        list(compress(interactions.item_ids, known_items.tolist())),
    )
