"""Step-level alignment (LARES eq. 9): a thought on the way agrees with the last one."""

from __future__ import annotations

from typing import get_args

import torch
from torch import Tensor

from latentloop.checks import above_zero, one_of
from latentloop.data.batch import Batch
from latentloop.objectives.compose import Composable
from latentloop.objectives.contract import Terms
from latentloop.objectives.info_nce import Similarity, align
from latentloop.objectives.shown import shown
from latentloop.objectives.views import Views
from latentloop.randomness import fold, generator

__all__ = ["StepAlignment"]


class StepAlignment(Composable):
    """L_SLA = 1/2 [F(t_b, t_k, {t_k}) + F(t_k, t_b, {t_b})], b ~ Unif{1..k-1}; zero, but connected, at k = 1.

    Args:
        temperature: tau.
        similarity: "cosine" or "dot".
        mask_same_target: leave rows with the same target out of each other's negatives; the paper is silent.

    Raises:
        InputError: for a value out of range.
    """

    views = ("anchor",)
    touches_few_items = True

    def __init__(
        self,
        *,
        temperature: float = 0.2,
        similarity: Similarity = "cosine",
        mask_same_target: bool = True,
    ) -> None:
        self.temperature = above_zero("temperature", temperature)
        one_of("similarity", similarity, get_args(Similarity))
        self.similarity: Similarity = similarity
        self.mask_same_target = bool(mask_same_target)

    def __call__(self, views: Views, batch: Batch) -> tuple[Tensor, Terms]:
        """The mean over the step's rows on all processes; term `step`."""
        thoughts = views["anchor"]
        if thoughts.depth == 1:
            loss = (thoughts.final.float() * 0).sum()
        else:
            step = draw_step(batch.key, thoughts.depth)
            loss = align(
                thoughts.steps[step - 1],
                thoughts.final,
                batch,
                temperature=self.temperature,
                similarity=self.similarity,
                mask_same_target=self.mask_same_target,
            )
        return loss, {"step": loss.detach()}

    def __repr__(self) -> str:
        return shown(self, "temperature")


def draw_step(key: int, depth: int) -> int:
    """b ~ Unif{1..depth - 1}, a function of the step's key."""
    return int(torch.randint(1, depth, (), generator=generator(fold(key, "step"))))
