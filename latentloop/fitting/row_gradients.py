"""Look-ups whose gradient names the rows it is of, instead of filling a table."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

__all__ = ["row_gradients"]


@contextmanager
def row_gradients(table: nn.Embedding, wanted: bool) -> Iterator[None]:
    """Inside, look-ups in `table` give it sparse gradients of the rows looked up, or dense ones where not `wanted`.

    A table that is used as a whole besides still gets the right gradient: sparse and dense ones add up to a dense one.
    """
    before, table.sparse = table.sparse, wanted
    try:
        yield
    finally:
        table.sparse = before
