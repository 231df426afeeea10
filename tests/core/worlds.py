"""Small models and uneven histories for the tests of the core."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import jaxtyping
import numpy as np
import torch
from hypothesis import settings
from hypothesis import strategies as st
from torch import Tensor

from latentloop.aggregate import Aggregate
from latentloop.backbones.sasrec import SASRec, SASRecBlock
from latentloop.recommender import Recommender
from latentloop.recurrence import RecurrentDepth

NUM_ITEMS, DIM, MAX_LENGTH = 23, 8, 6

seeds = st.integers(0, 2**31 - 1)
fewer = settings(max_examples=max(1, settings.default.max_examples * 2 // 5))
"""For properties that run whole models: two fifths of the profile's examples."""

depths = st.integers(1, 5)


Layouts = bool | Literal["core"]
"""Both blocks packed, neither, or the core-block alone."""


class PaddedBlock(SASRecBlock):
    """The same block, kept to the padded layout."""

    packed = False


def ragged(seed: int, rows: int | None = None, *, longest: int = MAX_LENGTH + 3, num_items: int = NUM_ITEMS) -> Tensor:
    """(B, longest) left-padded histories, B >= 3: one empty, one longer than MAX_LENGTH, the rest of any length."""
    rng = np.random.default_rng(seed)
    rows = int(rng.integers(3, 7)) if rows is None else rows
    lengths = rng.integers(0, longest + 1, rows)
    lengths[0], lengths[1] = 0, longest
    history = np.zeros((rows, longest), dtype=np.int64)
    for row, length in enumerate(lengths):
        history[row, longest - length :] = rng.integers(1, num_items + 1, length)
    return torch.from_numpy(history[rng.permutation(rows)])


def encoder(seed: int, *, packed: Layouts = True, aggregate: str | Aggregate = "add", **loop: Any) -> RecurrentDepth:
    """A loop around small SASRec blocks with weights of `seed`, the same in either layout."""
    torch.manual_seed(seed)
    kinds = [SASRecBlock if one else PaddedBlock for one in (packed is True, packed)]
    parts = [block(DIM, layers=layers, inner=12, dropout=0.5) for layers, block in zip((1, 2), kinds, strict=True)]
    return RecurrentDepth(*parts, aggregate, dim=DIM, **loop)


def recommender(
    seed: int, /, *, packed: Layouts = True, aggregate: str | Aggregate = "add", **kwargs: Any
) -> Recommender:
    """A recommender of `encoder(seed)` without dropout at work (`eval`), with tables large enough to matter."""
    model = Recommender(
        NUM_ITEMS, encoder(seed, packed=packed, aggregate=aggregate), DIM, MAX_LENGTH, init_std=0.5, **kwargs
    )
    return model.eval()


@contextmanager
def unchecked() -> Iterator[None]:
    """Without the tests' own checks of shapes and types, as a user's mistake meets the library."""
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)


def built_in(seed: int = 0, /, **kwargs: Any) -> Recommender:
    """A small recommender around a built-in backbone, which a model directory can describe."""
    from latentloop.recipes import build_recommender

    torch.manual_seed(seed)
    backbone = SASRec(pre_layers=1, core_layers=1, inner=12)
    return build_recommender(backbone, NUM_ITEMS, dim=DIM, max_length=MAX_LENGTH, init_std=0.5, **kwargs).eval()
