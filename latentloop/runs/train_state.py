"""What a stage continues from: weights, optimizer and counters in one safetensors file, replaced as a whole.

The file holds a checksum of all of it, which is compared before anything is loaded. Random numbers need no saving:
every draw is keyed by (seed, epoch, step), see `randomness`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from latentloop.errors import InputError
from latentloop.files import write_atomically, writing
from latentloop.saving.weights import digest

__all__ = ["Progress", "check_names", "check_whole", "load_progress", "load_state", "save_state"]

_PROGRESS, _CHECKSUM = "progress", "checksum"


@dataclass
class Progress:
    """Counters of a stage.

    Args:
        epoch: epochs done.
        step: optimizer steps done.
        best_epoch: the epoch of the best validation value; 0 is before the first.
        best: that value, None before the first validation.
        began: checksum of the weights that the stage began with; None in runs of releases that kept none.
        data: hash of the data that it trains and validates on; None in runs of releases that kept none.
        history: one line an epoch, as in metrics.jsonl.
        total_steps: what the learning rate's schedule was laid over; None where it does not depend on that.
        settings: what decides the numbers beside the data and the model, in words, by name; None in runs of releases
            that kept none.
    """

    epoch: int = 0
    step: int = 0
    best_epoch: int = 0
    best: float | None = None
    began: str | None = None
    data: str | None = None
    history: list[dict[str, Any]] = field(default_factory=list)
    total_steps: int | None = None
    settings: dict[str, str] | None = None


def save_state(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, progress: Progress) -> None:
    """Write everything to `path` at once."""
    tensors = {f"model.{name}": tensor for name, tensor in _unique(model.state_dict()).items()}
    for index, values in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": value for name, value in values.items() if isinstance(value, Tensor)}
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    with write_atomically(path) as temporary:
        plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        counted = json.dumps(asdict(progress))
        metadata = {_PROGRESS: counted, _CHECKSUM: _checksum(counted, plain.items())}
        save_file(plain, str(temporary), metadata=metadata)


def load_progress(path: Path) -> Progress | None:
    """The counters that `save_state` wrote, not yet compared with their checksum; None where there is no such file.

    Raises:
        InputError: for a file that is damaged.
    """
    progress: Progress | None = None
    if path.is_file():
        with _reading(path), safe_open(str(path), framework="pt") as file:
            saved = json.loads(file.metadata()[_PROGRESS])
            known = {each.name for each in fields(Progress)}  # earlier releases counted more
            progress = Progress(**{name: value for name, value in saved.items() if name in known})
    return progress


def check_whole(path: Path) -> None:
    """Refuse a state that is damaged, whatever model it is of.

    Raises:
        InputError: for a file that is missing or damaged.
    """
    with _reading(path), safe_open(str(path), framework="pt") as file:
        _compare(path, file.metadata(), ((name, file.get_tensor(name)) for name in file.keys()))


def check_names(path: Path, model: nn.Module) -> None:
    """Refuse a state whose weights are not named and shaped as those of `model`; only names and shapes are read.

    Raises:
        InputError: for a file that is missing or of another model.
    """
    with _reading(path), safe_open(str(path), framework="pt") as file:
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}
    _check_same(path, model, shapes)


def load_state(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Put weights and optimizer back.

    They are compared with the checksum in the file first, at some 900 MB/s; runs of earlier releases have none.

    Raises:
        InputError: for a file that is missing, damaged or of another model.
    """
    with _reading(path):
        with safe_open(str(path), framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}
            _compare(path, file.metadata(), tensors.items())
        _check_same(path, model, {name: tuple(tensor.shape) for name, tensor in tensors.items()})
        weights = {n.removeprefix("model."): t for n, t in tensors.items() if n.startswith("model.")}
        model.load_state_dict(weights, strict=False)  # the names have been compared; aliases are not in it
        state: dict[int, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            kind, _, rest = name.partition(".")
            if kind == "optimizer":
                index, _, value = rest.partition(".")
                state.setdefault(int(index), {})[value] = tensor
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _check_same(path: Path, model: nn.Module, shapes: dict[str, tuple[int, ...]]) -> None:
    saved = {name.removeprefix("model."): shape for name, shape in shapes.items() if name.startswith("model.")}
    own = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    lost = {name for name, shape in saved.items() if own.get(name) != shape} | (
        set(_unique(model.state_dict())) - set(saved)
    )
    if lost:
        raise InputError(f"{path} is of another model: {sorted(lost)[0]} does not match")


def _compare(path: Path, metadata: dict[str, str] | None, tensors: Iterable[tuple[str, Tensor]]) -> None:
    """Refuse what does not match its checksum; a file of an earlier release has none."""
    wanted = (metadata or {}).get(_CHECKSUM)
    if wanted is not None and _checksum((metadata or {})[_PROGRESS], tensors) != wanted:
        raise InputError(f"{path} is damaged (it does not match its checksum): train --overwrite starts it over")


def _checksum(progress: str, tensors: Iterable[tuple[str, Tensor]]) -> str:
    """A hash of all that is in the file, whatever the order of its tensors."""
    each = sorted(digest(tensor, name) for name, tensor in tensors)
    return hashlib.blake2b(progress.encode() + b"".join(each), digest_size=16).hexdigest()


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except InputError:
        raise
    except (SafetensorError, OSError, RuntimeError, KeyError, TypeError, AttributeError, ValueError) as error:
        raise InputError(
            f"{path} is damaged ({' '.join(str(error).split())[:120]}): train --overwrite starts it over"
        ) from None


def _unique(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """One name for each shared tensor: safetensors refuses aliases."""
    seen: dict[int, str] = {}
    return {n: t for n, t in tensors.items() if t.numel() == 0 or seen.setdefault(t.data_ptr(), n) == n}
