"""Whether a module of (x, lengths) takes rows that end with their newest token, or that start with their oldest one.

Lengths do not say on which side the padding lies. Ours lies left; torch's packed sequences, and most modules around them,
have it right: on our rows such a module would read the padding and never the newest items, and say nothing. So one
half-padded row is tried in both layouts, and compared with the answers to its real half alone.
"""

from __future__ import annotations

import copy
import logging

import torch
from jaxtyping import Float
from torch import Tensor, nn

from latentloop.blocks.calls import PlainCall, TurnedCall
from latentloop.blocks.context import Context
from latentloop.blocks.padding_trial import aside

__all__ = ["try_layout"]

logger = logging.getLogger(__name__)

_CLOSED = 1e-3  # a weight this small hides what lies behind it


def try_layout(module: nn.Module, call: PlainCall, x: Float[Tensor, "B L d"]) -> PlainCall | TurnedCall:
    """Choose the layout in which padding changes nothing, tried on a copy of the module; random draws are given back.

    Args:
        module: takes lengths, and no mask.
        call: how it is called on rows as they are; stays where that is right, or turned rows are no better.
        x: rows as it gets them, at least one of at least two positions.
    """
    turned = TurnedCall(call)
    try:
        better = _better(module, call, turned, x)
    except Exception:
        # a kernel that autocast chooses may refuse the one row of the trial, and take rows of several lengths
        weight = next(filter(Tensor.is_floating_point, module.parameters()), x)
        try:
            with torch.autocast(x.device.type, enabled=False):
                better = _better(module, call, turned, x[:1].to(weight.dtype))
        except Exception:  # the call itself, which follows, fails as well and says why
            return call
    if not better:
        return call
    logger.warning(
        "%s takes lengths and reads padding, or not the newest items, in rows that end with them: it is given rows that "
        "start with their oldest item from now on, as torch's packed sequences have them",
        type(module).__name__,
    )
    return turned


def _better(module: nn.Module, call: PlainCall, turned: TurnedCall, x: Float[Tensor, "B L d"]) -> bool:
    """Whether turned rows are answered rightly, and rows as they are not."""
    with aside(module, x.device), torch.no_grad():  # in this order: leaving inference mode switches gradients on
        probe = _opened(module)
        row = torch.randn(1, x.shape[1], x.shape[2], device=x.device, dtype=x.dtype)
        real = row[:, x.shape[1] // 2 :]
        alone = call(probe, real, _context(real.shape[1], real))
        return not _answers(probe, call, row, alone) and _answers(probe, turned, row, alone)


def _opened(module: nn.Module) -> nn.Module:
    """A copy in which no gate, scale or last layer is closed, as they start in many a module."""
    probe = copy.deepcopy(module)
    for weight in probe.parameters():
        if weight.is_floating_point() and bool((weight.abs() < _CLOSED).all()):
            weight.uniform_(0.5, 1.5)
    return probe


def _answers(module: nn.Module, call: PlainCall | TurnedCall, row: Tensor, alone: Tensor) -> bool:
    """Whether the real half of `row` is answered as it is alone."""
    count = alone.shape[1]
    try:
        answer = call(module, row, _context(count, row))
    except Exception:  # it may fit the other layout
        return False
    if answer.shape != row.shape:
        return False
    return torch.allclose(answer[:, -count:], alone, rtol=1e-3, atol=1e-4 * float(alone.abs().max()))


def _context(count: int, row: Tensor) -> Context:
    """One row of which the newest `count` positions are real."""
    padding = torch.arange(row.shape[1], device=row.device)[None] < row.shape[1] - count
    return Context(padding, (~padding).sum(1), (~padding).long())
