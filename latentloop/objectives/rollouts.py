"""Rollouts of a batch (LARES section 2.4): how a group thinks, what it earns, which choices are its policy's.

Nothing here is differentiated but `think`, which the loss calls again for the rollouts that it needs.

Shapes: B rows, G rollouts a row, R = rows that are differentiated x G (row b's rollouts adjacent), k depth.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from latentloop.data.batch import Batch
from latentloop.depth import draw_depth
from latentloop.graphed_thinking import GraphedThinking
from latentloop.items.ranks import count_ranks, top1
from latentloop.modes.dropout import dropout_off
from latentloop.objectives.policy import Policy
from latentloop.objectives.rewards import Reward, earned
from latentloop.randomness import dropout_seed, fold

if TYPE_CHECKING:
    from latentloop.recommender import Recommender

__all__ = ["Prepared", "by_step", "choices", "draw_depths", "for_rollouts", "placed", "rewards_of", "think"]


@dataclass(frozen=True, eq=False, kw_only=True)
class Prepared(Batch):
    """A batch and what its rollouts fixed, all without gradient.

    Args:
        groups: (M,) rows of the batch that the loss has to think through again.
        state_keys: (R,) from which each rollout's T_0 is drawn.
        depth: steps of the deepest rollout.
        live: (k, R) steps that count; all of them unless each rollout has its own depth.
        choice: (k, R) the item whose probability is the policy's.
        advantage: (R,), in the precision of the log-probabilities.
        pays_kl: (R,) whether a rollout is held to the reference.
        old: (k, R) log pi_old of the choice; None where the only update is the first, at which pi_old is pi.
        ref_queries: (k, R, d) the reference's thoughts, for the full divergence.
        ref_keys: (N, d) the reference's items, for the full divergence.
        ref_log_prob: (k, R) log pi_ref of the target, for the divergence on the target.
        dropout_key: seeds dropout in every pass over these rollouts; None keeps it off.
        rewards: (B, G) float64.
    """

    groups: Int[Tensor, " M"]
    state_keys: Int[Tensor, " R"]
    depth: int
    live: Bool[Tensor, "k R"]
    choice: Int[Tensor, "k R"]
    advantage: Float[Tensor, " R"]
    pays_kl: Bool[Tensor, " R"]
    old: Float[Tensor, "k R"] | None
    ref_queries: Float[Tensor, "k R d"] | None
    ref_keys: Float[Tensor, "N d"] | None
    ref_log_prob: Float[Tensor, "k R"] | None
    dropout_key: int | None
    rewards: Float[Tensor, "B G"]


def draw_depths(model: Recommender, key: int, rollouts: int, own_depth: bool) -> list[int]:
    """The depth of each of a group's rollouts: one for all, or each its own."""
    if not own_depth:
        return [draw_depth(model.depth_law, fold(key, "depth"))] * rollouts
    return [draw_depth(model.depth_law, fold(key, "depth", g)) for g in range(rollouts)]


def think(
    model: Recommender,
    history: Int[Tensor, "M L"],
    depth: int,
    keys: Int[Tensor, " R"],
    rollouts: int,
    dropout_key: int | None,
    tokens: int | None = None,
    graphed: GraphedThinking | None = None,
) -> Float[Tensor, "k R d"]:
    """Thoughts of all rollouts; H is computed once for a row's rollouts where dropout does not tell them apart.

    Where it is known how many `tokens` the histories have, `graphed` thinks for the model.
    """
    context: AbstractContextManager[None]
    if dropout_key is None:
        context, copies = dropout_off(model), rollouts
    else:
        context, copies = dropout_seed(dropout_key, history.device), 1
        history = for_rollouts(history, rollouts)
    with context:
        if graphed is not None and tokens is not None and dropout_key is None:
            return graphed(history, depth=depth, state_keys=keys, tokens=tokens, copies=copies).steps
        return model.think(history, depth=depth, state_keys=keys, copies=copies).steps


def rewards_of(
    model: Recommender,
    steps: Float[Tensor, "k BG d"],
    target: Int[Tensor, " B"],
    depths: list[int],
    reward: Reward,
) -> Float[Tensor, "B G"]:
    """What each rollout earns by its last thought, float64.

    Raises:
        InputError: for a reward of another shape.
    """
    last = torch.tensor(depths, device=steps.device).repeat(len(target)) - 1
    final = steps[last, torch.arange(steps.shape[1], device=steps.device)]
    greater, ties = count_ranks(model.queries(final), model.keys(), for_rollouts(target, len(depths)))
    shape = (len(target), len(depths))
    return earned(reward, greater.view(shape), ties.view(shape))


def choices(
    policy: Policy,
    queries: Float[Tensor, "k R d"],
    items: Float[Tensor, "N d"],
    target: Int[Tensor, "k R"],
    advantage: Float[Tensor, " R"],
) -> Int[Tensor, "k R"]:
    """The item whose probability is a step's policy: see `RPT`'s `policy`."""
    if policy == "target":
        return target.contiguous()
    if policy == "top":
        return top1(queries.flatten(0, 1), items).view(target.shape)
    lost = (advantage <= 0).nonzero()[:, 0]
    chosen = target.clone()
    if lost.numel() and len(items) > 1:
        others = top1(queries[:, lost].flatten(0, 1), items, target[:, lost].flatten())
        chosen[:, lost] = others.view(-1, len(lost))
    return chosen


def for_rollouts(values: Tensor, rollouts: int) -> Tensor:
    """Each row's value once for each of its rollouts."""
    return values.repeat_interleave(rollouts, 0)


def by_step(
    function: Callable[[Tensor, Tensor, Tensor], Tensor],
    live: Bool[Tensor, "k R"],
    queries: Float[Tensor, "k R d"],
    items: Float[Tensor, "N d"],
    choice: Int[Tensor, "k R"],
) -> Float[Tensor, "k R"]:
    """`function` of every live step's query and choice; 0 at the others."""
    rows = live.flatten().nonzero()[:, 0]
    return placed(function(queries.flatten(0, 1)[rows], items, choice.flatten()[rows]), rows, live)


def placed(values: Tensor, rows: Tensor, live: Bool[Tensor, "k R"]) -> Float[Tensor, "k R"]:
    """`values` (n,) at the flat places `rows` (n,); 0 at the others."""
    return values.new_zeros(live.numel()).index_copy(0, rows, values).view(live.shape)
