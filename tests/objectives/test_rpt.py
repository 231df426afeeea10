"""RPT against a twin that thinks one rollout at a time, with dense softmaxes and loops."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, replace
from typing import Any, get_args
from unittest import mock

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from latentloop.across_ranks import Share
from latentloop.backbones.sasrec import SASRec
from latentloop.data.batch import Batch
from latentloop.depth import FixedDepth, UniformDepth
from latentloop.errors import InputError, InputTypeError
from latentloop.objectives import RPT, NDCGReward, RecallReward, encode_views
from latentloop.objectives import rpt as rpt_module
from latentloop.objectives.policy import KL, Policy, Ratio
from latentloop.objectives.rollouts import think
from latentloop.objectives.rpt import Prepared
from latentloop.randomness import fold, generator, keyed_normal, row_keys
from latentloop.recipes import build_recommender
from latentloop.recommender import Recommender
from latentloop.recurrence import RecurrentDepth
from tests.core.worlds import built_in, unchecked
from tests.objectives.worlds import (
    DIM,
    LENGTH,
    NUM_ITEMS,
    Graphed,
    batch_of,
    gradients,
    part_of,
    recommender,
    seeds,
    side_by_side,
)

EXACT = {"rtol": 1e-8, "atol": 1e-10}  # float64

policies = st.sampled_from(get_args(Policy))
forms = st.sampled_from(get_args(Ratio))
divergences = st.sampled_from(get_args(KL))


def inverse_rank(greater: Tensor, ties: Tensor) -> Tensor:
    """A user's own reward, which hardly ever ties."""
    return 1 / (greater + ties / 2 + 1)


def moved(model: Recommender, seed: int, size: float = 0.05) -> Recommender:
    """The same model after some training."""
    other = copy.deepcopy(model)
    noise = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(size * torch.randn(parameter.shape, generator=noise, dtype=parameter.dtype))
    return other


def log_policy(model: Recommender, batch: Batch, row: int, g: int, depth: int) -> Tensor:
    """(k, N) log pi of one rollout, without dropout."""
    modes = [(part, part.training) for part in model.modules()]
    model.eval()
    key = row_keys(fold(batch.key, "rollout", g), batch.rows[row : row + 1])
    steps = model.think(batch.history[row : row + 1], depth=depth, state_keys=key).steps[:, 0]
    for part, training in modes:
        part.training = training
    return torch.log_softmax(steps @ model.item_table.weight[1:].T, 1)


@dataclass
class Twin:
    """The loss of `rpt` computed by loops: `old` made the rollouts, `model` is what is trained now."""

    rpt: RPT
    model: Recommender
    old: Recommender
    reference: Recommender
    batch: Batch

    def loss(self) -> tuple[Tensor, dict[str, float]]:
        rpt, law, key = self.rpt, self.model.depth_law, self.batch.key
        total = torch.zeros((), dtype=torch.float64)
        rewards_seen, ties_seen, kls, terms, stopped, moving = [], [], [], [], [], []
        for row, target in enumerate((self.batch.target - 1).tolist()):
            depths = [
                law.sample(generator(fold(key, "depth", g) if rpt.own_depth else fold(key, "depth")))
                for g in range(rpt.rollouts)
            ]
            olds = [log_policy(self.old, self.batch, row, g, depth).detach() for g, depth in enumerate(depths)]
            rewards = []
            for old in olds:
                last = old[-1]
                greater = sum(float(score) > float(last[target]) for score in last)
                rewards.append(float(rpt.reward(torch.tensor(greater), torch.tensor(0))))
            mean = sum(rewards) / len(rewards)
            std = math.sqrt(sum((r - mean) ** 2 for r in rewards) / len(rewards))
            tie = max(rewards) == min(rewards)
            rewards_seen += rewards
            ties_seen.append(tie)
            for g, (old, depth) in enumerate(zip(olds, depths, strict=True)):
                advantage = 0.0 if tie else (rewards[g] - mean) / std
                choice = []
                for step in range(depth):
                    ranked = old[step].argsort(descending=True).tolist()
                    other = next(item for item in ranked if item != target)
                    pick = {"target": target, "top": ranked[0], "hybrid": target if advantage > 0 else other}
                    choice.append(pick[rpt.policy])
                new = log_policy(self.model, self.batch, row, g, depth)
                ref = log_policy(self.reference, self.batch, row, g, depth).detach()
                gaps = [new[step, c] - old[step, c] for step, c in enumerate(choice)]
                if rpt.ratio == "joint":
                    gaps = [sum(gaps[1:], start=gaps[0])]
                values = [gap.exp() for gap in gaps]
                low, high = 1 - rpt.clip, 1 + rpt.clip
                bounded = [min(p * advantage, p.clamp(low, high) * advantage) for p in values]
                term = sum(bounded[1:], start=bounded[0]) / len(bounded)
                if rpt.kl == "full":
                    kl = (new.exp() * (new - ref)).sum() / depth
                else:
                    gap = ref[:, target] - new[:, target]
                    kl = (gap.exp() - gap - 1).sum() / depth
                kl = kl * (rpt.keep_kl or not tie)
                total = total + term - rpt.kl_weight * kl
                kls.append(kl.item())
                terms.append(float(term.detach()))
                for value in values if advantage else []:
                    moving.append(value)
                    stopped.append(bool(value > high) if advantage > 0 else bool(value < low))
        count = len(rewards_seen)
        mean = sum(rewards_seen) / count
        return -total / count, {
            "policy": -sum(terms) / count,
            "kl": sum(kls) / count,
            "reward_mean": mean,
            "reward_std": math.sqrt(sum((r - mean) ** 2 for r in rewards_seen) / count),
            "zero_variance": sum(ties_seen) / len(ties_seen),
            "clip_share": sum(stopped) / max(1, len(moving)),
            "ratio_mean": sum(value.item() for value in moving) / len(moving) if moving else 1.0,
        }


