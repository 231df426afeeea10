"""Whether a group's rollouts differ: in T_0, in dropout or in depth. Of those that do not, none is better than another."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from latentloop.depth import varies
from latentloop.errors import InputError
from latentloop.modes.dropout import dropout_off, may_drop
from latentloop.randomness import keyed_normal, row_keys

if TYPE_CHECKING:
    from latentloop.recommender import Recommender

__all__ = ["check_rollouts"]


def check_rollouts(model: Recommender, *, dropout: bool, own_depth: bool) -> None:
    """Refuse a model whose rollouts would all be the same.

    Args:
        model: whose.
        dropout: whether they differ in dropout too.
        own_depth: whether they differ in depth too.

    Raises:
        InputError: where nothing of these differs.
    """
    no_rate = " (no module has a rate above 0)" if dropout else ""
    dropped = dropout and may_drop(model)
    if not dropped and not _has_state(model):
        raise InputError(
            f"RPT needs rollouts that differ, but this encoder has no start state: pass dropout=True{no_rate} or wrap "
            "it in RecurrentDepth",
            settings=("rollout_dropout",),
        )
    depths_differ = own_depth and varies(model.depth_law)
    if not (dropped or depths_differ) and getattr(model.encoder, "state_std", None) == 0:
        other = " (the depth is fixed)" if own_depth else ""
        raise InputError(
            f"RPT needs rollouts that differ, but T_0 is 0 (state_std): give it a spread, or pass dropout=True"
            f"{no_rate} or own_depth=True{other}",
            settings=("state_std", "rollout_dropout", "own_depth"),
        )
    if not (dropped or depths_differ) and not _reads_state(model):
        raise InputError(
            "RPT needs rollouts that differ, but the aggregate reads no T_0: no thought follows from it; combine the state "
            "with H, or pass dropout=True or own_depth=True",
            settings=("aggregate", "rollout_dropout", "own_depth"),
        )


def _reads_state(model: Recommender) -> bool:
    """Whether the answer follows from T_0, whatever the weights are now."""
    slots = torch.arange(min(2, model.max_length), device=model.device)
    history, rows = torch.ones_like(slots)[None], torch.zeros_like(slots)
    with dropout_off(model), torch.inference_mode(False), torch.enable_grad():
        one, other = (keyed_normal(row_keys(key, rows), slots, model.dim)[None] for key in (0, 1))
        state = one.to(model.position_table.dtype).requires_grad_()
        answer = model.think(history, depth=1, state=state).final
        if not torch.equal(answer, model.think(history, depth=1, state=other.to(state.dtype)).final):
            return True
        if not answer.requires_grad:
            return False
        try:  # weights that start at 0 may hide it yet
            return torch.autograd.grad(answer.sum(), state, allow_unused=True)[0] is not None
        except RuntimeError:  # a checkpoint that is entered anew does not say
            return True


def _has_state(model: Recommender) -> bool:
    probe = torch.zeros(1, dtype=torch.int64, device=model.device)
    return model.encoder.draw_state(probe, probe).shape[1] > 0
