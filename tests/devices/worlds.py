"""Models, numbers and a comparison for the tests that run on every device."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from latentloop.backbones.bsarec import BSARec
from latentloop.backbones.fmlprec import FMLPRec
from latentloop.backbones.sasrec import SASRec
from latentloop.backbones.tedrec import TedRec
from latentloop.data.splits import Split
from latentloop.recipes import build_recommender
from latentloop.recommender import Recommender
from tests.contracts.encoders import DIM, MAX_LENGTH, NUM_ITEMS, TEXT

__all__ = ["DIM", "MAX_LENGTH", "NUM_ITEMS", "close", "every_backbone", "fresh", "normal", "numbers", "recommender"]

SIZES = {"pre_layers": 1, "core_layers": 1, "inner": 32, "dropout": 0.0}
BACKBONES = {
    "sasrec": SASRec(**SIZES),
    "fmlprec": FMLPRec(**SIZES),
    "bsarec": BSARec(**SIZES),
    "tedrec": TedRec(text=TEXT, experts=2, noisy_gates=False, **SIZES),
}
every_backbone = pytest.mark.parametrize("name", BACKBONES)


def recommender(name: str, seed: int = 0, **settings: Any) -> Recommender:
    """On the CPU, without dropout, with tables large enough to matter."""
    torch.manual_seed(seed)
    sizes = {"dim": DIM, "max_length": MAX_LENGTH, "dropout": 0.0, "init_std": 0.5}
    made = build_recommender(BACKBONES[name], NUM_ITEMS, **(sizes | settings))
    return made.eval()


def close(found: Tensor, expected: Tensor, tolerance: float = 1e-4) -> None:
    """Equal but for rounding, measured by the largest number there is."""
    assert found.shape == expected.shape
    largest = float(expected.detach().abs().max()) if expected.numel() else 1.0
    worst = float((found.detach().cpu().double() - expected.detach().cpu().double()).abs().max())
    assert worst <= tolerance * max(largest, 1e-2), f"{worst} of {largest}"


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def numbers(high: int, *shape: int, seed: int = 0) -> Tensor:
    """Item ids 1..high."""
    return torch.randint(1, high + 1, shape, generator=torch.Generator().manual_seed(seed))


def fresh(split: Split, backbone: Any = SASRec, dropout: float = 0.2, **settings: Any) -> Recommender:
    torch.manual_seed(0)
    made = backbone(pre_layers=1, core_layers=1, inner=32, dropout=dropout)
    return build_recommender(
        made, split.num_items, **({"dim": 16, "max_length": 6, "dropout": dropout, "init_std": 0.5} | settings)
    )
