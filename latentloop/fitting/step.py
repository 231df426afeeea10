"""An optimizer step: model and objective in one module, and the updates that one batch gives."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from latentloop.data.batch import Batch
from latentloop.errors import InputError
from latentloop.fitting.clipping import clip_gradients
from latentloop.fitting.row_gradients import row_gradients
from latentloop.graphed_thinking import GraphedThinking
from latentloop.objectives.contract import Objective, call, free_name, touches_few_items, views_of
from latentloop.objectives.views import encode_views
from latentloop.randomness import dropout_seed, fold

if TYPE_CHECKING:
    from accelerate import Accelerator

    from latentloop.recommender import Recommender

__all__ = ["StepModule", "updates"]


class StepModule(nn.Module):
    """Model and objective in one module: autocast and DDP's gradient exchange act only inside its forward.

    Args:
        model: what is trained.
        objective: what with.
        sparse: whether an objective that touches few items gets row-sparse gradients of the item table.
        graphed: see `encode_views`.
    """

    def __init__(
        self,
        model: Recommender,
        objective: Objective,
        *,
        sparse: bool = True,
        graphed: GraphedThinking | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.objective = objective
        self.sparse = sparse and touches_few_items(objective)
        self.graphed = graphed

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss and the terms of one update.

        Raises:
            InputTypeError: where the objective returned anything else.
        """
        with row_gradients(self.model.item_table, self.sparse):
            views = encode_views(self.model, batch, views_of(self.objective), self.graphed)
            return call(self.objective, views, batch)


def updates(
    step_module: nn.Module,
    model: Recommender,
    objective: Objective,
    optimizer: torch.optim.Optimizer,
    accelerator: Accelerator,
    batch: Batch,
    clip_norm: float | None,
) -> Iterator[dict[str, Tensor]]:
    """Prepare once, then take the objective's number of optimizer steps; yields each step's terms of this process.

    The loss is a mean over this process's rows; of several processes each weighs as much as it has of the step's rows.
    """
    prepare = getattr(objective, "prepare", None)
    prepared = batch
    if prepare is not None:
        with torch.no_grad(), accelerator.autocast():
            prepared = prepare(model, batch)
    for update in range(getattr(objective, "updates", 1)):
        dropout_key = fold(batch.key, "dropout", accelerator.process_index, update)
        with dropout_seed(dropout_key, accelerator.device):
            loss, terms = step_module(prepared)
            if not loss.requires_grad:
                raise InputError(
                    f"the loss of {objective!r} has no gradient: nothing that is trained leads to it (is something in it "
                    "detached, or computed under no_grad?)"
                )
            accelerator.backward(loss if batch.share is None else loss * batch.share.factor)
        if clip_norm is not None:
            terms["gradient_norm"] = clip_gradients(accelerator, model.parameters(), clip_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        yield {"loss": loss.detach(), **{free_name(name, ("loss",)): value for name, value in terms.items()}}
