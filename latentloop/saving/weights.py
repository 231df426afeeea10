"""A model's weights in one safetensors file that knows its own checksum. Nothing is ever unpickled."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from latentloop.errors import InputError, one_line

__all__ = [
    "WEIGHTS",
    "check_weights",
    "checksum",
    "digest",
    "load_weights",
    "plain_name",
    "saved_checksum",
    "saved_shape",
    "saved_size",
    "write_weights",
]

WEIGHTS = "model.safetensors"

_CHECKSUM = "latentloop.checksum"


def write_weights(model: nn.Module, path: Path) -> None:
    """Write a model's weights to `path`, which is not yet where they will be.

    Of several names of one tensor the first is kept, and all are `plain_name`s. Equal weights make equal files.
    """
    save_file(_stored(model), str(path), metadata={_CHECKSUM: checksum(model)})


def plain_name(name: str) -> str:
    """A parameter's name as it is without `torch.compile`, which puts a module between: compiled or not, it is one model."""
    return ".".join(part for part in name.split(".") if part != "_orig_mod")


def checksum(model: nn.Module) -> str:
    """A hash of a model's weights, which `model.safetensors` holds too."""
    return _checksum(model.state_dict().values())


def saved_checksum(folder: Path) -> str | None:
    """The hash that the weights in `folder` were saved with; None where none are whole there."""
    try:
        with safe_open(str(folder / WEIGHTS), framework="pt") as file:
            return (file.metadata() or {}).get(_CHECKSUM)
    except (SafetensorError, OSError):
        return None


def load_weights(model: nn.Module, folder: Path) -> None:
    """Load a model directory's weights into a model that is built already.

    They are compared with the checksum in the file first, at some 900 MB/s: no flipped bit is ever loaded.

    Raises:
        InputError: for a file that is missing, damaged or of another model.
    """
    weights = _existing(folder)
    try:
        tensors = _compared(weights)
        saved = _under_all_names(model, tensors)
        _widen(model, {name: tensor.dtype for name, tensor in saved.items()})  # or float64 would come back as float32
        # what shared its numbers as built may not any more: then each is given them
        apart = [names[0] for names in _names(model) if not tensors.keys() & set(names)]
        _load(model, tensors | {name: saved[name] for name in apart if name in saved})
    except (SafetensorError, RuntimeError, OSError) as error:
        raise InputError(f"{weights} cannot be read as this model's weights: {one_line(error)}") from None


def check_weights(folder: Path) -> None:
    """Refuse a model directory's weights that are missing or damaged, without loading them into a model.

    Raises:
        InputError: naming the file.
    """
    weights = _existing(folder)
    try:
        _compared(weights)
    except (SafetensorError, OSError) as error:
        raise InputError(f"{weights} cannot be read as this model's weights: {one_line(error)}") from None


def _compared(weights: Path) -> dict[str, Tensor]:
    with safe_open(str(weights), framework="pt") as file:
        wanted = (file.metadata() or {}).get(_CHECKSUM)  # a file converted elsewhere may have none
    tensors = {plain_name(name): tensor for name, tensor in load_file(str(weights)).items()}
    if wanted is not None and _checksum(tensors.values()) != wanted:
        raise InputError(f"{weights} is damaged: its tensors do not match its checksum; copy it again")
    return tensors


_FLOATS = {torch.float64, torch.float32, torch.bfloat16, torch.float16}


def saved_shape(folder: Path, name: str) -> tuple[int, ...] | None:
    """The shape of one saved tensor, None where there is no such tensor; nothing else is read.

    Raises:
        InputError: for a file that is missing or damaged.
    """
    weights = _existing(folder)
    try:
        with safe_open(str(weights), framework="pt") as file:
            return tuple(file.get_slice(name).get_shape()) if name in file.keys() else None
    except (SafetensorError, OSError) as error:
        raise InputError(f"{weights} cannot be read as this model's weights: {one_line(error)}") from None


def saved_size(folder: Path) -> tuple[int, int]:
    """How many tensors the weights are, and how many numbers they hold together.

    Raises:
        InputError: for a file that is missing or damaged.
    """
    weights = _existing(folder)
    try:
        with safe_open(str(weights), framework="pt") as file:
            sizes = [math.prod(file.get_slice(name).get_shape()) for name in file.keys()]
    except (SafetensorError, OSError) as error:
        raise InputError(f"{weights} cannot be read as this model's weights: {one_line(error)}") from None
    return len(sizes), sum(sizes)


