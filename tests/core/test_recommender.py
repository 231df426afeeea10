"""Reading histories and thinking: rows apart, layouts alike, states where they were asked for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from latentloop.depth import FixedDepth
from latentloop.errors import InputError, InputTypeError
from latentloop.randomness import row_keys
from latentloop.recommender import Recommender
from latentloop.recurrence import Encoder, RecurrentDepth
from latentloop.single_pass import SinglePass
from tests.core.worlds import (
    DIM,
    MAX_LENGTH,
    NUM_ITEMS,
    Layouts,
    depths,
    encoder,
    fewer,
    ragged,
    recommender,
    seeds,
    unchecked,
)

LAYOUTS = st.sampled_from([True, False, "core"])
STATES = st.sampled_from(["shared", "zero"])


def close(one: Tensor, other: Tensor) -> None:
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@fewer
@given(seed=seeds, depth=depths, copies=st.integers(1, 3), keyed=st.booleans())
def test_packed_equals_padded_in_values_and_gradients(seed: int, depth: int, copies: int, keyed: bool) -> None:
    """In float64, so that only a wrong term can differ."""
    history = ragged(seed)
    keys = row_keys(seed, torch.arange(len(history) * copies)) if keyed else None
    found = []
    layouts: tuple[Layouts, ...] = (True, False, "core")
    for packed in layouts:
        model = recommender(seed, packed=packed).double()
        assert model.encoder.packed is (packed is True) and model.encoder.packed_core is bool(packed)
        steps = model.think(history, depth=depth, copies=copies, state_keys=keys).steps
        assert steps.shape == (depth, len(history) * copies, DIM)
        found.append((steps, torch.autograd.grad((steps**3).sum(), list(model.parameters()))))
    for steps, gradients in found[1:]:
        torch.testing.assert_close(found[0][0], steps)
        for one, other in zip(found[0][1], gradients, strict=True):
            torch.testing.assert_close(one, other)
            assert float(one.abs().sum()) > 0


@fewer
@given(seed=seeds, packed=LAYOUTS, state=STATES, pick=st.data())
def test_rows_do_not_see_their_companions(seed: int, packed: Layouts, state: Any, pick: st.DataObject) -> None:
    model, history = recommender(seed, packed=packed, inference_state=state), ragged(seed)
    together = model.think(history).steps
    order = pick.draw(st.permutations(range(len(history))))
    close(model.think(history[order]).steps, together[:, order])
    some = order[: max(1, len(order) // 2)]
    close(model.think(history[some]).steps, together[:, some])


@fewer
@given(seed=seeds, packed=LAYOUTS, extra=st.integers(1, 4), depth=depths)
def test_extra_left_padding_changes_nothing(seed: int, packed: Layouts, extra: int, depth: int) -> None:
    history = ragged(seed, longest=MAX_LENGTH - 2)
    model = recommender(seed, packed=packed)
    longer = torch.nn.functional.pad(history, (extra, 0))
    close(model.think(longer, depth=depth).steps, model.think(history, depth=depth).steps)


@fewer
@given(seed=seeds, packed=LAYOUTS)
def test_only_the_newest_items_are_read(seed: int, packed: Layouts) -> None:
    model, history = recommender(seed, packed=packed), ragged(seed)
    cut = history[:, -MAX_LENGTH:]
    assert history.shape[1] > MAX_LENGTH
    close(model.score(history), model.score(cut))
    older = history.clone()
    older[:, :-MAX_LENGTH] = (cut[:, :1] != 0).long()  # a row goes on to the left of its items
    close(model.score(older), model.score(cut))


@fewer
@given(seed=seeds, packed=LAYOUTS)
def test_int32_histories_are_read_alike(seed: int, packed: Layouts) -> None:
    model, history = recommender(seed, packed=packed), ragged(seed)
    assert torch.equal(model.score(history.int()), model.score(history))


@fewer
@given(seed=seeds, packed=LAYOUTS, copies=st.integers(2, 4), depth=depths)
def test_copies_are_repeated_histories(seed: int, packed: Layouts, copies: int, depth: int) -> None:
    model, history = recommender(seed, packed=packed), ragged(seed)
    keys = row_keys(seed, torch.arange(len(history) * copies))
    found = model.think(history, depth=depth, state_keys=keys, copies=copies).steps
    close(found, model.think(history.repeat_interleave(copies, 0), depth=depth, state_keys=keys).steps)
    assert not torch.allclose(found[:, 0], found[:, 1])


@fewer
@given(seed=seeds, packed=LAYOUTS, copies=st.integers(1, 3), depth=depths)
def test_an_explicit_state_is_where_the_loop_starts(seed: int, packed: Layouts, copies: int, depth: int) -> None:
    """Against the equations, on the padded rows."""
    model, history = recommender(seed, packed=packed), ragged(seed, longest=MAX_LENGTH)
    torch.manual_seed(seed)
    start = torch.randn(len(history) * copies, MAX_LENGTH, DIM)
    found = model.think(history, depth=depth, state=start, copies=copies).steps
    twin = recommender(seed, packed=False)
    loop: Any = twin.encoder
    repeated = history.repeat_interleave(copies, 0)
    mask = repeated == 0
    mask[:, -1] = False
    hidden = loop.pre_block(twin.input_norm(twin.item_table(repeated) + twin.position_table), padding_mask=mask)
    for step in range(depth):
        start = loop.core_block(loop.norm(start + hidden), padding_mask=mask)
        close(found[step], start[:, -1])


@fewer
@given(seed=seeds, packed=LAYOUTS)
def test_state_keys_draw_each_rows_own_state(seed: int, packed: Layouts) -> None:
    model, history = recommender(seed, packed=packed), ragged(seed)
    history = torch.cat([history[:1], history, history[:1]])
    keys = row_keys(seed, torch.arange(len(history)))
    found = model.think(history, state_keys=keys).steps
    assert not torch.allclose(found[:, 0], found[:, -1])
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(history)))
    close(model.think(history[order], state_keys=keys[order]).steps, found[:, order])
    close(model.think(history, state_keys=keys).steps, found)


@fewer
@given(seed=seeds, packed=LAYOUTS)
def test_the_shared_state_is_saved_noise_by_distance_from_the_newest(seed: int, packed: Layouts) -> None:
    model, history = recommender(seed, packed=packed, seed=seed), ragged(seed, longest=MAX_LENGTH)
    noise = model.inference_noise
    assert noise.shape == (MAX_LENGTH, DIM)
    assert "inference_noise" in model.state_dict()
    assert float(noise.std()) > 0.5
    explicit = noise.flip(0).expand(len(history), -1, -1)
    close(model.think(history, state=explicit).steps, model.think(history).steps)
    assert torch.equal(noise, recommender(seed + 1, seed=seed).inference_noise)
    assert not torch.equal(noise, recommender(seed, seed=seed + 1).inference_noise)


@fewer
@given(seed=seeds, packed=LAYOUTS)
def test_fresh_and_zero_states(seed: int, packed: Layouts) -> None:
    history = ragged(seed, longest=MAX_LENGTH)
    fresh, zero = (recommender(seed, packed=packed, inference_state=s) for s in ("fresh", "zero"))
    twice = torch.cat([history, history])
    found = fresh.think(twice).steps
    assert not torch.allclose(found, fresh.think(twice).steps)
    assert not torch.allclose(found[:, : len(history)], found[:, len(history) :])
    zeros = torch.zeros(len(history), MAX_LENGTH, DIM)
    close(zero.think(history, state=zeros).steps, zero.think(history).steps)
    close(zero.think(history).steps, zero.think(history).steps)


def test_state_scales_with_state_std() -> None:
    plain = Recommender(NUM_ITEMS, encoder(0), DIM, MAX_LENGTH, seed=1).inference_noise
    wide = Recommender(NUM_ITEMS, encoder(0, state_std=2.0), DIM, MAX_LENGTH, seed=1).inference_noise
    torch.testing.assert_close(wide, 2 * plain)


@fewer
@given(seed=seeds, packed=LAYOUTS, depth=depths)
def test_scores_are_inner_products_of_the_last_thought(seed: int, packed: Layouts, depth: int) -> None:
    history = ragged(seed)
    for scorer in ("dot", "cosine"):
        model = recommender(seed, packed=packed, scorer=scorer)
        with torch.no_grad():
            final = model.think(history, depth=depth).final.double().numpy()
            table = model.item_table.weight[1:].double().numpy()
            if scorer == "cosine":
                final = final / np.linalg.norm(final, axis=1, keepdims=True) / 0.07
                table = table / np.linalg.norm(table, axis=1, keepdims=True)
            found = model.score(history, depth=depth)
        assert found.shape == (len(history), NUM_ITEMS)
        np.testing.assert_allclose(found.numpy(), final @ table.T, rtol=1e-4, atol=1e-4)


@fewer
@given(seed=seeds, packed=LAYOUTS)
def test_depth_none_is_the_inference_depth(seed: int, packed: Layouts) -> None:
    model, history = recommender(seed, packed=packed), ragged(seed)
    assert model.inference_depth == 4
    thoughts = model.think(history)
    assert thoughts.depth == 4
    close(thoughts.steps, model.think(history, depth=7).steps[:4])
    close(model(history), model.queries(thoughts.final))


@fewer
@given(seed=seeds, packed=LAYOUTS)
def test_the_padding_row_stays_zero_and_is_never_scored(seed: int, packed: Layouts) -> None:
    model = recommender(seed, packed=packed)
    assert float(model.item_table.weight.detach()[0].abs().sum()) == 0
    model.score(ragged(seed)).pow(2).sum().backward()
    gradient = model.item_table.weight.grad
    assert gradient is not None
    assert float(gradient[0].abs().sum()) == 0 < float(gradient[1:].abs().sum())
    assert model.keys().shape == (NUM_ITEMS, DIM)


@pytest.mark.parametrize("aggregate", ["add", "mean", "concat", "gate"])
@pytest.mark.parametrize("packed", [True, False, "core"])
@pytest.mark.parametrize("training", [True, False])
def test_bf16_autocast_is_finite_and_near_float32(aggregate: str, packed: Layouts, training: bool) -> None:
    history = ragged(1, 6)
    model = recommender(1, packed=packed, aggregate=aggregate)
    wanted = model.score(history).detach()
    with torch.autocast("cpu", torch.bfloat16):
        found = model.score(history).detach()
        model.train(training)
        loss = model.think(history, depth=3, copies=2).steps.float().pow(2).sum()
    loss.backward()
    assert found.dtype == torch.float32
    assert float((found - wanted).abs().max()) < 0.05 * float(wanted.abs().max()) + 0.05
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in model.parameters())


@pytest.mark.parametrize("packed", [True, False, "core"])
def test_scores_are_float32_products_under_autocast(packed: Layouts) -> None:
    """Two items closer than bf16 can tell apart keep their order."""
    model, history = recommender(0, packed=packed), ragged(0)
    with torch.no_grad():
        model.item_table.weight[2] = model.item_table.weight[1] * (1 + 2**-14)
        with torch.autocast("cpu", torch.bfloat16):
            scores = model.score(history)
    assert bool((scores[:, 0] != scores[:, 1]).all())


@pytest.mark.parametrize("packed", [True, False, "core"])
def test_an_empty_batch_has_no_thoughts(packed: Layouts) -> None:
    found = recommender(0, packed=packed).think(torch.zeros(0, 4, dtype=torch.int64), depth=3)
    assert found.steps.shape == (3, 0, DIM)


def test_a_bare_block_is_one_pass() -> None:
    torch.manual_seed(0)
    block = encoder(0).core_block
    model, history = Recommender(NUM_ITEMS, block, DIM, MAX_LENGTH, init_std=0.5).eval(), ragged(0, longest=MAX_LENGTH)
    assert isinstance(model.encoder, SinglePass)
    assert isinstance(model.encoder, Encoder)
    assert model.encoder.packed
    assert model.inference_depth == 1
    assert isinstance(model.depth_law, FixedDepth)
    mask = history == 0
    mask[:, -1] = False
    x = model.input_norm(model.item_table(history) + model.position_table)
    close(model.think(history).steps, block(x, padding_mask=mask)[None, :, -1])
    for depth in (2, 5):
        with pytest.raises(InputError, match="depth must be 1 for an encoder without a loop"):
            model.think(history, depth=depth)
    assert sum(p.numel() for p in model.encoder.parameters()) == sum(p.numel() for p in block.parameters())
    copies = model.think(history, copies=2, state_keys=row_keys(0, torch.arange(2 * len(history)))).steps
    close(copies[:, 0], copies[:, 1])


class ByHand(nn.Module):
    """A block as its user would write it: mixes positions, asks for nothing."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.before = nn.Linear(dim, dim)
        self.mix = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.mix(torch.tanh(self.before(x)).mean(1, keepdim=True))


