"""Training objectives; each part is `part(views, batch) -> (loss, terms)` and works alone or in a sum."""

from __future__ import annotations

from latentloop.objectives.advantages import advantages
from latentloop.objectives.compose import Sum, Weighted
from latentloop.objectives.contract import Objective, views_of
from latentloop.objectives.info_nce import info_nce, symmetric_info_nce
from latentloop.objectives.next_item import NextItem, SampledNextItem
from latentloop.objectives.next_item_everywhere import NextItemEverywhere
from latentloop.objectives.rewards import NDCGReward, RecallReward, Reward
from latentloop.objectives.rpt import RPT
from latentloop.objectives.selection import select
from latentloop.objectives.spt import SPT
from latentloop.objectives.step import StepAlignment
from latentloop.objectives.trajectory import TrajectoryAlignment
from latentloop.objectives.views import Views, encode_views

__all__ = [
    "RPT",
    "SPT",
    "NDCGReward",
    "NextItem",
    "NextItemEverywhere",
    "Objective",
    "RecallReward",
    "Reward",
    "SampledNextItem",
    "StepAlignment",
    "Sum",
    "TrajectoryAlignment",
    "Views",
    "Weighted",
    "advantages",
    "encode_views",
    "info_nce",
    "select",
    "symmetric_info_nce",
    "views_of",
]
