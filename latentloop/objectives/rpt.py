"""Reinforcement post-training: group-relative policy optimisation over start states (LARES eq. 11-12, section 2.4).

For each history, G rollouts that differ in T_0. Each step's thought t is a policy pi(v | t) = softmax(t E^T)[v]; the
rank of the target by the last thought is the reward; rewards are standardised within the group.

Shapes: B rows, G rollouts a row, R = rows that are differentiated x G (row b's rollouts adjacent), k depth.
"""

from __future__ import annotations

import copy
from dataclasses import fields
from typing import TYPE_CHECKING, Any, get_args

import torch
from torch import Tensor

from latentloop.checks import above_zero, at_least, one_of, zero_or_more
from latentloop.data.batch import Batch
from latentloop.errors import InputError, InputTypeError
from latentloop.graphed_thinking import GraphedThinking
from latentloop.items.policy import weighed_log_prob_and_kl
from latentloop.items.softmax import log_prob, log_prob_and_kl
from latentloop.objectives.advantages import advantages
from latentloop.objectives.compose import Composable
from latentloop.objectives.contract import Terms
from latentloop.objectives.differing import check_rollouts
from latentloop.objectives.policy import KL, Policy, Ratio, mean_over_steps, ratios, surrogate, target_kl
from latentloop.objectives.rewards import RecallReward, Reward, check_reward
from latentloop.objectives.rollout_terms import rollout_terms
from latentloop.objectives.rollouts import (
    Prepared,
    by_step,
    choices,
    draw_depths,
    for_rollouts,
    placed,
    rewards_of,
    think,
)
from latentloop.objectives.shown import shown
from latentloop.objectives.views import Views
from latentloop.randomness import fold, row_keys

if TYPE_CHECKING:
    from latentloop.recommender import Recommender

__all__ = ["RPT", "Prepared"]


