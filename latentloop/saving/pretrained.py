"""A model directory: `config.json`, `items.json` (original ids) and `model.safetensors`.

A built-in backbone is rebuilt from its hyper-parameters. A user's own encoder cannot be: JSON names no code, so it is
passed back in and checked against the saved fingerprint of parameter names, shapes and loop settings, and against its
modules' plain settings, such as heads.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from huggingface_hub import ModelCard, ModelHubMixin, snapshot_download
from huggingface_hub.errors import HfHubHTTPError
from torch import nn

from latentloop.checks import is_whole
from latentloop.errors import InputError, InputTypeError, one_line
from latentloop.files import json_text, read_json, write_together, writing
from latentloop.items.ids import ItemIds
from latentloop.saving.encoder import check_encoder, fingerprint
from latentloop.saving.encoder_settings import encoder_settings, unchanged
from latentloop.saving.scorer import check_scorer, describe_scorer, standard_scorer
from latentloop.saving.weights import WEIGHTS, load_weights, saved_shape, saved_size, write_weights
from latentloop.scoring import Scorer

if TYPE_CHECKING:
    from typing_extensions import Self

    from latentloop.recommender import Recommender

__all__ = [
    "CONFIG",
    "HUB_PREFIX",
    "WEIGHTS",
    "Pretrained",
    "load_weights",
    "models_inside",
    "read_config",
]

HUB_PREFIX = "hf://"
CONFIG, ITEMS, _README = "config.json", "items.json", "README.md"
FORMAT = 1

_CARD = """---
library_name: latentloop
tags: [sequential-recommendation, latent-reasoning]
---

A sequential recommender of latentloop. `Recommender.from_pretrained(folder)` loads it; a model around an encoder of
one's own is given that encoder again. `config.json` describes it, `items.json` holds the original item ids.
"""


class Pretrained(ModelHubMixin):
    """Saving and loading for `Recommender`, on disk and on the Hugging Face hub."""

    backbone: Any = None
    """Hyper-parameters of a built-in backbone, such as `SASRec()`; None for a user's own encoder."""

    def save_pretrained(
        self, save_directory: str | Path, *, push_to_hub: bool = False, repo_id: str | None = None, **hub: Any
    ) -> str | None:
        """Write a model directory, over the one that is there, if any: whoever loads finds the old model or the new.

        All files are written under temporary names before the first is renamed. Over a model that is described by the
        same `config.json` and `items.json` that is one rename, of the weights; over any other, `config.json` goes
        first and comes last, so that no mixture of two models can ever be loaded.

        Args:
            save_directory: the directory; files of other names in it stay.
            push_to_hub: whether to upload it too.
            repo_id: to which repository; None is named as the directory.
            hub: what else `push_to_hub` takes.

        Raises:
            OSError: where it cannot be written; the model that was there is whole then.
        """
        folder = Path(save_directory)
        self._save_pretrained(folder)
        hub = {name: value for name, value in hub.items() if name != "config"}
        return self.push_to_hub(repo_id or folder.name, **hub) if push_to_hub else None

    def _save_pretrained(self, save_directory: Path) -> None:
        model: Recommender = self  # type: ignore[assignment]  # the one class that mixes this in
        with writing(save_directory):
            save_directory.mkdir(parents=True, exist_ok=True)
        described = {ITEMS: None if model.item_ids is None else json_text(model.item_ids.ids)}
        described[CONFIG] = json_text(_config(model))
        card = save_directory / _README
        if not card.is_file():  # whoever wrote another one keeps it
            described[_README] = str(self.generate_model_card())
        texts = {name: text.encode() for name, text in described.items() if text is not None}
        other = [name for name in (CONFIG, ITEMS) if _bytes(save_directory / name) != texts.get(name)]

        def make_way() -> None:
            for name in (CONFIG, ITEMS) if other else ():
                (save_directory / name).unlink(missing_ok=True)

        writers: dict[str, Callable[[Path], object]] = {WEIGHTS: partial(write_weights, model)}
        for name, text in texts.items():
            if other or name == _README:
                writers[name] = partial(_write, text)
        writers = {name: writers[name] for name in (WEIGHTS, _README, ITEMS, CONFIG) if name in writers}
        write_together(save_directory, writers, before=make_way)

    def generate_model_card(self, *args: Any, **kwargs: Any) -> ModelCard:
        """README.md of a model directory; the hub's own text would say that the model had been pushed there."""
        return ModelCard(_CARD)

    @classmethod
    def from_pretrained(  # type: ignore[override]  # fewer arguments than the hub's, on purpose
        cls,
        path: str | Path,
        *,
        encoder: nn.Module | None = None,
        scorer: str | Scorer | None = None,
        modules: Mapping[str, nn.Module] | None = None,
    ) -> Self:
        """Load a model directory.

        Args:
            path: a directory, or "hf://owner/name" for the hub; nothing else ever reaches the network.
            encoder: a user's own encoder, built as it was when it was saved; not needed for a built-in backbone.
            scorer: a user's own scorer; not needed for a standard one.
            modules: what else was set on the model before it was saved, by attribute, such as the head of an objective,
                {"head": head}; their weights are loaded too.

        Raises:
            InputError: for a directory that is missing, incomplete, corrupted or of another encoder, or a module under the
                name of something that the model has.
        """
        folder = _download(str(path)) if str(path).startswith(HUB_PREFIX) else Path(path)
        if not folder.is_dir():
            raise InputError(f"no model directory at {folder}; a model on the hub is written {HUB_PREFIX}owner/name")
        config = read_config(folder)
        model = _build(cls, config, encoder, scorer, folder)
        for name, module in (modules or {}).items():
            if not name.isidentifier() or not isinstance(module, nn.Module):
                raise InputError(f"modules must map attributes to modules, got {name!r}: {type(module).__name__}")
            if hasattr(model, name):
                raise InputError(f"modules names {name!r}, which a model has already: give what was set on it by hand")
            model.add_module(name, module)
        load_weights(model, folder)
        model.eval()
        return model  # type: ignore[no-any-return]


