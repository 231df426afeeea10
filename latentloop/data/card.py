"""What a data set is, in seven numbers, one of which changes when anything in it does."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

import numpy as np
import torch

from latentloop.data.interactions import Interactions

__all__ = ["DataCard", "content_hash"]


@dataclass(frozen=True)
class DataCard:
    """The counts of a table and the hash of its content; printed and saved with every result.

    Args:
        users: number of users.
        items: number of items.
        actions: number of interactions.
        average_length: actions per user.
        sparsity: share of empty cells of the users x items matrix.
        repeats: share of actions on an item that the user has acted on before.
        hash: SHA-256 (hex) of the canonical rows and ids.
    """

    users: int
    items: int
    actions: int
    average_length: float
    sparsity: float
    repeats: float
    hash: str

    @classmethod
    def of(cls, interactions: Interactions) -> DataCard:
        """The card of a table.

        Args:
            interactions: the table to describe.
        """
        users, items, actions = interactions.num_users, interactions.num_items, len(interactions)
        cells, pairs = users * items, _pairs(interactions)
        return cls(
            users=users,
            items=items,
            actions=actions,
            average_length=actions / users if users else 0.0,
            sparsity=1.0 - pairs / cells if cells else 0.0,
            repeats=1.0 - pairs / actions if actions else 0.0,
            hash=content_hash(interactions),
        )

    def text(self) -> str:
        """The card as one line for people."""
        return (
            f"{self.users:,} users, {self.items:,} items, {self.actions:,} actions, "
            f"average length {self.average_length:.1f}, sparsity {self.sparsity:.2%}, "
            f"repeats {self.repeats:.2%}, hash {self.hash[:12]}"
        )


def _pairs(interactions: Interactions) -> int:
    """How many different pairs of a user and an item there are."""
    pairs = interactions.user.long() * (interactions.num_items + 1) + interactions.item
    return len(torch.unique(pairs))


def content_hash(interactions: Interactions) -> str:
    """SHA-256 (hex) of a table's rows and ids; the same content gives the same hash on every machine.

    Args:
        interactions: the table to hash.
    """
    digest = hashlib.sha256()
    for name, column in (("user", interactions.user), ("item", interactions.item), ("time", interactions.timestamp)):
        if column is not None:
            array = np.ascontiguousarray(column.numpy())
            kind = array.dtype.newbyteorder("<")
            digest.update(f"{name} {kind.str} {len(array)}\n".encode())
            digest.update(array.astype(kind, copy=False).tobytes())
    for ids in (interactions.user_ids, interactions.item_ids):
        digest.update(json.dumps(list(ids), separators=(",", ":")).encode())
    return digest.hexdigest()
