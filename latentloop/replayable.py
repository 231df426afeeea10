"""Whether a step's thoughts may be replayed from a recording: only where nothing that a user changed could be missed.

A recording holds kernels and the memory they work on. What Python does beside them (a method that was overridden, a
hook, a draw of Python's own) happened once, when it was made.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import nn

from latentloop.blocks.facts import facts, made_here
from latentloop.modes.quick_dropout import QuickDropout
from latentloop.recurrence import RecurrentDepth
from latentloop.single_pass import SinglePass

if TYPE_CHECKING:
    from latentloop.recommender import Recommender

__all__ = ["replayable"]

_HOOKS = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_backward_hooks",
    "_backward_pre_hooks",
    "_post_accumulate_grad_hooks",
)


def replayable(model: Recommender) -> bool:
    """Whether a model thinks as ours do, with parts that are capturable, and nothing hooked onto them."""
    from latentloop.recommender import Recommender

    encoder = model.encoder
    methods = [(getattr(model, name), getattr(Recommender, name)) for name in ("think", "think_everywhere")]
    return (
        all(getattr(found, "__func__", None) is ours for found, ours in methods)
        and type(model.input_norm) is nn.LayerNorm
        and type(model.input_dropout) is QuickDropout
        and type(encoder) in (RecurrentDepth, SinglePass)
        and facts(encoder).capturable
        and _sound(encoder)
        and not any(getattr(part, hooks, None) for part in (*model.modules(), *model.parameters()) for hooks in _HOOKS)
    )


def _sound(part: Any) -> bool:
    """Whether what is inside is ours or torch's, or declares itself capturable."""
    if made_here(part) or type(part).__module__.startswith("torch.nn."):
        return all(map(_sound, part.children()))
    return facts(part).capturable
