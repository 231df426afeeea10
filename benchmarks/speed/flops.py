"""Work that cannot be avoided, counted by hand, and how fast this machine's matrix products alone would do it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch

from benchmarks.speed.clock import seconds_of

__all__ = ["Work", "ceilings", "layer", "score", "shortest"]

DIM, INNER = 64, 256


@dataclass(frozen=True)
class Work:
    """Floating-point operations of matrix products; a multiplication and an addition are two.

    Args:
        blocks: of the layers' linear maps, on real tokens.
        scores: of queries with all items' keys, and of their gradients.
        precision: what the blocks run in.
    """

    blocks: float = 0.0
    scores: float = 0.0
    precision: str = "fp32"

    @property
    def total(self) -> float:
        """Both."""
        return self.blocks + self.scores


def layer(tokens: float) -> float:
    """Linear maps of one layer of SASRec for so many tokens: attention's four d x d, the feed-forward net's two."""
    return tokens * 2 * (4 * DIM * DIM + 2 * DIM * INNER)


def score(rows: float, items: int) -> float:
    """One product of so many rows with all items."""
    return rows * items * DIM * 2.0


@cache
def ceilings(tokens: int = 12_000, items: int = 24_587) -> dict[str, float]:
    """Operations a second that torch's matrix products reach at best at the benchmark's shapes and number of threads.

    "blocks": (tokens x 64 x 256) and back, "blocks bf16" the same; "scores": a cache's worth of rows with all items,
    and the two products of its gradients.
    """
    rows = max(16, 2**20 // items)
    small, large = torch.randn(tokens, DIM), torch.empty(tokens, INNER)
    up, down = torch.randn(INNER, DIM) / DIM**0.5, torch.randn(DIM, INNER) / INNER**0.5

    def blocks() -> None:
        torch.mm(small, up.T, out=large)
        torch.mm(large, down.T, out=small)

    low = [tensor.bfloat16() for tensor in (small, large, up, down)]

    def blocks_low() -> None:
        torch.mm(low[0], low[2].T, out=low[1])
        torch.mm(low[1], low[3].T, out=low[0])

    queries, keys, scores = torch.randn(rows, DIM), torch.randn(items, DIM), torch.empty(rows, items)
    grad_queries, grad_keys = torch.empty(rows, DIM), torch.empty(items, DIM)

    def all_scores() -> None:
        torch.mm(queries, keys.T, out=scores)
        torch.mm(scores, keys, out=grad_queries)
        torch.mm(scores.T, queries, out=grad_keys)

    maps = 2.0 * 2 * tokens * DIM * INNER
    return {
        "blocks": maps / _best_seconds(blocks),
        "blocks bf16": maps / _best_seconds(blocks_low),
        "scores": 3 * score(rows, items) / _best_seconds(all_scores),
    }


def shortest(work: Work) -> float:
    """Seconds that the products of `work` take at the machine's ceilings."""
    found = ceilings()
    blocks = found["blocks" if work.precision == "fp32" else "blocks bf16"]
    return work.blocks / blocks + work.scores / found["scores"]


def _best_seconds(action: Callable[[], None], budget: float = 0.4) -> float:
    action()
    taken: list[float] = []
    until = time.perf_counter() + budget
    while len(taken) < 5 or time.perf_counter() < until:
        taken.append(seconds_of(action))
    return min(taken)
