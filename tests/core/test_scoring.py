"""What a scorer of one's own gives is looked at where it is used."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from latentloop.errors import InputError, InputTypeError
from latentloop.recommender import Recommender
from tests.core.worlds import DIM, MAX_LENGTH, NUM_ITEMS, unchecked


class Scoring:
    """Gives what it is told to make of thoughts and items."""

    def __init__(self, queries: Any = None, keys: Any = None) -> None:
        self.of_thoughts, self.of_items = queries, keys

    def queries(self, thoughts: Tensor) -> Tensor:
        """Of thoughts."""
        found: Tensor = thoughts if self.of_thoughts is None else self.of_thoughts(thoughts)
        return found

    def keys(self, items: Tensor) -> Tensor:
        """Of items."""
        found: Tensor = items if self.of_items is None else self.of_items(items)
        return found


@pytest.mark.parametrize(
    ("scorer", "message"),
    [
        (Scoring(keys=lambda items: items[:5]), rf"Scoring.keys must return one row an item, \({NUM_ITEMS}, any\), got \(5, {DIM}\)"),
        (Scoring(keys=lambda items: torch.cat([items, items[:3]])), rf"got \({NUM_ITEMS + 3}, {DIM}\)$"),
        (Scoring(keys=lambda items: items[:, 0]), rf"keys must return .*, got \({NUM_ITEMS},\)$"),
        (Scoring(queries=lambda t: t[0]), rf"Scoring.queries must return one row a thought, \(2, any\), got \({DIM},\)$"),
    ],
)  # fmt: skip
def test_other_shapes_are_refused(scorer: Scoring, message: str) -> None:
    model = Recommender(NUM_ITEMS, nn.Linear(DIM, DIM), DIM, MAX_LENGTH, scorer=scorer)
    with pytest.raises(InputError, match=f"^scorer: .*{message}"):
        model.score(torch.tensor([[1, 2], [3, 4]]))


@pytest.mark.parametrize(
    ("scorer", "kind"),
    [
        (Scoring(queries=lambda thoughts: [thoughts]), "list"),
        (Scoring(keys=lambda items: items.long()), "torch.int64"),
        (Scoring(keys=lambda items: items.to(torch.complex64)), "torch.complex64"),
    ],
)
def test_what_is_no_tensor_of_real_numbers_is_refused(scorer: Scoring, kind: str) -> None:
    model = Recommender(NUM_ITEMS, nn.Linear(DIM, DIM), DIM, MAX_LENGTH, scorer=scorer)
    with (
        unchecked(),
        pytest.raises(InputTypeError, match=f"^scorer: .* must return a tensor of real numbers, got {kind}"),
    ):
        model.recommend([[1, 2]], k=3)


class Caching(Scoring):
    """Keeps its keys from the first time that they are asked for, and draws noise."""

    cache: Tensor | None = None

    def keys(self, items: Tensor) -> Tensor:
        """Of the first items."""
        torch.rand(1)
        self.cache = items * 2 if self.cache is None else self.cache
        return self.cache


def test_a_scorer_is_not_asked_before_the_model_is() -> None:
    torch.manual_seed(0)
    Recommender(NUM_ITEMS, nn.Linear(DIM, DIM), DIM, MAX_LENGTH)
    wanted = torch.rand(1)
    torch.manual_seed(0)
    model = Recommender(NUM_ITEMS, nn.Linear(DIM, DIM), DIM, MAX_LENGTH, scorer=Caching())
    assert torch.equal(torch.rand(1), wanted)
    with torch.no_grad():
        model.item_table.weight.fill_(1.0)
    assert torch.equal(model.keys(), torch.full((NUM_ITEMS, DIM), 2.0))
