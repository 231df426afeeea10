"""How many answers are items of the history, beside a loop over scores."""

from __future__ import annotations

import pytest
import torch

from benchmarks.paper.own import own_items
from latentloop.data.splits import leave_one_out
from latentloop.data.synthetic import synthetic_log
from latentloop.recommender import Recommender


@pytest.mark.parametrize(("seed", "k"), [(0, 3), (1, 10), (2, 60)])
def test_own_items_are_those_of_a_loop(seed: int, k: int) -> None:
    split = leave_one_out(synthetic_log(num_users=30, num_items=40, seed=seed), 6)
    torch.manual_seed(seed)
    model = Recommender(split.num_items, torch.nn.Linear(8, 8), 8, 6, init_std=0.5)
    first = taken = 0
    model.eval()
    for index in range(len(split.test)):
        history = split.test.history(torch.tensor([index]))
        ranked = model.score(history)[0].argsort(descending=True, stable=True).add(1).tolist()
        seen = set(history[0].tolist()) - {0}
        first += ranked[0] in seen
        taken += len(seen.intersection(ranked[:k]))
    model.train()
    found = own_items(model, split.test, k)
    assert found == pytest.approx({"first": first / len(split.test), f"of {k}": taken / len(split.test)})
    assert model.training and taken > 0
