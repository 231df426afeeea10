"""The weights that a stage leaves its model with: the best on validation, or those that it came with."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from latentloop.saving.encoder import check_encoder
from latentloop.saving.pretrained import CONFIG, read_config
from latentloop.saving.weights import checksum, load_weights, saved_checksum

if TYPE_CHECKING:
    from latentloop.recommender import Recommender

__all__ = ["BestWeights"]


class BestWeights:
    """Held in memory, off the device, or in a model directory.

    Args:
        model: its weights are held until better ones are kept.
        path: the model directory to keep weights in; None keeps them in memory.
        kept: the epoch of the weights that an interrupted stage left in `path`; None where it left none.

    Raises:
        InputError: where `path` holds the weights of another encoder than the model's.
    """

    def __init__(self, model: Recommender, path: Path | None, *, kept: int | None = None) -> None:
        self._path, self._epoch = path, kept
        if path is not None and kept is not None and (path / CONFIG).is_file():
            check_encoder(model.encoder, read_config(path), path)
        self._held = None if path is not None and kept is not None else _copy(model)

    def keep(self, model: Recommender, epoch: int, *, write: bool = True) -> None:
        """Take `model`'s weights for the best so far.

        Args:
            model: the model.
            epoch: whose weights they are.
            write: whether this process is the one that writes.
        """
        self._epoch = epoch
        if self._path is None:
            self._held = _copy(model)
            return
        self._held = None
        if write:
            model.save_pretrained(self._path)

    def catch_up(self, model: Recommender, *, write: bool = True) -> None:
        """Write `model`'s weights, which are the best, where the process that should have was killed before.

        Args:
            model: the model.
            write: whether this process is the one that writes.
        """
        if write and self._path is not None and not _is_model(self._path, model):
            model.save_pretrained(self._path)

    def restore(self, model: Recommender) -> None:
        """Give `model` the best weights so far, or those it came with, and leave it in eval mode."""
        if self._held is not None:
            model.load_state_dict(self._held)
        elif self._path is not None:
            load_weights(model, self._path)
        model.eval()

    def __str__(self) -> str:
        """What `restore` gives back, for a message."""
        if self._epoch is None:
            return "the model has the weights it came with again"
        if self._path is None:
            return f"the model has its best weights so far again, of epoch {self._epoch}"
        return f"the last good model is {self._path}, of epoch {self._epoch}"


def _is_model(folder: Path, model: Recommender) -> bool:
    """Whether a directory holds a whole model of the same weights."""
    return (folder / CONFIG).is_file() and saved_checksum(folder) == checksum(model)


def _copy(model: Recommender) -> dict[str, Any]:
    """The state on the CPU: on its own device it would cost an accelerator's memory twice."""
    state = model.state_dict().items()
    return {
        name: value.detach().to("cpu", copy=True) if isinstance(value, Tensor) else copy.deepcopy(value)
        for name, value in state
    }
