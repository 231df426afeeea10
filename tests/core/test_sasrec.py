"""SASRec's blocks: causal, blind to padding, and the same in every layout."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from latentloop.backbones import layout
from latentloop.backbones.layout import Layout, packed_layout
from latentloop.backbones.sasrec import SASRec, SASRecBlock
from latentloop.blocks.facts import facts
from latentloop.errors import InputError
from latentloop.recommender import Recommender
from latentloop.recurrence import RecurrentDepth
from latentloop.thinking.packing import Packing
from tests.core.worlds import DIM, MAX_LENGTH, NUM_ITEMS, ragged, seeds

NORMS = st.sampled_from(["pre", "post"])
Norm = Literal["pre", "post"]


@pytest.fixture(scope="module", params=[1, 2], autouse=True)
def threads(request: pytest.FixtureRequest) -> Iterator[None]:
    """Attention is computed in another way with several threads than with one."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


def block(seed: int, norm: Norm = "pre", layers: int = 2) -> SASRecBlock:
    """A small block in float64 whose every parameter, layer norms included, is drawn."""
    torch.manual_seed(seed)
    made = SASRecBlock(DIM, layers=layers, heads=2, inner=12, dropout=0.5, norm=norm)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return made.double().eval()


def inputs(seed: int) -> tuple[Tensor, Tensor, Packing]:
    """Embedded uneven rows, their padding mask, and the packing of the same rows."""
    history = ragged(seed)
    padding_mask = history == 0
    padding_mask[:, -1] = False
    torch.manual_seed(seed + 1)
    return torch.randn(*history.shape, DIM, dtype=torch.float64), padding_mask, Packing.of(history)


def real_tokens(x: Tensor, packing: Packing) -> Tensor:
    return x[packing.rows, x.shape[1] - 1 - packing.slots]


def naive(made: SASRecBlock, row: np.ndarray) -> np.ndarray:
    """One unpadded row, position by position, in float64 NumPy."""

    def weights(module: Any) -> tuple[np.ndarray, np.ndarray]:
        return module.weight.detach().double().numpy(), module.bias.detach().double().numpy()

    def norm(module: Any, v: np.ndarray) -> np.ndarray:
        weight, bias = weights(module)
        return (v - v.mean()) / np.sqrt(v.var() + 1e-5) * weight + bias

    def linear(module: Any, v: np.ndarray) -> np.ndarray:
        weight, bias = weights(module)
        return weight @ v + bias

    def gelu(v: np.ndarray) -> np.ndarray:
        return 0.5 * v * (1 + torch.erf(torch.from_numpy(v) / 2**0.5).numpy())

    positions = list(row.astype(np.float64))
    for layer in made.layers:
        pre, attention = layer.pre_norm, layer.attention
        size = DIM // attention.heads
        projected = [linear(attention.query_key_value, norm(layer.attention_norm, v) if pre else v) for v in positions]
        outputs = []
        for place, own in enumerate(positions):
            read = []
            for head in range(attention.heads):
                cut = slice(head * size, (head + 1) * size)
                query = projected[place][:DIM][cut]
                scores = np.array([query @ p[DIM : 2 * DIM][cut] for p in projected[: place + 1]]) / np.sqrt(size)
                share = np.exp(scores - scores.max()) / np.exp(scores - scores.max()).sum()
                read.append(sum(s * p[2 * DIM :][cut] for s, p in zip(share, projected, strict=False)))
            attended = own + linear(attention.output, np.concatenate(read))
            attended = attended if pre else norm(layer.attention_norm, attended)
            inner = norm(layer.feed_forward_norm, attended) if pre else attended
            fed = attended + linear(layer.feed_forward[2], gelu(linear(layer.feed_forward[0], inner)))
            outputs.append(fed if pre else norm(layer.feed_forward_norm, fed))
        positions = outputs
    if made.layers[0].pre_norm:
        positions = [norm(made.output_norm, v) for v in positions]
    return np.stack(positions)


@given(seed=seeds, norm=NORMS)
def test_every_position_is_the_naive_loops(seed: int, norm: Norm) -> None:
    made, (x, padding_mask, _) = block(seed, norm), inputs(seed)
    with torch.no_grad():
        found = made(x, padding_mask=padding_mask).numpy()
    for row in range(len(x)):
        real = ~padding_mask[row].numpy()
        np.testing.assert_allclose(found[row][real], naive(made, x[row].numpy()[real]), rtol=1e-9, atol=1e-9)


@given(seed=seeds, norm=NORMS)
def test_packed_equals_padded_in_values_and_gradients(seed: int, norm: Norm) -> None:
    made, (x, padding_mask, packing) = block(seed, norm), inputs(seed)
    x.requires_grad_()
    context = {"offsets": packing.offsets, "max_length": packing.max_length}
    padded = real_tokens(made(x, padding_mask=padding_mask), packing)
    packed = made(real_tokens(x, packing), **context)
    torch.testing.assert_close(padded, packed)
    wanted, found = (torch.autograd.grad((y**3).sum(), [x, *made.parameters()]) for y in (padded, packed))
    for one, other in zip(wanted, found, strict=True):
        torch.testing.assert_close(one, other)
    assert float(wanted[0][padding_mask].abs().sum()) == 0 < float(wanted[0].abs().sum())