class RPT(Composable):
    """loss = -mean_i [min(P A_i, clip(P, 1 - eps, 1 + eps) A_i) - beta KL_i] over all rollouts i of the batch.

    `start(model)` freezes the reference, `prepare(model, batch)` makes the rollouts, and calling the objective on the
    prepared batch gives the loss, `updates` times. At the first update P is 1, so with `updates=1` the clip is inert.

    Args:
        rollouts: G, start states for each history, at least 2.
        reward: any callable of (greater, ties); `RecallReward(10)` where None.
        policy: whose probability is raised or lowered at each step. "target": the target; "hybrid": the target where
            A > 0, else the highest-scored other item; "top": the highest-scored item.
        ratio: P of the rollout's joint probability, or one a step and the mean of the clipped terms.
        kl: "full" is the mean over steps of sum_v pi log(pi / pi_ref); "target" a penalty on the target alone, see
            `objectives.policy.target_kl`.
        kl_weight: beta; 0 needs no reference.
        clip: eps; the paper gives none.
        updates: optimizer steps for each prepared batch.
        keep_kl: whether groups whose rewards tie still pay KL. Without it such groups are not thought through again.
        dropout: rollouts also differ in dropout, which every update and the reference then replay; else dropout is off
            in RPT.
        own_depth: each of the G rollouts draws its own depth.

    Raises:
        InputError: for a value out of range.
        InputTypeError: for a reward that cannot be called.
    """

    views: tuple[str, ...] = ()

    def __init__(
        self,
        *,
        rollouts: int = 4,
        reward: Reward | None = None,
        policy: Policy = "target",
        ratio: Ratio = "joint",
        kl: KL = "full",
        kl_weight: float = 1.0,
        clip: float = 0.2,
        updates: int = 1,
        keep_kl: bool = True,
        dropout: bool = False,
        own_depth: bool = False,
    ) -> None:
        self.rollouts = at_least("rollouts", rollouts, 2)  # of a group of one none is better
        if reward is not None and not callable(reward):
            raise InputTypeError(f"reward must be a callable of (greater, ties), got {reward!r}")
        self.reward: Reward = RecallReward(10) if reward is None else reward
        one_of("policy", policy, get_args(Policy))
        one_of("ratio", ratio, get_args(Ratio))
        one_of("kl", kl, get_args(KL))
        self.policy: Policy = policy
        self.ratio: Ratio = ratio
        self.kl: KL = kl
        self.kl_weight = zero_or_more("kl_weight", kl_weight)
        self.clip = above_zero("clip", clip)
        self.updates = at_least("updates", updates, 1)
        self.keep_kl, self.dropout, self.own_depth = bool(keep_kl), bool(dropout), bool(own_depth)
        self.reference: Recommender | None = None
        self._graphed: list[GraphedThinking] = []

    def check(self, model: Recommender) -> None:
        """Refuse what could not be post-trained, before anything is trained; the reward is tried on one row.

        Raises:
            InputError: for an encoder without T_0, or with one that is always 0, where nothing else differs, since all
                its rollouts would be the same, or a reward that gives another shape than it takes.
            InputTypeError: for a reward that does not take (greater, ties).
        """
        check_rollouts(model, dropout=self.dropout, own_depth=self.own_depth)
        check_reward(self.reward, self.rollouts, model.device)

    def start(self, model: Recommender) -> None:
        """Freeze a copy of `model` as the reference; it is held here, outside any `state_dict`.

        Raises:
            InputError: for rollouts that would all be the same, see `check`.
        """
        check_rollouts(model, dropout=self.dropout, own_depth=self.own_depth)
        self.end()
        self.reference = None
        if self.kl_weight > 0:
            # not eval(): the policy's own kernels, so that the divergence is exactly 0 where the weights are the same
            self.reference = copy.deepcopy(model).train().requires_grad_(False)
        thinkers = [model] if self.reference is None else [model, self.reference]
        self._graphed = [GraphedThinking(thinker) for thinker in thinkers if GraphedThinking.suits(thinker)]

    def end(self) -> None:
        """Give back the memory that only training needs; the reference stays."""
        for graphed in self._graphed:
            graphed.close()
        self._graphed = []

    @torch.no_grad()
    def prepare(self, model: Recommender, batch: Batch) -> Prepared:
        """Roll out, rank, and fix everything that the updates hold constant.

        Raises:
            InputError: before `start`, or for a reward that is not finite or of another shape.
        """
        if self.kl_weight > 0 and self.reference is None:
            raise InputError("RPT has no reference yet: call start(model) before prepare")
        depths = draw_depths(model, batch.key, self.rollouts, self.own_depth)
        keys = torch.stack([row_keys(fold(batch.key, "rollout", g), batch.rows) for g in range(self.rollouts)], 1)
        dropout_key = fold(batch.key, "rollout dropout", int(batch.rows[0])) if self.dropout else None
        steps = self._think(model, batch, None, max(depths), keys.flatten(), dropout_key)
        rewards = rewards_of(model, steps, batch.target, depths, self.reward)
        advantage = advantages(rewards)
        tied = rewards.amax(1) == rewards.amin(1)
        groups = self._groups(tied)
        rows = (groups[:, None] * self.rollouts + torch.arange(self.rollouts, device=groups.device)).flatten()
        live = torch.arange(1, max(depths) + 1)[:, None] <= torch.tensor(depths)
        live = live.to(batch.target.device).repeat(1, len(groups))
        target = for_rollouts(batch.target[groups], self.rollouts).expand(max(depths), -1)
        queries, items = model.queries(steps[:, rows]), model.keys()
        chosen = choices(self.policy, queries, items, target, advantage.flatten()[rows])
        prepared: dict[str, Any] = {field.name: getattr(batch, field.name) for field in fields(Batch)}
        prepared |= {
            "groups": groups,
            "state_keys": keys.flatten()[rows],
            "depth": max(depths),
            "live": live,
            "choice": chosen,
            "advantage": advantage.flatten()[rows].to(torch.promote_types(queries.dtype, torch.float32)),
            "pays_kl": for_rollouts(~tied[groups] | self.keep_kl, self.rollouts),
            "old": None if self.updates == 1 else by_step(log_prob, live, queries, items, chosen),
            "dropout_key": dropout_key,
            "rewards": rewards,
        }
        prepared |= self._reference(model, batch, prepared, target)
        return Prepared(**prepared)

    def __call__(self, views: Views, batch: Batch) -> tuple[Tensor, Terms]:
        """The loss of one update on a prepared batch, and the terms.

        Terms: `policy` and `kl` (the two means; `kl` only with a reference), `reward_mean`, `reward_std`,
        `zero_variance` (share of groups whose rewards tie), `clip_share` (of the ratios with A != 0, those at which the
        clip stops the gradient), `ratio_mean` (of the same ratios; 1 where there are none).

        Raises:
            InputTypeError: for a batch that did not come from `prepare`.
        """
        if not isinstance(batch, Prepared):
            raise InputTypeError("RPT needs the batch that prepare(model, batch) returned, got a plain one")
        model, live = views.model, batch.live
        steps = self._think(model, batch, batch.groups, batch.depth, batch.state_keys, batch.dropout_key)
        queries, items = model.queries(steps), model.keys()
        count = batch.rewards.numel()
        fused: Tensor | None = None
        divergence: Tensor | None
        if batch.old is None and batch.ref_queries is not None and batch.ref_keys is not None:
            fused, new, divergence = self._first_update(batch, queries, items, batch.ref_queries, batch.ref_keys)
        else:
            new, divergence = self._log_probs(batch, queries, items)
        ratio = ratios(new, new.detach() if batch.old is None else batch.old, live, self.ratio)
        policy = surrogate(ratio, batch.advantage, live, self.clip).sum() / count
        loss, terms = -policy, {"policy": -policy.detach()}
        if divergence is not None:
            kl = (mean_over_steps(divergence, live) * batch.pays_kl).sum() / count
            loss, terms["kl"] = loss + self.kl_weight * kl, kl.detach()
        if fused is not None:
            loss = loss + (fused - fused.detach())  # the value of the loss, and its gradient
        return loss, terms | rollout_terms(batch, ratio, self.clip)

    def __repr__(self) -> str:
        return shown(self, "rollouts", "policy")

    def _groups(self, tied: Tensor) -> Tensor:
        """Rows to differentiate: all, or (where tied groups owe nothing) those whose rewards differ, at least one."""
        everyone = torch.arange(len(tied), device=tied.device)
        if self.dropout or (self.keep_kl and self.kl_weight > 0):
            return everyone
        return everyone[~tied] if not bool(tied.all()) else everyone[:1]

    def _think(
        self,
        model: Recommender,
        batch: Batch,
        groups: Tensor | None,
        depth: int,
        keys: Tensor,
        dropout_key: int | None,
    ) -> Tensor:
        """Thoughts of the rollouts of some rows, None for all."""
        whole = groups is None or self.dropout or (self.keep_kl and self.kl_weight > 0)  # see `_groups`
        history = batch.history if whole else batch.history[groups]
        tokens = batch.tokens[0] if whole and batch.tokens is not None and batch.share is None else None
        graphed = next((graphed for graphed in self._graphed if graphed.model is model), None)
        return think(model, history, depth, keys, self.rollouts, dropout_key, tokens, graphed)

    def _reference(
        self, model: Recommender, batch: Batch, prepared: dict[str, Any], target: Tensor
    ) -> dict[str, Tensor | None]:
        """The reference under each rollout's T_0, depth and dropout: where the weights are the same it diverges by 0."""
        held: dict[str, Tensor | None] = {"ref_queries": None, "ref_keys": None, "ref_log_prob": None}
        if self.reference is None or self.kl_weight == 0:
            return held
        if self.reference.device != model.device:
            self.reference.to(model.device)
        wanted = (prepared[name] for name in ("groups", "depth", "state_keys", "dropout_key"))
        steps = self._think(self.reference, batch, *wanted).clone()  # a batch may be used after the next was prepared
        queries, items = self.reference.queries(steps), self.reference.keys()
        if self.kl == "full":
            return held | {"ref_queries": queries, "ref_keys": items}
        return held | {"ref_log_prob": by_step(log_prob, prepared["live"], queries, items, target)}

    def _first_update(
        self, batch: Prepared, queries: Tensor, items: Tensor, ref_queries: Tensor, ref_items: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """What has the loss's gradient, and the log-probabilities and divergences of each step, (k, R), without one.

        The ratio is 1, so it is known what each of them weighs: a log-probability -A (with ratios by step: each an
        equal part of that), a divergence beta's part of a step.
        """
        live, steps = batch.live, batch.live.sum(0)
        rows = live.flatten().nonzero()[:, 0]
        towards = batch.advantage if self.ratio == "joint" else batch.advantage / steps
        weights = (-towards, self.kl_weight * batch.pays_kl / steps)
        fused, picked, divergence = weighed_log_prob_and_kl(
            queries.flatten(0, 1)[rows],
            items,
            ref_queries.flatten(0, 1)[rows],
            ref_items,
            batch.choice.flatten()[rows],
            *((weight / batch.rewards.numel()).expand(live.shape).flatten()[rows] for weight in weights),
        )
        return fused, placed(picked, rows, live), placed(divergence, rows, live)

    def _log_probs(self, batch: Prepared, queries: Tensor, items: Tensor) -> tuple[Tensor, Tensor | None]:
        """Log-probabilities of the choices and the divergence of each step, (k, R) both."""
        live, choice = batch.live, batch.choice
        if batch.ref_queries is not None and batch.ref_keys is not None:
            ref_queries, ref_items = batch.ref_queries, batch.ref_keys
            rows = live.flatten().nonzero()[:, 0]
            picked, divergence = log_prob_and_kl(
                queries.flatten(0, 1)[rows], items, ref_queries.flatten(0, 1)[rows], ref_items, choice.flatten()[rows]
            )
            return placed(picked, rows, live), placed(divergence, rows, live)
        new = by_step(log_prob, live, queries, items, choice)
        if batch.ref_log_prob is None:
            return new, None
        target = for_rollouts(batch.target[batch.groups], self.rollouts).expand(batch.depth, -1)
        of_target = new if self.policy == "target" else by_step(log_prob, live, queries, items, target)
        return new, target_kl(of_target, batch.ref_log_prob)