def _names(model: nn.Module) -> list[list[str]]:
    """The plain names of each tensor, sorted; several where modules share it."""
    names: dict[object, list[str]] = {}
    for name, tensor in model.state_dict().items():
        place = (_storage(tensor), tensor.storage_offset(), tensor.shape, tensor.stride(), tensor.dtype)
        names.setdefault(place if tensor.numel() else name, []).append(plain_name(name))
    return [sorted(each) for each in names.values()]


def _stored(model: nn.Module) -> dict[str, Tensor]:
    """Each tensor once; what lies within another, as a part of a table may, is written for itself."""
    state = {plain_name(name): tensor.detach() for name, tensor in model.state_dict().items()}
    kept = {names[0]: state[names[0]] for names in _names(model)}
    sharing = Counter(_storage(tensor) for tensor in kept.values())
    whole = torch.contiguous_format
    return {
        name: tensor.clone(memory_format=whole) if sharing[_storage(tensor)] > 1 else tensor.contiguous()
        for name, tensor in kept.items()
    }


def _load(model: nn.Module, tensors: dict[str, Tensor]) -> None:
    named = {plain_name(name): name for name in model.state_dict()}
    given = [[name for name in names if name in tensors] for names in _names(model)]
    missing = [names[0] for names, found in zip(_names(model), given, strict=True) if not found]
    # two tensors for what is one here are of another model
    unknown = sorted(tensors.keys() - {found[0] for found in given if found})
    for what, other, found in (("has no", "which the model has", missing), ("has", "which the model lacks", unknown)):
        if found:
            more = f" and {len(found) - 1} more" if len(found) > 1 else ""
            part = found[0].partition(".")[0]
            set_by_hand = found is unknown and part != found[0] and not hasattr(model, part)
            hint = f": what was set on it by hand is given again, modules={{'{part}': ...}}" if set_by_hand else ""
            raise RuntimeError(f"the file {what} {found[0]}{more}, {other}{hint}")
    model.load_state_dict({named[name]: tensor for name, tensor in tensors.items()}, strict=False)


def _under_all_names(model: nn.Module, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """What was saved, of a tensor that several modules share under the name of each."""
    found = dict(tensors)
    for names in _names(model):
        for saved in (name for name in names if name in tensors):
            found = dict.fromkeys(names, tensors[saved]) | found
    return found


def _widen(module: nn.Module, saved: dict[str, torch.dtype]) -> None:
    """Give floats the types that they were saved in: a part whose floats have one all of that, unsaved buffers too."""
    kinds = set(saved.values()) & _FLOATS
    if len(kinds) == 1:
        module.to(kinds.pop())
        return
    for name, child in module.named_children():
        inside = name if name != "_orig_mod" else ""
        prefix = f"{inside}." if inside else ""
        _widen(child, {key.removeprefix(prefix): kind for key, kind in saved.items() if key.startswith(prefix)})
    for name, tensor in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
        wanted = saved.get(name, tensor.dtype)
        if wanted != tensor.dtype and {wanted, tensor.dtype} <= _FLOATS:
            tensor.data = tensor.data.to(wanted)


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _existing(folder: Path) -> Path:
    weights = folder / WEIGHTS
    if not weights.is_file():
        raise InputError(f"{weights} is missing: the directory is not a whole model")
    return weights


def digest(tensor: Tensor, name: str = "") -> bytes:
    """A hash of a tensor's type, shape and bytes, at some 900 MB/s.

    Args:
        tensor: of any type and shape, on any device.
        name: where it counts as well.
    """
    found = hashlib.blake2b(f"{name}{tensor.dtype} {tuple(tensor.shape)}".encode(), digest_size=16)
    found.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return found.digest()


def _checksum(tensors: Iterable[Tensor]) -> str:
    """A hash of the set of tensors: a set, because the file keeps only one of several names of a shared tensor."""
    each = {digest(tensor) for tensor in tensors}
    return hashlib.blake2b(b"".join(sorted(each)), digest_size=16).hexdigest()