@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize("kind", ["gru", "by hand"])
def test_three_lines_wrap_any_module(depth: int, kind: str) -> None:
    torch.manual_seed(0)
    blocks = [nn.GRU(64, 64, batch_first=True) if kind == "gru" else ByHand(64) for _ in range(2)]
    model = Recommender(NUM_ITEMS, RecurrentDepth(*blocks), dim=64, max_length=MAX_LENGTH)
    history = ragged(0)
    thoughts = model.think(history, depth=depth)
    assert thoughts.steps.shape == (depth, len(history), 64)
    thoughts.steps.pow(3).sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and float(parameter.grad.abs().sum()) > 0, name
    if kind == "gru":  # reads no padding
        model.eval()
        longer = nn.functional.pad(history[:, -3:], (3, 0))
        close(model.think(longer, depth=depth).steps, model.think(history[:, -3:], depth=depth).steps)


class FixedLength(nn.Module):
    """Needs rows of exactly MAX_LENGTH positions."""

    fixed_length = True

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(MAX_LENGTH, MAX_LENGTH)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.mix(x.transpose(1, 2)).transpose(1, 2)


@fewer
@given(seed=seeds, length=st.integers(1, MAX_LENGTH), copies=st.integers(1, 2))
def test_fixed_length_blocks_get_rows_of_max_length(seed: int, length: int, copies: int) -> None:
    torch.manual_seed(seed)
    model = Recommender(NUM_ITEMS, RecurrentDepth(FixedLength(), FixedLength()), DIM, MAX_LENGTH).eval()
    history = ragged(seed)[:, -length:]
    full = nn.functional.pad(history, (MAX_LENGTH - length, 0))
    keys = row_keys(seed, torch.arange(len(history) * copies))
    context = {"copies": copies, "state_keys": keys}
    close(model.think(history, **context).steps, model.think(full, **context).steps)
    start = torch.randn(len(history), length, DIM)
    padded = nn.functional.pad(start, (0, 0, MAX_LENGTH - length, 0))
    close(model.think(history, state=start).steps, model.think(full, state=padded).steps)


