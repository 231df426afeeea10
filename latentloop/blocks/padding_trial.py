"""Whether a user's module survives left padding, tried once on one row of which the older half is padding.

With a causal mask and a padding mask, a padded query may look at nothing: softmax of a row of -inf is NaN. The next layer
takes it up, and so does the backward pass, where 0 x NaN reaches weights that every position shares. What NaN stays at
padded positions is thrown away; what reaches a real position, or a weight, must be mended or refused.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from latentloop.blocks.context import Context
from latentloop.blocks.safe_attention import safe_softmax
from latentloop.errors import InputError
from latentloop.modes.dropout import dropout_off

__all__ = ["Remedy", "aside", "try_padding"]

logger = logging.getLogger(__name__)

Run = Callable[[nn.Module, Tensor, Context], Tensor]

_WAY_OUT = "let every query see at least itself"


@dataclass(frozen=True)
class Remedy:
    """What a module needs under left padding.

    Args:
        softmax: a softmax over nothing but -inf looks at everything instead; it is a padded query's.
        gradient: NaN that comes back to a padded position is dropped there.
    """

    softmax: bool = False
    gradient: bool = False

    def around(self) -> AbstractContextManager[None]:
        """The context that the module is called in."""
        return safe_softmax() if self.softmax else nullcontext()

    def input(self, x: Float[Tensor, "*n d"], padding: Bool[Tensor, "B L"] | None) -> Float[Tensor, "*n d"]:
        """x, with a gradient that NaN of padded positions does not leave by."""
        if not self.gradient or padding is None or not x.requires_grad:
            return x
        branch = x.view_as(x)  # the hook sees this use of x only, not what others add
        branch.register_hook(lambda grad: grad.masked_fill(padding[..., None] & ~grad.isfinite(), 0.0))
        return branch


@dataclass(frozen=True)
class _Found:
    """Where something is NaN or infinite."""

    padded: bool  # an answer at a padded position, or its gradient
    real: bool  # an answer at a real position
    backward: bool  # the gradient of a weight or of a real position

    @property
    def fatal(self) -> bool:
        return self.real or self.backward


def try_padding(module: nn.Module, run: Run, x: Float[Tensor, "B L d"]) -> Remedy:
    """Run one row forwards and backwards, dropout off, and say what the module needs; random draws are given back.

    Args:
        module: what is tried.
        run: how it is called.
        x: rows as it gets them, at least one of at least two positions.

    Raises:
        InputError: where real positions or the weights' gradients are NaN and no remedy helps.
    """
    length, device = x.shape[1], x.device
    padding = torch.arange(length, device=device)[None] < length // 2
    try:
        with aside(module, device):
            row = x[:1].detach().clone()
            found = _look(module, run, row, padding)
            if not (found.padded or found.fatal):
                return Remedy()
            full = torch.where(padding[..., None], row.flip(1), row)  # what lies at padded positions may be zeros
            if _look(module, run, full, torch.zeros_like(padding)).fatal:
                return Remedy()  # whatever is NaN without padding too is none of its doing
            with safe_softmax():
                mended = _look(module, run, row, padding)
    except Exception:  # the call itself, which follows, fails as well and says why
        return Remedy()
    name = type(module).__name__
    softmax = found.fatal or not mended.padded
    best = mended if softmax else found
    if best.real:
        raise InputError(
            f"{name} gives NaN or infinity at real positions of left-padded rows, and none without padding: {_WAY_OUT}, "
            "and divide by no count that padding makes zero"
        )
    if best.backward:
        raise InputError(
            f"{name} gives NaN or infinity at padded positions of left-padded rows, which reaches its weights in the "
            f"backward pass: {_WAY_OUT}, and divide by nothing that padding makes zero; nan_to_num behind a softmax is "
            "too late for the gradient of an additive mask"
        )
    if softmax:
        logger.warning(
            "%s gives NaN at padded positions, whose queries may look at nothing: its softmax lets them look at "
            "everything from now on, which changes no real position; %s to spare the check at each call",
            name,
            _WAY_OUT,
        )
    return Remedy(softmax=softmax, gradient=best.padded)


def _look(module: nn.Module, run: Run, row: Tensor, padding: Tensor) -> _Found:
    """One row, (1, L, d), forwards and backwards."""
    context = Context(padding, (~padding).sum(1), (~padding).long())
    real = ~padding[..., None]
    with torch.no_grad():
        broken = ~run(module, row, context).isfinite()
    padded, answers = bool((broken & ~real).any()), bool((broken & real).any())
    weights = [parameter for parameter in module.parameters() if parameter.requires_grad]
    # a checkpoint around the call must not count what is saved here
    with torch.enable_grad(), saved_tensors_hooks(lambda tensor: tensor, lambda tensor: tensor):
        x = row.clone().requires_grad_()
        answer = run(module, x, context).masked_fill(~real, 0.0)
        if not answer.requires_grad:
            return _Found(padded, answers, False)
        to_x, *to_weights = torch.autograd.grad(answer.sum(), [x, *weights], allow_unused=True)
    lost = torch.zeros_like(broken) if to_x is None else ~to_x.isfinite()
    backward = bool((lost & real).any()) or any(not bool(g.isfinite().all()) for g in to_weights if g is not None)
    return _Found(padded or bool((lost & ~real).any()), answers, backward)


@contextmanager
def aside(module: nn.Module, device: torch.device) -> Iterator[None]:
    """Nothing of what happens here shows outside: random draws, modes, autocast's copies of weights, compilation.

    Args:
        module: its dropout is off meanwhile.
        device: whose random draws are given back, beside the CPU's.
    """
    eager = torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else nullcontext()
    devices = [device] if device.type == "cuda" else []
    with torch.inference_mode(False), torch.random.fork_rng(devices), dropout_off(module), eager:
        try:
            yield
        finally:
            torch.clear_autocast_cache()  # copies made without gradients would leave the weights without theirs
