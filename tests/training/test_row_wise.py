"""Objectives that touch few items: gradients and optimizer steps of those rows only, equal to the dense ones."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from latentloop.backbones.sasrec import SASRec
from latentloop.backbones.tedrec import TedRec
from latentloop.baselines import popularity
from latentloop.data.batch import Batch
from latentloop.data.splits import Split, leave_one_out
from latentloop.data.synthetic import synthetic_log
from latentloop.evaluation import evaluate
from latentloop.fitting.clipping import clip_gradients
from latentloop.fitting.optimizer import build_optimizer
from latentloop.fitting.row_gradients import row_gradients
from latentloop.fitting.row_wise import RowWiseAdamW
from latentloop.fitting.step import StepModule
from latentloop.items.text_features import TextFeatures
from latentloop.objectives import RPT, SPT, NextItem, SampledNextItem, StepAlignment, TrajectoryAlignment
from latentloop.objectives.contract import touches_few_items
from latentloop.recipes import build_recommender
from latentloop.recommender import Recommender
from latentloop.runs.directory import RunDirectory
from latentloop.training import fit, make_accelerator
from tests.objectives.worlds import batch_of, recommender, seeds

EXACT = {"rtol": 1e-9, "atol": 1e-12}


class Densely:
    """The same objective, which does not say that it touches few items."""

    def __init__(self, objective: SPT) -> None:
        self.objective, self.views = objective, objective.views

    def __call__(self, views: Any, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        return self.objective(views, batch)


def sampled(negatives: int, num_items: int, by_count: bool = False) -> SPT:
    counts = torch.arange(num_items) if by_count else None
    return SPT(next_item=SampledNextItem(negatives, item_counts=counts))


def with_texts(seed: int, num_items: int) -> Recommender:
    """TedRec, which reads a table of texts beside the item table and scores by the cosine."""
    torch.manual_seed(seed)
    backbone = TedRec(
        pre_layers=1, core_layers=1, inner=8, dropout=0.0, experts=2, text=TextFeatures.of(torch.randn(num_items, 3))
    )
    return build_recommender(backbone, num_items, dim=6, max_length=5, dropout=0.0, init_std=0.7).double().eval()


def looked_up(batch: Batch, objective: SPT, num_items: int) -> set[int]:
    assert batch.same_target is not None
    (part,) = (part for part in objective.parts if isinstance(part, SampledNextItem))
    negatives = part.draw(num_items, batch.key)[0]
    every = torch.cat([batch.history.flatten(), batch.same_target.flatten(), batch.target, negatives])
    return set(every.tolist()) - {0}


# Who says so


def test_an_objective_touches_few_items_where_all_its_parts_do() -> None:
    few = SPT(next_item=SampledNextItem(4))
    for part in (few, 0.5 * few, SampledNextItem(4) + StepAlignment(), TrajectoryAlignment()):
        assert touches_few_items(part), part
    for part in (SPT(), NextItem(), 0.5 * NextItem(), few + NextItem(), few + RPT(), RPT(), few + Densely(few)):
        assert not touches_few_items(part), part


def test_without_that_the_optimizer_is_the_one_it_was() -> None:
    model = recommender(0).float()
    optimizer = build_optimizer(model, learning_rate=1e-3, weight_decay=0.1)
    assert type(optimizer) is torch.optim.AdamW
    assert len(optimizer.param_groups) == 2
    loss, _ = StepModule(model, SPT())(batch_of(0))
    loss.backward()
    assert model.item_table.weight.grad is not None
    assert not model.item_table.weight.grad.is_sparse


# Gradients


@given(seeds, st.sampled_from(["dot", "cosine", "texts"]), st.booleans(), st.booleans())
def test_sparse_gradients_are_the_dense_ones(seed: int, kind: str, by_count: bool, reached: bool) -> None:
    items = 23
    model = with_texts(seed, items) if kind == "texts" else recommender(seed, dropout=0.0, scorer=kind)
    batch, objective = batch_of(seed), sampled(9, items, by_count)
    found: list[tuple[Tensor, dict[str, Tensor]]] = []
    for part in (objective, Densely(objective)):
        loss, _ = StepModule(model, part)(batch)
        if reached:  # something else that uses the table as a whole
            loss = loss + model.item_table.weight[1:].square().sum()
        loss.backward()
        gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        found.append((loss.detach(), gradients))
        model.zero_grad(set_to_none=True)
    (loss, gradients), (wanted_loss, wanted) = found
    assert torch.equal(loss, wanted_loss)
    table = gradients.pop("item_table.weight")
    assert table.is_sparse != reached
    torch.testing.assert_close(table.to_dense() if table.is_sparse else table, wanted.pop("item_table.weight"), **EXACT)
    torch.testing.assert_close(gradients, wanted, **EXACT)
    assert not model.item_table.sparse


@given(seeds, st.sampled_from([30, 3000, 300_000]))
def test_a_gradient_holds_what_was_looked_up_however_large_the_catalog(seed: int, items: int) -> None:
    model, batch, objective = recommender(0, num_items=items), batch_of(seed, num_items=items), sampled(9, items)
    loss, _ = StepModule(model, objective)(batch)
    loss.backward()
    gradient = model.item_table.weight.grad
    assert gradient is not None
    rows = gradient.coalesce().indices()[0].tolist()
    assert set(rows) == looked_up(batch, objective, items)
    assert len(rows) <= 2 * batch.history.numel() + len(batch) + 9


def test_look_ups_are_as_before_afterwards() -> None:
    table = nn.Embedding(3, 2)
    with pytest.raises(KeyError), row_gradients(table, True):
        assert table.sparse
        raise KeyError
    assert not table.sparse


# The optimizer


def touches(rng: np.random.Generator, rows: int, dim: int) -> Tensor:
    """A sparse gradient with repeated rows, sometimes of no row at all, never of row 0."""
    count = int(rng.integers(0, 2 * rows))
    index = torch.from_numpy(rng.integers(1, rows, count))
    values = torch.from_numpy(rng.normal(size=(count, dim)))
    return torch.sparse_coo_tensor(index[None], values, (rows, dim), check_invariants=True)


class Dense:
    """The equations over the whole table at every step, a row at a time."""

    def __init__(self, table: Tensor) -> None:
        self.table, self.moment, self.steps = table.numpy().copy(), np.zeros(len(table)), 0

    def step(self, gradient: np.ndarray[Any, Any], rate: float) -> None:
        self.steps += 1
        for row, g in enumerate(gradient):
            self.moment[row] = 0.999 * self.moment[row] + 0.001 * np.mean(g * g)
            if g.any():
                self.table[row] -= rate * g / (math.sqrt(self.moment[row] / (1 - 0.999**self.steps)) + 1e-8)


@given(seeds, st.booleans())
def test_steps_equal_the_dense_twin_and_other_rows_keep_their_bits(seed: int, sparse: bool) -> None:
    rng = np.random.default_rng(seed)
    rows, dim, rate = int(rng.integers(2, 9)), int(rng.integers(1, 5)), 0.05
    table = nn.Parameter(torch.from_numpy(rng.normal(size=(rows, dim))))
    beside, lone = (nn.Parameter(torch.ones(3, 2, dtype=torch.float64)) for _ in range(2))
    groups = [{"params": [beside], "weight_decay": 0.1}, {"params": [table], "weight_decay": 0.0, "row_wise": True}]
    optimizer = RowWiseAdamW(groups, lr=rate)
    plain = torch.optim.AdamW([lone], lr=rate, weight_decay=0.1)
    twin = Dense(table.detach())
    for _ in range(12):
        gradient = touches(rng, rows, dim)
        table.grad = gradient if sparse else gradient.to_dense()
        beside.grad = lone.grad = torch.from_numpy(rng.normal(size=(3, 2)))
        before = table.detach().clone()
        optimizer.step()
        plain.step()
        twin.step(gradient.to_dense().numpy(), rate)
        assert table.grad is not None
        torch.testing.assert_close(table.detach(), torch.from_numpy(twin.table), **EXACT)
        still = ~gradient.to_dense().any(1)
        assert torch.equal(table.detach()[still], before[still])
        assert torch.equal(beside, lone)  # all else is AdamW's
    assert still[0]  # padding never moved


def test_the_state_is_two_numbers_a_row() -> None:
    model = recommender(0).float()
    optimizer = build_optimizer(model, learning_rate=1e-3, weight_decay=0.0, few_items=True)
    loss, _ = StepModule(model, sampled(5, model.num_items))(batch_of(0))
    loss.backward()
    optimizer.step()
    state = optimizer.state[model.item_table.weight]
    assert sum(value.numel() for value in state.values()) == 2 * (model.num_items + 1) + 1
    assert len(optimizer.state) == len([p for p in model.parameters() if p.grad is not None])
    model.item_table.weight.requires_grad_(False)
    frozen = build_optimizer(model, learning_rate=1e-3, weight_decay=0.0, few_items=True)
    assert all(p is not model.item_table.weight for group in frozen.param_groups for p in group["params"])


@given(seeds, st.sampled_from([0.01, 1.0, 1e6]))
def test_clipping_equals_that_of_dense_gradients(seed: int, limit: float) -> None:
    rng = np.random.default_rng(seed)
    table, other = nn.Parameter(torch.zeros(6, 3).double()), nn.Parameter(torch.zeros(4).double())
    unused = nn.Parameter(torch.zeros(2))
    gradient, own = touches(rng, 6, 3), torch.from_numpy(rng.normal(size=4))
    twins = [nn.Parameter(torch.zeros_like(table)), nn.Parameter(torch.zeros_like(other))]
    twins[0].grad, twins[1].grad = gradient.to_dense(), own.clone()
    wanted = torch.nn.utils.clip_grad_norm_(twins, limit)
    table.grad, other.grad = gradient, own
    accelerator = make_accelerator(device="cpu")
    torch.testing.assert_close(clip_gradients(accelerator, [table, other, unused], limit), wanted, **EXACT)
    assert table.grad is not None
    assert table.grad.is_sparse
    torch.testing.assert_close(table.grad.to_dense(), twins[0].grad, **EXACT)
    torch.testing.assert_close(other.grad, twins[1].grad, **EXACT)


# Training


@pytest.fixture(scope="module")
def split() -> Split:
    return leave_one_out(synthetic_log(num_users=150, num_items=60, seed=1), 8)


def small(num_items: int) -> Recommender:
    torch.manual_seed(0)
    backbone = SASRec(pre_layers=1, core_layers=1, inner=32, dropout=0.1)
    return build_recommender(backbone, num_items, dim=16, max_length=8, dropout=0.1)


def train(model: Recommender, split: Split, objective: Any, **settings: Any) -> Any:
    settings = {"batch_size": 128, "accelerator": make_accelerator(device="cpu")} | settings
    return fit(model, split.train, split.validation, objective, **settings)


def test_sampled_training_beats_popularity(split: Split) -> None:
    model = small(split.num_items)
    objective = SPT(next_item=SampledNextItem(24, item_counts=split.item_counts[1:]))
    train(model, split, objective, epochs=8, learning_rate=5e-3)
    rival = popularity(split, split.test, name="test", data="")
    assert evaluate(model, split.test).metrics["ndcg@10"] > 1.1 * rival.metrics["ndcg@10"]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_an_epoch_moves_the_items_it_saw_and_no_others(precision: str) -> None:
    log = synthetic_log(num_users=10, num_items=2000, seed=3)
    seen = leave_one_out(log, 8)
    items = 5000  # more than the log has: items that nothing looks up
    sequences = type(seen.train.sequences)(seen.train.sequences.items, seen.train.sequences.offsets, items)
    parts = [
        type(part)(sequences, part.user, part.end, part.max_length, part.rows) for part in (seen.train, seen.validation)
    ]
    model = small(items)
    before = model.item_table.weight.detach().clone()
    accelerator = make_accelerator(device="cpu", precision=precision)
    objective = SPT(next_item=SampledNextItem(8))
    fitted = fit(model, *parts, objective, epochs=1, batch_size=1024, clip_norm=1.0, accelerator=accelerator)
    assert fitted.history[0]["steps"] == 1
    assert math.isfinite(fitted.history[0]["gradient_norm"])
    moved = (model.item_table.weight.detach() != before).any(1)
    most = 2 * len(parts[0]) * 8 + len(parts[0]) + 8
    assert 0 < int(moved.sum()) <= most < items
    assert not moved[0]
    assert not model.item_table.sparse


class Killed(BaseException):
    """Stands for the end of the process."""


def test_a_resumed_run_ends_with_the_same_bits(split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from latentloop.fitting import stage as training_stage

    def whole(run: RunDirectory) -> Recommender:
        model = small(split.num_items)
        train(model, split, SPT(next_item=SampledNextItem(4)), epochs=3, run=run, clip_norm=5.0)
        return model

    expected = whole(RunDirectory.create(tmp_path / "whole", {}))
    real, count = training_stage.save_state, 0

    def save_and_die(*arguments: Any) -> None:
        nonlocal count
        real(*arguments)
        count += 1
        if count == 2:
            raise Killed

    run = RunDirectory.create(tmp_path / "run", {})
    monkeypatch.setattr(training_stage, "save_state", save_and_die)
    with pytest.raises(Killed):
        whole(run)
    monkeypatch.setattr(training_stage, "save_state", real)
    resumed = whole(RunDirectory.create(run.path, {}, resume=True))
    for name, value in expected.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_clipping_of_dense_gradients_by_hand() -> None:
    table, other, unused = (nn.Parameter(torch.zeros(2)) for _ in range(3))
    table.grad, other.grad = torch.tensor([3.0, 0.0]), torch.tensor([0.0, -4.0])
    accelerator = make_accelerator(device="cpu")
    assert clip_gradients(accelerator, [table, other, unused], 10.0).item() == 5.0
    assert (table.grad.tolist(), other.grad.tolist()) == ([3.0, 0.0], [0.0, -4.0])
    assert clip_gradients(accelerator, [table, other, unused], 1.0).item() == 5.0
    torch.testing.assert_close(table.grad, torch.tensor([0.6, 0.0]), rtol=1e-5, atol=0.0)
    torch.testing.assert_close(other.grad, torch.tensor([0.0, -0.8]), rtol=1e-5, atol=0.0)
    assert unused.grad is None


def test_a_closure_computes_the_gradients_of_its_step() -> None:
    """torch's convention: `step(closure)` computes the loss with gradients and returns it."""
    steps = []
    for by_closure in (True, False):
        model = recommender(3, dropout=0.0)
        optimizer = build_optimizer(model, learning_rate=0.1, weight_decay=0.0, few_items=True)
        assert isinstance(optimizer, RowWiseAdamW)

        def loss(model: Recommender = model) -> float:
            value = (model.item_table.weight[2] ** 2).sum()
            value.backward()
            return value.item()

        if by_closure:
            before = (model.item_table.weight[2].detach() ** 2).sum().item()
            with torch.no_grad():
                assert optimizer.step(loss) == pytest.approx(before)
        else:
            loss()
            assert optimizer.step() is None
        steps.append(model.item_table.weight.detach().clone())
    assert torch.equal(*steps)
    assert not torch.equal(steps[0][2], recommender(3, dropout=0.0).item_table.weight[2])


def test_a_table_without_a_gradient_keeps_its_bits() -> None:
    model = recommender(3, dropout=0.0)
    optimizer = build_optimizer(model, learning_rate=0.1, weight_decay=0.5, few_items=True)
    before = model.item_table.weight.detach().clone()
    model.input_norm.weight.grad = torch.ones_like(model.input_norm.weight)
    optimizer.step()
    assert torch.equal(model.item_table.weight, before)
    # Adam's first step is the learning rate long; a norm's weights do not decay
    wanted = torch.full_like(model.input_norm.weight, 1 - 0.1 / (1 + 1e-8))
    torch.testing.assert_close(model.input_norm.weight, wanted, **EXACT)
