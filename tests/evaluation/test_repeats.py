"""How many answers the users already have, beside a loop over scores and whole pasts."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from latentloop.across_ranks import Processes
from latentloop.data.splits import leave_one_out
from latentloop.data.synthetic import synthetic_log
from latentloop.errors import InputError, InputTypeError
from latentloop.evaluation import evaluate, ranks
from latentloop.recommender import Recommender
from latentloop.recurrence import RecurrentDepth, Thoughts
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

    SUMS.clear()
    for rank in (0, 1):
        repeats(model, split.test, batch_size=3, processes=Half(rank))
    counted = (SUMS[0] + SUMS[1]) / len(split.test)
    assert counted.tolist() == pytest.approx([whole.first, whole.of_best, whole.asked])
    assert SUMS[0].sum() > 0 and SUMS[1].sum() > 0


@pytest.mark.parametrize("batch_size", [4, 100])
def test_a_fresh_start_is_the_one_that_is_ranked_whoever_has_which_batch(
    batch_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    split = leave_one_out(synthetic_log(num_users=30, num_items=20, seed=2), 6)
    torch.manual_seed(1)
    encoder = RecurrentDepth(torch.nn.Linear(8, 8), torch.nn.Linear(8, 8), state_std=20.0)
    model = Recommender(split.num_items, encoder, 8, 6, init_std=0.5, inference_state="fresh")
    thoughts, think = list[torch.Tensor](), model.think

    def spied(history: torch.Tensor, *, depth: int | None = None) -> Thoughts:
        found = think(history, depth=depth)
        thoughts.append(found.steps)
        return found

    monkeypatch.setattr(model, "think", spied)

    def thought(ask: Callable[[], object], seed: int = 7) -> list[torch.Tensor]:
        thoughts.clear()
        torch.manual_seed(seed)
        ask()
        return list(thoughts)

    ranked = thought(lambda: ranks(model, split.test, depths=[4], batch_size=batch_size))
    alone = thought(lambda: repeats(model, split.test, batch_size=batch_size))
    halves = [
        thought(lambda rank=rank: repeats(model, split.test, batch_size=batch_size, processes=Half(rank)))
        for rank in (0, 1)
    ]  # fmt: skip
    assert len(ranked) == -(-len(split.test) // batch_size)
    together = [halves[number % 2][number // 2] for number in range(len(ranked))]
    for found in (alone, together):
        assert all(torch.equal(one, other) for one, other in zip(found, ranked, strict=True))
    other = thought(lambda: repeats(model, split.test, batch_size=batch_size), seed=8)
    assert not torch.equal(other[0], alone[0])


class Half(Processes):
    """One of two, whose sums are its own."""

    def __init__(self, rank: int) -> None:
        super().__init__(rank, 2)

    def add_up(self, values: torch.Tensor) -> torch.Tensor:
        SUMS.append(values)
        return values


SUMS: list[torch.Tensor] = []


def test_a_thinker_needs_no_more_than_its_contract() -> None:
    split = random_split(1)
    model = WholeNumbers(split.num_items, 1).eval()
    plain = SimpleNamespace(
        num_items=model.num_items, inference_depth=2, queries=model.queries, keys=model.keys,
        think=lambda history, *, depth=None: SimpleNamespace(steps=model.think(history, depth=depth).steps),
    )  # fmt: skip
    with unchecked():
        assert repeats(plain, split.test) == repeats(model, split.test)  # type: ignore[arg-type]
        for ask in (repeats, evaluate):
            with pytest.raises(InputTypeError, match="model must think and score as a Recommender does, got str"):
                ask("x", split.test)  # type: ignore[operator]


def test_it_reads_as_a_sentence() -> None:
    told = str(Repeats(0.641, 1.254, 10, 0.0, 8317))
    assert told == (
        "the first answer is an item that the user already has for 64.1% of 8,317 samples, 1.25 of the 10 best are, "
        "and 0.0% of the items asked for"
    )


def test_what_cannot_be_counted_is_refused() -> None:
    split = random_split(0)
    model = WholeNumbers(split.num_items)
    with pytest.raises(InputError, match="samples: none, there is nothing to evaluate"):
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
