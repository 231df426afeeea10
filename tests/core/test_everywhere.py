"""Every position's state is the answer to its own prefix, in values and gradients, or the encoder is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from latentloop.adapt import adapt
from latentloop.depth import FixedDepth
from latentloop.errors import InputError
from latentloop.randomness import keyed_normal, row_keys
from latentloop.recommender import Recommender
from latentloop.recurrence import RecurrentDepth
from latentloop.thinking.everywhere import Everywhere, check_everywhere
from tests.core.worlds import (
    DIM,
    MAX_LENGTH,
    NUM_ITEMS,
    Layouts,
    PaddedBlock,
    depths,
    fewer,
    ragged,
    recommender,
    seeds,
)

LAYOUTS = st.sampled_from([True, False, "core"])


def close(found: Any, wanted: Any) -> None:
    torch.testing.assert_close(found, wanted, rtol=1e-8, atol=1e-9)  # float64


def prefixes(history: Tensor, found: Everywhere) -> Tensor:
    """The history up to each token, left-padded, by loops."""
    rows = []
    for row, slot in zip(found.packing.rows.tolist(), found.packing.slots.tolist(), strict=True):
        items = history[row, -MAX_LENGTH:].tolist()
        kept = items[: len(items) - slot]
        rows.append([0] * (MAX_LENGTH - len(kept)) + kept)
    return torch.tensor(rows)


def gradients(value: Tensor, model: nn.Module) -> tuple[Tensor, ...]:
    return torch.autograd.grad((value**3).sum(), [p for p in model.parameters() if p.requires_grad])


def without_positions(model: Recommender) -> None:
    """Zeros as position vectors, for good: what a moved prefix would change else."""
    with torch.no_grad():
        model.position_table.requires_grad_(False).zero_()


@fewer
@given(seed=seeds, packed=LAYOUTS, depth=depths)
def test_only_positions_and_start_states_tell_a_prefix_in_a_row_from_one_of_its_own(
    seed: int, packed: Layouts, depth: int
) -> None:
    history = ragged(seed)
    model = recommender(seed, packed=packed, inference_state="zero").double()
    found = model.think_everywhere(history, depth=depth)
    moved = model.think(prefixes(history, found), depth=depth).final
    assert not torch.allclose(found.states, moved)  # its newest item stands at another position
    without_positions(model)
    found = model.think_everywhere(history, depth=depth)
    wanted = model.think(prefixes(history, found), depth=depth).final
    close(found.states, wanted)
    close(gradients(found.states, model), gradients(wanted, model))


@fewer
@given(seed=seeds, packed=LAYOUTS, depth=depths)
def test_each_state_is_the_papers_equation_on_its_prefix(seed: int, packed: Layouts, depth: int) -> None:
    """By hand, a token at a time, with the positions and T_0 of the whole row."""
    history = ragged(seed)
    model = recommender(seed, packed=packed).double()
    loop: Any = model.encoder
    keys = row_keys(seed + 1, torch.arange(len(history)))
    found = model.think_everywhere(history, depth=depth, state_keys=keys)
    for token, (row, slot) in enumerate(zip(found.packing.rows.tolist(), found.packing.slots.tolist(), strict=True)):
        items = [item for item in history[row, -MAX_LENGTH:].tolist() if item] or [0]
        kept = items[: len(items) - slot]
        slots = torch.tensor([len(items) - 1 - place for place in range(len(kept))])
        table = model.position_table[MAX_LENGTH - 1 - slots]
        hidden = loop.pre_block(model.input_norm(model.item_table(torch.tensor(kept)) + table)[None])
        state = keyed_normal(keys[row].expand(len(kept)), slots, DIM).to(hidden.dtype)[None]
        for _ in range(depth):
            state = loop.core_block(loop.norm(state + hidden))
        close(found.states[token], state[0, -1])


@fewer
@given(seed=seeds, packed=LAYOUTS, depth=depths, loop=st.booleans())
def test_the_newest_position_is_think(seed: int, packed: Layouts, depth: int, loop: bool) -> None:
    history = ragged(seed)
    if loop:
        model = recommender(seed, packed=packed).double()
    else:
        depth = 1
        torch.manual_seed(seed)
        block = adapt(PaddedBlock(DIM, layers=2, inner=12) if packed is False else nn.GRU(DIM, DIM, batch_first=True))
        model = Recommender(NUM_ITEMS, block, DIM, MAX_LENGTH, init_std=0.5).double().eval()
    found = model.think_everywhere(history, depth=depth)
    close(found.thoughts.steps, model.think(history, depth=depth).steps)
    close(found.states[found.packing.offsets[1:] - 1], found.thoughts.final)
    assert torch.equal(found.packing.items, history[:, -MAX_LENGTH:][_real(history[:, -MAX_LENGTH:])])


def _real(history: Tensor) -> Tensor:
    real = history != 0
    real[:, -1] = True
    return real


@fewer
@given(seed=seeds)
def test_a_bare_block_answers_every_prefix(seed: int) -> None:
    history = ragged(seed)
    torch.manual_seed(seed)
    model = Recommender(NUM_ITEMS, nn.GRU(DIM, DIM, batch_first=True), DIM, MAX_LENGTH, init_std=0.5)
    model = model.double().eval()
    without_positions(model)
    found = model.think_everywhere(history)
    wanted = model.think(prefixes(history, found)).final
    close(found.states, wanted)
    close(gradients(found.states, model), gradients(wanted, model))


class _Causal(nn.Module):
    """Causal, but it sees how much padding there is."""

    causal = True

    def forward(self, x: Tensor) -> Tensor:
        return x.cumsum(1)


@pytest.mark.parametrize(
    ("block", "match"),
    [
        (lambda: nn.GRU(DIM, DIM // 2, bidirectional=True, batch_first=True), "is not causal, .* its own target"),
        (lambda: nn.TransformerEncoderLayer(DIM, 2, batch_first=True), "is not causal"),
        (_Causal, "is not pad-invariant"),
    ],
)
def test_an_encoder_that_would_leak_is_refused_in_one_line(block: Any, match: str) -> None:
    history = ragged(0)
    encoders = [block(), RecurrentDepth(nn.GRU(DIM, DIM, batch_first=True), block(), depth_law=FixedDepth(2))]
    for encoder in encoders:
        model = Recommender(NUM_ITEMS, encoder, DIM, MAX_LENGTH)
        with pytest.raises(InputError, match=match) as caught:
            model.think_everywhere(history)
        assert "\n" not in str(caught.value) and "--positions newest" in str(caught.value)


def test_an_encoder_without_the_method_is_refused() -> None:
    class Newest:
        causal = pad_invariant = True

    with pytest.raises(InputError, match="this one has no method `everywhere`.*--positions newest"):
        check_everywhere(Newest())
