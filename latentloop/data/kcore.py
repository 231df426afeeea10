"""Iterative k-core: drop rare users and items until none is left to drop."""

from __future__ import annotations

import numpy as np

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
    user, item = interactions.user.numpy(), interactions.item.numpy()
    rows = np.arange(len(user))
    while True:
        users = np.bincount(user[rows], minlength=interactions.num_users)
        items = np.bincount(item[rows], minlength=interactions.num_items + 1)
        keep = (users[user[rows]] >= k) & (items[item[rows]] >= k)
        if keep.all():
            break
        rows = rows[keep]
    if not len(rows):
        raise InputError(
            f"no user is left after the {k}-core of {interactions.num_users} users and "
            f"{interactions.num_items} items: use a smaller core, or 1 to keep everything",
            settings=("k_core",),
        )
    kept_users, kept_items = np.flatnonzero(users >= k), np.flatnonzero(items >= k)
    if len(kept_users) == interactions.num_users and len(kept_items) == interactions.num_items:
        return interactions
    time = interactions.timestamp
    return Interactions.from_numbers(
        np.searchsorted(kept_users, user[rows]),
        np.searchsorted(kept_items, item[rows]) + 1,
        None if time is None else time.numpy()[rows],
        [interactions.user_ids[u] for u in kept_users.tolist()],
        [interactions.item_ids[i - 1] for i in kept_items.tolist()],
    )
