"""A scorer of one's own is tried when a model is made around it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from latentloop.errors import InputError, InputTypeError
from latentloop.recommender import Recommender
from latentloop.scoring import Cosine, Dot, check_scorer
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
        (Scoring(queries=lambda t: t[:, :2]), rf"Scoring.queries must return \(2, {DIM}\) of two thoughts, as wide as keys, got \(2, 2\)"),
        (Scoring(queries=lambda t: t[0]), rf"queries must return .*, got \({DIM},\)$"),
    ],
)  # fmt: skip
def test_other_shapes_are_refused(scorer: Scoring, message: str) -> None:
    with pytest.raises(InputError, match=f"^scorer: .*{message}"):
        Recommender(NUM_ITEMS, nn.Linear(DIM, DIM), DIM, MAX_LENGTH, scorer=scorer)


@pytest.mark.parametrize(
    ("scorer", "kind"),
    [
        (Scoring(queries=lambda thoughts: [thoughts]), "list"),
        (Scoring(keys=lambda items: items.long()), "torch.int64"),
        (Scoring(keys=lambda items: items.to(torch.complex64)), "torch.complex64"),
    ],
)
def test_what_is_no_tensor_of_real_numbers_is_refused(scorer: Scoring, kind: str) -> None:
    with (
        unchecked(),
        pytest.raises(InputTypeError, match=f"^scorer: .* must return a tensor of real numbers, got {kind}"),
    ):
        Recommender(NUM_ITEMS, nn.Linear(DIM, DIM), DIM, MAX_LENGTH, scorer=scorer)


class Dropping(nn.Module, Scoring):
    """A module, in whose training mode random numbers are drawn."""

    def __init__(self) -> None:
        super().__init__()
        self.of_thoughts = self.of_items = nn.Dropout(0.5)


def test_a_scorer_is_tried_as_it_answers_and_draws_nothing() -> None:
    scorer = Dropping()
    before = torch.get_rng_state()
    check_scorer(scorer, torch.ones(3, DIM))
    assert torch.equal(torch.get_rng_state(), before) and scorer.training
    wide = Scoring(lambda thoughts: torch.cat([thoughts, thoughts], 1), lambda items: torch.cat([items, items], 1))
    for fits in (wide, Dot(), Cosine()):
        check_scorer(fits, torch.ones(3, DIM))
