"""Whether a group's rollouts differ: in T_0, in dropout or in depth. Of those that do not, none is better than another."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from latentloop.depth import varies
from latentloop.errors import InputError
from latentloop.modes.dropout import may_drop

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


def _has_state(model: Recommender) -> bool:
    probe = torch.zeros(1, dtype=torch.int64, device=model.device)
    return model.encoder.draw_state(probe, probe).shape[1] > 0
