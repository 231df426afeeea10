"""Two blocks stacked once are the two applied one after the other, with the promises that both make."""

from __future__ import annotations

import torch
from hypothesis import given
from torch import Tensor, nn

from latentloop import Recommender
from latentloop.backbones.sasrec import SASRec
from latentloop.blocks.facts import Facts, facts
from latentloop.recurrence import RecurrentDepth
from latentloop.stacked import Stacked
from tests.core.worlds import DIM, MAX_LENGTH, NUM_ITEMS, ragged, seeds


class FixedLength(nn.Linear):
    fixed_length = True


@given(seed=seeds)
def test_one_after_the_other(seed: int) -> None:
    torch.manual_seed(seed)
    pre, core = nn.GRU(DIM, DIM, batch_first=True), nn.Linear(DIM, DIM)
    x = torch.randn(3, 4, DIM)
    torch.testing.assert_close(Stacked(pre, core)(x), core(pre(x)[0]))


def test_a_copy_is_the_block_twice_until_it_learns() -> None:
    block = nn.Linear(DIM, DIM)
    x = torch.randn(3, 4, DIM)
    copied, shared = Stacked(block, "copy"), Stacked(block, block)
    torch.testing.assert_close(copied(x), block(block(x)))
    torch.testing.assert_close(shared(x), block(block(x)))
    with torch.no_grad():
        block.bias += 1.0
    torch.testing.assert_close(copied(x), block(x) @ block.weight.T + block.bias - 1.0)
    torch.testing.assert_close(shared(x), block(block(x)))


class Numbered(nn.Module):
    """Adds its step."""

    def forward(self, x: Tensor, *, step: int) -> Tensor:
        return x + step


def test_both_are_told_the_step() -> None:
    x = torch.zeros(2, 3, DIM)
    loop = RecurrentDepth(nn.Identity(), Stacked(Numbered(), Numbered()), dim=DIM)
    # the norm of equal numbers is 0
    assert [float(state.detach().mean()) for state in loop.unroll(x, state=x, depth=3)] == [0.0, 2.0, 4.0]


def test_promises() -> None:
    blocks = SASRec().blocks(DIM)
    assert facts(Stacked(*blocks)) == Facts(causal=True, pad_invariant=True, packed=True, capturable=True)
    assert facts(Stacked(blocks[0], nn.GRU(DIM, DIM, batch_first=True))) == Facts(causal=True, pad_invariant=True)
    assert facts(Stacked(FixedLength(DIM, DIM), blocks[1])) == Facts(fixed_length=True)


@given(seed=seeds)
def test_packed_rows_are_padded_rows(seed: int) -> None:
    torch.manual_seed(seed)
    blocks = SASRec(inner=12).blocks(DIM)
    history = ragged(seed)
    packed = Recommender(NUM_ITEMS, Stacked(*blocks), DIM, MAX_LENGTH).eval()
    stacked = Stacked(*blocks)
    stacked.packed = False
    padded = Recommender(NUM_ITEMS, stacked, DIM, MAX_LENGTH).eval()
    padded.load_state_dict(packed.state_dict())
    assert packed.encoder.packed and not padded.encoder.packed
    torch.testing.assert_close(packed.encode(history), padded.encode(history), rtol=1e-4, atol=1e-5)