def read_config(folder: Path) -> dict[str, Any]:
    """A model directory's config.json.

    Raises:
        InputError: where it is missing, damaged or of another format.
    """
    if not (folder / WEIGHTS).is_file() and (inside := models_inside(folder)):
        raise InputError(f"{folder} is a run, not a model: its models are {' and '.join(map(str, inside))}")
    config = read_json(folder / CONFIG)
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        raise InputError(f"{folder / CONFIG} is not a latentloop model configuration of format {FORMAT}")
    return config


def models_inside(folder: Path) -> list[Path]:
    """The model directories directly in a folder, as in a run's."""
    return sorted(weights.parent for weights in folder.glob(f"*/{WEIGHTS}") if (weights.parent / CONFIG).is_file())


def _bytes(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None


def _write(text: bytes, path: Path) -> None:
    path.write_bytes(text)


def _download(address: str) -> Path:
    try:
        name = address.removeprefix(HUB_PREFIX)
        return Path(snapshot_download(name, allow_patterns=[CONFIG, ITEMS, WEIGHTS]))
    except (OSError, ValueError, HfHubHTTPError) as error:
        raise InputError(f"{address} cannot be fetched from the hub: {one_line(error)}") from None


def _config(model: Recommender) -> dict[str, Any]:
    from latentloop.recipes import describe  # recipes import the recommender

    encoder = cast(nn.Module, model.encoder)
    backbone = None if model.backbone is None else describe(model.backbone, model.encoder)
    config = {
        "format": FORMAT,
        "num_items": model.num_items,
        "dim": model.dim,
        "max_length": model.max_length,
        "dropout": model.input_dropout.p,
        "inference_state": model.inference_state,
        "init_std": model.init_std,
        **describe_scorer(model.scorer, model.scored_with),
        "backbone": backbone,
        "fingerprint": fingerprint(model.encoder),
        "encoder": str(type(encoder).__name__),
    }
    if backbone is None:
        config["encoder_settings"] = unchanged(model.built_with, encoder_settings(encoder))
    return config


def _build(
    cls: type[Any], config: dict[str, Any], encoder: nn.Module | None, scorer: str | Scorer | None, folder: Path
) -> Any:
    """The model that `config` describes, its weights not loaded yet."""
    from latentloop.recipes import build_encoder  # recipes import the recommender

    where = folder / CONFIG
    if encoder is None and config.get("backbone") is None:
        raise InputError(
            f"{folder} holds a model around your own encoder: pass it again as encoder= "
            f"(--encoder on the command line), built as it was when it was saved"
        )
    if scorer is None and config.get("scorer") is None:
        raise InputError(f"{folder} holds a model with a scorer of your own: pass it again as scorer=")
    backbone, own = None, encoder
    try:
        # before anything is allocated by a damaged number
        tables = {"item_table.weight": (config["num_items"] + 1, config["dim"])}
        tables["position_table"] = (config["max_length"], config["dim"])
        for name, shape in tables.items():
            if saved_shape(folder, name) != shape:
                raise InputError(f"{name} has shape {saved_shape(folder, name)} in {WEIGHTS}, expected {shape}")
        if encoder is None:
            _refuse_endless(config["backbone"], folder)
            backbone, encoder = build_encoder(config["backbone"], config["dim"], config["max_length"])
        if scorer is None:
            scorer = standard_scorer(config["scorer"])
        model = cls(
            config["num_items"],
            encoder,
            config["dim"],
            config["max_length"],
            dropout=config["dropout"],
            scorer=scorer,
            inference_state=config["inference_state"],
            init_std=config["init_std"],
        )
    except InputTypeError:
        raise
    except InputError as error:
        what = f"{where} does not describe a model" if own is None else f"encoder does not fit {where}"
        raise InputError(f"{what}: {one_line(error)}") from None
    except (KeyError, TypeError, AttributeError, ValueError, RuntimeError, OverflowError, MemoryError) as error:
        raise InputError(f"{where} is damaged: {type(error).__name__} {one_line(error)}") from None
    model.backbone = backbone
    check_encoder(model.encoder, config, folder)
    check_scorer(model.scorer, config, folder)
    model.item_ids = _item_ids(folder / ITEMS, model.num_items)
    return model


def _refuse_endless(backbone: dict[str, Any], folder: Path) -> None:
    """Refuse layers and widths that the saved weights cannot be of, before they are built: it might never end.

    Raises:
        InputError: naming the setting.
    """
    tensors, numbers = saved_size(folder)
    for name, value in backbone["settings"].items():
        limit = tensors if name.endswith("layers") else numbers  # a layer has tensors, and whatever has a size numbers
        if is_whole(value) and value > limit:
            raise InputError(f"{name} is {value}, more than {WEIGHTS} holds")
    for name, limit in (("own_norms", tensors), ("own_rank", numbers)):
        value = (backbone["loop"] or {}).get(name, 0)
        if is_whole(value) and value > limit:
            raise InputError(f"{name} is {value}, more than {WEIGHTS} holds")


def _item_ids(path: Path, num_items: int) -> ItemIds | None:
    if not path.is_file():
        return None
    ids = read_json(path)
    if not isinstance(ids, list) or len(ids) != num_items:
        raise InputError(f"{path} is damaged: it must be a list of {num_items} item ids")
    try:
        return ItemIds(ids)
    except (InputError, InputTypeError) as error:
        raise InputError(f"{path} is damaged: {one_line(error)}") from None
