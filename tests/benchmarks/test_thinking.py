"""What is told of a loop's thoughts, on loops of which it is known."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from benchmarks.paper.thinking import thinking
from latentloop import Recommender, RecurrentDepth, evaluate
from latentloop.data.splits import leave_one_out
from latentloop.data.synthetic import synthetic_log

SPLIT = leave_one_out(synthetic_log(num_users=60, num_items=40, seed=2))


def measured(aggregate: Any) -> tuple[Recommender, dict[str, Any]]:
    torch.manual_seed(0)
    model = Recommender(40, RecurrentDepth(nn.Linear(8, 8), nn.Identity(), aggregate), dim=8)
    return model, thinking(model, SPLIT.validation, seed=1)


def test_a_loop_that_forgets_its_state_stands_still_and_is_always_decided() -> None:
    model, found = measured(lambda state, hidden: hidden)
    assert found["moves"] == [0.0] * 7
    assert found["spread"] == pytest.approx(0, abs=1e-6) and found["undecided"] == 0
    expected = evaluate(model, SPLIT.validation).metrics["ndcg@10"]
    assert list(found["ndcg@10"].values()) == pytest.approx([expected] * 3)


def test_a_loop_that_keeps_its_state_answers_by_where_it_starts() -> None:
    _, found = measured(lambda state, hidden: state)
    assert max(found["moves"][1:]) < 1e-3  # a norm of what is normed
    assert found["spread"] == pytest.approx((1 - 1 / 8) ** 0.5, abs=0.02)  # of eight that have nothing in common
    assert found["undecided"] > 0.5
    assert found["ndcg@10"]["zero state"] != found["ndcg@10"]["saved state"]


def test_a_loop_that_turns_over_moves_by_twice_its_length() -> None:
    _, found = measured(lambda state, hidden: -state)
    assert found["moves"][1:] == pytest.approx([2.0] * 6, abs=1e-2)
