"""What tells two encoders apart whose parameters are named and shaped alike: heads, activations, flags.

Each module's plain public attributes are its settings. One that changes after the model is built, such as a counter, is
no setting, and neither is what changes no answer: dropout, where it is computed, what is recomputed.
"""

from __future__ import annotations

import math
import types
from collections.abc import Mapping
from typing import Any

from torch import nn

from latentloop.adapt import Adapted

__all__ = ["Settings", "difference", "encoder_settings", "unchanged"]

Settings = dict[str, dict[str, Any]]
"""Plain values by module and attribute."""

_CLASS = "class"  # no attribute can be called so
_CHANGES_NO_ANSWER = {
    "training",
    "p",
    "inplace",
    "checkpoint_steps",
    "gradient_checkpointing",
    "enable_nested_tensor",
    "use_nested_tensor",
    "mask_check",
}
_SIZES = {"in_features", "out_features", "num_embeddings", "embedding_dim", "normalized_shape", "kernel_size"}
"""What the shapes of weights say already."""


def encoder_settings(encoder: nn.Module) -> Settings:
    """The settings of an encoder's modules, as JSON has them; modules without any are left out.

    They are the public attributes that are a bool, a number, a short text, a tuple of those, or a named function, of
    which the name is taken. A module without parameters or parts, such as an activation, is also told by its class, and
    an adapted one by whether it is called with a causal mask.

    Args:
        encoder: any module.
    """
    named = ((name, _settings(module)) for name, module in encoder.named_modules())
    return {name: found for name, found in named if found}


def unchanged(before: Settings, now: Settings) -> Settings:
    """The settings that are still what they were; modules without any are left out.

    Args:
        before: settings when the model was built.
        now: settings of the same encoder later.
    """
    same = {
        module: {name: value for name, value in found.items() if name in was and _same(was[name], value)}
        for module, found in now.items()
        if (was := before.get(module))
    }
    return {module: found for module, found in same.items() if found}


def difference(saved: Mapping[str, Mapping[str, Any]], now: Settings) -> str | None:
    """The first setting that both have and that differs, in words; None where there is none.

    Args:
        saved: settings as JSON gave them back.
        now: settings of the encoder at hand.
    """
    for module, found in now.items():
        was = saved.get(module, {})
        for name, value in found.items():
            if name in was and not _same(was[name], value):
                return f"{name} of {module or 'the encoder'} was {was[name]!r} and is {value!r}"
    return None


def _settings(module: nn.Module) -> dict[str, Any]:
    found = {
        name: value
        for name, attribute in vars(module).items()
        if not name.startswith("_") and name not in _SIZES and _matters(name)
        if (value := _plain(attribute)) is not None
    }
    kind = type(module).__name__
    leaf = not module._modules and not module._parameters and not module._buffers
    if leaf and "drop" not in kind.lower():
        found[_CLASS] = kind
    if isinstance(module, Adapted):
        found["causal"] = module.call.facts.causal  # no attribute of the module's own shows it
    return found


def _matters(name: str) -> bool:
    return name not in _CHANGES_NO_ANSWER and not name.endswith(("dropout", "device"))


def _plain(value: Any) -> Any:
    """A value for JSON, which has neither infinity nor NaN; None for what is no setting."""
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else str(float(value))
    if isinstance(value, bool | int):
        return value
    if isinstance(value, str):  # a path is another one elsewhere
        return value if len(value) <= 64 and not {"/", "\\"}.intersection(value) else None
    if isinstance(value, types.FunctionType | types.BuiltinFunctionType):
        return value.__name__ if value.__name__.isidentifier() else None  # every lambda has the same name
    if isinstance(value, tuple):
        parts = [_plain(part) for part in value[:9]]
        return parts if 0 < len(parts) < 9 and None not in parts else None
    return None


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=1e-9)  # one that was computed may differ in its last bit elsewhere
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_same, one, other))
    return bool(one == other)
