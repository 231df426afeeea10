"""Modes of a module for a while: evaluating, and dropout off in whatever mode."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from torch import nn

from latentloop.modes.process_switch import CUDNN, FAST_PATH

__all__ = ["Modes", "dropout_off", "evaluating", "may_drop", "modes_of", "restore", "training_kernels"]

# These choose another kernel by their mode (cuDNN's RNNs cannot be differentiated in eval mode, the transformer's fast
# path gives other last bits), so their mode stays and only their own dropout goes. But the code of a subclass may drop
# by its mode: there the mode goes, and the kernels that it would choose are off meanwhile.
_OWN_DROPOUT = (nn.RNNBase, nn.MultiheadAttention)
_RANDOM = (nn.RReLU, nn.FractionalMaxPool2d, nn.FractionalMaxPool3d)
_KEEP_MODE = (*_OWN_DROPOUT, nn.TransformerEncoder, nn.TransformerEncoderLayer)
# a subclass that only has these computes alike
_SETTING_UP = {"__init__", "__repr__", "extra_repr", "reset_parameters", "__dict__", "__weakref__"}
_COMPILED = "_compiled_call_impl"  # of `module.compile()`

Modes = list[tuple[nn.Module, bool, float | None]]
"""Each module, whether it trains, and its own dropout where only that is ever switched."""

_LOCK = threading.RLock()
_EVALUATED: dict[int, tuple[int, Modes]] = {}
"""By `id`, how many are within `evaluating` of a module, and the modes before the first; no longer than anyone is."""


@contextmanager
def dropout_off(module: nn.Module) -> Iterator[None]:
    """Switch dropout off inside the block and give every mode back afterwards.

    Args:
        module: it and all its submodules; batch norms use their running statistics meanwhile, as for an answer.
    """
    before = modes_of(module)
    try:
        for part, _, rate in before:
            if rate is not None:
                part.dropout = 0.0  # type: ignore[assignment]  # a float attribute of RNNs and attention
            if not isinstance(part, _KEEP_MODE) or _has_own_code(part):
                part.training = False
        with training_kernels(module):
            yield
    finally:
        restore(before)


@contextmanager
def training_kernels(module: nn.Module) -> Iterator[None]:
    """Within it, parts that `dropout_off` had to put in eval mode compute as they do in training mode.

    Args:
        module: it and all its submodules, in the modes of the pass that is made within.
    """
    switched = [p for p in module.modules() if isinstance(p, _KEEP_MODE) and not p.training and _has_own_code(p)]
    with ExitStack() as kernels:
        if any(isinstance(part, nn.RNNBase) for part in switched):
            kernels.enter_context(CUDNN)
        if any(not isinstance(part, nn.RNNBase) for part in switched):
            kernels.enter_context(FAST_PATH)
        yield


def _has_own_code(part: nn.Module) -> bool:
    """Whether anything but torch's own code may run when a module of torch, or of a class made from it, is called."""
    patched = any(
        callable(value) and hasattr(type(part), name) for name, value in vars(part).items() if name != _COMPILED
    )
    if patched or part._forward_hooks or part._forward_pre_hooks:
        return True
    kinds = [kind for kind in type(part).__mro__ if kind is not object and not kind.__module__.startswith("torch.")]
    own = {name: value for kind in kinds for name, value in vars(kind).items() if name not in _SETTING_UP}
    return any(hasattr(value, "__get__") for value in own.values())  # functions, and what else binds to an instance


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Eval mode inside the block; afterwards every submodule is in the mode it was in: what was frozen stays frozen.

    Several threads may be within: the last one that leaves gives the modes back.

    Args:
        module: it is left by its own `train`, because some modules do more there than set a flag.
    """
    with _LOCK:
        modes = modes_of(module)
        inside, before = _EVALUATED.get(id(module), (0, modes))
        if module.training:  # somebody trains it since the first came: that is what it goes back to
            before = modes
        module.eval()
        _EVALUATED[id(module)] = inside + 1, before
    try:
        yield
    finally:
        with _LOCK:
            inside, before = _EVALUATED.pop(id(module))
            if inside > 1:
                _EVALUATED[id(module)] = inside - 1, before
            else:
                module.train(before[0][1])
                restore(before)


def may_drop(module: nn.Module) -> bool:
    """Whether two passes in training mode may differ: some rate is above 0, or some code is neither torch's nor ours."""
    for part in module.modules():
        if isinstance(part, _RANDOM) or part._forward_hooks or part._forward_pre_hooks:
            return True
        rates = [rate for name, rate in vars(part).items() if name == "p" or "drop" in name]
        if any(isinstance(rate, int | float) and rate > 0 for rate in rates):
            return True
        if not type(part).__module__.startswith(("torch.nn.", "latentloop.")):
            return True
    return False


def modes_of(module: nn.Module) -> Modes:
    """The modes that `restore` gives back."""
    return [(part, part.training, _rate(part)) for part in module.modules()]


def _rate(part: nn.Module) -> float | None:
    rate = getattr(part, "dropout", None) if isinstance(part, _OWN_DROPOUT) else None
    return rate if isinstance(rate, int | float) else None  # a subclass may have a module of that name


def restore(modes: Modes) -> None:
    """Give every module its mode of `modes_of` back."""
    for part, training, dropout in modes:
        part.training = training
        if dropout is not None:
            part.dropout = dropout  # type: ignore[assignment]  # a float attribute of RNNs and attention
