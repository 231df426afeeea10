"""Cheap dropout masks: the right share, independent, and the gradient of what was kept."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from latentloop.backbones.layout import Layout
from latentloop.backbones.sasrec import CausalAttention, _attend_plainly
from latentloop.modes.quick_dropout import QuickDropout, quick_dropout

seeds = st.integers(0, 2**31)


@given(seed=seeds, p=st.sampled_from([0.1, 0.5, 0.75]))
def test_drops_a_share_p_and_keeps_the_mean(seed: int, p: float) -> None:
    torch.manual_seed(seed)
    dropped = quick_dropout(torch.ones(100_000), p)
    kept = dropped[dropped != 0]
    # five standard deviations of a binomial share
    assert abs((dropped == 0).double().mean().item() - p) < 5 * (p * (1 - p) / 100_000) ** 0.5
    assert kept.unique().numel() == 1
    assert kept[0].item() == pytest.approx(1 / (1 - p), rel=2e-5)


@given(
    seed=seeds,
    rows=st.integers(0, 5),
    columns=st.integers(1, 9),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
)
def test_the_gradient_is_the_mask_that_the_value_took(seed: int, rows: int, columns: int, dtype: torch.dtype) -> None:
    torch.manual_seed(seed)
    x = torch.ones(rows, columns, dtype=dtype, requires_grad=True)
    dropped = quick_dropout(x, 0.5)
    dropped.sum().backward()
    assert dropped.dtype == dtype
    assert torch.equal(x.grad, dropped)
    assert set(dropped.unique().tolist()) <= {0.0, 2.0}


def test_neighbours_are_dropped_independently() -> None:
    torch.manual_seed(0)
    kept = (quick_dropout(torch.ones(40_000), 0.5) != 0).double().view(-1, 4)
    # four elements share a random word: each pair of them must agree half of the time, within five deviations
    agreement = torch.stack([(kept[:, i] == kept[:, j]).double().mean() for i in range(4) for j in range(i)])
    assert ((agreement - 0.5).abs() < 5 * 0.5 / 10_000**0.5).all()


@pytest.mark.parametrize(("p", "expected"), [(0.0, 1.0), (1.0, 0.0), (1e-9, 1.0)])
def test_the_ends(p: float, expected: float) -> None:
    assert quick_dropout(torch.ones(7), p).tolist() == [expected] * 7


def test_only_while_training_and_by_the_seed() -> None:
    module, x = QuickDropout(0.5), torch.randn(50)
    assert isinstance(module, nn.Dropout)
    torch.manual_seed(1)
    first = module(x)
    torch.manual_seed(1)
    assert torch.equal(first, module(x))
    assert not torch.equal(first, module(x))
    assert torch.equal(module.eval()(x), x)


@given(seed=seeds, masked=st.booleans())
def test_attention_with_dropout_averages_to_attention(seed: int, masked: bool) -> None:
    torch.manual_seed(seed)
    query, key, value = torch.randn(3, 2, 2, 4, 8, dtype=torch.float64)
    mask = torch.ones(4, 4, dtype=torch.bool).tril()[None, None] if masked else None
    exact = nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True)
    many = [_attend_plainly(query, key, value, mask, 0.25) for _ in range(400)]
    spread = torch.stack(many).std(0) / 400**0.5
    assert ((torch.stack(many).mean(0) - exact).abs() <= 6 * spread + 1e-9).all()


def test_attention_drops_weights_only_while_training() -> None:
    torch.manual_seed(0)
    attention = CausalAttention(8, heads=2, dropout=0.5)
    x = torch.randn(3, 4, 8)
    layout = Layout.padded(x, None)
    assert not torch.equal(attention(x, layout), attention(x, layout))
    attention.eval()
    assert torch.equal(attention(x, layout), attention(x, layout))
