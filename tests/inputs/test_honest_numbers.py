"""Nothing that is asked for is learned from, and a model that knows nothing gets what chance gets."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import fields
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load, save
from torch import Tensor

from latentloop.backbones.sasrec import SASRec
from latentloop.baselines import chance
from latentloop.cli import main
from latentloop.data import Interactions, SameTarget, Split, batches, global_time, leave_one_out
from latentloop.data.windows import Windows
from latentloop.depth import FixedDepth
from latentloop.evaluation import evaluate
from latentloop.objectives import SPT, NextItemEverywhere, SampledNextItem
from latentloop.recipes import build_recommender
from latentloop.two_stage import two_stage
from tests.inputs.worlds import LOG, World, rewrite

ITEMS, LENGTH = 12, 5
RULES: dict[str, Callable[[Interactions, int], Split]] = {"leave-one-out": leave_one_out, "global-time": global_time}
seeds = st.integers(0, 2**31 - 1)


def split_of(seed: int, rule: str) -> Split:
    """A few users with histories of 3 to 9 items and times of their own; every item occurs."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(3, 10, (12,), generator=generator)
    user = torch.repeat_interleave(torch.arange(12), lengths)
    item = torch.randint(1, ITEMS + 1, (len(user),), generator=generator)
    time = torch.rand(len(user), generator=generator, dtype=torch.float64)
    time = torch.cat([part.sort().values for part in time.split(lengths.tolist())])
    return RULES[rule](Interactions(user, item, time, list(range(12)), list(range(1, ITEMS + 1))), LENGTH)


def with_other(split: Split, rule: str, rows: Tensor, seed: int) -> Split:
    """The same users and times, with every item of `rows` replaced by another one."""
    old = split.interactions
    shift = torch.randint(1, ITEMS, (len(old),), generator=torch.Generator().manual_seed(seed))
    item = torch.where(rows, (old.item - 1 + shift) % ITEMS + 1, old.item)
    assert bool((item != old.item).equal(rows))
    return RULES[rule](Interactions(old.user, item, old.timestamp, old.user_ids, old.item_ids), LENGTH)


def learned(split: Split) -> Iterator[tuple[str, Tensor]]:
    """All that training is given, by name: samples with their positives, windows, how often items occur."""
    yield "counts", split.item_counts
    for kind, rows in (("samples", split.train), ("windows", Windows.of(split.train))):
        for batch in batches(rows, 7, key=3, epoch=0, same_target=SameTarget(split.train)):
            for field in fields(batch):
                value = getattr(batch, field.name)
                if isinstance(value, Tensor):
                    yield f"{kind} {field.name}", value


@given(seed=seeds, rule=st.sampled_from(sorted(RULES)))
def test_training_is_given_nothing_that_is_asked_for(seed: int, rule: str) -> None:
    """Whatever a user does in validation and test, every batch, positive, window and count stays the same."""
    split = split_of(seed, rule)
    other = with_other(split, rule, ~split.training, seed)
    before, after = list(learned(split)), list(learned(other))
    assert [name for name, _ in before] == [name for name, _ in after]
    assert {"samples same_target", "windows history"} <= {name for name, _ in before}
    for (name, was), (_, now) in zip(before, after, strict=True):
        assert torch.equal(was, now), name


@given(seed=seeds, rule=st.sampled_from(sorted(RULES)))
def test_validation_is_given_nothing_of_the_test(seed: int, rule: str) -> None:
    split = split_of(seed, rule)
    asked = torch.zeros(len(split.interactions), dtype=torch.bool)
    asked[split.test.end] = True
    other = with_other(split, rule, asked, seed)
    everyone = torch.arange(len(split.validation))
    assert torch.equal(split.validation.history(everyone), other.validation.history(everyone))
    assert torch.equal(split.validation.target(everyone), other.validation.target(everyone))
    tested = torch.arange(len(split.test))
    assert not torch.equal(split.test.target(tested), other.test.target(tested))


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("objective", ["all items", "sampled", "everywhere"])
def test_trained_weights_know_nothing_that_is_asked_for(rule: str, objective: str) -> None:
    """To the last bit, and they do know what they may."""
    split = split_of(7, rule)
    hidden, open_ = with_other(split, rule, ~split.training, 1), with_other(split, rule, split.training, 1)
    was, now, changed = (weights(part, objective) for part in (split, hidden, open_))
    assert all(torch.equal(was[name], now[name]) for name in was)
    assert not torch.equal(was["item_table.weight"], changed["item_table.weight"])


