"""Trajectory-level alignment (LARES eq. 8): two ways of thinking towards the same target end in the same place."""

from __future__ import annotations

from typing import Literal, get_args

from torch import Tensor

from latentloop.checks import above_zero, one_of
from latentloop.data.batch import Batch
from latentloop.objectives.compose import Composable
from latentloop.objectives.contract import Terms
from latentloop.objectives.info_nce import Similarity, align
from latentloop.objectives.shown import shown
from latentloop.objectives.views import Views

__all__ = ["Positives", "TrajectoryAlignment"]

Positives = Literal["same_target", "self"]


class TrajectoryAlignment(Composable):
    """L_TLA = 1/2 [F(p, p^, {p^}) + F(p^, p, {p})], p^ a positive's last thought at the same depth.

    Args:
        positives: "same_target": another sequence with the same target, or the sequence again where there is none;
            "self": always the sequence again, under its own T_0 and dropout.
        temperature: tau.
        similarity: "cosine" or "dot".
        mask_same_target: leave rows with the same target out of each other's negatives; the paper is silent.

    Raises:
        InputError: for a value out of range.
    """

    touches_few_items = True

    def __init__(
        self,
        *,
        positives: Positives = "same_target",
        temperature: float = 0.2,
        similarity: Similarity = "cosine",
        mask_same_target: bool = True,
    ) -> None:
        self.positives = one_of("positives", positives, get_args(Positives))
        self.temperature = above_zero("temperature", temperature)
        one_of("similarity", similarity, get_args(Similarity))
        self.similarity: Similarity = similarity
        self.mask_same_target = bool(mask_same_target)

    @property
    def views(self) -> tuple[str, ...]:
        """The anchor and the positives."""
        return ("anchor", self.positives)

    def __call__(self, views: Views, batch: Batch) -> tuple[Tensor, Terms]:
        """The mean over the step's rows on all processes; term `trajectory`."""
        loss = align(
            views["anchor"].final,
            views[self.positives].final,
            batch,
            temperature=self.temperature,
            similarity=self.similarity,
            mask_same_target=self.mask_same_target,
        )
        return loss, {"trajectory": loss.detach()}

    def __repr__(self) -> str:
        return shown(self, "positives", "temperature")
