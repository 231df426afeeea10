"""Latent reasoning with recurrent depth for sequential recommendation.

Public names load on first use, so that `from latentloop import RecurrentDepth` needs torch, einops and jaxtyping only.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING

from latentloop.lazily import lazily

if TYPE_CHECKING:
    from latentloop.adapt import adapt
    from latentloop.data import global_time, k_core, leave_one_out, load_interactions
    from latentloop.depth import FixedDepth, LogNormalPoisson, UniformDepth
    from latentloop.errors import InputError, InputTypeError
    from latentloop.evaluation import evaluate
    from latentloop.followers import Followers
    from latentloop.measures.significance import compare
    from latentloop.objectives import RPT, SPT, NextItem, StepAlignment, TrajectoryAlignment
    from latentloop.per_step import PerStep
    from latentloop.recommender import Recommender
    from latentloop.recurrence import RecurrentDepth, Thoughts
    from latentloop.repeats import repeats
    from latentloop.runs.directory import RunDirectory
    from latentloop.training import fit
    from latentloop.two_stage import two_stage

__version__ = "0.1.0"

__all__ = [
    "RPT",
    "SPT",
    "FixedDepth",
    "Followers",
    "InputError",
    "InputTypeError",
    "LogNormalPoisson",
    "NextItem",
    "PerStep",
    "Recommender",
    "RecurrentDepth",
    "RunDirectory",
    "StepAlignment",
    "Thoughts",
    "TrajectoryAlignment",
    "UniformDepth",
    "__version__",
    "adapt",
    "compare",
    "evaluate",
    "fit",
    "global_time",
    "k_core",
    "leave_one_out",
    "load_interactions",
    "repeats",
    "two_stage",
]

_HOME = {
    "RPT": "objectives",
    "SPT": "objectives",
    "FixedDepth": "depth",
    "Followers": "followers",
    "InputError": "errors",
    "InputTypeError": "errors",
    "LogNormalPoisson": "depth",
    "NextItem": "objectives",
    "PerStep": "per_step",
    "Recommender": "recommender",
    "RecurrentDepth": "recurrence",
    "RunDirectory": "runs.directory",
    "StepAlignment": "objectives",
    "Thoughts": "recurrence",
    "TrajectoryAlignment": "objectives",
    "UniformDepth": "depth",
    "adapt": "adapt",
    "compare": "measures.significance",
    "evaluate": "evaluation",
    "fit": "training",
    "global_time": "data",
    "k_core": "data",
    "leave_one_out": "data",
    "load_interactions": "data",
    "repeats": "repeats",
    "two_stage": "two_stage",
}


__getattr__, __dir__ = lazily(__name__, _HOME)


class _Package(ModuleType):
    def __setattr__(self, name: str, value: object) -> None:
        # Importing latentloop.adapt makes Python bind that module here, where `adapt` is the function of that name.
        if not (name in _HOME and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
