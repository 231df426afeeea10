"""Which objectives leave replayed thoughts as they must be left."""

from __future__ import annotations

from typing import Any

from latentloop.blocks.facts import made_here
from latentloop.objectives.compose import parts_of

__all__ = ["may_replay"]


def may_replay(objective: Any) -> bool:
    """Whether all parts are ours: they differentiate a step's thoughts once, and keep none of them.

    What is replayed lies in memory that the next step writes to.
    """
    return made_here(objective) and all(map(may_replay, parts_of(objective)))
