"""Scores of rows against all items, a chunk of rows at a time: rows x items scores never exist at once.

    score(r, v) = queries[r] . keys[v - 1]        v = 1..N

Scores are float32 whatever comes in (float64 stays float64), also under autocast.

Shapes: R rows, N items, d latent size.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from latentloop.errors import InputError

__all__ = [
    "ACCELERATOR_BUDGET",
    "ChunkScorer",
    "check_ids",
    "checked",
    "checked_reference",
    "chunks",
    "no_autocast",
    "pick",
]

# Scores held at once. On a CPU chunks that stay in the last-level cache are fastest (4,344 to 24,587 items, d 64: up to
# twice as fast as dense); an accelerator wants few, large kernels instead.
CPU_BUDGET = 3 * 2**20
CPU_TILE = 1024  # items of one product: written tile by tile, 128 rows are scored 1.9 times as fast as in one piece
ACCELERATOR_BUDGET = 2**25
LEAST_ROWS = 64  # a product of fewer rows reads all keys for too little work; 64 x N is about the keys' own N x d


def chunks(rows: int, keys: Tensor) -> Iterator[slice]:
    """Slices of rows whose scores against all keys fit the budget of the keys' device."""
    budget = CPU_BUDGET if keys.device.type == "cpu" else ACCELERATOR_BUDGET
    size = max(LEAST_ROWS, budget // max(1, keys.shape[0]))
    for start in range(0, rows, size):
        yield slice(start, min(rows, start + size))


class ChunkScorer:
    """Chunks of scores, written into one buffer: allocating afresh costs more than the product itself."""

    def __init__(self, queries: Tensor, keys: Tensor) -> None:
        self.queries, self.keys = queries, keys.T
        self.buffer: Tensor | None = None

    def __call__(self, rows: slice) -> Tensor:
        queries, items = self.queries[rows], self.keys.shape[1]
        if self.buffer is None:
            self.buffer = queries.new_empty(queries.shape[0], items)
        scores = self.buffer[: queries.shape[0]]
        tile = CPU_TILE if scores.device.type == "cpu" else items
        for start in range(0, items, tile):
            torch.mm(queries, self.keys[:, start : start + tile], out=scores[:, start : start + tile])
        return scores


def no_autocast(tensor: Tensor) -> torch.autocast:
    """Switch autocast off where `tensor` lives."""
    return torch.autocast(device_type=tensor.device.type, enabled=False)


def _wide(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def checked(queries: Tensor, keys: Tensor, **ids: Tensor) -> tuple[Tensor, Tensor]:
    """Queries and keys in one dtype of at least float32, once their shapes and every row of `ids` are in order.

    Args:
        queries: (R, d) float.
        keys: (N, d) float.
        ids: (R,) int64 item ids 1..N, by the name that an error shall give them.

    Raises:
        InputError: for shapes that do not fit, no items, or an id outside 1..N.
    """
    if queries.ndim != 2 or keys.ndim != 2 or queries.shape[1] != keys.shape[1]:
        raise InputError(
            f"queries and keys must be (rows, d) and (items, d), got {tuple(queries.shape)} and {tuple(keys.shape)}"
        )
    if keys.shape[0] < 1:
        raise InputError("keys must hold at least one item, got none")
    for name, values in ids.items():
        if values.shape != queries.shape[:1] or values.dtype != torch.int64:
            raise InputError(
                f"{name} must be {queries.shape[0]} int64 item ids, one a row, got {tuple(values.shape)} {values.dtype}"
            )
        if values.device.type == "cpu":  # an accelerator would have to be waited for, and its own look-ups check
            check_ids(name, values, keys.shape[0])
    queries, keys = _wide(queries), _wide(keys)
    dtype = torch.promote_types(queries.dtype, keys.dtype)
    return queries.to(dtype), keys.to(dtype)


def checked_reference(ref_queries: Tensor, ref_keys: Tensor, queries: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
    """A frozen reference's queries and keys, detached and in the dtype of the `checked` ones that they stand beside.

    Raises:
        InputError: for shapes that do not fit each other, or other numbers of rows or items.
    """
    ref_queries, ref_keys = checked(ref_queries.detach(), ref_keys.detach())
    if ref_queries.shape[0] != queries.shape[0] or ref_keys.shape[0] != keys.shape[0]:
        found = f"{ref_queries.shape[0]} rows and {ref_keys.shape[0]} items"
        raise InputError(f"the reference must have {queries.shape[0]} rows and {keys.shape[0]} items, got {found}")
    return ref_queries.to(queries.dtype), ref_keys.to(queries.dtype)


def check_ids(name: str, ids: Tensor, num_items: int) -> None:
    """Refuse an item id outside 1..N; (n,) int64, which may be empty."""
    if ids.numel():
        low, high = (int(bound) for bound in torch.aminmax(ids))
        if low < 1 or high > num_items:
            raise InputError(f"{name} must hold item ids 1..{num_items}, found {low if low < 1 else high}")


def pick(scores: Tensor, column: Tensor) -> Tensor:
    """The score in one column of each row, (rows, 1)."""
    return scores.gather(1, column[:, None])