def weights(split: Split, objective: str) -> dict[str, Tensor]:
    torch.manual_seed(0)
    model = build_recommender(SASRec(pre_layers=1, core_layers=1, heads=1, inner=8), ITEMS, dim=8, max_length=LENGTH)
    part: Any = {"sampled": SampledNextItem(4, item_counts=split.item_counts[1:]), "everywhere": NextItemEverywhere()}
    two_stage(model, split, spt=SPT(next_item=part.get(objective)), epochs=1, rpt_epochs=0, batch_size=16, device="cpu")
    return dict(model.state_dict())


@pytest.mark.parametrize("exclude", [False, True])
@pytest.mark.parametrize("scorer", ["dot", "cosine"])
@pytest.mark.parametrize("collapse", ["items alike", "items nothing"])
def test_a_collapsed_model_gets_what_chance_gets(collapse: str, scorer: str, exclude: bool) -> None:
    """All scores of a row are equal, on kernels whose sums may differ by the column; so are all its metrics."""
    split = split_of(3, "leave-one-out")
    torch.manual_seed(1)
    model = build_recommender(
        SASRec(heads=1, inner=8), ITEMS, dim=8, max_length=LENGTH, scorer=scorer, depth_law=FixedDepth(3)
    )
    with torch.no_grad():
        model.item_table.weight[1:] = model.item_table.weight[1] if collapse == "items alike" else 0.0
    found = evaluate(model, split.test, depths=[1, 2, 3], exclude_history=exclude)
    wanted = chance(split, split.test, exclude_history=exclude).metrics
    for metrics in (found.metrics, *found.per_depth.values()):
        assert metrics == pytest.approx(wanted, rel=1e-12)
    assert exclude or found.metrics["recall@5"] == pytest.approx(5 / ITEMS, rel=1e-12)


def test_a_collapsed_run_is_told_to_be_chance(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    def collapse(content: bytes) -> bytes:
        tensors = load(content)
        tensors["item_table.weight"][1:] = tensors["item_table.weight"][1]
        return save(tensors)

    rewrite(world.copy() / "spt/model.safetensors", collapse)
    command = ["evaluate", str(world.copied), "--stage", "spt", "--depths", "1", "3", "--device", "cpu"]
    assert main([*command, "--out", "found.json"]) == 0
    found = json.loads((world.here / "found.json").read_text())
    assert found["metrics"] == pytest.approx(found["rivals"]["chance"]["metrics"], rel=1e-12)
    table = capsys.readouterr().out.split("\n\n")[0]
    rows = {line.split()[0]: line.split()[2:] for line in table.splitlines()}
    assert rows["SPT"] == rows["chance"]


def test_a_run_that_thinks_from_a_fresh_state_is_measured_as_it_was_reported(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [*world.train(world.file("log.csv", LOG)), "--inference-state", "fresh", "--mean-depth", "2"]
    assert main(command) == 0
    reported = [line.split()[-1] for line in capsys.readouterr().out.splitlines() if line.startswith(("SPT", "RPT"))]
    found = []
    for stage in ("spt", "rpt"):
        assert main(["evaluate", "out", "--stage", stage, "--device", "cpu", "--out", f"{stage}.json"]) == 0
        found.append(f"{json.loads((world.here / f'{stage}.json').read_text())['metrics']['ndcg@10']:.4f}")
    assert found == reported
