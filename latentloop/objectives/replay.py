"""Which objectives leave replayed thoughts as they must be left."""

from __future__ import annotations

from typing import Any

from latentloop.facts import made_here
from latentloop.objectives.compose import Sum, Weighted

__all__ = ["may_replay"]


def may_replay(objective: Any) -> bool:
    """Whether all parts are ours: they differentiate a step's thoughts once, and keep none of them.

    What is replayed lies in memory that the next step writes to.
    """
    if isinstance(objective, Sum):
        return all(map(may_replay, objective.parts))
    if isinstance(objective, Weighted):
        return may_replay(objective.part)
    inner = getattr(objective, "part", None)  # of `NextItemEverywhere`
    return made_here(objective) and (inner is None or may_replay(inner))
