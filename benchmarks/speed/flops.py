"""Work that cannot be avoided, counted by hand, and how fast this machine's matrix products alone would do it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial

import torch

from benchmarks.speed.clock import seconds_of
from benchmarks.speed.options import Device

__all__ = ["Work", "ceilings", "layer", "score", "shortest"]

DIM, INNER = 64, 256
_TOKENS: dict[Device, int] = {"cpu": 12_000, "cuda": 200_000}
_SCORES: dict[Device, int] = {"cpu": 2**20, "cuda": 2**25}
_COPIED = 2**28
"""Tokens, scores and copied numbers at once: what a CPU's cache holds, and what fills a GPU."""


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


def ceilings(tokens: int | None = None, items: int = 24_587, *, device: Device = "cpu") -> dict[str, float]:
    """Operations a second that torch's matrix products reach at best at the benchmark's shapes and number of threads.

    "blocks": (tokens x 64 x 256) and back, "blocks bf16" the same; "scores": a cache's worth of rows with all items,
    and the two products of its gradients. On CUDA also "copy", the bytes a second that a copy there reads and writes.
    """
    return _ceilings(tokens or _TOKENS[device], items, device)


@cache
def _ceilings(tokens: int, items: int, device: Device) -> dict[str, float]:
    rows = max(16, _SCORES[device] // items)
    random, empty = partial(torch.randn, device=device), partial(torch.empty, device=device)
    small, large = random(tokens, DIM), empty(tokens, INNER)
    up, down = random(INNER, DIM) / DIM**0.5, random(DIM, INNER) / INNER**0.5

    def blocks() -> None:
        torch.mm(small, up.T, out=large)
        torch.mm(large, down.T, out=small)

    low = [tensor.bfloat16() for tensor in (small, large, up, down)]

    def blocks_low() -> None:
        torch.mm(low[0], low[2].T, out=low[1])
        torch.mm(low[1], low[3].T, out=low[0])

    queries, keys, scores = random(rows, DIM), random(items, DIM), empty(rows, items)
    grad_queries, grad_keys = empty(rows, DIM), empty(items, DIM)

    def all_scores() -> None:
        torch.mm(queries, keys.T, out=scores)
        torch.mm(scores, keys, out=grad_queries)
        torch.mm(scores.T, queries, out=grad_keys)

    maps = 2.0 * 2 * tokens * DIM * INNER
    found = {
        "blocks": maps / _best_seconds(blocks),
        "blocks bf16": maps / _best_seconds(blocks_low),
        "scores": 3 * score(rows, items) / _best_seconds(all_scores),
    }
    if device == "cuda":
        one, other = empty(_COPIED), empty(_COPIED)
        found["copy"] = 2 * one.nbytes / _best_seconds(lambda: other.copy_(one))
    return found


def shortest(work: Work, device: Device = "cpu") -> float:
    """Seconds that the products of `work` take at the ceilings of `device`."""
    found = ceilings(device=device)
    blocks = found["blocks" if work.precision == "fp32" else "blocks bf16"]
    return work.blocks / blocks + work.scores / found["scores"]


def _best_seconds(action: Callable[[], object], budget: float = 0.4) -> float:
    action()
    taken: list[float] = []
    until = time.perf_counter() + budget
    while len(taken) < 5 or time.perf_counter() < until:
        taken.append(seconds_of(action))
    return min(taken)
