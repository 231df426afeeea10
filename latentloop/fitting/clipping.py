"""Clipping of gradients by their norm, row-sparse ones among them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from accelerate import Accelerator

__all__ = ["clip_gradients"]


def clip_gradients(accelerator: Accelerator, parameters: Iterable[nn.Parameter], limit: float) -> Tensor:
    """Scale all gradients so that their common norm is at most `limit`; the norm before, 0-d.

    Args:
        accelerator: clips where all gradients are dense; torch's clipping takes no others.
        parameters: where a gradient is sparse it is coalesced, so that a row looked up twice counts as its sum.
        limit: the largest norm.
    """
    parameters, values = list(parameters), list[Tensor]()
    for parameter in parameters:
        if parameter.grad is not None and parameter.grad.is_sparse:
            parameter.grad = parameter.grad.coalesce()
        if parameter.grad is not None:
            values.append(parameter.grad.values() if parameter.grad.is_sparse else parameter.grad)
    if not any(parameter.grad is not None and parameter.grad.is_sparse for parameter in parameters):
        return torch.as_tensor(accelerator.clip_grad_norm_(parameters, limit))
    norm = torch.nn.utils.get_total_norm(values)
    scale = (limit / (norm + 1e-6)).clamp(max=1.0)  # as torch does
    for value in values:  # a sparse gradient's values share its memory
        value.mul_(scale)
    return norm
