"""BSARec's rescaler and layers against sums over frequencies and positions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from latentloop.backbones.bsarec import BSARec, BSARecBlock, FrequencyRescaler, low_pass
from latentloop.errors import InputError
from tests.backbones import naive
from tests.backbones.precision import default_precision
from tests.core.worlds import DIM, seeds, unchecked

CUTOFFS = st.integers(1, 9).flatmap(lambda length: st.tuples(st.just(length), st.integers(1, length)))


@pytest.fixture(autouse=True)
def in_double() -> Iterator[None]:
    with default_precision(torch.float64):
        yield


def by_transforms(layer: FrequencyRescaler, x: Tensor, cutoff: int) -> Tensor:
    """The published form: there and back through the frequencies."""
    components = torch.fft.rfft(x, dim=1, norm="ortho")
    low = components.clone()
    low[:, cutoff // 2 + 1 :] = 0
    low = torch.fft.irfft(low, n=x.shape[1], dim=1, norm="ortho")
    return low + layer.beta**2 * (x - low)


@given(seed=seeds, sizes=CUTOFFS)
def test_rescaler_keeps_low_frequencies_and_scales_the_rest(seed: int, sizes: tuple[int, int]) -> None:
    length, cutoff = sizes
    torch.manual_seed(seed)
    layer, x = FrequencyRescaler(DIM, max_length=length, cutoff=cutoff), torch.randn(3, length, DIM)
    found = layer(x).detach().numpy()
    for row in range(len(x)):
        for channel in range(DIM):
            own = naive.array(x[row, :, channel])
            low = naive.signal(naive.spectrum(own)[: cutoff // 2 + 1], length)
            wanted = low + naive.array(layer.beta)[0, 0, channel] ** 2 * (own - low)
            np.testing.assert_allclose(found[row, :, channel], wanted, rtol=1e-10, atol=1e-10)


@given(seed=seeds, sizes=CUTOFFS)
def test_projection_and_transforms_agree_in_values_and_gradients(seed: int, sizes: tuple[int, int]) -> None:
    length, cutoff = sizes
    torch.manual_seed(seed)
    layer, x = FrequencyRescaler(DIM, max_length=length, cutoff=cutoff), torch.randn(3, length, DIM)
    x.requires_grad_()
    wanted = by_transforms(layer, x, cutoff)
    for found, same in ((layer(x), wanted), (layer.last(x), wanted[:, -1])):
        torch.testing.assert_close(found, same)
        pairs = (torch.autograd.grad((y**3).sum(), [x, layer.beta], retain_graph=True) for y in (found, same))
        for one, other in zip(*pairs, strict=True):
            torch.testing.assert_close(one, other)


@given(sizes=CUTOFFS)
def test_low_pass_is_a_projection_of_the_documented_rank(sizes: tuple[int, int]) -> None:
    length, cutoff = sizes
    matrix = low_pass(length, cutoff)
    torch.testing.assert_close(matrix @ matrix, matrix)
    torch.testing.assert_close(matrix, matrix.T)
    rank = cutoff if cutoff % 2 or cutoff == length else cutoff + 1
    assert round(float(matrix.trace()), 9) == rank
    torch.testing.assert_close(matrix.sum(1), torch.ones(length))  # a constant is frequency 0, and passes


@given(
    seed=seeds,
    sizes=CUTOFFS,
    norm=st.sampled_from(["pre", "post"]),
    padding=st.sampled_from(["zero", "keep"]),
    heads=st.sampled_from([1, 2]),
    alpha=st.sampled_from([0.0, 0.3, 1.0]),
)
def test_block_is_the_naive_layers(
    seed: int, sizes: tuple[int, int], norm: Any, padding: Any, heads: int, alpha: float
) -> None:
    length, cutoff = sizes
    torch.manual_seed(seed)
    options: dict[str, Any] = {"layers": 2, "inner": 12, "heads": heads, "alpha": alpha, "cutoff": cutoff}
    block = BSARecBlock(DIM, max_length=length, norm=norm, padding=padding, **options).eval()
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    x = torch.randn(3, length, DIM)
    mask = torch.arange(length) < torch.randint(0, length, (3, 1))
    found = block(x, padding_mask=mask).detach().numpy()
    for row in range(len(x)):
        v, padded = naive.array(x[row]), mask[row].numpy()
        for layer in block.layers:
            entered = naive.enter(layer.rescaler_residual, v)
            if padding == "zero":
                entered = entered * ~padded[:, None]
            low = np.stack([naive.signal(naive.spectrum(c)[: cutoff // 2 + 1], length) for c in entered.T], 1)
            rescaled = low + naive.array(layer.rescaler.beta)[0] ** 2 * (entered - low)
            attended = naive.attention(layer.attention, naive.enter(layer.attention_residual, v), padded)
            bias = naive.leave(layer.rescaler_residual, v, rescaled)
            v = alpha * bias + (1 - alpha) * naive.leave(layer.attention_residual, v, attended)
            v = naive.feed_forward(layer, v)
        np.testing.assert_allclose(found[row], naive.norm(block.output_norm, v), rtol=1e-9, atol=1e-9)


def test_beta_is_one_number_a_channel_and_starts_standard_normal() -> None:
    torch.manual_seed(0)
    layer = FrequencyRescaler(10_000, max_length=4, cutoff=1)
    assert layer.beta.shape == (1, 1, 10_000)
    assert abs(naive.array(layer.beta).mean()) < 0.05 and abs(naive.array(layer.beta).std() - 1) < 0.05
    assert set(layer.state_dict()) == {"beta"}  # the projection is worked out, never saved


def test_base_has_as_many_layers_as_both_blocks() -> None:
    config = BSARec(pre_layers=1, core_layers=3, inner=12)
    pre, core = config.blocks(DIM, 7)
    sizes = [sum(p.numel() for p in made.layers.parameters()) for made in (pre, core, config.base(DIM, 7))]
    assert sizes[0] + sizes[1] == sizes[2]
    assert [len(block.layers) for block in (pre, core)] == [1, 3]


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"layers": 0}, "layers must be"),
        ({"heads": 3}, "heads must divide"),
        ({"heads": 0}, "heads must divide"),
        ({"alpha": 1.1}, "alpha must lie"),
        ({"cutoff": 0}, r"cutoff must be a whole number in 1\.\.5"),
        ({"cutoff": 6}, r"cutoff must be a whole number in 1\.\.5"),
        ({"max_length": 4}, r"cutoff must be a whole number in 1\.\.4, the rows' max_length, got 5"),
    ],
)
def test_wrong_settings_are_refused(wrong: dict[str, Any], named: str) -> None:
    with unchecked(), pytest.raises(InputError, match=named):
        BSARecBlock(DIM, **{"max_length": 5, **wrong})
