"""The recommendation loss at every position of a causal encoder: all targets of a row in one pass."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from latentloop.data.batch import Batch
from latentloop.encoder import Thoughts
from latentloop.errors import InputError, InputTypeError
from latentloop.objectives.compose import Around
from latentloop.objectives.contract import Objective, Terms, call, views_of
from latentloop.objectives.next_item import NextItem
from latentloop.objectives.views import Views
from latentloop.thinking.everywhere import check_everywhere

if TYPE_CHECKING:
    from latentloop.recommender import Recommender

__all__ = ["NextItemEverywhere"]


class NextItemEverywhere(Around):
    """The next-item loss at every position that has a target, for encoders that are causal and pad-invariant.

    `fit` gives an objective that reads "everywhere" windows instead of prefix samples (`data.windows.Windows`), and
    each target is learned once an epoch either way. Parts beside it in a sum read the newest position of the same pass.

    Args:
        part: the loss of one answer and its target; `SampledNextItem` for huge catalogs. It is given every learned
            position as a row of its own, with its one thought.

    Raises:
        InputTypeError: for a part that cannot be called.
        InputError: for a part that reads other views than the anchor, or prepares batches.
    """

    views = ("everywhere",)

    def __init__(self, part: Objective | None = None) -> None:
        self.part: Objective = NextItem() if part is None else part
        if not callable(self.part):
            raise InputTypeError(f"part must be callable as part(views, batch), got {part!r}")
        if not {*views_of(self.part)} <= {"anchor"} or hasattr(self.part, "prepare"):
            raise InputError(
                f"part must be the loss of one answer and its target, which reads the anchor alone and prepares nothing, "
                f"got {part!r}: add others to this one, NextItemEverywhere() + {part!r}"
            )

    def start(self, model: Recommender) -> None:
        """Refuse an encoder whose positions see later items.

        Raises:
            InputError: see `check_everywhere`.
        """
        check_everywhere(model.encoder)
        super().start(model)

    def __call__(self, views: Views, batch: Batch) -> tuple[Tensor, Terms]:
        """The part's loss, a mean over the step's targets, and its terms.

        Raises:
            InputError: for a batch without `targets`, or views without the states.
        """
        everywhere, targets = views.everywhere, batch.targets
        if targets is None:
            raise InputError("this batch has no targets of inner positions: make it of Windows.of(samples)")
        if everywhere is None:
            raise InputError('the states of all positions were not encoded: name "everywhere" in the part\'s `views`')
        packing = everywhere.packing
        # other views' rows come after the anchor's, and nothing is learned there
        others = len(packing.offsets) - 1 - len(batch)
        columns = targets.shape[1] - 1 - packing.slots
        target = F.pad(targets, (0, 0, 0, others))[packing.rows, columns]
        learned = target.nonzero()[:, 0]
        rows = packing.rows[learned]
        answers = Views(views.model, views.depth, {"anchor": Thoughts(everywhere.states[learned][None])})
        loss, terms = call(self.part, answers, Batch(batch.history[rows], target[learned], batch.rows[rows], batch.key))
        if batch.share is None:
            return loss, terms
        # a process will weigh as much as it has of the step's rows; what counts here is what it has of its targets
        count = torch.tensor(float(len(learned)), dtype=torch.float64, device=target.device)
        factor = count / batch.share.add_up(count) / (batch.share.weight or 1.0)
        return loss * factor, {name: value * factor for name, value in terms.items()}

    def __repr__(self) -> str:
        return f"NextItemEverywhere({'' if isinstance(self.part, NextItem) else repr(self.part)})"
