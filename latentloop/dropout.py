"""Modes of a module for a while: evaluating, and dropout off in whatever mode."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

__all__ = ["Modes", "dropout_off", "evaluating", "modes_of", "restore"]

# These choose another kernel by their mode (cuDNN's RNNs cannot be differentiated in eval mode, the transformer's fast
# path gives other last bits), so their mode stays and only their own dropout goes.
_OWN_DROPOUT = (nn.RNNBase, nn.MultiheadAttention)
_KEEP_MODE = (*_OWN_DROPOUT, nn.TransformerEncoder, nn.TransformerEncoderLayer)

Modes = list[tuple[nn.Module, bool, float | None]]
"""Each module, whether it trains, and its own dropout where only that is ever switched."""


@contextmanager
def dropout_off(module: nn.Module) -> Iterator[None]:
    """Switch dropout off inside the block and give every mode back afterwards.

    Args:
        module: it and all its submodules; batch norms use their running statistics meanwhile, as for an answer.
    """
    before = modes_of(module)
    for part in module.modules():
        if isinstance(part, _OWN_DROPOUT):
            part.dropout = 0.0
        elif not isinstance(part, _KEEP_MODE):
            part.training = False
    try:
        yield
    finally:
        restore(before)


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Eval mode inside the block; afterwards every submodule is in the mode it was in: what was frozen stays frozen.

    Args:
        module: it is left by its own `train`, because some modules do more there than set a flag.
    """
    before = modes_of(module)
    module.eval()
    try:
        yield
    finally:
        module.train(before[0][1])
        restore(before)


def modes_of(module: nn.Module) -> Modes:
    """The modes that `restore` gives back."""
    return [
        (part, part.training, part.dropout if isinstance(part, _OWN_DROPOUT) else None) for part in module.modules()
    ]


def restore(modes: Modes) -> None:
    """Give every module its mode of `modes_of` back."""
    for part, training, dropout in modes:
        part.training = training
        if dropout is not None:
            part.dropout = dropout  # type: ignore[assignment]  # a float attribute of RNNs and attention
