"""Small worlds for tests of evaluation: random logs, a model whose scores are whole numbers, and naive ranking."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from latentloop.data.interactions import Interactions
from latentloop.data.splits import Split, leave_one_out
from latentloop.recurrence import Thoughts


def random_log(seed: int, users: int = 12, items: int = 9, longest: int = 11) -> Interactions:
    """Histories of 3 to `longest` items with repeats, and every item taken by somebody."""
    rng = np.random.default_rng(seed)
    histories = [rng.integers(1, items + 1, rng.integers(3, longest + 1)).tolist() for _ in range(users)]
    histories.append(list(range(1, items + 1)) if items > 2 else [1, 1, *range(1, items + 1)])
    rows = [(user, item, time) for user, history in enumerate(histories) for time, item in enumerate(history)]
    return Interactions.of([u for u, _, _ in rows], [i for _, i, _ in rows], [t for _, _, t in rows])


def random_split(seed: int, *, max_length: int = 5, **sizes: int) -> Split:
    return leave_one_out(random_log(seed, **sizes), max_length)


class WholeNumbers(nn.Module):
    """Thought j is j times a whole-number vector of the newest item plus that of the oldest: exact, and full of ties."""

    def __init__(self, num_items: int, seed: int = 0, dim: int = 3) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(seed)
        self.num_items, self.inference_depth = num_items, 2
        self.table = nn.Parameter(torch.randint(-2, 3, (num_items + 1, dim), generator=draw).float())
        self.dropout = nn.Dropout(0.5)
        self.runs: list[int] = []

    def think(self, history: Tensor, *, depth: int | None = None) -> Thoughts:
        depth = self.inference_depth if depth is None else depth
        self.runs.append(depth)
        newest, oldest = self.table[history[:, -1]], self.table[history[:, 0]]
        return Thoughts(torch.stack([self.dropout(newest * j + oldest) for j in range(1, depth + 1)]))

    def queries(self, thoughts: Tensor) -> Tensor:
        return thoughts.flip(-1)

    def keys(self) -> Tensor:
        return self.table[1:]


def pasts(split: Split, held_out: int) -> list[tuple[list[int], int]]:
    """Each evaluated user's (whole past, target), from the table's rows alone; `held_out` is 1 for test, 2 before it."""
    found = []
    for user in range(split.num_users):
        history = split.interactions.item[split.interactions.user == user].tolist()
        if len(history) >= 3:
            found.append((history[:-held_out], history[-held_out]))
    return found


def naive_counts(scores: list[float], target: int, excluded: list[int]) -> tuple[int, int]:
    """(greater, ties) of item `target` among items 1..N by looking at each."""
    greater = ties = 0
    for item, score in enumerate(scores, start=1):
        if item == target or item in excluded:
            continue
        greater += score > scores[target - 1]
        ties += score == scores[target - 1]
    return greater, ties
