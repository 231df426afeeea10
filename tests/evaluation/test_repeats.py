"""How many answers the users already have, beside a loop over scores and whole pasts."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from latentloop.across_ranks import Processes
from latentloop.data.splits import leave_one_out
from latentloop.data.synthetic import synthetic_log
from latentloop.errors import InputError, InputTypeError
from latentloop.recommender import Recommender
from latentloop.repeats import Repeats, repeats
from tests.core.worlds import unchecked
from tests.evaluation.worlds import WholeNumbers, pasts, random_split


@given(seed=st.integers(0, 2**32 - 1), k=st.integers(1, 12), depth=st.integers(1, 3), batch_size=st.integers(1, 20))
def test_repeats_are_those_of_a_loop_over_whole_pasts(seed: int, k: int, depth: int, batch_size: int) -> None:
    split = random_split(seed, max_length=3)  # the model reads less than the users have had
    model = WholeNumbers(split.num_items, seed).train()
    first = taken = asked = 0
    for index, (past, target) in enumerate(pasts(split, 1)):
        history = split.test.history(torch.tensor([index]))
        model.eval()
        scores = (model.queries(model.think(history, depth=depth).final) @ model.keys().T)[0].tolist()
        ranked = sorted(range(1, split.num_items + 1), key=lambda item: (-scores[item - 1], item))
        first += ranked[0] in past
        taken += len(set(past).intersection(ranked[:k]))
        asked += target in past
    model.train()
    found = repeats(model, split.test, k=k, depth=depth, batch_size=batch_size)
    size = len(split.test)
    expected = Repeats(first / size, taken / size, min(k, split.num_items), asked / size, size)
    assert found.to_dict() == pytest.approx(expected.to_dict())
    assert model.training and model.runs[-1] == depth


def test_a_recommender_answers_at_its_own_depth_and_keeps_its_mode() -> None:
    split = leave_one_out(synthetic_log(num_users=40, num_items=30, seed=3), 6)
    torch.manual_seed(0)
    model = Recommender(split.num_items, torch.nn.Linear(8, 8), 8, 6, init_std=0.5).train()
    found, again = repeats(model, split.test), repeats(model, split.test, batch_size=7)
    assert found == again and model.training and found.of_best > 0
    assert json.loads(json.dumps(found.to_dict()))["samples"] == len(split.test) == found.samples


def test_processes_count_a_part_each() -> None:
    split = random_split(5)
    model = WholeNumbers(split.num_items, 5)
    whole = repeats(model, split.test, batch_size=3)

    class Half(Processes):
        def add_up(self, values: torch.Tensor) -> torch.Tensor:
            sums.append(values)
            return values

    sums: list[torch.Tensor] = []
    for rank in (0, 1):
        repeats(model, split.test, batch_size=3, processes=Half(rank, 2))
    counted = (sums[0] + sums[1]) / len(split.test)
    assert counted.tolist() == pytest.approx([whole.first, whole.of_best, whole.asked])
    assert sums[0].sum() > 0 and sums[1].sum() > 0


def test_it_reads_as_a_sentence() -> None:
    told = str(Repeats(0.641, 1.254, 10, 0.0, 8317))
    assert told == (
        "the first answer is an item that the user already has for 64.1% of 8,317 samples, 1.25 of the 10 best are, "
        "and 0.0% of the items asked for"
    )


def test_what_cannot_be_counted_is_refused() -> None:
    split = random_split(0)
    model = WholeNumbers(split.num_items)
    with pytest.raises(InputError, match="samples: none, there is nothing to count"):
        repeats(model, split.test.select(torch.tensor([], dtype=torch.int64)))
    with pytest.raises(InputError, match="no item follows"):
        repeats(model, split.test.sequences.latest(5))
    with pytest.raises(InputError, match="k must be"):
        repeats(model, split.test, k=0)
    with pytest.raises(InputError, match="depth must be"):
        repeats(model, split.test, depth=0)
    with pytest.raises(InputError, match="batch_size must be"):
        repeats(model, split.test, batch_size=0)
    with pytest.raises(InputError, match="but the model knows"):
        repeats(WholeNumbers(split.num_items + 1), split.test)
    with unchecked(), pytest.raises(InputTypeError, match=r"samples must be samples such as split\.test, got Split"):
        repeats(model, split)  # type: ignore[arg-type]


def test_a_broken_model_is_told() -> None:
    split = random_split(0)
    model = WholeNumbers(split.num_items)
    with torch.no_grad():
        model.table[1] = torch.nan
    with pytest.raises(InputError, match="NaN"):
        repeats(model, replace(split.test))