@given(seed=seeds, norm=NORMS)
def test_later_items_never_change_earlier_positions(seed: int, norm: Norm) -> None:
    made, (x, padding_mask, packing) = block(seed, norm), inputs(seed)
    changed = x.clone()
    changed[:, 5:] = torch.randn_like(changed[:, 5:])
    with torch.no_grad():
        before, after = (made(v, padding_mask=padding_mask) for v in (x, changed))
        packed_before, packed_after = (made(real_tokens(v, packing), offsets=packing.offsets) for v in (x, changed))
    torch.testing.assert_close(before[:, :5], after[:, :5])
    assert not torch.allclose(before[:, 5:], after[:, 5:])
    earlier = packing.slots > x.shape[1] - 1 - 5
    torch.testing.assert_close(packed_before[earlier], packed_after[earlier])


@given(seed=seeds, extra=st.integers(1, 5), norm=NORMS)
def test_left_padding_and_what_it_holds_change_nothing(seed: int, extra: int, norm: Norm) -> None:
    made, (x, padding_mask, _) = block(seed, norm), inputs(seed)
    longer = torch.cat([torch.randn(len(x), extra, DIM, dtype=x.dtype), x], 1)
    longer_mask = torch.cat([torch.ones(len(x), extra, dtype=torch.bool), padding_mask], 1)
    longer[longer_mask] = 1e3 * torch.randn(int(longer_mask.sum()), DIM, dtype=x.dtype)
    with torch.no_grad():
        wanted, found = made(x, padding_mask=padding_mask), made(longer, padding_mask=longer_mask)[:, extra:]
    assert bool(found.isfinite().all())
    torch.testing.assert_close(found[~padding_mask], wanted[~padding_mask])


@given(seed=seeds)
def test_no_mask_means_no_padding(seed: int) -> None:
    made, (x, padding_mask, _) = block(seed), inputs(seed)
    torch.testing.assert_close(made(x), made(x, padding_mask=torch.zeros_like(padding_mask)))


@given(seed=seeds, norm=NORMS, layers=st.integers(1, 2), told=st.booleans())
def test_last_is_the_newest_position_of_forward(seed: int, norm: Norm, layers: int, told: bool) -> None:
    made, (x, padding_mask, packing) = block(seed, norm, layers), inputs(seed)
    padded = made(x, padding_mask=padding_mask)[:, -1]
    context: dict[str, Any] = {"offsets": packing.offsets, "max_length": packing.max_length if told else None}
    tokens = real_tokens(x, packing)
    torch.testing.assert_close(made.last(x, padding_mask=padding_mask), padded)
    torch.testing.assert_close(made.last(tokens, **context), padded)
    wanted, found = (
        torch.autograd.grad((y**3).sum(), list(made.parameters()))
        for y in (made(tokens, **context)[packing.offsets[1:] - 1], made.last(tokens, **context))
    )
    for one, other in zip(wanted, found, strict=True):
        torch.testing.assert_close(one, other)


@given(seed=seeds, rows=st.integers(3, 12))
def test_grouped_and_ungrouped_rows_are_the_same(seed: int, rows: int) -> None:
    made, packing = block(seed), Packing.of(ragged(seed, rows, longest=17))
    torch.manual_seed(seed)
    x = torch.randn(len(packing.items), DIM, dtype=torch.float64)
    grouped, together = (Layout.packed(x, packing.offsets, None, grouped=g) for g in (True, False))
    assert len(grouped.groups) > 1 == len(together.groups)
    assert max(g.tokens.shape[1] for g in grouped.groups if g.tokens is not None) == packing.max_length
    layer = made.layers[0]
    torch.testing.assert_close(layer(x, grouped), layer(x, together))
    torch.testing.assert_close(layer.last(x, grouped), layer.last(x, together))


@given(seed=seeds, rows=st.integers(3, 40), longest=st.integers(2, 32), spare=st.integers(0, 20))
def test_rows_in_windows_are_the_same_as_alone(seed: int, rows: int, longest: int, spare: int) -> None:
    made, packing = block(seed), Packing.of(ragged(seed, rows, longest=longest))
    torch.manual_seed(seed)
    x = torch.randn(len(packing.items), DIM, dtype=torch.float64)
    together = Layout.packed(x, packing.offsets, None, grouped=False)
    windowed = Layout.windowed(x, packing.offsets, min(32, packing.max_length + spare))
    layer = made.layers[0]
    found, wanted = layer(x, windowed), layer(x, together)
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(layer.last(x, windowed), layer.last(x, together))
    towards = torch.randn_like(x)
    for one, other in zip(
        *(torch.autograd.grad((y * towards).sum(), list(layer.parameters())) for y in (found, wanted)), strict=True
    ):
        torch.testing.assert_close(one, other)


