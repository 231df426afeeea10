"""What tells two encoders apart whose parameters are named and shaped alike: heads, activations, flags.

Each module's plain public attributes are its settings, and what is plain in its configuration objects and in its buffers
that are not saved. One that changes after the model is built, such as a counter, is no setting, and neither is what changes no answer:
dropout, where it is computed, what is recomputed.
"""

from __future__ import annotations

import dataclasses
import math
import types
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from latentloop.adapt import Adapted
from latentloop.saving.weights import plain_name

__all__ = ["Settings", "difference", "encoder_settings", "scorer_settings", "unchanged"]

Settings = dict[str, dict[str, Any]]
"""Plain values by module and attribute."""

_CLASS = "class"  # no attribute can be called so
_CHANGES_NO_ANSWER = {
    "training",
    "p",
    "inplace",
    "checkpoint_steps",
    "grad_steps",
    "gradient_checkpointing",
    "enable_nested_tensor",
    "use_nested_tensor",
    "mask_check",
    "use_cache",
    "transformers_version",
    "id2label",
    "label2id",
}
_MANY = 256  # what holds more is data
_SIZES = {"in_features", "out_features", "num_embeddings", "embedding_dim", "normalized_shape", "kernel_size"}
"""What the shapes of weights say already."""


def encoder_settings(encoder: nn.Module) -> Settings:
    """The settings of an encoder's modules, as JSON has them; modules without any are left out.

    They are the public attributes that are a bool, a number, a short text, a tuple of those, a list of numbers, or a named
    function, of which the name is taken; those of a dict, of a dataclass, of a namespace, and of a Hugging Face
    configuration, where it is met first; and a number for each buffer that no file keeps, such as a table of rotations. A
    module without parameters or parts, such as an activation, is also told by its class, and an adapted one by whether it
    is called with a causal mask.

    Args:
        encoder: any module.
    """
    met: set[int] = set()
    named = (
        (plain_name(name), _settings(module, met)) for name, module in encoder.named_modules() if not _compiled(module)
    )
    return {name: found for name, found in named if found}


def scorer_settings(scorer: object) -> Settings:
    """The same of a scorer, which need not be a module: its class, and what is plain of its attributes."""
    found = {} if not hasattr(scorer, "__dict__") else _plain_of(vars(scorer), "")
    return {"scorer": {_CLASS: type(scorer).__name__, **found}}


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


def _compiled(module: nn.Module) -> bool:
    """Whether it only stands before the module that `torch.compile` was given, whose attributes it shows as its own."""
    return "_orig_mod" in module._modules


def _settings(module: nn.Module, met: set[int]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, attribute in vars(module).items():
        if name.startswith("_"):
            continue
        group = _group(attribute)
        if group is None:
            found |= _plain_of({name: attribute}, "")
        elif id(attribute) not in met:  # a configuration is shared by all parts
            met.add(id(attribute))
            found |= _plain_of(group, f"{name}.")
    for name in sorted(module._non_persistent_buffers_set):
        number = _number(module._buffers.get(name))
        if number is not None:
            found[name] = number
    kind = type(module).__name__
    leaf = not module._modules and not module._parameters and not module._buffers
    if leaf and "drop" not in kind.lower():
        found[_CLASS] = kind
    if isinstance(module, Adapted):
        found["causal"] = module.call.facts.causal  # no attribute of the module's own shows it
    return found


def _plain_of(values: Mapping[Any, Any], before: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in values.items():
        name = str(key)
        if name.startswith("_") or name in _SIZES or not _matters(name):
            continue
        if isinstance(value, dict) and len(value) <= _MANY:
            found |= _plain_of(value, f"{before}{name}.")
        elif (plain := _plain(value)) is not None:
            found[before + name] = plain
    return found


def _group(value: Any) -> Mapping[Any, Any] | None:
    """What a dict or a configuration object holds; None for anything else."""
    if isinstance(value, dict):
        return value if len(value) <= _MANY else {}
    if isinstance(value, nn.Module):
        return None
    if isinstance(value, types.SimpleNamespace):
        return vars(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if hasattr(value, "model_type") and callable(getattr(value, "to_dict", None)):
        made = value.to_dict()
        return made if isinstance(made, dict) else None
    return None


def _number(buffer: Tensor | None) -> str | None:
    """A few digits of what a buffer holds and where, so that rounding elsewhere makes no other; None where it is empty."""
    if buffer is None or buffer.is_meta or not buffer.numel():
        return None
    values = buffer.detach().cpu().flatten()
    values = (values.abs() if values.is_complex() else values).double().abs().nan_to_num(0.0, 1.0)
    places = torch.linspace(1, 2, len(values), dtype=torch.float64)
    return f"{float(values @ places):.4g}"


def _matters(name: str) -> bool:
    dropped = name.endswith(("dropout", "pdrop", "dropout_prob"))
    return not (name in _CHANGES_NO_ANSWER or dropped or name.endswith(("device", "dtype", "token_id")))


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
    if isinstance(value, list) and not all(isinstance(part, bool | int | float) for part in value):
        return None
    if isinstance(value, tuple | list):
        parts = [_plain(part) for part in value[:9]]
        return parts if 0 < len(parts) < 9 and None not in parts else None
    return None


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=1e-9)  # one that was computed may differ in its last bit elsewhere
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_same, one, other))
    return bool(one == other)