def test_scores_of_a_model_in_double_precision_are_its_own() -> None:
    model, history = recommender(3).double(), ragged(3)
    scores = model.score(history)
    assert scores.dtype == torch.float64
    assert torch.equal(scores, model.think(history).final @ model.item_table.weight[1:].T)


@pytest.mark.parametrize("packed", [True, False, "core"])
def test_mistakes_in_a_call(packed: Layouts) -> None:
    model, history = recommender(0, packed=packed), ragged(0, 4, longest=3)
    keys = row_keys(0, torch.arange(8))
    wrong: list[tuple[str, dict[str, Any]]] = [
        ("depth must be", {"depth": 0}),
        ("depth must be", {"depth": -2}),
        ("copies must be", {"copies": 0}),
        (r"state must be \(4, 3, 8\)", {"state": torch.zeros(4, 2, DIM)}),
        (r"state must be \(8, 3, 8\)", {"state": torch.zeros(4, 3, DIM), "copies": 2}),
        (r"state_keys must be \(4,\)", {"state_keys": keys}),
        (
            r"state_keys must be whole numbers, such as row_keys\(key, rows\), got torch.float32",
            {"state_keys": keys[:4].float()},
        ),
        ("give one of them", {"state_keys": keys[:4], "state": torch.zeros(4, 3, DIM)}),
    ]
    for message, arguments in wrong:
        with unchecked(), pytest.raises(InputError, match=message):
            model.think(history, **arguments)
    for number in (-1, NUM_ITEMS + 1):
        with pytest.raises(InputError, match=rf"item ids 0\.\.23, found {number}"):
            model.think(torch.tensor([[1, 2], [3, number]]))
    for bad in (torch.ones(2, 3), torch.ones(3, dtype=torch.int64), torch.ones(2, 0, dtype=torch.int64)):
        with unchecked(), pytest.raises(InputError, match=r"history must be \(B, L\) whole numbers"):
            model.think(bad)
    with unchecked(), pytest.raises(InputTypeError, match="must be a .* tensor of item numbers, got list: `recommend`"):
        model.encode([["item-01"]])  # type: ignore[arg-type]


