"""Modules of (x, lengths): those that count from a row's start, as packed sequences do, and those that know our rows."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from latentloop import Recommender, RecurrentDepth
from latentloop.adapt import adapt
from latentloop.depth import FixedDepth
from latentloop.errors import InputError
from tests.adapt.zoo import TOLERANCE, D, LengthsGRU, Rows, every_padding, rows, seeds


class Packed(nn.Module):
    """An RNN as it is usually written: rows that start with their oldest token are packed and unpacked."""

    def __init__(self, *, whole: bool = True, gate: float | None = None) -> None:
        super().__init__()
        self.rnn = nn.LSTM(D, D // 2, batch_first=True, bidirectional=True)
        self.whole = whole
        self.gate = None if gate is None else nn.Parameter(torch.tensor(gate))

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """(B, L, d) and (B,) -> (B, L, d), or (B, longest, d) as torch unpacks it."""
        packed = pack_padded_sequence(x, lengths.cpu(), batch_first=True, enforce_sorted=False)
        total = x.shape[1] if self.whole else None
        read, sizes = pad_packed_sequence(self.rnn(packed)[0], batch_first=True, total_length=total)
        return read if self.gate is None else x[:, : read.shape[1]] + self.gate * read, sizes


class MaskOfLengths(nn.Module):
    """Attention under a mask that it makes of the lengths, and a norm whose plain sum has no gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.attention, self.norm = nn.MultiheadAttention(D, 2, batch_first=True), nn.LayerNorm(D)

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """(B, L, d) and (B,) -> (B, L, d)."""
        padding = None if lengths is None else torch.arange(x.shape[1]) >= lengths[:, None]
        hidden: Tensor = self.norm(x + self.attention(x, x, x, key_padding_mask=padding)[0])
        return hidden


FROM_THE_START: dict[str, Callable[[], nn.Module]] = {
    "packed": Packed,
    "packed, as long as the longest row": lambda: Packed(whole=False),
    "packed, behind a gate that starts closed": lambda: Packed(gate=0.0),
    "mask of lengths": MaskOfLengths,
}


@pytest.mark.parametrize("make", FROM_THE_START.values(), ids=FROM_THE_START.keys())
@given(given_rows=rows(shortest=1), seed=seeds, train=st.booleans(), grad=st.booleans())
def test_each_row_is_answered_as_if_it_were_alone(
    make: Callable[[], nn.Module], given_rows: Rows, seed: int, train: bool, grad: bool
) -> None:
    torch.manual_seed(seed)
    module = make().train(train)
    with torch.set_grad_enabled(grad):
        block = adapt(module)
        block(torch.randn(2, 4, D), lengths=torch.tensor([2, 4]))  # tried here, whatever the rows are
        if isinstance(module, Packed) and module.gate is not None:
            nn.init.ones_(module.gate)  # as training would open it
        output = block(given_rows.x, padding_mask=given_rows.padding)
        for row, n in enumerate(given_rows.lengths.tolist()):
            alone = hidden(module(given_rows.real(row), torch.tensor([n])))
            torch.testing.assert_close(output[row : row + 1, -n:], alone, **TOLERANCE)
    assert not bool(output[given_rows.padding].any())


def hidden(output: Tensor | tuple[Tensor, Tensor]) -> Tensor:
    return output if isinstance(output, Tensor) else output[0]


def test_the_newest_item_counts_in_a_model() -> None:
    torch.manual_seed(0)
    model = Recommender(9, RecurrentDepth(Packed(), "copy", depth_law=FixedDepth(2)), D, 6, init_std=0.5).eval()
    with torch.no_grad():
        thoughts = model.think(torch.tensor([[0, 0, 0, 0, 2, 1], [0, 0, 0, 0, 2, 3]])).final
    assert (thoughts[0] - thoughts[1]).abs().max() > 1e-3


class RefusesOneRowUnderAutocast(Packed):
    """As torch's LSTM is on processors whose kernels know no bf16: it takes rows of several lengths alone."""

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        if torch.is_autocast_enabled("cpu") and len(x) == 1:
            raise RuntimeError("could not create a primitive descriptor")
        return super().forward(x, lengths)


@pytest.mark.parametrize("make", [Packed, MaskOfLengths, RefusesOneRowUnderAutocast])
@pytest.mark.parametrize("seed", range(2))
def test_the_first_call_may_be_under_autocast(make: Callable[[], nn.Module], seed: int) -> None:
    torch.manual_seed(seed)
    module, given_rows = make(), every_padding(4)
    block = adapt(module)
    with torch.autocast("cpu", torch.bfloat16):
        block(given_rows.x, padding_mask=given_rows.padding)
    output = block(given_rows.x, padding_mask=given_rows.padding)
    torch.testing.assert_close(output[2:3, -2:], hidden(module(given_rows.real(2), torch.tensor([2]))), **TOLERANCE)


def test_a_module_that_knows_our_rows_gets_them_as_they_are(caplog: pytest.LogCaptureFixture) -> None:
    seen: list[Tensor] = []
    module, given_rows = LengthsGRU(), every_padding(4)
    block = adapt(module)
    module.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with caplog.at_level(logging.WARNING):
        block(given_rows.x, padding_mask=given_rows.padding)
    assert torch.equal(seen[-1], given_rows.x)
    assert not caplog.records


def test_turning_is_told_once_and_leaves_no_trace(caplog: pytest.LogCaptureFixture) -> None:
    given_rows, block = every_padding(4), adapt(Packed())
    before = [weight.clone() for weight in block.parameters()]
    torch.manual_seed(3)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            block(given_rows.x, padding_mask=given_rows.padding)
    (record,) = caplog.records
    assert "Packed takes lengths and reads padding, or not the newest item" in record.message
    drawn = torch.rand(())
    torch.manual_seed(3)
    assert torch.equal(drawn, torch.rand(()))
    assert all(torch.equal(one, other) for one, other in zip(before, block.parameters(), strict=True))
    assert all(weight.grad is None for weight in block.parameters())


def test_turned_rows_need_no_turning_where_nothing_is_padded() -> None:
    torch.manual_seed(0)
    module, given_rows = Packed(), every_padding(4)
    block = adapt(module).eval()
    block(given_rows.x, padding_mask=given_rows.padding)  # turns it
    x = torch.randn(3, 5, D)
    torch.testing.assert_close(block(x), module(x, torch.full((3,), 5))[0], **TOLERANCE)
    assert not block.packed
    with pytest.raises(InputError, match="Packed takes no packed tokens"):
        block(x.flatten(0, 1), offsets=torch.tensor([0, 5, 10, 15]))


class OnlyWhole(nn.Module):
    """Refuses what a trial needs: rows that are padded, or any rows at all."""

    def __init__(self, *, never: bool) -> None:
        super().__init__()
        self.never = never

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        if self.never or (lengths is not None and int(lengths.min()) < x.shape[1]):
            raise ValueError("every row must be whole")
        return x


@pytest.mark.parametrize("never", [True, False])
def test_a_module_that_fails_when_it_is_tried_says_so_itself(never: bool, caplog: pytest.LogCaptureFixture) -> None:
    given_rows, block = every_padding(4), adapt(OnlyWhole(never=never))
    with pytest.raises(ValueError, match="^every row must be whole$"):
        block(given_rows.x, padding_mask=given_rows.padding)
    assert not caplog.records
    if not never:
        assert torch.equal(block(given_rows.x), given_rows.x)