def run(rpt: RPT, model: Recommender, prepared: Batch) -> tuple[Tensor, dict[str, Tensor]]:
    return rpt(encode_views(model, prepared, rpt.views), prepared)


@settings(max_examples=max(12, settings().max_examples // 2))  # a model for every rollout: the slowest test here
@given(
    seed=seeds,
    updates=st.sampled_from([1, 2]),
    policy=policies,
    ratio=forms,
    kl=divergences,
    keep_kl=st.booleans(),
    own_depth=st.booleans(),
)
@example(seed=1, updates=1, policy="target", ratio="step", kl="full", keep_kl=True, own_depth=True)
@example(seed=1, updates=2, policy="target", ratio="joint", kl="full", keep_kl=True, own_depth=True)
@example(seed=6, updates=2, policy="target", ratio="joint", kl="full", keep_kl=True, own_depth=True)
def test_the_only_update_and_a_later_one_are_the_twins(
    seed: int, updates: int, policy: Policy, ratio: Ratio, kl: KL, keep_kl: bool, own_depth: bool
) -> None:
    reward = inverse_rank if seed % 2 else NDCGReward(2)
    switches: dict[str, Any] = {"policy": policy, "ratio": ratio, "kl": kl, "keep_kl": keep_kl, "own_depth": own_depth}
    rpt = RPT(rollouts=3, updates=updates, kl_weight=0.7, reward=reward, **switches)
    reference, batch = recommender(seed), batch_of(seed, 1 + seed % 4)
    rpt.start(reference)
    old = moved(reference, seed)
    prepared = rpt.prepare(old, batch)
    assert isinstance(prepared, Prepared) and (prepared.old is None) == (updates == 1)
    model = moved(old, seed + 1) if updates == 2 else old
    loss, terms = run(rpt, model, prepared)
    expected, wanted = Twin(rpt, model, old, reference, batch).loss()
    torch.testing.assert_close(loss, expected, **EXACT)
    assert {name: value.item() for name, value in terms.items()} == pytest.approx(wanted, rel=1e-5, abs=1e-7)
    assert not any(value.requires_grad for value in terms.values())
    torch.testing.assert_close(gradients(loss, model), gradients(expected, model), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("updates", [1, 2])
@given(seed=seeds, policy=policies, ratio=forms)
def test_the_first_gradient_is_the_policy_gradient(updates: int, seed: int, policy: Policy, ratio: Ratio) -> None:
    model, batch = recommender(seed), batch_of(seed, 3)
    rpt = RPT(rollouts=3, updates=updates, kl_weight=0.0, reward=inverse_rank, policy=policy, ratio=ratio)
    rpt.start(model)
    assert rpt.reference is None
    prepared = rpt.prepare(model, batch)
    loss, terms = run(rpt, model, prepared)
    assert terms["ratio_mean"].item() == 1
    assert terms["clip_share"].item() == 0
    assert "kl" not in terms
    # naively: -1 / (B G) sum_i A_i sum_j grad log pi(c_ij), with the choices and advantages that were fixed
    depth, naive = prepared.depth, torch.zeros((), dtype=torch.float64)
    advantage = prepared.advantage.view(-1, 3)
    choice = prepared.choice.view(depth, -1, 3)
    assert len(advantage) == len(prepared.groups)
    for place, row in enumerate(prepared.groups.tolist()):
        for g in range(3):
            chosen = log_policy(model, batch, row, g, depth)[torch.arange(depth), choice[:, place, g] - 1]
            naive = naive - advantage[place, g] * (chosen.sum() if ratio == "joint" else chosen.mean()) / 9
    torch.testing.assert_close(gradients(loss, model), gradients(naive, model), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("dropout", [False, True])
@pytest.mark.parametrize("own_depth", [False, True])
@given(seed=seeds, policy=policies)
def test_the_ratio_is_exactly_one_at_the_first_update(
    dropout: bool, own_depth: bool, seed: int, policy: Policy
) -> None:
    model, batch = recommender(seed).float(), batch_of(seed)
    rpt = RPT(updates=2, dropout=dropout, own_depth=own_depth, policy=policy, ratio="step", reward=inverse_rank)
    rpt.start(model)
    torch.manual_seed(seed)
    prepared = rpt.prepare(model, batch)
    torch.rand(3)  # whatever was drawn in between
    views = encode_views(model, prepared, rpt.views)
    state = torch.get_rng_state()
    _, terms = rpt(views, prepared)
    assert torch.equal(torch.get_rng_state(), state)
    assert prepared.old is not None
    assert terms["ratio_mean"].item() == pytest.approx(1, abs=1e-6)  # a mean of ones, summed in float32
    assert all(part.training for part in model.modules())


@pytest.mark.parametrize("kl", get_args(KL))
@pytest.mark.parametrize("dropout", [False, True])
@given(seed=seeds)
def test_at_the_reference_the_divergence_is_zero_and_flat(dropout: bool, kl: KL, seed: int) -> None:
    model, batch = recommender(seed).float(), batch_of(seed)
    rpt = RPT(kl=kl, kl_weight=1.0, dropout=dropout, reward=lambda greater, ties: torch.ones_like(greater).double())
    rpt.start(model)
    loss, terms = run(rpt, model, rpt.prepare(model, batch))
    assert terms["kl"].item() == 0
    assert terms["zero_variance"].item() == 1
    assert loss.item() == 0
    assert all(torch.equal(grad, torch.zeros_like(grad)) for grad in gradients(loss, model).values())


@pytest.mark.parametrize("rows", [1, 5])
@pytest.mark.parametrize("ratio", get_args(Ratio))
def test_processes_tell_what_their_rollouts_came_to_together(ratio: Ratio, rows: int) -> None:
    seed = 3
    reference, whole = recommender(seed, dropout=0.0), batch_of(seed, rows)
    rpt = RPT(rollouts=3, updates=2, ratio=ratio, reward=NDCGReward(3), clip=0.05)
    rpt.start(reference)
    told = ("reward_mean", "reward_std", "zero_variance", "clip_share", "ratio_mean")

    def terms(share: Share | None) -> dict[str, float]:
        old = moved(reference, seed)
        prepared = rpt.prepare(old, whole if share is None else part_of(whole, share))
        found = run(rpt, moved(old, seed + 1, 0.1), prepared)[1]
        return {name: found[name].item() for name in told}

    alone = terms(None)
    if rows > 1:
        assert 0 < alone["clip_share"] < 1 and alone["reward_std"] > 0
    for found in side_by_side(rows, terms):
        assert found == pytest.approx(alone, rel=1e-6)


def test_its_settings_are_kept_and_are_the_papers_otherwise() -> None:
    rpt = RPT()
    assert isinstance(rpt.reward, RecallReward) and rpt.reward.k == 10
    assert (rpt.rollouts, rpt.policy, rpt.ratio, rpt.kl, rpt.kl_weight) == (4, "target", "joint", "full", 1.0)
    assert (rpt.clip, rpt.updates, rpt.keep_kl, rpt.dropout, rpt.own_depth) == (0.2, 1, True, False, False)
    assert rpt.reference is None and rpt.views == ()
    others: dict[str, Any] = {"rollouts": 2, "policy": "top", "ratio": "step", "kl": "target", "kl_weight": 0.5}
    others |= {"clip": 0.1, "updates": 3, "keep_kl": False, "dropout": True, "own_depth": True}
    assert {name: getattr(RPT(**others), name) for name in others} == others
    assert repr(rpt) == "RPT(rollouts=4, reward=RecallReward(10), policy='target')"
    assert repr(RPT(rollouts=2, reward=NDCGReward(3), policy="top")) == (
        "RPT(rollouts=2, reward=NDCGReward(3), policy='top')"
    )


@given(seed=seeds)
def test_rollouts_differ_repeat_and_depend_on_the_sample_not_on_its_companions(seed: int) -> None:
    model, batch = recommender(seed, dropout=0.0), batch_of(seed, 4)
    rpt = RPT(rollouts=3, kl_weight=0.0, keep_kl=True, reward=inverse_rank)
    rpt.start(model)
    first, again = rpt.prepare(model, batch), rpt.prepare(model, batch)
    assert torch.equal(first.rewards, again.rewards)
    assert len(set(first.state_keys.tolist())) == first.state_keys.numel()
    order = torch.tensor([2, 0, 3, 1])
    shuffled = rpt.prepare(model, Batch(batch.history[order], batch.target[order], batch.rows[order], batch.key))
    assert torch.equal(shuffled.rewards, first.rewards[order])
    other = rpt.prepare(model, Batch(batch.history, batch.target, batch.rows, batch.key + 1))
    assert not set(other.state_keys.tolist()) & set(first.state_keys.tolist())


def test_h_is_computed_once_for_all_rollouts_without_dropout() -> None:
    model, batch = recommender(0), batch_of(0, 5)
    rows: list[int] = []
    model.encoder.pre_block.register_forward_pre_hook(lambda _, inputs: rows.append(len(inputs[0])))
    for dropout in (False, True):
        rpt = RPT(rollouts=3, dropout=dropout, kl_weight=0.0, reward=inverse_rank)
        rpt.start(model)
        rows.clear()
        prepared = rpt.prepare(model, batch)
        run(rpt, model, prepared)
        assert rows == ([15, 15] if dropout else [5, len(prepared.groups)])


def test_groups_that_owe_nothing_are_not_thought_through_again() -> None:
    model, batch = recommender(1), batch_of(1, 6)

    def reward(greater: Tensor, ties: Tensor) -> Tensor:
        made = torch.arange(1.0, len(greater) + 1, dtype=torch.float64)[:, None].repeat(1, greater.shape[1])
        made[2, 0] = made[4, 1] = 0  # all others tie, each row with a reward of its own
        return made

    for keep, groups in ((False, [2, 4]), (True, list(range(6)))):
        rpt = RPT(keep_kl=keep, reward=reward)
        rpt.start(model)
        prepared = rpt.prepare(model, batch)
        assert prepared.groups.tolist() == groups
        loss, terms = run(rpt, moved(model, 3), prepared)
        assert terms["zero_variance"].item() == pytest.approx(4 / 6)
        assert terms["kl"].item() > 0
        assert loss.requires_grad
    free = RPT(kl_weight=0.0, reward=reward)
    free.start(model)
    assert free.prepare(model, batch).groups.tolist() == [2, 4]
    rpt = RPT(keep_kl=False, reward=lambda greater, ties: torch.zeros(greater.shape))
    rpt.start(model)
    prepared = rpt.prepare(model, batch)
    assert prepared.groups.tolist() == [0]  # a loss needs something to be connected to
    loss, terms = run(rpt, moved(model, 3), prepared)
    assert loss.item() == terms["kl"].item() == 0
    loss.backward()


@pytest.mark.parametrize("policy", get_args(Policy))
@settings(max_examples=max(5, settings().max_examples // 3))
@given(seed=seeds, num_items=st.sampled_from([2, 3, 23]))
def test_choices_are_the_policys(policy: Policy, seed: int, num_items: int) -> None:
    model = recommender(seed, num_items=num_items)
    batch = batch_of(seed, 4, few_targets=False, num_items=num_items)  # of few items, the target is often the top
    rpt = RPT(policy=policy, reward=inverse_rank, rollouts=3)
    rpt.start(model)
    made = rpt.prepare(model, batch)
    for rollout, gain in enumerate(made.advantage.tolist()):
        row, g = divmod(rollout, 3)
        target = int(batch.target[row])
        for step, scores in enumerate(log_policy(model, batch, row, g, made.depth)):
            ranked = (scores.argsort(descending=True) + 1).tolist()
            other = next(item for item in ranked if item != target)
            wanted = {"target": target, "top": ranked[0], "hybrid": target if gain > 0 else other}[policy]
            assert int(made.choice[step, rollout]) == wanted


@pytest.mark.parametrize(
    ("settings", "passes"), [({}, 1), ({"updates": 2}, 0), ({"kl": "target"}, 0), ({"kl_weight": 0.0}, 0)]
)
def test_an_only_update_with_a_full_divergence_weighs_it_in_one_pass(settings: dict[str, Any], passes: int) -> None:
    model, batch = recommender(1), batch_of(1)
    objective = RPT(reward=inverse_rank, **settings)
    objective.start(model)
    prepared = objective.prepare(model, batch)
    with mock.patch.object(rpt_module, "weighed_log_prob_and_kl", wraps=rpt_module.weighed_log_prob_and_kl) as weighed:
        run(objective, model, prepared)
    assert weighed.call_count == passes


def test_the_reference_is_frozen_out_of_sight_and_unmoved() -> None:
    model, batch = recommender(2), batch_of(2)
    rpt = RPT(updates=2)
    module = nn.Module()
    module.model, module.objective = model, rpt  # type: ignore[assignment]  # as `fit` holds them
    rpt.start(model)
    assert rpt.reference is not None
    assert len(module.state_dict()) == len(model.state_dict())
    assert not any(parameter.requires_grad for parameter in rpt.reference.parameters())
    before = {name: value.clone() for name, value in rpt.reference.state_dict().items()}
    optimizer = torch.optim.SGD(model.parameters(), 1.0)
    prepared = rpt.prepare(model, batch)
    kls = []
    for _ in range(2):
        loss, terms = run(rpt, model, prepared)
        optimizer.zero_grad()
        (loss + model.item_table.weight.square().sum()).backward()
        optimizer.step()
        kls.append(terms["kl"].item())
    assert kls[0] == 0 < kls[1]
    assert all(torch.equal(before[name], value) for name, value in rpt.reference.state_dict().items())
    rpt.start(model)
    assert run(rpt, model, rpt.prepare(model, batch))[1]["kl"].item() == 0


def test_dropout_is_off_however_it_is_written_and_comes_back() -> None:
    model, batch = recommender(3, dropout=0.9), batch_of(3)
    rpt = RPT(updates=2, ratio="step", reward=inverse_rank)
    rpt.start(model)
    prepared = rpt.prepare(model, batch)
    first, second = (run(rpt, model, prepared)[0] for _ in range(2))
    assert torch.equal(first, second)
    assert all(part.training for part in model.modules())
    gru = model.encoder.pre_block
    while not isinstance(gru, nn.GRU):
        gru = next(gru.children())
    assert gru.dropout == 0.9


def test_with_dropout_every_update_replays_the_same() -> None:
    model, batch = recommender(4, dropout=0.5), batch_of(4)
    rpt = RPT(updates=2, dropout=True, reward=inverse_rank)
    rpt.start(model)
    prepared = rpt.prepare(model, batch)
    first, second = (run(rpt, model, prepared)[0] for _ in range(2))
    assert torch.equal(first, second)
    other = rpt.prepare(model, Batch(batch.history, batch.target, batch.rows, batch.key + 1))
    assert prepared.dropout_key != other.dropout_key
    # processes that share a step have its key and other rows
    keys = {rpt.prepare(model, part_of(batch, Share.of(len(batch), rank=rank, world=2))).dropout_key for rank in (0, 1)}
    assert len(keys) == 2
    alone = rpt.prepare(model, Batch(batch.history[:1], batch.target[:1], batch.rows[:1], batch.key))
    assert run(rpt, model, alone)[0].isfinite()


def test_with_dropout_the_reference_replays_it_too_in_packed_layout() -> None:
    torch.manual_seed(0)
    backbone = SASRec(pre_layers=1, core_layers=1, inner=16, dropout=0.5)
    model = build_recommender(backbone, NUM_ITEMS, dim=DIM, max_length=LENGTH, dropout=0.5, init_std=0.7).train()
    rpt = RPT(dropout=True, reward=inverse_rank)
    rpt.start(model)
    prepared = rpt.prepare(model, batch_of(0, 6))
    assert bool((prepared.rewards.std(1) > 0).any())
    assert run(rpt, model, prepared)[1]["kl"].item() == 0
    assert run(rpt, moved(model, 1), prepared)[1]["kl"].item() > 0


def test_a_bare_block_needs_dropout_and_learns_with_it() -> None:
    model, batch = recommender(5, loop=False), batch_of(5)
    with pytest.raises(InputError, match="pass dropout=True"):
        RPT().start(model)
    rpt = RPT(dropout=True, reward=inverse_rank, updates=2)
    rpt.start(model)
    prepared = rpt.prepare(model, batch)
    assert prepared.depth == 1
    assert bool((prepared.rewards.std(1) > 0).any())
    loss, terms = run(rpt, model, prepared)
    assert terms["ratio_mean"].item() == pytest.approx(1, abs=1e-6)
    assert any(bool(grad.any()) for grad in gradients(loss, model).values())


def test_a_state_of_one_number_makes_rollouts_differ() -> None:
    model = Recommender(5, RecurrentDepth(nn.Linear(1, 1), nn.Linear(1, 1)), 1, 3)
    rpt = RPT(kl_weight=0.0)
    rpt.start(model)
    keys = rpt.prepare(model, batch_of(1, 2, num_items=5)).state_keys
    assert len(model.encoder.draw_state(keys, torch.zeros_like(keys)).unique()) == len(keys)


@pytest.mark.parametrize("num_items", [1, 2])
@pytest.mark.parametrize("policy", get_args(Policy))
def test_tiny_catalogs(num_items: int, policy: Policy) -> None:
    model, batch = recommender(6, num_items=num_items), batch_of(6, 2, num_items=num_items)
    for rollouts in (2, 3):
        rpt = RPT(policy=policy, rollouts=rollouts, reward=inverse_rank)
        rpt.start(model)
        loss, terms = run(rpt, model, rpt.prepare(model, batch))
        assert loss.isfinite()
        if num_items == 1:
            assert terms["zero_variance"].item() == 1
        loss.backward()


def test_transformer_blocks_take_the_same_kernels_in_every_pass() -> None:
    torch.manual_seed(0)
    blocks = [
        nn.TransformerEncoder(
            nn.TransformerEncoderLayer(DIM, 2, 12, 0.4, batch_first=True), 1, enable_nested_tensor=False
        )
        for _ in range(2)
    ]
    model = Recommender(23, RecurrentDepth(*blocks, depth_law=FixedDepth(2)), DIM, LENGTH, init_std=0.7).train()
    batch = batch_of(0)
    rpt = RPT(updates=2, ratio="step", reward=inverse_rank)
    rpt.start(model)
    prepared = rpt.prepare(model, batch)
    loss, terms = run(rpt, model, prepared)
    assert terms["kl"].item() == 0
    assert terms["ratio_mean"].item() == pytest.approx(1, abs=1e-6)
    assert loss.isfinite()


def test_bfloat16_autocast_starts_from_a_ratio_of_one() -> None:
    model, batch = recommender(7).float(), batch_of(7)
    rpt = RPT(updates=2, ratio="step", reward=inverse_rank)
    rpt.start(model)
    with torch.autocast("cpu", torch.bfloat16):
        prepared = rpt.prepare(model, batch)
        loss, terms = run(rpt, model, prepared)
    assert loss.dtype == torch.float32
    assert terms["ratio_mean"].item() == pytest.approx(1, abs=1e-6)
    assert terms["kl"].item() == 0


def test_it_raises_the_reward() -> None:
    model, batch = recommender(8, dropout=0.0), batch_of(8, 16)
    rpt = RPT(rollouts=4, kl_weight=0.01, reward=inverse_rank)
    rpt.start(model)
    optimizer = torch.optim.Adam(model.parameters(), 0.03)
    rewards = []
    for step in range(60):
        prepared = rpt.prepare(model, Batch(batch.history, batch.target, batch.rows, step))
        loss, terms = run(rpt, model, prepared)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        rewards.append(terms["reward_mean"].item())
    assert sum(rewards[-5:]) > 1.4 * sum(rewards[:5])


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        ({"rollouts": 0}, "^rollouts must be a whole number of at least 2, got 0"),
        ({"updates": 0}, "^updates must be a whole number of at least 1, got 0"),
        ({"clip": 0.0}, "^clip must be a finite number above 0"),
        ({"kl_weight": -1.0}, "^kl_weight must be a finite number of at least 0"),
        ({"kl_weight": math.nan}, "^kl_weight must be a finite number of at least 0"),
        ({"policy": "best"}, "^policy must be one of 'target', 'hybrid', 'top', got 'best'"),
        ({"ratio": "mean"}, "^ratio must be one of 'joint', 'step', got 'mean'"),
        ({"kl": "k3"}, "^kl must be one of 'full', 'target', got 'k3'"),
    ],
)
def test_mistakes_are_named(wrong: dict[str, Any], match: str) -> None:
    with unchecked(), pytest.raises(InputError, match=match):
        RPT(**wrong)


def test_rollouts_from_a_start_state_without_spread_are_refused_unless_something_else_differs() -> None:
    model = recommender(9)
    model.encoder.state_std = 0.0
    with pytest.raises(InputError, match=r"^RPT needs rollouts that differ, but T_0 is 0 \(state_std\)"):
        RPT().check(model)
    RPT(dropout=True).check(model)
    RPT(own_depth=True).check(model)
    model.encoder.depth_law = FixedDepth(3)
    with pytest.raises(InputError, match=r"or own_depth=True \(the depth is fixed\)$"):
        RPT(own_depth=True).check(model)
    RPT(own_depth=True, dropout=True).check(model)
    model.encoder.depth_law = UniformDepth(4, 4)
    with pytest.raises(InputError, match=r"or own_depth=True \(the depth is fixed\)$"):
        RPT(own_depth=True).check(model)
    model.encoder.depth_law = UniformDepth(3, 4)
    RPT(own_depth=True).check(model)


def test_dropout_of_no_rate_tells_no_rollouts_apart() -> None:
    model = built_in(9)
    model.encoder.state_std = 0.0
    for part in model.modules():
        for name in {"p", "dropout"} & set(vars(part)):
            setattr(part, name, 0.0)
    with pytest.raises(
        InputError, match=r"pass dropout=True \(no module has a rate above 0\) or own_depth=True$"
    ) as error:
        RPT(dropout=True).check(model)
    assert error.value.settings == ("state_std", "rollout_dropout", "own_depth")
    RPT(dropout=True, own_depth=True).check(model)
    model.input_dropout.p = 0.1
    RPT(dropout=True).check(model)


def test_rollouts_without_a_start_state_are_refused_with_what_would_mend_them() -> None:
    plain = "^RPT needs rollouts that differ, but this encoder has no start state: pass dropout=True or wrap it in RecurrentDepth$"
    model = Recommender(9, nn.Identity(), 8, 5, dropout=0.0)
    with pytest.raises(InputError, match=plain) as error:
        RPT().check(model)
    assert error.value.settings == ("rollout_dropout",)
    with pytest.raises(InputError, match=r"pass dropout=True \(no module has a rate above 0\) or wrap"):
        RPT(dropout=True).check(model)


def test_a_group_of_one_is_refused() -> None:
    with pytest.raises(InputError, match="^rollouts must be a whole number of at least 2, got 1"):
        RPT(rollouts=1)


def test_an_encoder_that_tells_no_spread_of_its_start_state_is_taken_at_its_word() -> None:
    model = recommender(9)
    std = model.encoder.__dict__.pop("state_std")
    model.encoder.draw_state = lambda keys, slots: keyed_normal(keys, slots, 1) * std
    RPT().check(model)


def test_after_its_end_the_reference_stays_and_nothing_is_replayed() -> None:
    model, batch = recommender(9), batch_of(9)
    rpt = RPT(rollouts=2)
    rpt.start(model)
    rpt.end()
    loss, _ = run(rpt, model, rpt.prepare(model, batch))
    assert loss.isfinite()


class Forgetful:
    """A user's law that returns nothing."""

    inference_depth = 2

    def sample(self, generator: torch.Generator) -> int:
        return None  # type: ignore[return-value]


def test_a_law_that_draws_no_depth_is_named() -> None:
    model, said = recommender(9), r"^what Forgetful\.sample draws must be a whole number .* None$"
    model.encoder.depth_law = Forgetful()
    with unchecked(), pytest.raises(InputError, match=said):
        encode_views(model, batch_of(9), ["anchor"])
    with unchecked(), pytest.raises(InputError, match=said):
        RPT(kl_weight=0.0).prepare(model, batch_of(9))


def test_mistakes_in_use_are_named() -> None:
    model, batch = recommender(9), batch_of(9)
    with unchecked():
        with pytest.raises(InputTypeError, match="^reward must be a callable"):
            RPT(reward=3)  # type: ignore[arg-type]
        with pytest.raises(InputTypeError, match=r"^reward must be a callable of \(greater, ties\): .*argument"):
            RPT(reward=lambda greater: greater.double()).check(model)  # type: ignore[arg-type,call-arg,misc]
        with pytest.raises(InputError, match=r"call start\(model\)"):
            RPT().prepare(model, batch)
        for reward, found in ((lambda greater, ties: greater[:, :1].double(), ", 1"), (lambda greater, ties: 1, "int")):
            rpt = RPT(reward=reward)
            rpt.start(model)
            with pytest.raises(InputError, match=f"^reward must return a tensor .*{found}"):
                rpt.prepare(model, batch)
        rpt = RPT(reward=lambda greater, ties: torch.full(greater.shape, math.nan))
        rpt.start(model)
        with pytest.raises(InputError, match="^rewards must be finite"):
            rpt.prepare(model, batch)
        with pytest.raises(InputTypeError, match="prepare"):
            run(rpt, model, batch)
    assert not isinstance(batch, Prepared)


@pytest.mark.parametrize("updates", [1, 2])
def test_recomputed_steps_give_the_same_gradients(updates: int) -> None:
    """Dropout is off in the forward pass and has to be off when a step is computed again in the backward pass."""
    found = []
    for again in (False, True):
        model = recommender(3, checkpoint_steps=again).train()
        objective = RPT(rollouts=3, updates=updates, reward=inverse_rank)
        objective.start(model)
        given = batch_of(3)
        loss, _ = objective(encode_views(model, given, ()), objective.prepare(model, given))
        found.append(gradients(loss, model))
    assert sum(float(g.abs().sum()) for g in found[0].values()) > 0
    torch.testing.assert_close(found[0], found[1], **EXACT)


def test_of_a_batch_that_knows_its_tokens_each_model_is_thought_by_its_own_graphs() -> None:
    model, batch = recommender(1), batch_of(1)
    known = replace(batch, tokens=(7, 11))
    losses = []
    for graphs, asked, keep_kl, times in (
        (True, known, True, (2, 1)),  # the rollouts and the update; the reference
        (True, replace(known, share=Share.of(len(batch), rank=0, world=1)), True, (0, 0)),
        (True, batch, True, (0, 0)),
        (True, known, False, (1, 0)),  # but for the rollouts only rows whose rewards differ, whose tokens nobody knows
        (False, known, True, (0, 0)),
    ):
        rpt = RPT(rollouts=3, reward=inverse_rank, keep_kl=keep_kl)
        rpt.start(model)
        assert rpt.reference is not None
        mine, of_reference = Graphed(model), Graphed(rpt.reference)
        rpt._graphed = [mine, of_reference] if graphs else []  # type: ignore[list-item]
        with unchecked(), mock.patch.object(Share, "add_up", lambda self, value: value):  # they are no GraphedThinking
            prepared = rpt.prepare(model, asked)
            loss, _ = run(rpt, model, prepared)
        assert mine.told == [("thoughts", 7)] * times[0] and of_reference.told == [("thoughts", 7)] * times[1]
        losses.append(loss)
        rpt._graphed = []
    torch.testing.assert_close(torch.stack(losses[:3]), losses[4].repeat(3), **EXACT)


@pytest.mark.parametrize("own_dropout", [False, True])
def test_rollouts_of_known_tokens_are_thought_by_who_asks_for_them_but_for_dropout_of_their_own(
    own_dropout: bool,
) -> None:
    model, batch = recommender(0), batch_of(0)
    graphed: Any = Graphed(model)
    keys, key = row_keys(5, torch.arange(2 * len(batch))), 3 if own_dropout else None
    plain = think(model, batch.history, 3, keys, 2, key)
    assert plain.shape == (3, 2 * len(batch), DIM)
    with unchecked():  # it is no GraphedThinking
        assert torch.equal(think(model, batch.history, 3, keys, 2, key, None, graphed), plain) and not graphed.told
        assert torch.equal(think(model, batch.history, 3, keys, 2, key, 7, graphed), plain)
    assert graphed.told == ([] if own_dropout else [("thoughts", 7)])
    assert torch.equal(think(model, batch.history, 3, keys, 2, key, 7), plain)
