"""NextItem, the alignments, their sums, and the views that they share."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from latentloop.data.batch import Batch
from latentloop.errors import InputError, InputTypeError
from latentloop.objectives import (
    RPT,
    SPT,
    NextItem,
    NextItemEverywhere,
    SampledNextItem,
    StepAlignment,
    Sum,
    TrajectoryAlignment,
    Views,
    Weighted,
    encode_views,
    symmetric_info_nce,
    views_of,
)
from latentloop.objectives.contract import touches_few_items
from latentloop.objectives.step import draw_step
from latentloop.randomness import fold, generator, row_keys
from latentloop.recommender import Recommender
from latentloop.recurrence import Thoughts
from tests.core.worlds import unchecked
from tests.objectives.worlds import DIM, NUM_ITEMS, Graphed, batch_of, gradients, recommender, seeds

EXACT = {"rtol": 1e-9, "atol": 1e-11}  # float64


def row_by_row(model: Recommender, batch: Batch, view: str, history: Tensor, depth: int) -> Tensor:
    """Thoughts of one view, a row at a time: (k, B, d)."""
    keys = row_keys(fold(batch.key, "state", view), batch.rows)
    rows = [
        model.think(history[row : row + 1], depth=depth, state_keys=keys[row : row + 1]).steps
        for row in range(len(history))
    ]
    return torch.cat(rows, 1)


def same(target: Tensor) -> Tensor:
    return torch.tensor([[a == b for b in target.tolist()] for a in target.tolist()])


# Views


@given(seed=seeds)
def test_views_of_one_pass_are_the_rows_thought_one_by_one(seed: int) -> None:
    model, batch = recommender(seed).eval(), batch_of(seed)
    views = encode_views(model, batch, ("anchor", "same_target", "self"))
    assert batch.same_target is not None
    for name, history in (("anchor", batch.history), ("same_target", batch.same_target), ("self", batch.history)):
        assert views[name].depth == views.depth
        torch.testing.assert_close(views[name].steps, row_by_row(model, batch, name, history, views.depth), **EXACT)
    assert not torch.allclose(views["anchor"].final, views["self"].final)  # its own T_0


def test_views_of_a_batch_that_knows_its_tokens_are_thought_by_who_asks_for_them() -> None:
    model, batch = recommender(0).eval(), batch_of(0)
    graphed: Any = Graphed(model)
    names = ("anchor", "same_target", "self")
    plain, known = encode_views(model, batch, names), replace(batch, tokens=(7, 11))
    with unchecked():  # it is no GraphedThinking
        encode_views(model, batch, names, graphed=graphed)  # of which none are known
        assert not graphed.told
        views = encode_views(model, known, names, graphed=graphed)
        assert graphed.told == [("thoughts", 7 + 11 + 7)]
        nothing = encode_views(model, known, (), graphed=graphed)
    for name in names:
        assert torch.equal(views[name].steps, plain[name].steps)
    assert nothing.model is model and nothing.depth == plain.depth and not nothing.thoughts
    alone = encode_views(model, known, ("anchor",))  # by the model
    torch.testing.assert_close(alone["anchor"].steps, plain["anchor"].steps, **EXACT)


def test_the_depth_follows_the_law_and_the_key_alone() -> None:
    model, batch = recommender(0), batch_of(0)
    depths = Counter()
    for key in range(40):
        step = Batch(batch.history, batch.target, batch.rows, key)
        depths[encode_views(model, step, ("anchor",)).depth] += 1
        assert encode_views(model, step, ("self", "anchor")).depth == encode_views(model, step, ()).depth
    assert set(depths) == {1, 2, 3, 4}


def test_an_unknown_or_missing_view_is_named() -> None:
    model, batch = recommender(0), batch_of(0)
    with pytest.raises(InputError, match="anchor, same_target, self, everywhere, got 'other'"):
        encode_views(model, batch, ("other",))
    with pytest.raises(InputError, match="same_target=True"):
        encode_views(model, Batch(batch.history, batch.target, batch.rows, 1), ("same_target",))
    with pytest.raises(InputError, match=r"'self' was not encoded \(there is anchor, same_target\): name it"):
        encode_views(model, batch, ("anchor", "same_target"))["self"]
    with pytest.raises(InputError, match=r"'self' was not encoded \(there is none\): name it"):
        encode_views(model, batch, ())["self"]


# The parts, each against its equation


@pytest.mark.parametrize("scorer", ["dot", "cosine"])
@given(seed=seeds)
def test_next_item_is_the_dense_loss(scorer: str, seed: int) -> None:
    model, batch = recommender(seed, scorer=scorer).eval(), batch_of(seed, few_targets=False)
    views = encode_views(model, batch, NextItem.views)
    loss, terms = NextItem()(views, batch)
    final = row_by_row(model, batch, "anchor", batch.history, views.depth)[-1]
    table = model.item_table.weight[1:]
    if scorer == "cosine":
        final, table = F.normalize(final, dim=1) / 0.07, F.normalize(table, dim=1)
    expected = F.cross_entropy(final @ table.T, batch.target - 1)
    torch.testing.assert_close(loss, expected, **EXACT)
    assert terms.keys() == {"next_item"}
    assert not terms["next_item"].requires_grad
    torch.testing.assert_close(gradients(loss, model), gradients(expected, model), rtol=1e-7, atol=1e-9)


def test_the_padding_row_is_never_scored() -> None:
    model, batch = recommender(1).eval(), batch_of(1)
    first, _ = NextItem()(encode_views(model, batch, ("anchor",)), batch)
    grad = gradients(first, model)["item_table.weight"]
    assert torch.equal(grad[0], torch.zeros(DIM, dtype=grad.dtype))
    lost = grad[1:].abs().sum(1)
    assert bool((lost > 0).all())


@pytest.mark.parametrize("positives", ["same_target", "self"])
@given(seed=seeds, masked=st.booleans())
def test_trajectory_alignment_is_its_equation(positives: Any, seed: int, masked: bool) -> None:
    model, batch = recommender(seed).eval(), batch_of(seed)
    part = TrajectoryAlignment(positives=positives, temperature=0.3, similarity="dot", mask_same_target=masked)
    views = encode_views(model, batch, part.views)
    assert views.thoughts.keys() == {"anchor", positives}
    loss, terms = part(views, batch)
    history = batch.same_target if positives == "same_target" else batch.history
    assert history is not None
    p = row_by_row(model, batch, "anchor", batch.history, views.depth)[-1]
    positive = row_by_row(model, batch, positives, history, views.depth)[-1]
    hidden = same(batch.target) & ~torch.eye(len(p), dtype=torch.bool) if masked else torch.zeros(len(p), len(p)).bool()
    forward = (p @ positive.T / 0.3).masked_fill(hidden, -torch.inf)
    expected = (F.cross_entropy(forward, torch.arange(len(p))) + F.cross_entropy(forward.T, torch.arange(len(p)))) / 2
    torch.testing.assert_close(loss, expected, **EXACT)
    torch.testing.assert_close(terms["trajectory"], expected.detach(), **EXACT)


@given(seed=seeds)
def test_step_alignment_is_its_equation(seed: int) -> None:
    model, batch = recommender(seed).eval(), batch_of(seed)
    views = encode_views(model, batch, ("anchor",))
    loss, _ = StepAlignment(temperature=0.4)(views, batch)
    if views.depth == 1:
        assert loss.item() == 0
        assert loss.requires_grad
        assert all(torch.equal(grad, torch.zeros_like(grad)) for grad in gradients(loss, model).values())
        return
    steps = row_by_row(model, batch, "anchor", batch.history, views.depth)
    middle = steps[draw_step(batch.key, views.depth) - 1]
    expected = symmetric_info_nce(middle, steps[-1], temperature=0.4, same=same(batch.target))
    torch.testing.assert_close(loss, expected, **EXACT)


def test_the_middle_step_is_uniform_before_the_last() -> None:
    draws = Counter(draw_step(key, 4) for key in range(3000))
    assert set(draws) == {1, 2, 3}
    # 3000 draws of chance 1/3: a standard deviation of 26
    assert all(abs(count - 1000) < 130 for count in draws.values())
    assert {draw_step(key, 2) for key in range(20)} == {1}


def test_a_bare_block_has_no_step_to_align() -> None:
    model, batch = recommender(0, loop=False), batch_of(0)
    spt = SPT()
    loss, terms = spt(encode_views(model, batch, spt.views), batch)
    assert terms["step"].item() == 0
    assert terms["trajectory"].item() > 0
    loss.backward()


# Sampled softmax


def fixed_views(model: Recommender, thought: Tensor) -> Views:
    return Views(model, 1, {"anchor": Thoughts(thought[None])})


@pytest.mark.parametrize("counts", [None, [9, 1, 0, 30, 4, 2, 2]])
def test_the_sampled_denominator_is_right_on_average(counts: list[int] | None) -> None:
    items, draws = 7, 4000
    model = recommender(3, num_items=items).eval()
    batch = batch_of(3, 4, num_items=items)
    thought = torch.randn(4, DIM, dtype=torch.float64)
    counted = None if counts is None else torch.tensor(counts)
    part = SampledNextItem(5, item_counts=counted, power=0.5)
    dense = (thought @ model.keys().T).double()
    own = dense.gather(1, batch.target[:, None] - 1)[:, 0]
    estimates = torch.zeros(draws, 4, dtype=torch.float64)
    for key in range(draws):
        negatives, log_expected = part.draw(items, key)
        weights = (dense[:, negatives - 1] - log_expected).exp()
        estimates[key] = own.exp() + (weights * (negatives != batch.target[:, None])).sum(1)
    exact = dense.exp().sum(1)
    error = estimates.std(0) / math.sqrt(draws)
    assert bool(((estimates.mean(0) - exact).abs() < 5 * error).all())
    # and the loss is the logarithm of that very sum
    step = Batch(batch.history, batch.target, batch.rows, 17)
    loss, _ = part(fixed_views(model, thought), step)
    assert loss.item() == pytest.approx((estimates[17].log() - own).mean().item(), rel=1e-5)


def test_many_samples_approach_the_full_loss() -> None:
    model, batch = recommender(4).eval(), batch_of(4, few_targets=False)
    views = encode_views(model, batch, ("anchor",))
    full, _ = NextItem()(views, batch)
    sampled, terms = SampledNextItem(200_000)(views, batch)
    assert terms == {"next_item": sampled.detach()}
    assert sampled.item() == pytest.approx(full.item(), abs=0.02)  # 1 / sqrt(M) of a spread of a few
    wanted = gradients(full, model)
    found = gradients(SampledNextItem(200_000)(encode_views(model, batch, ("anchor",)), batch)[0], model)
    torch.testing.assert_close(found, wanted, rtol=0, atol=0.02)


def test_draws_follow_the_proposal_and_the_key() -> None:
    counts = torch.tensor([1, 16, 81, 0])
    negatives, log_expected = SampledNextItem(20_000, item_counts=counts, power=0.25).draw(4, 5)
    weights = torch.tensor([1.0, 2.0, 3.0, 1.0])
    observed = torch.bincount(negatives, minlength=5)[1:] / len(negatives)
    torch.testing.assert_close(observed, weights / 7, rtol=0, atol=0.015)  # four standard deviations
    torch.testing.assert_close(log_expected, (weights / 7 * 20_000).log()[negatives - 1])
    part = SampledNextItem(50)
    assert torch.equal(part.draw(9, 1)[0], part.draw(9, 1)[0])
    assert not torch.equal(part.draw(9, 1)[0], part.draw(9, 2)[0])
    assert set(SampledNextItem(500).draw(9, 1)[0].tolist()) == set(range(1, 10))


@pytest.mark.parametrize("counts", [None, [9, 1, 0, 30]])
def test_draws_do_not_depend_on_torchs_default_precision(counts: list[int] | None) -> None:
    part = SampledNextItem(40, item_counts=None if counts is None else torch.tensor(counts))
    plain = part.draw(4, 6)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        again = part.draw(4, 6)
    finally:
        torch.set_default_dtype(before)
    assert torch.equal(again[0], plain[0])
    torch.testing.assert_close(again[1].float(), plain[1])


def test_draws_beyond_a_cumulative_sum_that_rounding_left_below_one_are_the_last_item() -> None:
    part = SampledNextItem(500, item_counts=torch.tensor([1, 1, 1]))
    assert part._cumulative is not None
    part._cumulative = part._cumulative * 0.5
    assert set(part.draw(3, 1)[0].tolist()) == {1, 2, 3}


def test_a_catalog_of_one_item_costs_nothing() -> None:
    model, batch = recommender(0, num_items=1), batch_of(0, num_items=1)
    for part in (NextItem(), SampledNextItem(3)):
        loss, _ = part(encode_views(model, batch, part.views), batch)
        assert loss.item() == pytest.approx(0, abs=1e-12)
        loss.backward()


# Sums


@given(seed=seeds, weights=st.tuples(*[st.floats(-2, 2)] * 3))
def test_a_sum_is_the_weighted_sum_of_its_parts_encoded_separately(seed: int, weights: tuple[float, ...]) -> None:
    model, batch = recommender(seed).eval(), batch_of(seed)
    parts = [NextItem(), TrajectoryAlignment(), StepAlignment()]
    total = sum((weight * part for weight, part in zip(weights, parts, strict=True)), start=0.0 * NextItem())
    assert total.views == ("anchor", "same_target")
    loss, terms = total(encode_views(model, batch, total.views), batch)
    alone = [part(encode_views(model, batch, part.views), batch)[0] for part in parts]
    expected = sum(weight * own for weight, own in zip(weights, alone, strict=True))
    torch.testing.assert_close(loss, expected, **EXACT)
    assert list(terms) == ["next_item", "next_item_2", "trajectory", "step"]
    for name, own in zip(["next_item", "trajectory", "step"], alone, strict=True):
        torch.testing.assert_close(terms[name], own.detach(), **EXACT)
    torch.testing.assert_close(gradients(loss, model), gradients(expected, model), rtol=1e-6, atol=1e-9)


def test_nested_sums_flatten_and_the_model_thinks_once() -> None:
    total = (NextItem() + 0.2 * TrajectoryAlignment()) + (0.1 * StepAlignment() + TrajectoryAlignment(positives="self"))
    assert len(total.parts) == 4
    assert total.views == ("anchor", "same_target", "self")
    assert repr(sum([NextItem(), 0.2 * TrajectoryAlignment()])) == repr(NextItem() + 0.2 * TrajectoryAlignment())
    model, batch = recommender(0), batch_of(0)
    seen = []
    model.encoder.core_block.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    views = encode_views(model, batch, total.views)
    assert seen == [3 * len(batch)] * views.depth


def test_spt_is_the_sum_it_says() -> None:
    model, batch = recommender(2).eval(), batch_of(2)
    spt = SPT(alpha=0.2, gamma=0.7, temperature=0.5, similarity="dot", positives="self", mask_same_target=False)
    settings: dict[str, Any] = {"temperature": 0.5, "similarity": "dot", "mask_same_target": False}
    by_hand = NextItem() + 0.2 * TrajectoryAlignment(positives="self", **settings) + 0.7 * StepAlignment(**settings)
    views = encode_views(model, batch, spt.views)
    assert spt.views == by_hand.views
    assert torch.equal(spt(views, batch)[0], by_hand(views, batch)[0])
    assert SPT(alpha=0.0, gamma=0.1).views == ("anchor",)
    assert len(SPT(alpha=0.0, gamma=0.0).parts) == 1
    assert isinstance(SPT(next_item=SampledNextItem(4)).parts[0], SampledNextItem)


def test_a_users_own_function_is_a_part() -> None:
    def size(views: Views, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        loss = views["anchor"].final.square().mean()
        return loss, {"size": loss.detach()}

    model, batch = recommender(0).eval(), batch_of(0)
    total = NextItem() + Weighted(size, 0.5)
    views = encode_views(model, batch, total.views)
    loss, terms = total(views, batch)
    expected = NextItem()(views, batch)[0] + views["anchor"].final.square().mean() / 2
    torch.testing.assert_close(loss, expected, **EXACT)
    assert terms.keys() == {"next_item", "size"}
    assert views_of(size) == ("anchor",)
    assert (size + NextItem()).parts[0] is size
    assert total.prepare(model, batch) is batch
    assert total.updates == 1


def test_a_sum_passes_rollouts_on_to_the_part_that_makes_them() -> None:
    model, batch = recommender(0).eval(), batch_of(0)
    rpt = RPT(updates=3, rollouts=2)
    total = 0.5 * rpt + NextItem()
    total.start(model)
    assert rpt.reference is not None
    prepared = total.prepare(model, batch)
    loss, terms = total(encode_views(model, prepared, total.views), prepared)
    assert total.updates == 3
    assert terms.keys() >= {"next_item", "policy", "kl"}
    views = encode_views(model, batch, ("anchor",))
    expected = NextItem()(views, batch)[0] + rpt(views, prepared)[0] / 2
    torch.testing.assert_close(loss, expected, **EXACT)
    with pytest.raises(InputError, match="only one part"):
        RPT() + 2.0 * RPT()


def test_a_sum_touches_few_items_where_all_its_parts_do() -> None:
    def silent(views: Views, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        return views["anchor"].final.sum() * 0, {}

    few = [SampledNextItem(3), TrajectoryAlignment(), StepAlignment()]
    assert [touches_few_items(part) for part in (*few, NextItem(), silent)] == [True, True, True, False, False]
    assert [Weighted(part, 2.0).touches_few_items for part in (few[0], NextItem())] == [True, False]
    assert Sum(few).touches_few_items
    assert not Sum([*few, NextItem()]).touches_few_items and not Sum([silent, *few]).touches_few_items


def test_a_weighted_part_that_prepares_nothing_leaves_the_batch_for_one_update() -> None:
    model, batch = recommender(0), batch_of(0)
    total = 2.0 * NextItem()
    total.start(model)
    assert total.prepare(model, batch) is batch
    assert total.updates == 1
    assert (2.0 * RPT(updates=4)).updates == 4


def test_sums_within_a_weight_count_as_preparing_where_a_part_of_theirs_does() -> None:
    rpt = RPT(updates=3)
    assert Sum([2.0 * Sum([NextItem(), rpt]), NextItem()]).updates == 3
    assert Sum([2.0 * Sum([NextItem(), StepAlignment()]), rpt]).updates == 3
    with pytest.raises(InputError, match="only one part of a sum may prepare rollouts, got 2"):
        Sum([2.0 * Sum([NextItem(), rpt]), RPT()])


class Repeated(NextItem):
    updates = 3


def test_a_sum_takes_as_many_updates_as_a_part_asks_for_unless_one_prepares() -> None:
    assert (Repeated() + NextItem()).updates == (NextItem() + 2.0 * Repeated()).updates == 3
    assert (NextItemEverywhere(Repeated()) + NextItem()).updates == 3
    assert (Repeated() + RPT(updates=2)).updates == 2  # what it prepares is for so many


def test_sums_and_their_own_parts_are_shown_as_they_are_written() -> None:
    total = NextItem() + 0.25 * TrajectoryAlignment(positives="self", temperature=0.5) + 2.0 * StepAlignment()
    written = (
        "1 * NextItem() + 0.25 * TrajectoryAlignment(positives='self', temperature=0.5) + "
        "2 * StepAlignment(temperature=0.2)"
    )
    assert repr(1.0 * NextItem() + total.parts[1] + total.parts[2]) == written
    assert repr(SampledNextItem(7)) == "SampledNextItem(num_negatives=7)"
    assert (
        repr(SampledNextItem(7, item_counts=torch.tensor([1, 2, 3])))
        == "SampledNextItem(num_negatives=7, item_counts=<3 counts>)"
    )


def test_the_settings_of_spt_and_its_own_parts_are_the_papers() -> None:
    for part in (TrajectoryAlignment(), StepAlignment()):
        assert (part.temperature, part.similarity, part.mask_same_target) == (0.2, "cosine", True)
    assert TrajectoryAlignment().positives == "same_target"
    first, trajectory, step = SPT().parts
    assert isinstance(first, NextItem) and isinstance(trajectory, Weighted) and isinstance(step, Weighted)
    assert (trajectory.weight, step.weight) == (0.1, 0.1)
    for inner in (trajectory.part, step.part):
        assert isinstance(inner, TrajectoryAlignment | StepAlignment)
        assert (inner.temperature, inner.similarity, inner.mask_same_target) == (0.2, "cosine", True)
    assert isinstance(trajectory.part, TrajectoryAlignment) and trajectory.part.positives == "same_target"
    sampled = SampledNextItem()
    assert (sampled.num_negatives, sampled.power) == (1024, 0.75)


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (lambda: SPT(alpha=-1), InputError, "^alpha must be a finite number of at least 0, got -1"),
        (lambda: SPT(alpha=float("inf")), InputError, "^alpha must be a finite number of at least 0, got inf"),
        (lambda: SPT(gamma=float("nan")), InputError, "^gamma must be a finite number of at least 0, got nan"),
        (lambda: TrajectoryAlignment(positives="both"), InputError, "^positives must be one of"),  # type: ignore[arg-type]
        (lambda: TrajectoryAlignment(similarity="l2"), InputError, "^similarity must be one of"),  # type: ignore[arg-type]
        (
            lambda: TrajectoryAlignment(temperature=0.0),
            InputError,
            "^temperature must be a finite number above 0, got 0",
        ),
        (lambda: StepAlignment(similarity="l2"), InputError, "^similarity must be one of"),  # type: ignore[arg-type]
        (lambda: StepAlignment(temperature=-1.0), InputError, "^temperature must be a finite number above 0, got -1"),
        (lambda: SampledNextItem(0), InputError, "^num_negatives must be a whole number of at least 1, got 0"),
        (lambda: SampledNextItem(item_counts=torch.tensor([1, -1])), InputError, "^item_counts must be"),
        (lambda: SampledNextItem(item_counts=torch.ones(2, 2).long()), InputError, "^item_counts must be"),
        (lambda: SampledNextItem(item_counts=torch.ones(0).long()), InputError, "^item_counts must be"),
        (lambda: SampledNextItem(power=math.inf), InputError, "^power must be finite"),
        (lambda: Sum([]), InputError, "^a sum needs at least one part"),
        (lambda: NextItem() * math.nan, InputError, "^weight must be finite, got nan"),
        (lambda: NextItem() * "2", InputTypeError, "^weight must be a number, got '2'"),  # type: ignore[operator]
        (lambda: NextItem() * True, InputTypeError, "^weight must be a number, got True"),
        (lambda: Weighted(3, 0.5), InputTypeError, r"^part must be callable as part\(views, batch\), got 3"),  # type: ignore[arg-type]
        (lambda: NextItem() + 3, InputTypeError, "^part must be callable"),  # type: ignore[operator]
    ],
)
def test_mistakes_are_named(make: Any, error: type[Exception], match: str) -> None:
    from tests.core.worlds import unchecked

    with unchecked(), pytest.raises(error, match=match):
        make()


def test_counts_of_another_catalog_are_named() -> None:
    model, batch = recommender(0), batch_of(0)
    part = SampledNextItem(4, item_counts=torch.ones(NUM_ITEMS + 1, dtype=torch.int64))
    with pytest.raises(InputError, match=f"{NUM_ITEMS} counts, one an item, got {NUM_ITEMS + 1}"):
        part(encode_views(model, batch, part.views), batch)


@given(seed=seeds)
def test_the_order_of_the_batch_does_not_matter(seed: int) -> None:
    model, batch = recommender(seed).eval(), batch_of(seed)
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(batch)))
    assert batch.same_target is not None
    shuffled = Batch(batch.history[order], batch.target[order], batch.rows[order], batch.key, batch.same_target[order])
    spt = SPT()
    first, _ = spt(encode_views(model, batch, spt.views), batch)
    second, _ = spt(encode_views(model, shuffled, spt.views), shuffled)
    torch.testing.assert_close(first, second, **EXACT)


def test_autocast_leaves_the_losses_in_float32() -> None:
    model, batch = recommender(6).float().eval(), batch_of(6)
    spt = SPT()
    exact, _ = spt(encode_views(model, batch, spt.views), batch)
    with torch.autocast("cpu", torch.bfloat16):
        views = encode_views(model, batch, spt.views)
        loss, _ = spt(views, batch)
        sampled, _ = SampledNextItem(30)(views, batch)
    assert loss.dtype == sampled.dtype == torch.float32
    # thoughts in bfloat16 carry 2^-8 each, cosines over 0.2 five times that
    assert loss.item() == pytest.approx(exact.item(), rel=0.05)


def test_depth_generators_are_those_of_the_law() -> None:
    model, batch = recommender(0), batch_of(0)
    expected = model.depth_law.sample(generator(fold(batch.key, "depth")))
    assert encode_views(model, batch, ("anchor",)).depth == expected


def test_objectives_are_shown_as_they_are_made() -> None:
    total = NextItem() + 0.5 * TrajectoryAlignment(temperature=0.1) + StepAlignment(temperature=2.0)
    assert repr(total) == (
        "NextItem() + 0.5 * TrajectoryAlignment(positives='same_target', temperature=0.1) + StepAlignment(temperature=2.0)"
    )
    assert repr(TrajectoryAlignment()) == "TrajectoryAlignment(positives='same_target', temperature=0.2)"
    weighted = 2.0 * (NextItem() + SampledNextItem(7)) + NextItem()
    assert repr(weighted) == "2 * (NextItem() + SampledNextItem(num_negatives=7)) + NextItem()"


def test_a_weighted_sum_passes_rollouts_on_too() -> None:
    model, batch = recommender(0).eval(), batch_of(0)
    rpt = RPT(updates=2, rollouts=2)
    total = 0.5 * (NextItem() + rpt) + NextItem()
    assert total.updates == 2
    total.start(model)
    prepared = total.prepare(model, batch)
    loss, _ = total(encode_views(model, prepared, total.views), prepared)
    views = encode_views(model, batch, ("anchor",))
    expected = 1.5 * NextItem()(views, batch)[0] + rpt(views, prepared)[0] / 2
    torch.testing.assert_close(loss, expected, **EXACT)
    with pytest.raises(InputError, match="only one part"):
        total + 0.5 * (NextItem() + RPT())
    without = 0.5 * (NextItem() + StepAlignment()) + NextItem()
    assert without.updates == 1 and without.prepare(model, batch) is batch
