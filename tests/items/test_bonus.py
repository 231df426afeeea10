"""What may be added to a model's scores: any function of histories, checked before it is believed."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from latentloop.errors import InputError, InputTypeError
from latentloop.evaluation import evaluate, ranks
from latentloop.followers import Followers
from latentloop.items import bonus as bonuses
from latentloop.items import scores as item_scores
from latentloop.items.bonus import Scores, add_bonus, check_bonus
from latentloop.items.ranks import count_ranks
from latentloop.recommender import Recommender
from tests.core.worlds import unchecked
from tests.evaluation.worlds import WholeNumbers, random_split


@pytest.mark.parametrize(
    ("row", "item", "score", "said"),
    [
        ([0], [1], [], "1 rows, 1 items, 0 scores"),
        ([99999, 1], [1, 1], [1.0, 1.0], r"rows must lie in 0\.\.LAST, got 1\.\.99999"),
        ([0], [0], [1.0], "bonus items must hold item ids 1"),
        ([0], [1], [math.nan], "scores must be finite"),
        ([0], [1], [1e300], "scores must be finite"),
        ([0.0], [1], [1.0], "rows and items of whole numbers"),
        ([[0]], [[1]], [[1.0]], "three vectors"),
    ],
)
def test_a_bonus_of_one_s_own_is_checked(row: list[int], item: list[int], score: list[float], said: str) -> None:
    split = random_split(2)

    def bonus(history):
        return torch.tensor(row), torch.tensor(item), torch.tensor(score, dtype=torch.float64)

    with pytest.raises((InputError, InputTypeError), match=said.replace("LAST", str(len(split.test) - 1))):
        evaluate(WholeNumbers(split.num_items), split.test, bonus=bonus)


def test_what_is_no_bonus_is_refused() -> None:
    split = random_split(2)
    number = "bonus must be a function of histories, got float"
    for wrong, said in (
        (1.0, number),
        (lambda history: history, "must return three tensors"),
        (lambda history: (history, history), "must return three tensors"),
        (lambda history: "abc", "must return three tensors"),
        (lambda history: [1, 2, 3], "must return three tensors"),
    ):
        with pytest.raises(InputTypeError, match=said):
            with unchecked():
                evaluate(WholeNumbers(split.num_items), split.test, bonus=wrong)


@pytest.mark.parametrize("newest", [None, 2])
@pytest.mark.parametrize("places", [1, 9, 20])
def test_one_long_history_does_not_make_all_as_long(
    newest: int | None, places: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    split = random_split(3)
    model = WholeNumbers(split.num_items, 3)

    class OldestFirst:
        """More for what came earlier; it keeps the shapes that it was asked for."""

        def __init__(self) -> None:
            self.newest, self.asked = newest, list[torch.Size]()

        def __call__(self, history: torch.Tensor) -> Scores:
            self.asked.append(history.shape)
            row, place = history.nonzero(as_tuple=True)
            item = history[row, place]
            pairs, at = torch.unique(row * 100 + item, return_inverse=True)
            score = torch.zeros(len(pairs)).index_add_(0, at, (history.shape[1] - place).float())
            return pairs // 100, pairs % 100, score

    whole, parts = OldestFirst(), OldestFirst()
    expected = ranks(model, split.test, depths=[2], bonus=whole)[2]
    monkeypatch.setattr(bonuses, "_PLACES", places)
    found = ranks(model, split.test, depths=[2], bonus=parts)[2]
    assert torch.equal(found.greater, expected.greater) and torch.equal(found.ties, expected.ties)
    assert len(whole.asked) == 1 < len(parts.asked) and sum(rows for rows, _ in parts.asked) == len(split.test)
    assert all(rows == 1 or rows * length <= places for rows, length in parts.asked)
    histories = [[1], [2, 1] * 9, [3, 2, 1], []]
    monkeypatch.undo()
    recommender = Recommender(split.num_items, torch.nn.Linear(4, 4), 4, 5, init_std=0.5)
    wanted = recommender.recommend(histories, k=4, bonus=whole)
    monkeypatch.setattr(bonuses, "_PLACES", places)
    assert recommender.recommend(histories, k=4, bonus=parts) == wanted


def test_rows_may_come_in_any_order_and_scores_of_any_precision() -> None:
    split = random_split(2)
    model, counted = WholeNumbers(split.num_items).double(), Followers.of(split)

    def turned(history: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(column.flip(0) for column in counted(history))

    found, wanted = (ranks(model, split.test, depths=[2], bonus=bonus)[2] for bonus in (turned, counted))
    assert torch.equal(found.greater, wanted.greater) and torch.equal(found.ties, wanted.ties)


@pytest.mark.parametrize("turn", [False, True])
def test_each_chunk_of_rows_gets_its_own(monkeypatch: pytest.MonkeyPatch, turn: bool) -> None:
    """Chunks of two rows, and the rows of a bonus in either order."""
    split = random_split(2)
    model, counted = WholeNumbers(split.num_items), Followers.of(split)
    wanted = ranks(model, split.test, depths=[2], bonus=counted, batch_size=1)[2]
    monkeypatch.setattr(item_scores, "CPU_BUDGET", 2 * split.num_items)
    monkeypatch.setattr(item_scores, "LEAST_ROWS", 1)

    def bonus(history: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(column.flip(0) for column in counted(history)) if turn else counted(history)

    found = ranks(model, split.test, depths=[2], bonus=bonus)[2]
    assert len(split.test) > 4
    assert torch.equal(found.greater, wanted.greater) and torch.equal(found.ties, wanted.ties)


def test_the_row_behind_the_last_is_refused() -> None:
    split = random_split(2)

    def bonus(history: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return torch.tensor([len(history)]), torch.tensor([1]), torch.tensor([1.0])

    with pytest.raises(InputError, match="rows must lie in"):
        evaluate(WholeNumbers(split.num_items), split.test, bonus=bonus)


def test_a_numbering_that_one_side_does_not_tell_is_taken_on_trust() -> None:
    split = random_split(2)
    counted: Any = Followers.of(split)
    check_bonus(counted, split.num_items, None)
    check_bonus(counted.counted, split.num_items, list(split.item_ids))


def test_a_tile_gets_what_lies_in_it() -> None:
    row, item = torch.tensor([0, 0, 0, 1, 1]), torch.tensor([2, 3, 5, 6, 4])
    scores = torch.zeros(2, 3)
    add_bonus(scores, (row, item, torch.tensor([1.0, 2.0, 4.0, 8.0, 16.0])), first=3)
    assert scores.tolist() == [[2, 0, 4], [0, 16, 0]]


def test_ranks_with_a_bonus_are_those_of_the_sums() -> None:
    queries = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    keys = torch.tensor([[1.0, 1.0], [2.0, 0.0], [3.0, 2.0], [0.0, 3.0]])
    row, item, score = torch.tensor([0, 0, 1]), torch.tensor([1, 4, 2]), torch.tensor([1.0, 5.0, 6.0])
    # scores 1 2 3 0 and 2 0 4 6, with the bonus 2 2 3 5 and 2 6 4 6
    greater, ties = count_ranks(queries, keys, torch.tensor([1, 2]), bonus=(row, item, score))
    assert (greater.tolist(), ties.tolist()) == ([2, 0], [1, 1])
