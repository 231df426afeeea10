"""What models answer and what is drawn on every device: the same as on the CPU."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from latentloop.data.batch import Batch, batches
from latentloop.data.splits import leave_one_out
from latentloop.data.synthetic import synthetic_log
from latentloop.followers import Followers
from latentloop.objectives import SPT
from latentloop.objectives.contract import call, views_of
from latentloop.objectives.views import encode_views
from latentloop.randomness import dropout_seed, keyed_normal, keyed_uniform, row_keys
from latentloop.recommender import Recommender
from tests.core.worlds import ragged
from tests.devices.worlds import MAX_LENGTH, NUM_ITEMS, close, every_backbone, normal, numbers, recommender


@every_backbone
def test_thoughts_are_those_of_float64_on_the_cpu(name: str, device: torch.device) -> None:
    model, history = recommender(name), ragged(1, 9, longest=MAX_LENGTH + 2, num_items=NUM_ITEMS)
    keys = row_keys(5, torch.arange(9))
    expected = copy.deepcopy(model).double().think(history, depth=3, state_keys=keys).steps
    found = model.to(device).think(history.to(device), depth=3, state_keys=keys.to(device)).steps
    assert found.device.type == device.type
    close(found, expected)
    shared = model.think(history.to(device), depth=2).steps
    close(shared, copy.deepcopy(model).cpu().double().think(history, depth=2).steps)


@every_backbone
def test_the_padded_layout_answers_alike_and_padding_changes_nothing(name: str, device: torch.device) -> None:
    model = recommender(name).to(device)
    padded = copy.deepcopy(model)
    for block in (padded.encoder.pre_block, padded.encoder.core_block):
        block._facts = replace(block._facts, packed=False)
    assert model.encoder.packed_core and not padded.encoder.packed_core
    history = ragged(2, 9, longest=MAX_LENGTH - 3, num_items=NUM_ITEMS).to(device)
    keys = row_keys(5, torch.arange(9, device=device))
    thoughts = model.think(history, depth=3, state_keys=keys).steps
    close(padded.think(history, depth=3, state_keys=keys).steps, thoughts)
    wider = torch.nn.functional.pad(history, (3, 0))
    for either in (model, padded):
        close(either.think(wider, depth=3, state_keys=keys).steps, thoughts)


@every_backbone
def test_gradients_of_pre_training_are_those_of_float64_on_the_cpu(name: str, device: torch.device) -> None:
    objective, model = SPT(), recommender(name).train()
    batch = Batch(ragged(3, 10, longest=MAX_LENGTH, num_items=NUM_ITEMS), numbers(4, 10), torch.arange(10), 7,
                  ragged(4, 10, longest=MAX_LENGTH, num_items=NUM_ITEMS))  # fmt: skip

    def learned(model: Recommender, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        loss, _ = call(objective, encode_views(model, batch, views_of(objective)), batch)
        loss.backward()
        return loss, {name: one.grad for name, one in model.named_parameters() if one.grad is not None}

    expected_loss, expected = learned(copy.deepcopy(model).double(), batch)
    loss, gradients = learned(model.to(device), batch.to(device))
    close(loss, expected_loss)
    assert gradients.keys() == expected.keys() and "item_table.weight" in gradients
    for name, gradient in gradients.items():
        close(gradient, expected[name], 2e-3)


@pytest.mark.parametrize("name", ["sasrec", "fmlprec"])
def test_recommendations_with_a_bonus_are_those_of_dense_scores(name: str, device: torch.device) -> None:
    model, history = recommender(name), ragged(5, 6, longest=MAX_LENGTH, num_items=NUM_ITEMS)
    many = torch.tensor([0, *([2] * NUM_ITEMS)]).cumsum(0)
    follow, counts = numbers(NUM_ITEMS // 2, NUM_ITEMS, seed=6), normal(NUM_ITEMS, 2, seed=7).abs() + 0.1
    after = torch.stack([follow, follow + NUM_ITEMS // 2], 1)
    bonus = Followers(torch.cat([torch.zeros(1, dtype=torch.int64), many]), after.flatten(), counts.flatten(), 3, 0.5, 2.0)  # fmt: skip
    expected = copy.deepcopy(model).double().score(history).detach().double()
    for row, items in enumerate(history.tolist()):
        won = [0.0] * (NUM_ITEMS + 1)
        for age, item in enumerate(items[::-1][:3]):
            for place in range(2) if item else ():
                won[int(after[item - 1, place])] += 0.5**age * float(counts[item - 1, place])
        expected[row] += 2.0 * torch.tensor(won[1:], dtype=torch.float64).log1p()
        expected[row, [item - 1 for item in items if item]] = -math.inf
    found = model.to(device).recommend(history.to(device), k=5, bonus=bonus.to(device))
    best = expected.topk(5)
    assert found.items == (best.indices + 1).tolist()
    close(torch.tensor(found.scores), best.values)


def test_keyed_draws_are_the_cpus_and_their_rows_own(device: torch.device) -> None:
    rows, slots = torch.tensor([0, 5, 2**40, 17, 5]), torch.tensor([0, 3, 1, 0, 3])
    keys = row_keys(11, rows.to(device))
    assert keys.tolist() == row_keys(11, rows).tolist() and len(set(keys.tolist())) == 4
    assert keyed_uniform(12, rows.to(device)).tolist() == keyed_uniform(12, rows).tolist()
    drawn = keyed_normal(keys, slots.to(device), 33)
    close(drawn, keyed_normal(row_keys(11, rows), slots, 33), 1e-5)
    assert torch.equal(drawn[1], drawn[4]) and not torch.equal(drawn[0], drawn[3])
    assert torch.equal(keyed_normal(keys[2:3], slots[2:3].to(device), 33)[0], drawn[2])
    many = keyed_normal(row_keys(1, torch.arange(4000, device=device)), torch.zeros(4000, dtype=torch.int64, device=device), 2)  # fmt: skip
    assert abs(float(many.mean())) < 0.05 and abs(float(many.std()) - 1) < 0.05


def test_dropout_seed_gives_the_generators_back(device: torch.device) -> None:
    def states() -> list[Tensor]:
        here = [torch.get_rng_state()]
        return [*here, torch.cuda.get_rng_state()] if device.type == "cuda" else here

    before, drawn = states(), []
    for key in (1, 1, 2):
        with dropout_seed(key, device):
            drawn.append(torch.rand(5, device=device).tolist())
        assert all(torch.equal(one, other) for one, other in zip(before, states(), strict=True))
    assert drawn[0] == drawn[1] != drawn[2]


def test_batches_are_the_cpus(device: torch.device) -> None:
    train = leave_one_out(synthetic_log(num_users=30, num_items=20, seed=1), 6).train
    pairs = [batches(one, 32, key=3, epoch=1, same_target=True) for one in (train, train.to(device))]
    history = {int(row): h.tolist() for row, h in zip(train.rows, train.history(torch.arange(len(train))), strict=True)}
    seen = []
    for expected, found in zip(*pairs, strict=True):
        assert found.history.device.type == device.type and found.key == expected.key
        for name in ("history", "target", "rows", "same_target"):
            assert getattr(found, name).tolist() == getattr(expected, name).tolist(), name
        assert found.history.tolist() == [history[row] for row in found.rows.tolist()]
        seen += found.rows.tolist()
    assert sorted(seen) == sorted(history)