def test_mistakes_at_construction() -> None:
    for name in ("num_items", "dim", "max_length"):
        arguments: dict[str, Any] = {"num_items": 5, "dim": 8, "max_length": 4, "encoder": encoder(0), name: 0}
        with pytest.raises(InputError, match=f"{name} must be a whole number of at least 1"):
            Recommender(**arguments)
    for message, wrong in (
        ("dropout must lie in .*, got 1.0", {"dropout": 1.0}),
        ("dropout must lie in .*, got 'x'", {"dropout": "x"}),
        ("init_std must be a finite number of at least 0, got -1", {"init_std": -1.0}),
        ("init_std must be a finite number of at least 0, got inf", {"init_std": float("inf")}),
        ("inference_state", {"inference_state": "warm"}),
        ("item_ids must hold 5 ids, one an item, got 2", {"item_ids": [1, 2]}),
        ("dim is 8 since", {"dim": 16}),
    ):
        with unchecked(), pytest.raises(InputError, match=message):
            Recommender(5, encoder(0), **{"dim": 8, "max_length": 4, **wrong})
    with unchecked(), pytest.raises(InputTypeError, match="scorer must be"):
        Recommender(5, encoder(0), 8, 4, scorer="euclid")
    with unchecked(), pytest.raises(InputTypeError, match="encoder must be a torch module"):
        Recommender(5, lambda x: x, 8, 4)


