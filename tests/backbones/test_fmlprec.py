"""FMLP-Rec's filter and layers against sums over frequencies and positions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from latentloop.backbones.fmlprec import FMLPRec, FMLPRecBlock, LearnableFilter
from latentloop.errors import InputError
from tests.backbones import naive
from tests.core.worlds import DIM, seeds, unchecked

LENGTHS = st.integers(1, 9)


def made(seed: int, length: int) -> tuple[LearnableFilter, Tensor]:
    """A filter with weights large enough to matter, in float64, and rows for it."""
    torch.manual_seed(seed)
    layer = LearnableFilter(DIM, max_length=length).double()
    with torch.no_grad():
        layer.weight.normal_()
    return layer, torch.randn(3, length, DIM, dtype=torch.float64)


@given(seed=seeds, length=LENGTHS)
def test_filter_multiplies_each_channels_spectrum(seed: int, length: int) -> None:
    layer, x = made(seed, length)
    found = layer(x).detach().numpy()
    weight = naive.array(layer.weight[..., 0]) + 1j * naive.array(layer.weight[..., 1])
    for row in range(len(x)):
        for channel in range(DIM):
            components = weight[:, channel] * naive.spectrum(naive.array(x[row, :, channel]))
            wanted = naive.signal(components, length)
            np.testing.assert_allclose(found[row, :, channel], wanted, rtol=1e-10, atol=1e-10)


@given(seed=seeds, length=LENGTHS)
def test_filter_is_a_circular_convolution_with_the_kernel_of_its_answer_to_an_impulse(seed: int, length: int) -> None:
    layer, x = made(seed, length)
    impulse = torch.zeros(1, length, DIM, dtype=torch.float64)
    impulse[:, 0] = 1
    kernel = layer(impulse)[0]
    wanted = torch.zeros_like(x)
    for position in range(length):
        for older in range(length):
            wanted[:, position] += kernel[(position - older) % length] * x[:, older]
    torch.testing.assert_close(layer(x), wanted)


@given(seed=seeds, length=LENGTHS)
def test_newest_position_from_the_kernel_in_values_and_gradients(seed: int, length: int) -> None:
    layer, x = made(seed, length)
    x.requires_grad_()
    wanted, found = layer(x)[:, -1], layer.last(x)
    torch.testing.assert_close(found, wanted)
    pairs = (torch.autograd.grad((y**3).sum(), [x, layer.weight]) for y in (found, wanted))
    for one, other in zip(*pairs, strict=True):
        torch.testing.assert_close(one, other)


@given(seed=seeds, length=st.integers(3, 9))
def test_every_weight_acts_but_the_imaginary_parts_a_real_signal_has_not(seed: int, length: int) -> None:
    layer, x = made(seed, length)
    (gradient,) = torch.autograd.grad((layer(x) ** 2).sum(), [layer.weight])
    inert = torch.zeros_like(gradient, dtype=torch.bool)
    inert[0, :, 1] = True
    if length % 2 == 0:
        inert[-1, :, 1] = True
    assert bool((gradient[inert].abs() < 1e-12).all()) and bool((gradient[~inert].abs() > 1e-12).all())


def test_no_rows_are_no_rows() -> None:
    block = FMLPRecBlock(DIM, max_length=4)
    assert block(torch.empty(0, 4, DIM)).shape == (0, 4, DIM)
    empty, offsets = torch.empty(0, DIM), torch.zeros(1, dtype=torch.int64)
    assert block(empty, offsets=offsets).shape == block.last(empty, offsets=offsets).shape == (0, DIM)


def test_weights_start_small() -> None:
    torch.manual_seed(0)
    weight = LearnableFilter(64, max_length=50).weight.detach()
    assert weight.shape == (26, 64, 2)
    assert abs(float(weight.std()) - 0.02) < 1e-3 and abs(float(weight.mean())) < 2e-3


@given(seed=seeds, length=LENGTHS, norm=st.sampled_from(["pre", "post"]), padding=st.sampled_from(["zero", "keep"]))
def test_block_is_the_naive_layers(seed: int, length: int, norm: Any, padding: Any) -> None:
    torch.manual_seed(seed)
    block = FMLPRecBlock(DIM, max_length=length, layers=2, inner=12, norm=norm, padding=padding)
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    block.double().eval()
    x = torch.randn(3, length, DIM, dtype=torch.float64)
    mask = torch.arange(length) < torch.randint(0, length, (3, 1))
    found = block(x, padding_mask=mask).detach().numpy()
    for row in range(len(x)):
        v = naive.array(x[row])
        for layer in block.layers:
            entered = naive.enter(layer.filter_residual, v)
            if padding == "zero":
                entered = entered * ~mask[row, :, None].numpy()
            weight = naive.array(layer.filter.weight[..., 0]) + 1j * naive.array(layer.filter.weight[..., 1])
            filtered = np.stack(
                [naive.signal(w * naive.spectrum(c), length) for w, c in zip(weight.T, entered.T, strict=True)], 1
            )
            v = naive.feed_forward(layer, naive.leave(layer.filter_residual, v, filtered))
        np.testing.assert_allclose(found[row], naive.norm(block.output_norm, v), rtol=1e-9, atol=1e-9)


def test_base_has_as_many_layers_as_both_blocks() -> None:
    config = FMLPRec(pre_layers=1, core_layers=3, inner=12)
    pre, core = config.blocks(DIM, 7)
    sizes = [sum(p.numel() for p in made.layers.parameters()) for made in (pre, core, config.base(DIM, 7))]
    assert sizes[0] + sizes[1] == sizes[2]
    assert [len(block.layers) for block in (pre, core)] == [1, 3]
    assert {layer.filter.weight.shape for layer in [*pre.layers, *core.layers]} == {(4, DIM, 2)}


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"layers": 0}, "layers must be"),
        ({"inner": 0}, "inner must be"),
        ({"max_length": 0}, "max_length must be"),
        ({"dropout": 1.0}, "dropout must"),
        ({"norm": "both"}, "norm must be"),
        ({"padding": "none"}, "padding must be"),
    ],
)
def test_wrong_settings_are_refused(wrong: dict[str, Any], named: str) -> None:
    with unchecked(), pytest.raises(InputError, match=named):
        FMLPRecBlock(DIM, **{"max_length": 5, **wrong})
