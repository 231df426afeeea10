"""NextItemEverywhere: the mean over all prefixes, alone and in sums, and it trains."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from latentloop.across_ranks import Share
from latentloop.backbones.fmlprec import FMLPRec
from latentloop.backbones.sasrec import SASRec
from latentloop.data.batch import Batch, batches
from latentloop.data.positives import SameTarget
from latentloop.data.splits import Split, leave_one_out
from latentloop.data.synthetic import synthetic_log
from latentloop.data.windows import Windows
from latentloop.errors import InputError, InputTypeError
from latentloop.fitting.step import StepModule
from latentloop.objectives import (
    SPT,
    NextItem,
    NextItemEverywhere,
    SampledNextItem,
    StepAlignment,
    TrajectoryAlignment,
    Views,
    encode_views,
)
from latentloop.randomness import fold, generator, row_keys
from latentloop.recipes import build_recommender
from latentloop.recommender import Recommender
from latentloop.runs.directory import RunDirectory
from latentloop.training import fit, make_accelerator
from tests.core.worlds import fewer, unchecked
from tests.objectives.worlds import Graphed, gradients, part_of, seeds, side_by_side

LENGTH = 4  # shorter than many histories, so that users have several windows


def split_of(seed: int, users: int = 12) -> Split:
    return leave_one_out(synthetic_log(num_users=users, num_items=20, seed=seed), LENGTH)


def model_of(split: Split, seed: int, *, loop: bool = True, backbone: Any = None, **kwargs: Any) -> Recommender:
    torch.manual_seed(seed)
    backbone = backbone or SASRec(pre_layers=1, core_layers=1, inner=12, heads=1)
    model = build_recommender(backbone, split.num_items, dim=6, max_length=LENGTH, loop=loop, init_std=0.7, **kwargs)
    return model.double().eval()


def batch_of(split: Split, seed: int, *, stride: int | None = None) -> Batch:
    windows = Windows.of(split.train, stride=stride)
    return next(batches(windows, 9, key=seed, epoch=1, same_target=SameTarget(split.train)))


def by_prefixes(model: Recommender, batch: Batch, depth: int) -> tuple[Tensor, Tensor]:
    """(thoughts, targets) of every learned position as a row of its own, by loops; T_0 is that of the whole row."""
    assert batch.targets is not None
    keys = row_keys(fold(batch.key, "state", "anchor"), batch.rows)
    finals, targets = [], []
    for row, history in enumerate(batch.history.tolist()):
        for column, target in enumerate(batch.targets[row].tolist()):
            if target:
                slots = torch.arange(LENGTH - 1, LENGTH - 2 - column, -1)
                start = model.encoder.draw_state(keys[row].expand(column + 1), slots)[None].double()
                state = start if model.inference_depth > 1 else None
                finals.append(model.think(torch.tensor([history[: column + 1]]), depth=depth, state=state).final[0])
                targets.append(target)
    return torch.stack(finals), torch.tensor(targets)


def moved_gradients(loss: Tensor, model: Recommender) -> dict[str, Tensor]:
    """A prefix of its own moves up, so of the position vectors, which are all alike, only the sum is the same."""
    found = gradients(loss, model)
    return found | {"position_table": found["position_table"].sum(0)}


@pytest.mark.parametrize("loop", [True, False])
@fewer
@given(seed=seeds)
def test_the_loss_is_the_mean_over_all_prefixes_as_samples_of_their_own(loop: bool, seed: int) -> None:
    split = split_of(seed)
    model, batch = model_of(split, seed, loop=loop), batch_of(split, seed)
    with torch.no_grad():
        model.position_table.copy_(model.position_table[0].expand(LENGTH, -1).clone())
    views = encode_views(model, batch, NextItemEverywhere.views)
    loss, terms = NextItemEverywhere()(views, batch)
    finals, target = by_prefixes(model, batch, views.depth)
    assert len(target) > len(batch)
    wanted = F.cross_entropy(finals @ model.item_table.weight[1:].T, target - 1)
    torch.testing.assert_close(loss, wanted, rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(terms, {"next_item": wanted.detach()}, rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(moved_gradients(loss, model), moved_gradients(wanted, model), rtol=1e-6, atol=1e-9)


@fewer
@given(seed=seeds)
def test_rows_of_one_target_are_prefix_training(seed: int) -> None:
    """Full histories at a stride of 1 have rows of their own, which learn their newest position alone."""
    split = split_of(seed)
    full = split.train.select(split.train.lengths(torch.arange(len(split.train))) == LENGTH)
    windows = Windows.of(full, stride=1)
    assert int(windows.counts.sum()) == len(windows) == len(full) > 0
    batch = next(batches(windows, 50, key=seed, epoch=1))
    model = model_of(split, seed)
    views = encode_views(model, batch, ("everywhere",))
    wanted, _ = NextItem()(encode_views(model, batch, ("anchor",)), batch)
    found, _ = NextItemEverywhere()(views, batch)
    torch.testing.assert_close(found, wanted)


@fewer
@given(seed=seeds, world=st.integers(2, 3))
def test_processes_weighed_by_their_rows_add_up_to_the_mean_over_all_targets(seed: int, world: int) -> None:
    split = split_of(seed)
    model, whole = model_of(split, seed), batch_of(split, seed)

    def part(share: Share) -> tuple[Tensor, Tensor]:
        batch = part_of(whole, share)
        loss, terms = NextItemEverywhere()(encode_views(model, batch, NextItemEverywhere.views), batch)
        torch.testing.assert_close(terms, {"next_item": loss.detach()})
        return loss * share.weight, torch.tensor(share.weight)

    wanted, _ = NextItemEverywhere()(encode_views(model, whole, NextItemEverywhere.views), whole)
    losses, weights = zip(*side_by_side(len(whole), part, world), strict=True)
    torch.testing.assert_close(sum(losses), wanted, rtol=1e-8, atol=1e-10)
    assert sum(weights) == pytest.approx(1)


@fewer
@given(seed=seeds)
def test_in_a_sum_the_alignments_read_the_newest_position_of_the_same_pass(seed: int) -> None:
    split = split_of(seed)
    model, batch = model_of(split, seed), batch_of(split, seed)
    parts = [TrajectoryAlignment(), 0.3 * StepAlignment(), NextItemEverywhere()]
    total = sum(parts[1:], start=1.0 * parts[0])
    assert total.views == ("anchor", "same_target", "everywhere")
    calls = []
    handle = model.encoder.core_block.register_forward_pre_hook(lambda *_: calls.append(1))  # type: ignore[attr-defined]
    views = encode_views(model, batch, total.views)
    handle.remove()
    assert len(calls) == views.depth == model.depth_law.sample(generator(fold(batch.key, "depth")))
    loss, terms = total(views, batch)
    alone = [part(encode_views(model, batch, part.views), batch)[0] for part in parts]
    torch.testing.assert_close(loss, sum(alone), rtol=1e-8, atol=1e-10)
    assert list(terms) == ["trajectory", "step", "next_item"]
    torch.testing.assert_close(gradients(loss, model), gradients(sum(alone), model), rtol=1e-6, atol=1e-9)
    assert SPT(next_item=NextItemEverywhere()).views == ("everywhere", "anchor", "same_target")


@pytest.mark.parametrize("names", [("everywhere",), ("anchor", "everywhere"), ("self", "everywhere", "anchor")])
def test_each_view_is_read_from_one_pass_the_anchor_first(names: tuple[str, ...]) -> None:
    split = split_of(2)
    model, batch = model_of(split, 2), batch_of(split, 2)
    views = encode_views(model, batch, names)
    wanted = ["anchor", *({"self"} & set(names))]
    assert list(views.thoughts) == wanted
    assert views.everywhere is not None
    assert len(views.everywhere.packing.offsets) == len(wanted) * len(batch) + 1
    for name in wanted:
        torch.testing.assert_close(views[name].steps, encode_views(model, batch, (name,))[name].steps)


def test_states_of_a_batch_that_knows_its_tokens_are_thought_by_who_asks_for_them() -> None:
    split = split_of(2)
    model, batch = model_of(split, 2), batch_of(split, 2)
    graphed: Any = Graphed(model)
    names = ("everywhere", "same_target")
    with unchecked():  # it is no GraphedThinking
        views = encode_views(model, replace(batch, tokens=(7, 11)), names, graphed=graphed)
    assert graphed.told == [("everywhere", 7 + 11)]
    plain = encode_views(model, batch, names)
    assert views.everywhere is not None and plain.everywhere is not None
    assert torch.equal(views.everywhere.states, plain.everywhere.states)
    assert torch.equal(views["same_target"].steps, plain["same_target"].steps)


def test_sampled_negatives_serve_every_position() -> None:
    split = split_of(1)
    model, batch = model_of(split, 1), batch_of(split, 1)
    views = encode_views(model, batch, ("everywhere",))
    full, _ = NextItemEverywhere()(views, batch)
    sampled, terms = NextItemEverywhere(SampledNextItem(200_000))(views, batch)
    assert sampled.item() == pytest.approx(full.item(), abs=0.02)
    assert terms.keys() == {"next_item"}


def test_what_touches_few_items_inside_has_the_gradients_of_the_whole_table() -> None:
    assert NextItemEverywhere(SampledNextItem(4)).touches_few_items and not NextItemEverywhere().touches_few_items
    split = split_of(1)
    found = []
    for sparse in (True, False):
        model, batch = model_of(split, 1), batch_of(split, 1)
        StepModule(model, NextItemEverywhere(SampledNextItem(4)), sparse=sparse)(batch)[0].backward()
        gradient = model.item_table.weight.grad
        assert gradient is not None and gradient.is_sparse == sparse
        found.append(gradient.to_dense())
    torch.testing.assert_close(found[0], found[1])


class Told(NextItem):
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def start(self, model: Recommender) -> None:
        self.told.append("start")

    def end(self) -> None:
        self.told.append("end")


class Prepares(NextItem):
    def prepare(self, model: Recommender, batch: Batch) -> Batch:
        return batch


def test_the_part_inside_is_told_when_a_stage_begins_and_ends() -> None:
    part = Told()
    small_fit(split_of(3), 0.5 * NextItemEverywhere(part) + NextItem(), epochs=1)
    assert part.told == ["start", "end"]


class Refuses(NextItem):
    def start(self, model: Recommender) -> None:
        raise InputError("no")


class Fails(NextItem):
    def end(self) -> None:
        raise RuntimeError("end")


def test_a_part_ends_where_a_later_one_refuses_to_start_and_where_a_run_is_refused(tmp_path: Path) -> None:
    part, split = Told(), split_of(3)
    with pytest.raises(InputError, match=r"^no$"):
        small_fit(split, part + Refuses(), epochs=1)
    assert part.told == ["start", "end"]
    with pytest.raises(InputError, match=r"^no$"):  # and not what its end says
        small_fit(split, Fails() + Refuses(), epochs=1)
    with pytest.raises(RuntimeError, match=r"^end$"):
        small_fit(split, Fails() + part, epochs=1)
    assert part.told == ["start", "end"] * 2
    part.told = []
    small_fit(split, part, epochs=1)
    run = RunDirectory.create(tmp_path / "run", {})
    small_fit(split, part, epochs=1, run=run)
    with pytest.raises(InputError, match="batch_size"):
        small_fit(split, part, epochs=1, run=run, batch_size=7)
    assert part.told == ["start", "end"] * 3


def test_a_part_may_name_the_anchor_or_no_view() -> None:
    views: tuple[str, ...]
    for views in (("anchor",), ()):
        part = NextItem()
        part.views = views  # type: ignore[attr-defined]
        assert NextItemEverywhere(part).part is part


@pytest.mark.parametrize("part", [TrajectoryAlignment(), Prepares(), SPT()])
def test_a_part_that_needs_more_than_an_answer_and_its_target_is_refused(part: Any) -> None:
    with pytest.raises(
        InputError, match=r"part must be the loss of one answer and its target.* add others to this one"
    ):
        NextItemEverywhere(part)
    with unchecked(), pytest.raises(InputTypeError, match="part must be callable"):
        NextItemEverywhere(3)  # type: ignore[arg-type]


@pytest.mark.parametrize("make", [NextItemEverywhere, lambda: SPT(next_item=NextItemEverywhere())])
def test_a_model_that_reads_less_than_the_samples_hold_learns_every_target_all_the_same(make: Any) -> None:
    split = split_of(3, users=150)
    seen: list[int] = []

    def count(views: Any, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        targets = batch.targets
        assert targets is not None
        seen.append(int((targets[:, -(LENGTH // 2) :] != 0).sum()))
        assert int((targets != 0).sum()) == seen[-1]
        return views["anchor"].final.sum() * 0, {}

    backbone = SASRec(pre_layers=1, core_layers=1, inner=32, dropout=0.1)
    model = build_recommender(backbone, split.num_items, dim=16, max_length=LENGTH // 2, dropout=0.1)
    accelerator = make_accelerator(device="cpu")
    fit(model, split.train, split.validation, make() + count, epochs=1, accelerator=accelerator)
    assert sum(seen) == len(split.train)


class Started(NextItem):
    def start(self, model: Recommender) -> None:
        self.model = model


def test_its_part_is_started_with_the_model() -> None:
    part, model = Started(), model_of(split_of(1), 1)
    NextItemEverywhere(part).start(model)
    assert part.model is model


def test_what_is_missing_is_named() -> None:
    split = split_of(0)
    model, batch = model_of(split, 0), batch_of(split, 0)
    plain = next(batches(split.train, 9, key=0, epoch=1))
    with pytest.raises(InputError, match=r"no targets of inner positions: make it of Windows\.of\(samples\)"):
        NextItemEverywhere()(encode_views(model, plain, ("everywhere",)), plain)
    with pytest.raises(InputError, match='name "everywhere"'):
        NextItemEverywhere()(encode_views(model, batch, ("anchor",)), batch)
    with pytest.raises(InputError, match='name "everywhere"'):
        NextItemEverywhere()(Views(model, 1, {}), batch)


def test_a_causal_encoder_may_start() -> None:
    model = model_of(split_of(0), 0)
    NextItemEverywhere().start(model)
    (0.5 * NextItemEverywhere() + NextItem()).start(model)


def small_fit(split: Split, objective: Any, **kwargs: Any) -> tuple[Recommender, Any]:
    torch.manual_seed(0)
    backbone = kwargs.pop("backbone", SASRec(pre_layers=1, core_layers=1, inner=32, dropout=0.1))
    model = build_recommender(backbone, split.num_items, dim=16, max_length=LENGTH, dropout=0.1)
    settings = {"epochs": 3, "batch_size": 32, "learning_rate": 5e-3, "accelerator": make_accelerator(device="cpu")}
    return model, fit(model, split.train, split.validation, objective, **settings | kwargs)


@pytest.mark.parametrize("make", [NextItemEverywhere, lambda: SPT(next_item=NextItemEverywhere())])
def test_fit_learns_every_target_once_an_epoch_and_repeats_itself(make: Any) -> None:
    split = split_of(3, users=150)
    seen: list[int] = []

    def count(views: Any, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        assert batch.targets is not None
        seen.append(int((batch.targets != 0).sum()))
        return views["anchor"].final.sum() * 0, {}

    model, fitted = small_fit(split, make() + count)
    losses = [line["next_item"] for line in fitted.history]
    assert losses[-1] < losses[0] - 0.1
    assert sum(seen) == 3 * len(split.train)
    assert fitted.history[-1]["steps"] == len(seen) == 3 * -(-len(Windows.of(split.train)) // 32)
    again, _ = small_fit(split, make() + count)
    for name, value in model.state_dict().items():
        assert torch.equal(value, again.state_dict()[name])


def test_fit_refuses_an_encoder_that_sees_later_items_before_its_first_step() -> None:
    split = split_of(3)
    with pytest.raises(InputError, match="is not causal"):
        small_fit(split, SPT(next_item=NextItemEverywhere()), backbone=FMLPRec(pre_layers=1, core_layers=1, inner=32))


def test_it_is_shown_as_it_is_made() -> None:
    assert repr(NextItemEverywhere()) == "NextItemEverywhere()"
    assert (
        repr(0.5 * NextItemEverywhere(SampledNextItem(3)))
        == "0.5 * NextItemEverywhere(SampledNextItem(num_negatives=3))"
    )
    assert isinstance(NextItemEverywhere().part, NextItem) and not isinstance(NextItemEverywhere(), nn.Module)
