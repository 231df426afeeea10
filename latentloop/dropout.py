"""Modes of a module for a while: evaluating, dropout off in whatever mode, and replayed where a checkpoint recomputes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from torch import nn

__all__ = ["dropout_off", "evaluating", "replayed_modes"]

# These choose another kernel by their mode (cuDNN's RNNs cannot be differentiated in eval mode, the transformer's fast
# path gives other last bits), so their mode stays and only their own dropout goes.
_OWN_DROPOUT = (nn.RNNBase, nn.MultiheadAttention)
_KEEP_MODE = (*_OWN_DROPOUT, nn.TransformerEncoder, nn.TransformerEncoderLayer)

_Modes = list[tuple[nn.Module, bool, float | None]]


@contextmanager
def dropout_off(module: nn.Module) -> Iterator[None]:
    """Switch dropout off inside the block and give every mode back afterwards.

    Args:
        module: it and all its submodules; batch norms use their running statistics meanwhile, as for an answer.
    """
    before = _modes(module)
    for part in module.modules():
        if isinstance(part, _OWN_DROPOUT):
            part.dropout = 0.0
        elif not isinstance(part, _KEEP_MODE):
            part.training = False
    try:
        yield
    finally:
        _restore(before)


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Eval mode inside the block; afterwards every submodule is in the mode it was in: what was frozen stays frozen.

    Args:
        module: it is left by its own `train`, because some modules do more there than set a flag.
    """
    before = _modes(module)
    module.eval()
    try:
        yield
    finally:
        module.train(before[0][1])
        _restore(before)


def replayed_modes(module: nn.Module) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """For `torch.utils.checkpoint`'s `context_fn`: recompute under the modes that the forward pass ran under."""
    return nullcontext(), _under(_modes(module))


def _modes(module: nn.Module) -> _Modes:
    return [
        (part, part.training, part.dropout if isinstance(part, _OWN_DROPOUT) else None) for part in module.modules()
    ]


def _restore(modes: _Modes) -> None:
    for part, training, dropout in modes:
        part.training = training
        if dropout is not None:
            part.dropout = dropout  # type: ignore[assignment]  # a float attribute of RNNs and attention


@contextmanager
def _under(modes: _Modes) -> Iterator[None]:
    now = [(part, part.training, None if dropout is None else part.dropout) for part, _, dropout in modes]
    _restore(modes)
    try:
        yield
    finally:
        _restore(now)  # type: ignore[arg-type]  # as above