def test_dropout_acts_in_training_only() -> None:
    model, history = recommender(0), ragged(0)
    assert torch.equal(model.score(history), model.score(history))
    model.train()
    assert not torch.allclose(model.score(history), model.score(history))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("packed", [True, False, "core"])
def test_an_accelerator_gives_the_same_thoughts(packed: Layouts) -> None:
    model, history = recommender(0, packed=packed), ragged(0)
    keys = row_keys(0, torch.arange(2 * len(history)))
    wanted = model.think(history, copies=2, state_keys=keys).steps
    model.cuda()
    found = model.think(history.cuda(), copies=2, state_keys=keys.cuda()).steps
    torch.testing.assert_close(found.cpu(), wanted, rtol=1e-3, atol=1e-3)
    assert model.recommend([[1], [2, 3]], k=3).items == model.cpu().recommend([[1], [2, 3]], k=3).items


def test_padding_on_the_wrong_side_is_named() -> None:
    model = Recommender(9, nn.Identity(), 8, 5)
    with pytest.raises(InputError, match="left-padded.*row 1"):
        model.think(torch.tensor([[0, 0, 1, 2], [1, 2, 0, 0]]))
    # also where nothing but padding is left of the newest five
    with pytest.raises(InputError, match="left-padded.*row 1"):
        model.think(torch.tensor([[0, 0, 0, 0, 0, 1, 2], [1, 2, 0, 0, 0, 0, 0]]))
    with pytest.raises(InputError, match="left-padded.*row 0"):  # a hole before the newest max_length items
        model.think(torch.tensor([[1, 0, 2, 3, 4, 1, 2], [0, 0, 0, 3, 4, 1, 2]]))


def test_a_block_of_another_size_fails_when_it_is_wrapped() -> None:
    encoder = RecurrentDepth(nn.GRU(16, 16, batch_first=True), nn.Identity())
    with pytest.raises(InputError, match="pre_block is made for vectors of size 16, but dim is 8"):
        Recommender(9, encoder, 8, 5)


def test_an_inference_state_set_later_is_checked_too() -> None:
    model = Recommender(9, nn.Identity(), 8, 5)
    with (
        unchecked(),
        pytest.raises(InputError, match="^inference_state must be 'shared', 'fresh' or 'zero', got 'zeros'"),
    ):
        model.inference_state = "zeros"  # type: ignore[assignment]
    model.inference_state = "zero"
    assert model.inference_state == "zero"


@pytest.mark.parametrize(
    ("made", "error", "said"),
    [
        (lambda state, hidden: (state, hidden), InputTypeError, "aggregate must return one tensor .* got tuple"),
        (
            lambda state, hidden: state.double(),
            InputTypeError,
            "aggregate must return torch.float32 like the loop's norm, got torch.float64",
        ),
        (
            lambda state, hidden: state.long(),
            InputTypeError,
            "aggregate must return floating-point numbers .* got torch.int64",
        ),
        (lambda state, hidden: state[:1], InputError, r"aggregate must return \(2, 5, 8\)"),
    ],
)
def test_what_an_aggregate_returns_is_checked(made: Any, error: type[Exception], said: str) -> None:
    model = Recommender(9, RecurrentDepth(nn.Identity(), nn.Identity(), aggregate=made), 8, 5)
    with unchecked(), pytest.raises(error, match=f"^{said}"):
        model.encode(torch.tensor([[1, 2, 3], [0, 1, 2]]))


def test_a_block_that_writes_into_what_it_is_told_leaves_the_callers_history_alone() -> None:
    class Writing(nn.Linear):
        def forward(self, x: Tensor, history: Tensor | None = None) -> Tensor:
            if history is not None:
                history.clamp_(min=1)
            return super().forward(x)

    model = Recommender(NUM_ITEMS, Writing(DIM, DIM), DIM, MAX_LENGTH)
    history = torch.tensor([[0, 0, 3, 1, 2, 5]])
    model.encode(history)
    assert history.tolist() == [[0, 0, 3, 1, 2, 5]]
