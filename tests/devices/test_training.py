"""Training on every device: it repeats itself, goes on where it stopped, and is measured as on the CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from latentloop.backbones.bsarec import BSARec
from latentloop.backbones.sasrec import SASRec
from latentloop.data.batch import Batch
from latentloop.data.splits import Split, leave_one_out
from latentloop.data.synthetic import synthetic_log
from latentloop.evaluation import evaluate
from latentloop.fitting.optimizer import build_optimizer
from latentloop.fitting.step import StepModule
from latentloop.objectives import RPT, SPT, NextItemEverywhere, SampledNextItem
from latentloop.recipes import build_recommender
from latentloop.recommender import Recommender
from latentloop.runs.directory import RunDirectory
from latentloop.training import fit, make_accelerator
from tests.core.worlds import ragged
from tests.devices.worlds import close, fresh

TIMES = ("train_seconds", "samples_per_second")


@pytest.fixture(scope="module")
def split() -> Split:
    return leave_one_out(synthetic_log(num_users=30, num_items=30, seed=2), 6)


def train(model: Recommender, split: Split, device: torch.device, objective: Any, **settings: Any) -> list[Any]:
    """The epochs' lines without their times."""
    accelerator = make_accelerator(device=device.type, precision=settings.pop("precision", "fp32"))
    settings = {"batch_size": 128, "accelerator": accelerator, "epochs": 1, "metric": "ndcg@20"} | settings
    lines = fit(model, split.train, split.validation, objective, **settings).history
    assert model.device.type == device.type
    return [{name: value for name, value in line.items() if name not in TIMES} for line in lines]


def weights(model: Recommender) -> dict[str, Tensor]:
    return {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("backbone", [SASRec, BSARec])
def test_both_stages_repeat_themselves_to_the_last_bit(backbone: Any, split: Split, device: torch.device) -> None:
    def both() -> tuple[Any, ...]:
        model = fresh(split, backbone)
        first = train(model, split, device, SPT(), epochs=2)
        between = weights(model)
        second = train(model, split, device, RPT(rollouts=2), stage="rpt", clip_norm=1.0)
        return first, between, second, weights(model)

    start, one, other = weights(fresh(split, backbone)), both(), both()
    assert one[0] == other[0] and one[2] == other[2]
    assert same(one[1], other[1]) and same(one[3], other[3])
    assert not same(start, one[1]) and not same(one[1], one[3])
    assert all(value.isfinite().all() for value in one[3].values())


def test_a_run_goes_on_with_the_bits_of_one_that_never_stopped(
    split: Split, device: torch.device, tmp_path: Path
) -> None:
    whole, first, second = fresh(split), fresh(split), fresh(split)
    expected = train(whole, split, device, SPT(), epochs=3)
    train(first, split, device, SPT(), epochs=1, run=RunDirectory.create(tmp_path / "run", {}))
    run = RunDirectory.create(tmp_path / "run", {}, resume=True)
    assert train(second, split, device, SPT(), epochs=3, run=run) == expected
    assert same(weights(second), weights(whole)) and not same(weights(first), weights(whole))


@pytest.mark.parametrize(
    ("objective", "precision"),
    [(SPT(), "bf16"), (RPT(rollouts=2), "bf16"), (NextItemEverywhere(), "fp32"), (NextItemEverywhere(), "bf16"),
     (SPT(next_item=NextItemEverywhere()), "fp32"), (SampledNextItem(8), "fp32"), (SPT(next_item=SampledNextItem(8)), "bf16")],
)  # fmt: skip
def test_every_objective_trains(objective: Any, precision: str, split: Split, device: torch.device) -> None:
    model = fresh(split)
    before = weights(model)
    lines = train(model, split, device, objective, epochs=2, precision=precision)
    after = weights(model)
    assert all(value.isfinite().all() for value in after.values()) and not same(before, after)
    assert after["item_table.weight"].dtype == torch.float32 and not after["item_table.weight"][0].any()
    assert all(abs(value) < 100 for line in lines for value in line.values() if isinstance(value, float))


def test_an_evaluation_is_the_cpus(split: Split, device: torch.device) -> None:
    model, samples = fresh(split, dropout=0.0), split.test
    model.item_table.weight.data *= 3  # scores far from each other
    bound = 1 / len(samples) + 1e-6  # of one user, whose rank rounding may change
    for settings in ({}, {"exclude_history": True}, {"depth": 1}):
        expected = evaluate(model.cpu(), samples, **settings).metrics
        found = evaluate(model.to(device), samples, **settings).metrics
        assert found.keys() == expected.keys() and len(found) > 2
        assert all(abs(found[name] - value) <= bound for name, value in expected.items())


def test_what_was_saved_answers_alike_on_the_cpu(split: Split, device: torch.device, tmp_path: Path) -> None:
    model, history = fresh(split).to(device).eval(), ragged(3, 8, longest=6, num_items=split.num_items)
    model.save_pretrained(tmp_path / "model")
    loaded = Recommender.from_pretrained(tmp_path / "model").eval()
    assert loaded.device.type == "cpu" and same(weights(loaded), weights(model))
    close(model.think(history.to(device)).steps, loaded.think(history).steps)


def test_a_sampled_step_moves_the_rows_it_touches_by_the_learning_rate(device: torch.device) -> None:
    torch.manual_seed(0)
    model = build_recommender(SASRec(inner=32, dropout=0.0), 500, dim=16, max_length=6, dropout=0.0, init_std=0.5)
    model = model.to(device).train()
    objective = SampledNextItem(12)
    history, rows = ragged(1, 5, longest=6, num_items=40), torch.arange(5)
    batch = Batch(history, torch.tensor([3, 50, 50, 60, 70]), rows, 9).to(device)
    before, optimizer = weights(model)["item_table.weight"], build_optimizer(
        model, learning_rate=0.01, weight_decay=0.0, few_items=True
    )  # fmt: skip
    loss, _ = StepModule(model, objective)(batch)
    loss.backward()
    assert model.item_table.weight.grad.is_sparse
    optimizer.step()
    moved = weights(model)["item_table.weight"] - before
    touched = {*history.flatten().tolist(), *batch.target.tolist(), *objective.draw(500, 9)[0].tolist()} - {0}
    assert set(moved.abs().sum(1).nonzero()[:, 0].tolist()) == touched
    lengths = moved[sorted(touched)].square().mean(1).sqrt()  # Adam's first step, whatever the gradient
    close(lengths, torch.full_like(lengths, 0.01), 1e-2)
