"""A model directory: `config.json`, `items.json` (original ids) and `model.safetensors`. Nothing is ever unpickled.

A built-in backbone is rebuilt from its hyper-parameters. A user's own encoder cannot be: JSON names no code, so it is
passed back in and checked against the saved fingerprint of parameter names, shapes and loop settings.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import ModelHubMixin, snapshot_download
from safetensors import SafetensorError
from safetensors.torch import load_model, save_model
from torch import nn

from latentloop.errors import InputError, InputTypeError
from latentloop.files import read_json, write_atomically, write_json
from latentloop.item_ids import ItemIds
from latentloop.scoring import Cosine, Dot

if TYPE_CHECKING:
    from typing_extensions import Self

    from latentloop.recommender import Recommender

__all__ = ["HUB_PREFIX", "WEIGHTS", "Pretrained", "fingerprint", "load_weights"]

HUB_PREFIX = "hf://"
WEIGHTS = "model.safetensors"
FORMAT = 1

_SCORERS: dict[str, type[Any]] = {scorer.__name__: scorer for scorer in (Dot, Cosine)}


def fingerprint(encoder: nn.Module) -> str:
    """A hash of an encoder's parameter names and shapes and of its loop settings, to recognise it when it comes back."""
    shapes = [(name, list(tensor.shape)) for name, tensor in sorted(encoder.state_dict().items())]
    loop = {
        "depth_law": repr(getattr(encoder, "depth_law", None)),
        "state_std": getattr(encoder, "state_std", None),
        "aggregate": type(getattr(encoder, "aggregate", None)).__name__,
    }
    return hashlib.blake2b(json.dumps([shapes, loop]).encode(), digest_size=16).hexdigest()


class Pretrained(ModelHubMixin):
    """Saving and loading for `Recommender`, on disk and on the Hugging Face hub."""

    backbone: Any = None
    """Hyper-parameters of a built-in backbone, such as `SASRec()`; None for a user's own encoder."""

    def _save_pretrained(self, save_directory: Path) -> None:
        model: Recommender = self  # type: ignore[assignment]
        save_directory.mkdir(parents=True, exist_ok=True)
        with write_atomically(save_directory / WEIGHTS) as path:
            save_model(model, str(path))
        if model.item_ids is not None:
            write_json(save_directory / "items.json", model.item_ids.ids)
        write_json(save_directory / "config.json", _config(model))  # last: with it the directory is a model

    @classmethod
    def from_pretrained(cls, path: str | Path, *, encoder: nn.Module | None = None) -> Self:  # type: ignore[override]
        """Load a model directory.

        Args:
            path: a directory, or "hf://owner/name" for the hub; nothing else ever reaches the network.
            encoder: a user's own encoder, built as it was when it was saved; not needed for a built-in backbone.

        Raises:
            InputError: for a directory that is missing, incomplete, corrupted or of another encoder.
        """
        if str(path).startswith(HUB_PREFIX):
            path = snapshot_download(str(path).removeprefix(HUB_PREFIX))
        folder = Path(path)
        if not folder.is_dir():
            raise InputError(f"no model directory at {folder}; a model on the hub is written {HUB_PREFIX}owner/name")
        config = read_json(folder / "config.json")
        model = _build(cls, config, encoder, folder)
        load_weights(model, folder)
        model.eval()
        return model


def load_weights(model: nn.Module, folder: Path) -> None:
    """Load a model directory's weights into a model that is built already.

    Raises:
        InputError: for a file that is missing, damaged or of another model.
    """
    weights = folder / WEIGHTS
    if not weights.is_file():
        raise InputError(f"{weights} is missing: the directory is not a whole model")
    try:
        load_model(model, str(weights))
    except (SafetensorError, RuntimeError, OSError) as error:
        raise InputError(f"{weights} cannot be read as this model's weights: {_one_line(error)}") from None


def _config(model: Recommender) -> dict[str, Any]:
    from latentloop.recipes import describe  # noqa: PLC0415 - recipes import the recommender

    scorer = model.scorer
    return {
        "format": FORMAT,
        "num_items": model.num_items,
        "dim": model.dim,
        "max_length": model.max_length,
        "dropout": model.input_dropout.p,
        "inference_state": model.inference_state,
        "init_std": model.init_std,
        "scorer": _named(scorer) if type(scorer).__name__ in _SCORERS else None,
        "backbone": None if model.backbone is None else describe(model.backbone, model.encoder),
        "fingerprint": fingerprint(model.encoder),  # type: ignore[arg-type]
        "encoder": str(type(model.encoder).__name__),
    }


def _named(value: Any) -> dict[str, Any]:
    return {"name": type(value).__name__, **dataclasses.asdict(value)}


def _build(cls: type[Any], config: dict[str, Any], encoder: nn.Module | None, folder: Path) -> Any:
    from latentloop.recipes import build_encoder  # noqa: PLC0415 - recipes import the recommender

    where = folder / "config.json"
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        raise InputError(f"{where} is not a latentloop model configuration of format {FORMAT}")
    backbone = None
    try:
        if encoder is None:
            if config["backbone"] is None:
                raise InputError(
                    f"{folder} holds a model around your own encoder: pass it again as encoder= "
                    f"(--encoder on the command line), built as it was when it was saved"
                )
            backbone, encoder = build_encoder(config["backbone"], config["dim"])
        if config["scorer"] is None:
            raise InputError(f"{where} was saved with a scorer of your own, which cannot be loaded from JSON")
        scorer = dict(config["scorer"])
        model = cls(
            config["num_items"],
            encoder,
            config["dim"],
            config["max_length"],
            dropout=config["dropout"],
            scorer=_SCORERS[scorer.pop("name")](**scorer),
            inference_state=config["inference_state"],
            init_std=config["init_std"],
        )
    except (KeyError, TypeError, AttributeError) as error:
        if isinstance(error, InputTypeError):
            raise
        raise InputError(f"{where} is damaged: {type(error).__name__} {_one_line(error)}") from None
    model.backbone = backbone
    if fingerprint(model.encoder) != config["fingerprint"]:
        raise InputError(
            f"encoder does not match the one saved in {folder}: parameter names, shapes or loop settings differ"
        )
    items = folder / "items.json"
    if items.is_file():
        model.item_ids = ItemIds(read_json(items))
    return model


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]
