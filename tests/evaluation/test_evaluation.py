"""Full ranking against a loop over items; one run for all depths; the protocol beside every number."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from latentloop.across_ranks import Processes
from latentloop.baselines import chance, popularity
from latentloop.data.sequences import Samples
from latentloop.errors import InputError, InputTypeError
from latentloop.evaluation import evaluate, ranks
from latentloop.measures.metrics import metric_table
from latentloop.measures.significance import compare
from latentloop.recommender import Recommender
from latentloop.recurrence import RecurrentDepth, Thoughts
from tests.core.worlds import unchecked
from tests.evaluation.worlds import WholeNumbers, naive_counts, pasts, random_split


def naive_ranks(model: WholeNumbers, split, held_out: int, depth: int, exclude: bool) -> list[tuple[int, int]]:
    table, max_length, found = model.table.detach().long().tolist(), split.max_length, []
    for past, target in pasts(split, held_out):
        history = ([0] * max_length + past)[-max_length:]
        thought = [depth * a + b for a, b in zip(table[history[-1]], table[history[0]], strict=True)]
        scores = [sum(q * k for q, k in zip(thought[::-1], key, strict=True)) for key in table[1:]]
        found.append(naive_counts(scores, target, past if exclude else []))
    return found


@given(
    seed=st.integers(0, 2**20),
    batch_size=st.integers(1, 14),
    depths=st.lists(st.integers(1, 4), min_size=1, max_size=3),
    exclude=st.booleans(),
    test=st.booleans(),
)
def test_ranks_equal_a_loop_over_users_and_items(
    seed: int, batch_size: int, depths: list[int], exclude: bool, test: bool
) -> None:
    split = random_split(seed)
    model = WholeNumbers(split.num_items, seed)
    samples = split.test if test else split.validation
    found = ranks(model, samples, depths=depths, exclude_history=exclude, batch_size=batch_size)
    assert list(found) == sorted(set(depths))
    for depth, ranked in found.items():
        wanted = naive_ranks(model, split, 1 if test else 2, depth, exclude)
        assert list(zip(ranked.greater.tolist(), ranked.ties.tolist(), strict=True)) == wanted


@given(seed=st.integers(0, 2**20), batch_size=st.integers(1, 14))
def test_one_run_to_the_deepest_gives_every_depth(seed: int, batch_size: int) -> None:
    split = random_split(seed)
    model = WholeNumbers(split.num_items, seed)
    together = evaluate(model, split.test, depths=[4, 1, 3], batch_size=batch_size)
    assert set(model.runs) == {4}
    assert list(together.per_depth) == [1, 2, 3, 4]
    for depth in (1, 2, 3, 4):
        alone = evaluate(model, split.test, depth=depth)
        assert dict(alone.metrics) == together.per_depth[depth]
        assert dict(together.at(depth).metrics) == together.per_depth[depth]
        assert together.at(depth).protocol == alone.protocol
    assert dict(together.metrics) == together.per_depth[together.protocol.depth]
    with pytest.raises(InputError, match=r"depth: 5 was not evaluated.*1, 2, 3, 4"):
        together.at(5)


def test_what_is_printed_tells_every_depth_that_was_asked_for() -> None:
    split = random_split(3)
    model = WholeNumbers(split.num_items, 3)
    own = model.inference_depth
    assert len(str(evaluate(model, split.test)).splitlines()) == 2
    several = evaluate(model, split.test, depths=[own + 1, own])
    told = str(several).splitlines()
    assert [line.partition(":")[0] for line in told[2:]] == [f"depth {own}", f"depth {own + 1}"]
    for depth, line in zip((own, own + 1), told[2:], strict=True):
        assert f"ndcg@10 {several.per_depth[depth]['ndcg@10']:.4f}" in line


def test_the_order_and_choice_of_samples_change_nothing() -> None:
    split = random_split(5)
    model = WholeNumbers(split.num_items, 1)
    whole = ranks(model, split.test, depths=[2])[2]
    index = torch.randperm(len(split.test), generator=torch.Generator().manual_seed(0))[:7]
    part = evaluate(model, split.test.select(index))
    assert part.ranks.greater.tolist() == whole.greater[index].tolist()
    assert part.ranks.ties.tolist() == whole.ties[index].tolist()
    assert part.user.tolist() == split.test.user[index].tolist()


def test_excluding_the_history_can_only_help_and_does() -> None:
    split = random_split(3, longest=30)
    model = WholeNumbers(split.num_items, 2)
    kept, without = (evaluate(model, split.test, exclude_history=exclude) for exclude in (False, True))
    assert bool((without.ranks.greater <= kept.ranks.greater).all())
    assert without.metrics["mrr"] > kept.metrics["mrr"]
    assert (kept.protocol.history, without.protocol.history) == ("kept", "excluded")


def test_a_constant_scorer_gets_chance_level() -> None:
    split = random_split(0, items=40)
    model = WholeNumbers(split.num_items)
    nn.init.zeros_(model.table)
    table = evaluate(model, split.test).metrics
    for cutoff in (5, 10, 20):
        assert table[f"recall@{cutoff}"] == pytest.approx(cutoff / 40, rel=1e-14)
    assert table["mrr"] == pytest.approx(sum(1 / place for place in range(1, 41)) / 40, rel=1e-14)


def test_the_protocol_stands_beside_the_numbers() -> None:
    split = random_split(1)
    result = evaluate(
        WholeNumbers(split.num_items), split.validation, depth=3, split="validation", stage="rpt", seeds=(1, 2),
        rule=split.protocol, data="0123456789abcdef",
    )  # fmt: skip
    text = str(result)
    for words in ("validation split", "leave-one-out", "13 users", "all 9 items", "history kept", "depth 3",
                  "stage rpt", "seeds 1, 2", "ties: expectation", "data 0123456789ab"):  # fmt: skip
        assert words in text
    for name, value in result.metrics.items():
        assert f"{name} {value:.4f}" in text
    loaded = json.loads(result.to_json())
    assert loaded == result.to_dict()
    assert loaded["metrics"] == dict(result.metrics)
    assert loaded["protocol"]["seeds"] == [1, 2] and loaded["protocol"]["depth"] == 3
    assert loaded["per_depth"] == {"3": dict(result.metrics)}


def test_samples_say_themselves_which_part_of_a_split_they_are() -> None:
    """No one has to say it, and validation is never taken for the test."""
    split = random_split(1)
    model, some = WholeNumbers(split.num_items), torch.tensor([2, 0])
    for name, samples in (("training", split.train), ("validation", split.validation), ("test", split.test)):
        for part in (samples, samples.select(some).to("cpu")):
            assert evaluate(model, part).protocol.split == name
        assert chance(split, samples).protocol.split == popularity(split, samples).protocol.split == name
        assert evaluate(model, samples, split="held out").protocol.split == "held out"
    mine = Samples(split.test.sequences, split.test.user, split.test.end, 5)
    assert "unnamed split" in str(evaluate(model, mine))
    with pytest.raises(InputError, match="differ in split: 'test' and 'validation'"):
        compare(evaluate(model, split.test), evaluate(model, split.validation))


class Half(Processes):
    """One of two processes, whose own share of a sum is all it gets."""

    def add_up(self, values: Tensor) -> Tensor:
        return values


def test_a_fresh_state_is_the_batchs_own_whoever_ranks_the_others() -> None:
    split = random_split(4)
    core = nn.GRU(4, 4, batch_first=True)
    model = Recommender(split.num_items, RecurrentDepth(core, core), 4, 5, inference_state="fresh", init_std=1.0)

    def found(processes: Processes, key: int = 1) -> Tensor:
        torch.manual_seed(key)
        ranked = ranks(model, split.test, depths=[2], batch_size=3, processes=processes)[2]
        return torch.stack([ranked.greater, ranked.ties])

    whole = found(Processes())
    assert torch.equal(found(Half(0, 2)) + found(Half(1, 2)), whole)
    assert not torch.equal(found(Processes(), key=2), whole)


def test_dropout_is_off_inside_and_every_mode_comes_back() -> None:
    split = random_split(2)
    model = WholeNumbers(split.num_items)
    model.frozen = nn.Dropout(0.5).eval()
    model.train()
    model.frozen.eval()
    first, second = (evaluate(model, split.test).metrics for _ in range(2))
    assert first == second
    assert (model.training, model.dropout.training, model.frozen.training) == (True, True, False)
    model.eval()
    evaluate(model, split.test)
    assert not model.training and not model.dropout.training


def test_the_mode_comes_back_after_an_error_too() -> None:
    split = random_split(2)
    model = WholeNumbers(split.num_items).train()
    with torch.no_grad():
        model.table[3] = torch.nan
    with pytest.raises(InputError, match="NaN"):
        evaluate(model, split.test)
    assert model.training and model.dropout.training


def test_no_graph_is_built() -> None:
    split, seen = random_split(2), []

    class Watching(WholeNumbers):
        def think(self, history: Tensor, *, depth: int | None = None) -> Thoughts:
            thoughts = super().think(history, depth=depth)
            seen.append(thoughts.steps.requires_grad)
            return thoughts

    evaluate(Watching(split.num_items), split.test)
    assert seen == [False]


def test_what_is_evaluated_need_not_be_a_module() -> None:
    split = random_split(4)
    module = WholeNumbers(split.num_items, 4).eval()

    class Plain:
        num_items, inference_depth = module.num_items, module.inference_depth
        think = staticmethod(module.think)
        queries = staticmethod(module.queries)
        keys = staticmethod(module.keys)

    assert evaluate(Plain(), split.test).metrics == evaluate(module, split.test).metrics


@given(seed=st.integers(0, 2**20))
def test_subgroups_are_quartiles_that_cover_every_sample_once(seed: int) -> None:
    split = random_split(seed, users=30, longest=25)
    model = WholeNumbers(split.num_items, seed)
    result = evaluate(model, split.test, subgroups=True, item_counts=split.item_counts)
    training = [item for user in range(split.num_users)
                for item in split.interactions.item[split.interactions.user == user].tolist()[:-2]]  # fmt: skip
    values = {
        "history length": [len(past) for past, _ in pasts(split, 1)],
        "target popularity": [training.count(target) for _, target in pasts(split, 1)],
    }
    for by, value in values.items():
        groups = [group for group in result.subgroups if group.by == by]
        members = [[n for n, v in enumerate(value) if group.low <= v <= group.high] for group in groups]
        assert sorted(n for group in members for n in group) == list(range(len(value)))
        for group, member in zip(groups, members, strict=True):
            assert group.size == len(member)
            assert dict(group.metrics) == metric_table(result.ranks.select(torch.tensor(member)))
            assert (group.low, group.high) == (min(value[n] for n in member), max(value[n] for n in member))
        # no group ends later than its quarter, other than by samples of the value at which the quarter ends
        ends = [sorted(value)[len(value) * quarter // 4] for quarter in (1, 2, 3)]
        assert {group.low for group in groups} <= {min(value), *ends}
    json.dumps(result.to_dict())


def test_distinct_values_make_four_groups_of_a_quarter_each() -> None:
    from latentloop.measures.results import _quartiles

    value = torch.randperm(20, generator=torch.Generator().manual_seed(1))
    assert [sorted(value[index].tolist()) for index in _quartiles(value)] == [
        [0, 1, 2, 3, 4], [5, 6, 7, 8, 9], [10, 11, 12, 13, 14], [15, 16, 17, 18, 19],
    ]  # fmt: skip
    assert [len(index) for index in _quartiles(torch.tensor([4] * 7))] == [7]


def test_bad_requests_are_refused_in_one_line() -> None:
    split = random_split(6)
    model = WholeNumbers(split.num_items)
    nothing = split.test.select(torch.zeros(len(split.test), dtype=torch.bool))
    for samples, options, words in (
        (split.test, {"depth": 0}, "depth"),
        (split.test, {"depth": -1}, "depth"),
        (split.test, {"depths": [2, -3]}, "depth"),
        (split.test, {"batch_size": 0}, "batch_size"),
        (split.test, {"cutoffs": (5, 0)}, "cutoffs"),
        (split.test, {"cutoffs": (5, 10**30)}, "cutoffs"),
        (split.test, {"subgroups": True}, "item_counts"),
        (split.test, {"subgroups": True, "item_counts": split.item_counts[:-1]}, "item_counts"),
        (nothing, {}, "nothing to evaluate"),
        (split.latest, {}, "target"),
    ):
        with pytest.raises(InputError, match=words) as caught:
            evaluate(model, samples, **options)
        assert "\n" not in str(caught.value)
        if "item_counts" not in options and samples is split.test:
            assert not model.runs  # refused before the work, not after it
    with pytest.raises(InputError, match="model knows 4"):
        evaluate(WholeNumbers(4), split.test)
    with unchecked(), pytest.raises(InputTypeError, match="such as split.test, got Split"):
        evaluate(model, split)
    with pytest.raises(InputError, match="depths: none"):
        ranks(model, split.test, depths=[])


@pytest.mark.parametrize("wrong", [2.5, "12", [0, "1"], [0.0], np.array(3.0), torch.tensor([0.5])])
def test_seeds_that_are_no_whole_numbers_are_refused_before_the_work(wrong: Any) -> None:
    split = random_split(6)
    model = WholeNumbers(split.num_items)
    with unchecked(), pytest.raises(InputTypeError, match=r"^seeds must be a whole number or several") as caught:
        evaluate(model, split.test, seeds=wrong)
    assert "\n" not in str(caught.value) and not model.runs


@pytest.mark.parametrize(
    ("given", "told"),
    [(3, (3,)), (0, (0,)), (None, ()), ((), ()), (range(2), (0, 1)), ([4, 2], (4, 2)), (np.arange(2), (0, 1)),
     (np.int64(5), (5,)), (iter([1, 2]), (1, 2))],
)  # fmt: skip
def test_seeds_are_told_however_they_are_given(given: Any, told: tuple[int, ...]) -> None:
    split = random_split(6)
    with unchecked():
        found = evaluate(WholeNumbers(split.num_items), split.test, seeds=given)
    assert found.protocol.seeds == told
    assert json.loads(found.to_json())["protocol"]["seeds"] == list(told)


def recommender(split, *, loop: bool) -> Recommender:
    torch.manual_seed(0)
    block = [nn.GRU(8, 8, batch_first=True) for _ in range(2)]
    encoder = RecurrentDepth(*block) if loop else block[0]
    return Recommender(split.num_items, encoder, 8, split.max_length)


@torch.backends.cudnn.flags(allow_tf32=False)  # a GRU's default there, which rounds to ten bits
@pytest.mark.parametrize("exclude", [False, True])
def test_a_recommender_is_ranked_as_its_scores_say(exclude: bool, device: torch.device) -> None:
    split = random_split(7, users=30, items=25)
    model = recommender(split, loop=True).to(device)
    result = evaluate(model, split.test, depths=[1, 6], exclude_history=exclude, batch_size=8)
    assert result.protocol.depth == model.inference_depth == 4
    model.eval()
    for depth in (1, 4, 6):
        for number, (past, target) in enumerate(pasts(split, 1)):
            history = torch.tensor([([0] * split.max_length + past)[-split.max_length :]], device=device)
            scores = model.score(history, depth=depth)[0].double().tolist()
            gaps = [abs(score - scores[target - 1]) for item, score in enumerate(scores, 1) if item != target]
            assert min(gaps) > 1e-6  # else rounding might decide, and the loop would prove nothing
            wanted = naive_counts(scores, target, past if exclude else [])
            found = result.depth_ranks[depth]
            assert (int(found.greater[number]), int(found.ties[number])) == wanted


def test_a_bare_block_is_evaluated_at_depth_one_only() -> None:
    split = random_split(8)
    model = recommender(split, loop=False)
    assert evaluate(model, split.test).protocol.depth == 1
    with pytest.raises(InputError, match="depth"):
        evaluate(model, split.test, depths=[1, 2])
    assert model.training


def test_cutoffs_and_depths_may_come_one_by_one_and_are_several() -> None:
    split = random_split(0)
    model = WholeNumbers(split.num_items, 0)
    wanted = evaluate(model, split.test, cutoffs=(1, 3), depths=[1, 2])
    with unchecked():
        found = evaluate(model, split.test, cutoffs=iter((1, 3)), depths=iter((1, 2)))  # type: ignore[arg-type]
    assert found.metrics == wanted.metrics and set(found.metrics) == {"recall@1", "ndcg@1", "recall@3", "ndcg@3", "mrr"}
    assert set(found.per_depth) == set(wanted.per_depth)
    for wrong in ({"cutoffs": 10}, {"depths": 4}):
        (name,) = wrong
        with unchecked(), pytest.raises(InputTypeError, match=f"^{name} must be several whole numbers, .*, got"):
            evaluate(model, split.test, **wrong)  # type: ignore[arg-type]