@given(seed=seeds, rows=st.integers(3, 12), least=st.integers(1, 3))
def test_rows_in_order_of_length_are_read_in_place(seed: int, rows: int, least: int) -> None:
    history = ragged(seed, rows, longest=9)
    history = history[(history != 0).sum(1).argsort()].repeat_interleave(least, 0)
    made, packing = block(seed), Packing.of(history)
    lengths = packing.offsets.diff()
    torch.manual_seed(seed)
    x = torch.randn(len(packing.items), DIM, dtype=torch.float64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layout, "_LEAST_ROWS", 1)
        in_place = Layout.packed(x, packing.offsets, None, grouped=True)
        shuffled = Layout.packed(x, Packing.of(history.flip(0)).offsets, None, grouped=True)
    assert [group.span is not None for group in in_place.groups] == [True] * len(lengths.unique())
    assert shuffled.groups[0].span is None  # the longest comes first there
    together = Layout.packed(x, packing.offsets, None, grouped=False)
    layer = made.layers[0]
    torch.testing.assert_close(layer(x, in_place), layer(x, together))
    torch.testing.assert_close(layer.last(x, in_place), layer.last(x, together))


def test_a_layout_of_inference_mode_is_not_kept_for_training() -> None:
    made, offsets, x = block(0), torch.tensor([0, 3, 5]), torch.randn(5, DIM, dtype=torch.float64)
    with torch.inference_mode():
        made(x, offsets=offsets)
    made.train()(x, offsets=offsets).sum().backward()
    assert all(parameter.grad is not None for parameter in made.parameters())


@given(seed=seeds)
def test_dropout_acts_in_training_only(seed: int) -> None:
    made, (x, _, packing) = block(seed), inputs(seed)
    tokens = real_tokens(x, packing)
    for run in (lambda: made(x), lambda: made(tokens, offsets=packing.offsets), lambda: made.last(x)):
        assert torch.equal(run(), run())
        made.train()
        assert not torch.allclose(run(), run())
        made.eval()


def test_attention_weights_are_dropped_in_training() -> None:
    made, (x, _, _) = block(0), inputs(0)
    attention, layout = made.layers[0].attention, Layout.padded(x, None)
    assert torch.equal(attention(x, layout), attention(x, layout))
    attention.train()
    assert not torch.allclose(attention(x, layout), attention(x, layout))


def test_base_has_as_many_parameters_as_both_blocks() -> None:
    config = SASRec(pre_layers=1, core_layers=3, inner=12)
    pre, core = config.blocks(DIM)
    layers = [sum(p.numel() for p in made.layers.parameters()) for made in (pre, core, config.base(DIM))]
    assert layers[0] + layers[1] == layers[2]
    assert [len(made.layers) for made in (pre, core)] == [1, 3]


def test_facts_are_declared() -> None:
    declared = facts(block(0))
    assert declared.causal and declared.pad_invariant and declared.packed and not declared.fixed_length


@pytest.mark.parametrize(
    ("wrong", "named"),
    [({"layers": 0}, "layers"), ({"heads": 3}, "heads"), ({"heads": 0}, "heads"), ({"dropout": 1.0}, "dropout")],
)
def test_wrong_settings_are_refused(wrong: dict[str, Any], named: str) -> None:
    with pytest.raises(InputError, match=named):
        SASRecBlock(DIM, **wrong)


def test_the_layout_is_worked_out_once_for_a_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pre-block and four passes of the core-block share it."""
    made: list[int] = []
    packed = Layout.packed

    def counted(x: Tensor, offsets: Tensor, max_length: int | None, *, grouped: bool) -> Layout:
        made.append(len(offsets) - 1)
        return packed(x, offsets, max_length, grouped=grouped)

    monkeypatch.setattr(Layout, "packed", counted)
    model = Recommender(NUM_ITEMS, RecurrentDepth(*SASRec(heads=2).blocks(DIM)), DIM, MAX_LENGTH).eval()
    for copies in (1, 3):
        made.clear()
        history = ragged(0)
        model.think(history, depth=4, copies=copies)
        # with copies the pre-block runs on each row once, the core-block on all of its copies
        assert made == ([len(history)] if copies == 1 else [len(history), 3 * len(history)])


def test_offsets_that_are_written_to_get_another_layout() -> None:
    """Kept while they stay as they are, and worked out for each longest row that is named."""
    x, offsets = torch.zeros(6, DIM), torch.tensor([0, 1, 6])
    one = packed_layout(x, offsets, None)
    assert packed_layout(x, offsets, None) is one
    offsets[1] = 4
    two, fresh = packed_layout(x, offsets, None), Layout.packed(x, offsets, None, grouped=True)
    assert [group.tokens.tolist() for group in two.groups] == [group.tokens.tolist() for group in fresh.groups]
    assert [group.tokens.tolist() for group in two.groups] != [group.tokens.tolist() for group in one.groups]
    with torch.inference_mode():
        assert len(packed_layout(x, torch.tensor([0, 6]), 6).groups) == 1
