"""Self-supervised pre-training (LARES eq. 10)."""

from __future__ import annotations

from latentloop.checks import zero_or_more
from latentloop.objectives.compose import Sum
from latentloop.objectives.contract import Objective
from latentloop.objectives.info_nce import Similarity
from latentloop.objectives.next_item import NextItem
from latentloop.objectives.step import StepAlignment
from latentloop.objectives.trajectory import Positives, TrajectoryAlignment

__all__ = ["SPT"]


class SPT(Sum):
    """L = L_rec + alpha L_TLA + gamma L_SLA: the sum of `NextItem`, `TrajectoryAlignment` and `StepAlignment`.

    A part of weight 0 is left out, and with it the encoding of the views that only it reads.

    Args:
        alpha: weight of the trajectory-level alignment, finite and at least 0.
        gamma: weight of the step-level alignment, finite and at least 0.
        temperature: tau of both.
        similarity: "cosine" or "dot".
        positives: "same_target" or "self", see `TrajectoryAlignment`.
        mask_same_target: see `TrajectoryAlignment`.
        next_item: the recommendation loss; `SampledNextItem` for huge catalogs.

    Raises:
        InputError: for a value out of range.
    """

    def __init__(
        self,
        *,
        alpha: float = 0.1,
        gamma: float = 0.1,
        temperature: float = 0.2,
        similarity: Similarity = "cosine",
        positives: Positives = "same_target",
        mask_same_target: bool = True,
        next_item: Objective | None = None,
    ) -> None:
        for name, weight in (("alpha", alpha), ("gamma", gamma)):
            zero_or_more(name, weight)
        trajectory = TrajectoryAlignment(
            positives=positives, temperature=temperature, similarity=similarity, mask_same_target=mask_same_target
        )
        step = StepAlignment(temperature=temperature, similarity=similarity, mask_same_target=mask_same_target)
        parts: list[Objective] = [NextItem() if next_item is None else next_item]
        if alpha > 0:
            parts.append(alpha * trajectory)
        if gamma > 0:
            parts.append(gamma * step)
        super().__init__(parts)
