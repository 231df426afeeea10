"""Positions in tiles give what all of them give at once, and draw and learn as they would."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from latentloop.backbones import tiles
from latentloop.backbones.sasrec import SASRec
from latentloop.backbones.tiles import in_tiles

SHAPES = st.lists(st.integers(0, 9), min_size=1, max_size=2)


@given(shape=SHAPES, tile=st.integers(1, 7), seed=st.integers(0, 2**32))
def test_tiles_give_what_the_whole_gives(shape: list[int], tile: int, seed: int) -> None:
    x = torch.randn(*shape, 3, generator=torch.Generator().manual_seed(seed))
    seen: list[int] = []

    def squares(part: Tensor) -> Tensor:
        seen.append(part.shape[:-1].numel())
        return part.square()

    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr(tiles, "CPU_TILE", tile)
        assert torch.equal(in_tiles(squares, x, training=False), x.square())
    assert sum(seen) == x.shape[:-1].numel() and max(seen) <= tile


def test_what_draws_or_learns_is_done_in_one_piece() -> None:
    x = torch.randn(3 * tiles.CPU_TILE, 2, requires_grad=True)
    seen: list[int] = []

    def counted(part: Tensor) -> Tensor:
        seen.append(len(part))
        return part * 2

    in_tiles(counted, x, training=False).sum().backward()
    assert torch.equal(x.grad, torch.full_like(x, 2.0))  # type: ignore[arg-type]
    with torch.no_grad():
        in_tiles(counted, x, training=True)
        assert seen == [len(x)] * 2
        in_tiles(counted, x, training=False)
    assert seen[2:] == [tiles.CPU_TILE] * 3


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_a_layer_answers_alike_with_and_without_gradients(norm: str) -> None:
    block: nn.Module = SASRec(norm=norm).base(8).eval()  # type: ignore[arg-type]
    x = torch.randn(200, 20, 8)
    padding = torch.arange(20) < torch.randint(0, 20, (200, 1))
    whole = block(x, padding_mask=padding)
    with torch.no_grad():
        tiled = block(x, padding_mask=padding)
    assert x.shape[:-1].numel() > tiles.CPU_TILE and whole.requires_grad
    torch.testing.assert_close(tiled, whole.detach(), rtol=1e-5, atol=1e-6)
