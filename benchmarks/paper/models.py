"""A cell's model and what it is pre-trained with."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.paper.cell import Cell
from latentloop.data.splits import Split
from latentloop.data.text_encoders import load_text_features
from latentloop.items.text_features import TextFeatures
from latentloop.objectives import SPT, NextItem, NextItemEverywhere
from latentloop.per_step import PerStep
from latentloop.randomness import dropout_seed, fold, generator
from latentloop.recipes import BACKBONES, build_recommender
from latentloop.recommender import Recommender
from latentloop.recurrence import RecurrentDepth

__all__ = ["build", "pre_training", "reads_texts", "text_hash", "text_path", "text_start", "texts"]


TEXT_STD = 0.3
"""Of an item table that starts from texts: far enough from 0 that the first steps do not wash it out."""
RANK = 8
"""Of what each thought may change of a matrix."""


class _NoBlock(nn.Module):
    """In place of a pre-block: H is what the history was embedded to, and nothing is mixed."""

    causal = pad_invariant = packed = True

    def forward(self, x: Tensor, **context: Any) -> Tensor:
        """`x` as it is, (B, L, d) or packed (tokens, d)."""
        return x


class Mapped(nn.Module):
    """Dot products of a linear map of the thought: it need not lie near the items that the history is made of."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(dim, dim)

    def queries(self, thoughts: Tensor) -> Tensor:
        """(*n, d) -> (*n, d), mapped."""
        mapped: Tensor = self.linear(thoughts)
        return mapped

    def keys(self, items: Tensor) -> Tensor:
        """The items themselves."""
        return items


def build(cell: Cell, num_items: int, text: TextFeatures | None = None) -> Recommender:
    """The cell's model with its own seed's weights.

    Args:
        cell: which.
        num_items: N.
        text: what TedRec reads or the item table starts from, see `texts`.
    """
    model = _built(cell, num_items, text)
    if cell.items != "random" and text is not None:
        start = text_start(text, cell.dim)
        if cell.items == "shuffled texts":
            start = start[torch.randperm(len(start), generator=generator(fold(cell.seed, "items")))]
        with torch.no_grad():
            model.item_table.weight[1:] = start
    return model


def text_start(text: TextFeatures, dim: int) -> Tensor:
    """The first `dim` principal components of the items' texts, (N, dim), at a standard deviation of `TEXT_STD`."""
    rows = text.features[1:].double()
    _, _, axes = torch.linalg.svd(rows - rows.mean(0), full_matrices=False)
    found = (rows - rows.mean(0)) @ axes[:dim].T
    return (found * (TEXT_STD / found.square().mean().sqrt())).float()


def _built(cell: Cell, num_items: int, text: TextFeatures | None) -> Recommender:
    settings: dict[str, Any] = {"dropout": cell.dropout, "core_layers": cell.core_layers, "norm": cell.norm}
    settings["pre_layers"] = max(1, cell.pre_layers)
    if cell.kind == "plain-deep":
        settings["core_layers"] = cell.core_layers * cell.passes
    if cell.backbone == "tedrec":
        settings["text"] = text
    backbone = BACKBONES[cell.backbone](**settings)
    common: dict[str, Any] = {"dim": cell.dim, "max_length": cell.max_length, "dropout": cell.dropout}
    common["inference_state"] = cell.inference_state
    with dropout_seed(fold(cell.seed, "weights"), torch.device("cpu")):
        scorer: Any = Mapped(cell.dim) if cell.scorer == "mapped" else cell.scorer
        if cell.kind == "loop" and (cell.pre_layers == 0 or cell.tied or cell.own != "nothing"):
            pre, core = backbone.blocks(cell.dim, cell.max_length)
            if cell.pre_layers == 0 or cell.tied:
                pre = core if cell.tied else _NoBlock()
            if cell.own != "nothing":
                core = _per_step(core, cell)
            scorer = scorer or getattr(backbone, "scorer", "dot")
            encoder = RecurrentDepth(pre, core, cell.aggregate, depth_law=cell.law, state_std=cell.state_std)
            return Recommender(num_items, encoder, seed=cell.seed, scorer=scorer, **common)
        loop = cell.kind == "loop"
        return build_recommender(
            backbone, num_items, loop=loop, depth_law=cell.law if loop else None, seed=cell.seed,
            aggregate=cell.aggregate, state_std=cell.state_std, scorer=scorer, **common,
        )  # fmt: skip


def _per_step(core: nn.Module, cell: Cell) -> PerStep:
    own = type(core.layers[0]) if cell.own == "layers" else nn.LayerNorm
    return PerStep(core, cell.passes, own, rank=RANK if cell.own == "ranks" else 0)


def texts(cell: Cell, split: Split, folder: Path) -> TextFeatures | None:
    """What is known of the items' texts, where the cell reads them."""
    if not reads_texts(cell):
        return None
    return load_text_features(split.item_ids, item_embeddings=text_path(cell, folder))


def reads_texts(cell: Cell) -> bool:
    """Whether the backbone reads the items' texts, or the item table starts from them."""
    return cell.backbone == "tedrec" or cell.items != "random"


def text_path(cell: Cell, folder: Path) -> Path:
    """Where the items' texts lie, embedded."""
    return folder / f"{cell.data.replace(':', '-')}.text.npy"


def text_hash(path: Path) -> str:
    """Of a file of the items' texts."""
    return hashlib.blake2b(path.read_bytes(), digest_size=8).hexdigest()


def pre_training(cell: Cell) -> SPT:
    """The next-item loss and the alignments of weights above 0; plain models have no steps to align."""
    return SPT(
        alpha=cell.alpha, gamma=cell.gamma if cell.kind == "loop" else 0.0, temperature=cell.temperature,
        similarity=cell.similarity, positives=cell.positives, mask_same_target=not cell.keep_false_negatives,
        next_item=NextItemEverywhere() if cell.positions == "all" else NextItem(),
    )  # fmt: skip
