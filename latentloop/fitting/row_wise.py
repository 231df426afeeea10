"""AdamW for a model whose largest table is touched in few rows a step: work and state follow the rows, not the table."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, overload

import torch
from torch import Tensor

__all__ = ["RowWiseAdamW"]


class RowWiseAdamW(torch.optim.AdamW):
    """AdamW, and for the (N, d) tables of groups with `row_wise=True` Adam without momentum, one second moment a row.

    A table goes at step t, for every row r of its gradient g, as

        v_r <- b2 v_r + (1 - b2) mean(g_r^2)        W_r <- W_r - lr g_r / (sqrt(v_r / (1 - b2^t)) + eps)

    Rows without a gradient do not move (with momentum they would), and their v_r only decays: that is made up for when
    they are touched next, b2^(t - step of the last touch) at once. So a step costs the rows it touches, and equals the
    dense one over the whole table. The state is two numbers a row, where AdamW and `torch.optim.SparseAdam` have 2 d.

    As in AdamW, and unlike SparseAdam, a row that is touched rarely takes larger steps, so that a learning rate means
    the same for a table as without row-wise state. A dense gradient is taken as well. There is no weight decay of rows.

    Args:
        params: parameter groups as of AdamW.
        kwargs: as of AdamW.
    """

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One step of everything that has a gradient; gradients stay as they are."""
        loss: float | None = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        held: list[tuple[Tensor, Tensor]] = []
        for group in self.param_groups:
            for table in group["params"] if group.get("row_wise") else ():
                if table.grad is not None:
                    held.append((table, table.grad))
                    self._update_rows(table, table.grad, group)
                    table.grad = None  # AdamW leaves alone what has no gradient
        try:
            super().step()
        finally:
            for table, gradient in held:
                table.grad = gradient
        return loss

    def _update_rows(self, table: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state, decay = self.state[table], group["betas"][1]
        if not state:
            state["step"] = torch.zeros((), device=table.device)
            state["second_moment"] = table.new_zeros(len(table))
            state["last_step"] = table.new_zeros(len(table))  # float like all loaded state; exact up to 2^24 steps
        gradient = (gradient if gradient.is_sparse else gradient.to_sparse(1)).coalesce()
        rows, values = gradient.indices()[0], gradient.values()
        step = state["step"].add_(1).double()  # 1 - b2^t loses four of float32's digits at the start
        moment = state["second_moment"][rows] * decay ** (step - state["last_step"][rows])
        moment += (1 - decay) * values.square().mean(1)
        state["second_moment"][rows], state["last_step"][rows] = moment, step.to(table.dtype)
        size = (moment / (1 - decay**step)).sqrt_().add_(group["eps"])
        table.index_add_(0, rows, values * (-group["lr"] / size)[:, None])
