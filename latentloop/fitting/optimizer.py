"""The optimizer of a stage."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from latentloop.fitting.row_wise import RowWiseAdamW

if TYPE_CHECKING:
    from latentloop.recommender import Recommender

__all__ = ["build_optimizer", "parameter_groups"]


def build_optimizer(
    model: Recommender, *, learning_rate: float, weight_decay: float, few_items: bool = False
) -> torch.optim.AdamW:
    """AdamW over everything of `model` that can be trained, fused where its device has it; see `parameter_groups`.

    Args:
        model: what is trained.
        learning_rate: of everything.
        weight_decay: of the encoder's matrices.
        few_items: the item table's gradient is of few rows, so it gets row-wise steps and state, see `RowWiseAdamW`.
    """
    groups, fused = parameter_groups(model, weight_decay), model.device.type in ("cpu", "cuda")
    if not few_items:
        return torch.optim.AdamW(groups, lr=learning_rate, fused=fused)
    table = model.item_table.weight
    for group in groups:
        group["params"] = [parameter for parameter in group["params"] if parameter is not table]
    groups.append({"params": [table] * table.requires_grad, "weight_decay": 0.0, "row_wise": True})
    return RowWiseAdamW(groups, lr=learning_rate, fused=fused)


def parameter_groups(model: Recommender, weight_decay: float) -> list[dict[str, Any]]:
    """Matrices of the encoder, which decay, and everything else (tables, norms, biases), which does not."""
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    decayed = [p for name, p in named if p.ndim >= 2 and not name.startswith(("item_table", "position_table"))]
    chosen = {id(p) for p in decayed}
    plain = [p for _, p in named if id(p) not in chosen]
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]
