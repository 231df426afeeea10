"""Torch's attention modules, and hand-written ones, without NaN where a query may look at nothing.

With a causal mask and left padding the padded queries at a row's start see padding only. `nn.MultiheadAttention`
answers NaN there (weights asked for, or torch's inference fast path), and through the next layer, or through the
backward pass of the softmax, NaN reaches real positions. Such a query is a padded one, its answer is thrown away:
letting it look at everything changes no real position.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from einops import repeat
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from latentloop.modes.process_switch import FAST_PATH

__all__ = ["holds_attention", "safe_attention", "safe_softmax"]

_SOFTMAX = (
    *(F.softmax, torch.softmax, torch.special.softmax, Tensor.softmax),
    *(F.log_softmax, torch.log_softmax, torch.special.log_softmax, Tensor.log_softmax),
)


def holds_attention(module: nn.Module) -> bool:
    """Whether an `nn.MultiheadAttention` works somewhere inside."""
    return any(isinstance(part, nn.MultiheadAttention) for part in module.modules())


@contextmanager
def safe_attention() -> Iterator[None]:
    """Within it, a fully masked query of `nn.MultiheadAttention` looks at everything instead of giving NaN."""
    with _OpenBlindQueries():
        if torch.is_grad_enabled():
            yield
            return
        # torch's fast path does not come by the function that the mode watches once a part of it is compiled
        with FAST_PATH:
            yield


@contextmanager
def safe_softmax() -> Iterator[None]:
    """Within it, softmax (or its logarithm) over nothing but -inf is uniform instead of NaN."""
    with _OpenBlindRows():
        yield


class _OpenBlindRows(TorchFunctionMode):
    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        dim = args[1] if len(args) > 1 else kwargs.get("dim")
        if func in _SOFTMAX and args and isinstance(dim, int):
            scores = args[0]
            blind = (scores == float("-inf")).all(dim, keepdim=True)
            args = (scores.masked_fill(blind, 0.0), *args[1:])
        return func(*args, **kwargs)


class _OpenBlindQueries(TorchFunctionMode):
    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.multi_head_attention_forward and kwargs.get("attn_mask") is not None:
            query, heads = args[0], args[4]
            mask = _additive(kwargs["attn_mask"], query)
            padding = kwargs.get("key_padding_mask")
            if padding is not None:
                padding = _additive(padding, query)
                mask = mask + (padding if padding.ndim == 1 else repeat(padding, "b s -> (b h) 1 s", h=heads))
            blind = (mask == float("-inf")).all(-1, keepdim=True)
            kwargs = {**kwargs, "attn_mask": mask.masked_fill(blind, 0.0), "key_padding_mask": None}
            if padding is not None:
                kwargs["is_causal"] = False  # the mask is no longer the causal one alone
        return func(*args, **kwargs)


def _additive(mask: Tensor, query: Tensor) -> Tensor:
    if mask.dtype != torch.bool:
        return mask.to(query.dtype)
    return torch.zeros_like(mask, dtype=query.dtype).masked_fill(mask, float("-inf"))
