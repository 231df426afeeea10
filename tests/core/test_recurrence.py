"""The loop: depths are prefixes of each other, and every shortcut equals the long way."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from latentloop.adapt import adapt
from latentloop.backbones.sasrec import SASRecBlock
from latentloop.depth import FixedDepth, LogNormalPoisson
from latentloop.errors import InputError, InputTypeError
from latentloop.modes.dropout import dropout_off
from latentloop.recurrence import Encoder, RecurrentDepth, Thoughts, distance_from_newest
from latentloop.thinking.packing import Packing
from tests.core.worlds import DIM, depths, encoder, fewer, ragged, seeds, unchecked

LAYOUTS = st.booleans()


def hidden_and_state(seed: int, packed: bool) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """Random H and T_0 of uneven rows in either layout, with the blocks' context."""
    history = ragged(seed)
    history[:, -1].clamp_(min=1)
    torch.manual_seed(seed + 1)
    if packed:
        packing = Packing.of(history)
        context: dict[str, Any] = {"offsets": packing.offsets, "max_length": packing.max_length}
        shape: tuple[int, ...] = (packing.items.shape[0], DIM)
    else:
        context, shape = {"padding_mask": history == 0}, (*history.shape, DIM)
    return torch.randn(shape), torch.randn(shape), context


def newest(x: Tensor, context: dict[str, Any]) -> Tensor:
    offsets = context.get("offsets")
    return x[:, -1] if offsets is None else torch.stack([x[int(end) - 1] for end in offsets[1:]])


@fewer
@given(seed=seeds, packed=LAYOUTS, depth=depths, more=depths)
def test_a_shallow_run_is_the_start_of_a_deep_one(seed: int, packed: bool, depth: int, more: int) -> None:
    loop = encoder(seed).eval()
    hidden, state, context = hidden_and_state(seed, packed)
    deep = list(loop.unroll(hidden, state=state, depth=depth + more, **context))
    shallow = list(loop.unroll(hidden, state=state, depth=depth, **context))
    then = list(loop.unroll(hidden, state=shallow[-1], depth=more, **context))
    assert len(deep) == depth + more
    for one, other in zip(deep, shallow + then, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


@fewer
@given(seed=seeds, packed=LAYOUTS, depth=depths, aggregate=st.sampled_from(["add", "mean", "concat", "gate"]))
def test_each_step_is_the_papers_equation(seed: int, packed: bool, depth: int, aggregate: str) -> None:
    loop = encoder(seed, aggregate=aggregate).eval()
    hidden, state, context = hidden_and_state(seed, packed)
    for unrolled in loop.unroll(hidden, state=state, depth=depth, **context):
        mixed = loop.aggregate(state, hidden)
        centred = mixed - mixed.mean(-1, keepdim=True)
        normed = centred / (centred.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt()
        state = loop.core_block(normed, **context)  # the layer norm starts with weight 1 and bias 0
        torch.testing.assert_close(unrolled, state)


@fewer
@given(seed=seeds, packed=LAYOUTS, depth=depths)
def test_thoughts_are_the_newest_positions_of_unroll(seed: int, packed: bool, depth: int) -> None:
    loop = encoder(seed).eval()
    hidden, state, context = hidden_and_state(seed, packed)
    thoughts = loop.thoughts(hidden, state=state, depth=depth, **context)
    wanted = [newest(t, context) for t in loop.unroll(hidden, state=state, depth=depth, **context)]
    assert thoughts.depth == thoughts.steps.shape[0] == depth
    torch.testing.assert_close(thoughts.steps, torch.stack(wanted))
    assert torch.equal(thoughts.final, thoughts.steps[depth - 1])
    torch.testing.assert_close(thoughts.rows(1, 3).steps, thoughts.steps[:, 1:3])


@fewer
@given(seed=seeds, packed=LAYOUTS, depth=depths)
def test_everywhere_gives_the_thoughts_and_the_last_state_of_unroll(seed: int, packed: bool, depth: int) -> None:
    loop = encoder(seed).eval()
    hidden, state, context = hidden_and_state(seed, packed)
    thoughts, last = loop.everywhere(hidden, state=state, depth=depth, **context)
    states = list(loop.unroll(hidden, state=state, depth=depth, **context))
    torch.testing.assert_close(last, states[-1], rtol=0, atol=0)
    torch.testing.assert_close(thoughts.steps, torch.stack([newest(t, context) for t in states]), rtol=0, atol=0)


@fewer
@given(seed=seeds, packed=LAYOUTS, depth=depths)
def test_forward_is_pre_and_unroll(seed: int, packed: bool, depth: int) -> None:
    loop = encoder(seed).eval()
    x, state, context = hidden_and_state(seed, packed)
    *_, wanted = loop.unroll(loop.pre(x, **context), state=state, depth=depth, **context)
    torch.testing.assert_close(loop(x, state=state, depth=depth, **context), wanted)


@pytest.mark.parametrize(
    ("told", "match"),
    [
        ({"padding_mask": torch.tensor([[True, False, False], [False, False, True]])}, "left-padded.*row 1"),
        ({"history": torch.tensor([[0, 1, 2], [1, 2, 0]])}, "left-padded.*row 1"),
        ({"lengths": torch.tensor([2, 4])}, r"^lengths must lie in 0\.\.3, found 4"),
    ],
    ids=lambda told: next(iter(told)) if isinstance(told, dict) else "",
)
def test_forward_refuses_rows_that_are_not_left_padded(told: dict[str, Tensor], match: str) -> None:
    loop = RecurrentDepth(nn.Linear(DIM, DIM), nn.Linear(DIM, DIM), dim=DIM)
    with pytest.raises(InputError, match=match):
        loop(torch.randn(2, 3, DIM), **told)


@fewer
@given(seed=seeds)
def test_forward_without_a_state_gives_rows_the_same_noise_by_distance(seed: int) -> None:
    loop = encoder(seed).eval()
    history = ragged(seed)
    packing = Packing.of(history)
    torch.manual_seed(seed)
    x = torch.randn(*history.shape, DIM)
    padding_mask = history == 0
    padding_mask[:, -1] = False
    padded = loop(x, padding_mask=padding_mask)
    columns = history.shape[1] - 1 - packing.slots
    packed = loop(x[packing.rows, columns], offsets=packing.offsets)
    torch.testing.assert_close(padded[packing.rows, columns], packed, rtol=1e-4, atol=1e-5)


def gradients(loop: nn.Module, loss: Tensor, *inputs: Tensor) -> list[Tensor]:
    wanted = [p for p in loop.parameters() if p.requires_grad]
    found = torch.autograd.grad(loss, [*wanted, *inputs], allow_unused=True)
    return [torch.zeros(()) if g is None else g for g in found]


@fewer
@given(seed=seeds, packed=LAYOUTS, depth=depths, training=st.booleans())
def test_checkpointed_gradients_are_the_plain_ones(seed: int, packed: bool, depth: int, training: bool) -> None:
    found = []
    for checkpointed in (False, True):
        loop = encoder(seed, checkpoint_steps=checkpointed).train(training)
        x, state, context = hidden_and_state(seed, packed)
        x.requires_grad_()
        torch.manual_seed(seed)  # the same dropout masks
        thoughts = loop.thoughts(loop.pre(x, **context), state=state, depth=depth, **context)
        found.append(gradients(loop, (thoughts.steps**3).sum(), x))
    for plain, recomputed in zip(*found, strict=True):
        torch.testing.assert_close(plain, recomputed)
    assert all(float(g.abs().sum()) > 0 for g in found[0][-1:])


@fewer
@given(
    seed=seeds, packed=LAYOUTS, depth=depths, kept=st.integers(1, 4), checkpointed=st.booleans(), whole=st.booleans()
)  # fmt: skip
def test_gradients_of_the_last_steps_are_those_of_a_loop_that_starts_there(
    seed: int, packed: bool, depth: int, kept: int, checkpointed: bool, whole: bool
) -> None:
    """The naive twin runs the steps before without a graph, by hand; values are those of the whole loop."""
    loop = encoder(seed, grad_steps=kept, checkpoint_steps=checkpointed).eval()
    x, state, context = hidden_and_state(seed, packed)
    x.requires_grad_()

    def found() -> tuple[Tensor, Tensor]:
        hidden = loop.pre(x, **context)
        if whole:
            thoughts, last = loop.everywhere(hidden, state=state, depth=depth, **context)
            return thoughts.steps, last
        steps = loop.thoughts(hidden, state=state, depth=depth, **context).steps
        return steps, steps[-1]

    def by_hand() -> tuple[Tensor, Tensor]:
        hidden, at, read = loop.pre(x, **context), state, []
        for number in range(depth):
            at = loop.step(at, hidden, **context)
            if number < depth - kept:
                at = at.detach()
            read.append(newest(at, context))
        return torch.stack(read), at if whole else read[-1]

    told = []
    for make in (found, by_hand):
        steps, last = make()
        told.append([steps, last, *gradients(loop, (steps**3).sum() + (last**2).sum(), x)])
    for ours, twin in zip(*told, strict=True):
        torch.testing.assert_close(ours, twin)
    loop = encoder(seed).eval()
    torch.testing.assert_close(found()[0], told[0][0])


@pytest.mark.parametrize(("kept", "graphs"), [(None, 5), (1, 1), (3, 3), (5, 5), (9, 5)])
def test_steps_before_the_last_keep_no_graph(kept: int | None, graphs: int) -> None:
    loop = RecurrentDepth(nn.Identity(), nn.Linear(DIM, DIM), dim=DIM, grad_steps=kept)
    hidden, state = torch.randn(2, 4, DIM), torch.randn(2, 4, DIM)
    steps = list(loop.unroll(hidden, state=state, depth=5))
    assert [step.requires_grad for step in steps] == [False] * (5 - graphs) + [True] * graphs


class Asking(nn.Module):
    """A block that keeps what it was told of padding."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[Tensor | None] = []

    def forward(self, x: Tensor, *, padding_mask: Tensor | None = None) -> Tensor:
        self.told.append(padding_mask)
        return x


def test_steps_without_a_graph_are_told_what_the_others_are() -> None:
    core, mask = Asking(), torch.tensor([[True, False, False], [False, False, False]])
    loop = RecurrentDepth(nn.Identity(), core, dim=DIM, grad_steps=1)
    list(loop.unroll(torch.randn(2, 3, DIM), state=torch.randn(2, 3, DIM), depth=3, padding_mask=mask))
    steps = core.told[-3:]  # before them it was tried out
    assert [told is not None and torch.equal(told, mask) for told in steps] == [True] * 3


@pytest.mark.parametrize("kept", [0, -1, 2.0])
def test_steps_that_keep_a_graph_are_counted_from_one(kept: Any) -> None:
    with unchecked(), pytest.raises(InputError, match="grad_steps must be a whole number of at least 1"):
        RecurrentDepth(nn.Identity(), nn.Linear(DIM, DIM), grad_steps=kept)


class Counting(nn.Module):
    """A linear layer that counts its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.calls = nn.Linear(DIM, DIM), 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.linear(x)


@pytest.mark.parametrize(("settings", "calls"), [({}, 3), ({"checkpoint_steps": True}, 6)])
def test_steps_are_recomputed_on_request_and_for_gradients_only(settings: dict[str, bool], calls: int) -> None:
    core = Counting()
    loop = RecurrentDepth(nn.Identity(), core, depth_law=FixedDepth(3), dim=DIM, **settings)
    x = torch.randn(2, 4, DIM)
    loop(x).sum().backward()
    assert core.calls == calls
    with torch.no_grad():
        loop(x)
    assert core.calls == calls + 3


def test_steps_are_recomputed_under_the_modes_they_first_ran_under() -> None:
    found = []
    for checkpointed in (False, True):
        torch.manual_seed(4)
        core = nn.Sequential(nn.Dropout(0.5), nn.Linear(DIM, DIM), nn.Tanh())
        loop = RecurrentDepth(nn.Identity(), core, depth_law=FixedDepth(2), dim=DIM, checkpoint_steps=checkpointed)
        x = torch.randn(3, 4, DIM, requires_grad=True)
        with dropout_off(loop):
            out = loop(x)
        found.append(gradients(loop, out.square().sum(), x))  # here dropout is on again
    for plain, recomputed in zip(*found, strict=True):
        torch.testing.assert_close(plain, recomputed)


class Normed(nn.Module):
    """A batch norm of all positions."""

    def __init__(self, momentum: float | None) -> None:
        super().__init__()
        self.linear, self.norm = nn.Linear(DIM, DIM), nn.BatchNorm1d(DIM, momentum=momentum)

    def forward(self, x: Tensor) -> Tensor:
        normed: Tensor = self.norm(self.linear(x).flatten(0, 1))
        return normed.view_as(x)


class Average(nn.Module):
    """Divides by what it has seen, which it keeps in one of the ways that users have."""

    ema: Tensor | None

    def __init__(self, way: str) -> None:
        super().__init__()
        self.linear, self.way = nn.Linear(DIM, DIM), way
        self.register_buffer("ema", None if way == "appears" else torch.ones(DIM))
        with torch.inference_mode():
            self.register_buffer("places", torch.ones(DIM))
        self.other = nn.Module()
        self.other.register_buffer("ema", self.ema)

    def forward(self, x: Tensor) -> Tensor:
        seen = x.detach().square().mean((0, 1))
        if self.ema is None:
            self.ema = torch.zeros(DIM)
        if self.way == "data":
            self.ema.data.mul_(0.5).add_(seen, alpha=0.5)
        elif self.way == "shared":
            self.ema.mul_(0.5).add_(seen, alpha=0.5)
        else:
            self.ema = self.ema * 0.5 + seen
        used = self.other.ema if self.way == "shared" else self.ema
        averaged: Tensor = self.linear(x / (used.clone() + 0.1) + self.places)  # type: ignore[operator]
        return averaged


@pytest.mark.parametrize("backward_passes", [1, 2])
@pytest.mark.parametrize(
    "core",
    [
        lambda: Normed(0.1),
        lambda: Normed(None),
        *(partial(Average, way) for way in ("data", "shared", "replaced", "appears")),
        lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(DIM, DIM)),
    ],
)
def test_a_recomputed_step_counts_once(core: Callable[[], nn.Module], backward_passes: int) -> None:
    found: list[list[Tensor]] = []
    for checkpointed in (False, True):
        torch.manual_seed(4)
        loop = RecurrentDepth(nn.Identity(), core(), depth_law=FixedDepth(3), dim=DIM, checkpoint_steps=checkpointed)
        x = torch.randn(3, 4, DIM, requires_grad=True)
        loss = loop(x).square().sum()
        for _ in range(backward_passes):
            (gradient,) = torch.autograd.grad(loss, x, retain_graph=True)
        found.append([gradient, *loop.buffers()])
    assert len(found[0]) == len(found[1])
    assert float(found[0][0].abs().max()) > 0
    for plain, recomputed in zip(*found, strict=True):
        assert torch.equal(plain, recomputed)


def test_a_buffer_that_is_dropped_before_the_backward_pass_stays_dropped() -> None:
    found = []
    for checkpointed in (False, True):
        torch.manual_seed(4)
        core = Average("appears")
        loop = RecurrentDepth(nn.Identity(), core, depth_law=FixedDepth(2), dim=DIM, checkpoint_steps=checkpointed)
        x = torch.randn(3, 4, DIM, requires_grad=True)
        loss = loop(x).square().sum()
        core.ema = None
        found.append(gradients(loop, loss, x))
        assert core.ema is None
    for plain, recomputed in zip(*found, strict=True):
        assert torch.equal(plain, recomputed)


def test_the_depth_law_is_what_was_given_and_the_papers_otherwise() -> None:
    x = torch.ones(2, 3, 4)
    given_one = RecurrentDepth(nn.Identity(), nn.Identity(), depth_law=FixedDepth(5), dim=4)
    plain = RecurrentDepth(nn.Identity(), nn.Identity(), dim=4)
    assert (given_one.depth_law, plain.depth_law) == (FixedDepth(5), LogNormalPoisson(3, 0.5))
    assert [len(list(loop.unroll(x, state=x))) for loop in (given_one, plain)] == [5, 4]
    with unchecked(), pytest.raises(InputTypeError, match=r"^depth_law must be a depth law .* got 5$"):
        RecurrentDepth(nn.Identity(), nn.Identity(), depth_law=5)  # type: ignore[arg-type]
    for std in (-1.0, float("nan"), "x"):
        with unchecked(), pytest.raises(InputError, match="^state_std must be a finite number of at least 0, got "):
            RecurrentDepth(nn.Identity(), nn.Identity(), state_std=std)  # type: ignore[arg-type]


class Promising(nn.Module):
    """A block that promises some facts."""

    def __init__(self, *promised: str) -> None:
        super().__init__()
        for fact in FACTS:
            setattr(self, fact, fact in promised)

    def forward(self, x: Tensor, **context: Any) -> Tensor:
        return x


FACTS = ("causal", "pad_invariant", "fixed_length", "packed")


@pytest.mark.parametrize("fact", FACTS)
def test_a_loop_promises_what_both_blocks_do_and_needs_what_either_does(fact: str) -> None:
    found = {
        (pre, core): getattr(RecurrentDepth(adapt(Promising(*pre)), adapt(Promising(*core)), dim=DIM), fact)
        for pre in ((), (fact,))
        for core in ((), (fact,))
    }
    either = fact == "fixed_length"
    assert found == {((), ()): False, ((fact,), ()): either, ((), (fact,)): either, ((fact,), (fact,)): True}


def test_packed_steps_are_up_to_the_core_block_alone() -> None:
    for pre, core in (((), ()), (("packed",), ()), ((), ("packed",))):
        loop = RecurrentDepth(adapt(Promising(*pre)), adapt(Promising(*core)), dim=DIM)
        assert loop.packed_core == bool(core)


def test_a_block_of_another_size_is_named() -> None:
    sized, any_size = nn.GRU(4, 4, batch_first=True), nn.Identity()
    for name, blocks in (("pre_block", (sized, any_size)), ("core_block", (any_size, sized))):
        with pytest.raises(InputError, match=f"^{name} is made for vectors of size 4, but dim is 5"):
            RecurrentDepth(*blocks, dim=5)
        assert RecurrentDepth(*blocks, dim=4).dim == 4


def test_vectors_of_size_one_are_vectors() -> None:
    loop = RecurrentDepth(nn.Identity(), nn.Identity(), dim=1)
    assert loop(torch.ones(2, 3, 1)).shape == (2, 3, 1)


def test_an_aggregate_with_a_size_learns_it() -> None:
    loop = RecurrentDepth(nn.Identity(), nn.Identity(), "concat", dim=DIM)
    x = torch.randn(2, 3, DIM)
    assert loop.aggregate(x, x).shape == x.shape


@pytest.mark.parametrize("which", [0, 1])
def test_an_aggregate_that_changes_what_it_was_given_is_refused(which: int) -> None:
    """The thoughts before would be other ones by the time they are read."""

    def in_place(*given: Tensor) -> Tensor:
        return given[which].add_(given[1 - which])

    loop = RecurrentDepth(nn.Identity(), nn.Linear(4, 4), in_place, dim=4)
    x = torch.zeros(2, 3, 4)
    with torch.no_grad(), pytest.raises(InputError, match="^aggregate must return a new tensor, and it changed one"):
        loop.thoughts(x, state=x + 1, depth=2)


def test_an_aggregate_of_another_shape_is_named() -> None:
    loop = RecurrentDepth(nn.Identity(), nn.Identity(), lambda state, hidden: state[..., :1], dim=4)
    with unchecked(), pytest.raises(InputError, match=r"^aggregate must return \(2, 3, 4\).* got \(2, 3, 1\)"):
        loop(torch.ones(2, 3, 4))


def test_the_start_state_takes_the_precision_of_the_history() -> None:
    loop = RecurrentDepth(nn.Identity(), nn.Linear(DIM, DIM), dim=DIM).to(torch.bfloat16)
    assert loop(torch.randn(2, 3, DIM, dtype=torch.bfloat16)).dtype == torch.bfloat16


@fewer
@given(depth=depths, low=st.integers(1, 30))
def test_parameters_do_not_depend_on_the_depth(depth: int, low: int) -> None:
    counts = {sum(p.numel() for p in encoder(0, depth_law=FixedDepth(d)).parameters()) for d in (1, depth, low)}
    assert len(counts) == 1


def test_one_module_may_serve_as_both_blocks() -> None:
    loop = encoder(3)
    shared = RecurrentDepth(loop.core_block, loop.core_block, dim=DIM)
    own = sum(p.numel() for p in loop.core_block.parameters())
    assert sum(p.numel() for p in shared.parameters()) == own + 2 * DIM


def test_unroll_is_lazy() -> None:
    calls: list[int] = []

    class Counting(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            calls.append(1)
            return x

    loop = RecurrentDepth(nn.Identity(), Counting(), dim=3)
    steps = loop.unroll(torch.ones(2, 4, 3), state=torch.zeros(2, 4, 3), depth=5)
    assert not calls
    next(steps)
    assert len(calls) == 1


@fewer
@given(seed=seeds)
def test_distance_from_newest_counts_back_from_each_rows_end(seed: int) -> None:
    history = ragged(seed)
    packing = Packing.of(history)
    x = torch.zeros(*history.shape, 2)
    slots = distance_from_newest(x)
    assert slots.tolist() == [list(range(history.shape[1] - 1, -1, -1))] * len(history)
    assert torch.equal(distance_from_newest(x[packing.rows, 0], packing.offsets), packing.slots)


@pytest.mark.parametrize("depth", [0, -1, True])
def test_depths_below_one_are_refused(depth: int) -> None:
    loop = encoder(0)
    hidden, state, context = hidden_and_state(0, packed=False)
    for run in (loop.unroll, loop.thoughts):
        with pytest.raises(InputError, match="depth must be a whole number of at least 1"):
            run(hidden, state=state, depth=depth, **context)


class Wider(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, x], dim=-1)


@pytest.mark.parametrize("depth", [1, 2])
def test_a_block_that_changes_the_shape_is_refused_at_any_depth(depth: int) -> None:
    x = torch.ones(2, 3, 4)
    with pytest.raises(InputError, match=r"^Wider must return \(2, 3, 4\).*\(2, 3, 8\)"):
        RecurrentDepth(Wider(), nn.Identity(), dim=4).pre(x)
    with pytest.raises(InputError, match=r"^Wider must return \(2, 3, 4\).*\(2, 3, 8\)"):
        RecurrentDepth(nn.Identity(), Wider(), dim=4).thoughts(x, state=x, depth=depth)


def test_user_mistakes_at_construction() -> None:
    block = nn.Identity()
    with pytest.raises(InputTypeError, match="^aggregate must be one of 'add'"):
        RecurrentDepth(block, block, "sum")
    with pytest.raises(InputError, match="state_std"):
        RecurrentDepth(block, block, state_std=-1.0)
    with pytest.raises(InputError, match="dim must be"):
        RecurrentDepth(block, block, dim=0)
    with pytest.raises(InputError, match=r"dim is 4 .* cannot become 5"):
        RecurrentDepth(block, block, dim=4).bind(5)
    with pytest.raises(InputError, match="does not know its dim"):
        RecurrentDepth(block, block)(torch.ones(2, 3, 4))
    x = torch.ones(2, 3, 4)
    with unchecked(), pytest.raises(InputError, match="state must be shaped like hidden"):
        RecurrentDepth(block, block, dim=4).unroll(x, state=x[:1], depth=2)


def test_state_std_scales_the_start_state() -> None:
    keys, slots = torch.arange(5), torch.arange(5)
    plain, wide = encoder(0), encoder(0, state_std=3.0)
    torch.testing.assert_close(wide.draw_state(keys, slots), 3 * plain.draw_state(keys, slots))
    assert float(encoder(0, state_std=0.0).draw_state(keys, slots).abs().sum()) == 0


def test_contracts_and_copies() -> None:
    loop = encoder(1)
    assert isinstance(loop, Encoder)
    assert isinstance(copy.deepcopy(loop), Encoder)
    assert Thoughts(torch.zeros(2, 3, 4)).depth == 2


def test_a_core_block_is_a_copy_on_request_and_shared_otherwise() -> None:
    block = nn.GRU(DIM, DIM, batch_first=True)
    copied, shared = RecurrentDepth(block, "copy", dim=DIM), RecurrentDepth(block, block, dim=DIM)
    count = sum(p.numel() for p in block.parameters())
    extra = 2 * DIM  # the layer norm
    assert sum(p.numel() for p in copied.parameters()) == 2 * count + extra
    assert sum(p.numel() for p in shared.parameters()) == count + extra
    assert copied.pre_block.module is block and copied.core_block.module is not block
    weights = [dict(part.module.named_parameters())["weight_hh_l0"] for part in (copied.pre_block, copied.core_block)]
    assert torch.equal(*weights)
    with unchecked(), pytest.raises(InputError, match='core_block must be a module or "copy", got .again.'):
        RecurrentDepth(block, "again")  # type: ignore[arg-type]


@pytest.mark.parametrize("std", [-1.0, float("inf"), float("nan")])
def test_a_state_needs_a_finite_spread(std: float) -> None:
    with pytest.raises(InputError, match="state_std must be a finite number of at least 0"):
        RecurrentDepth(nn.Linear(DIM, DIM), "copy", state_std=std)


def test_what_is_no_depth_law_is_refused() -> None:
    with (
        unchecked(),
        pytest.raises(InputTypeError, match=r"depth_law must be a depth law such as FixedDepth\(4\), got 4"),
    ):
        RecurrentDepth(nn.Linear(DIM, DIM), "copy", depth_law=4)  # type: ignore[arg-type]


@pytest.mark.parametrize("depth", [0, 2.0, True, "3", 10**6, None])
def test_a_laws_inference_depth_is_looked_at_at_once(depth: Any) -> None:
    class Mine(FixedDepth):
        inference_depth = depth

    with unchecked(), pytest.raises(InputError, match=f"^inference_depth of Mine must be .* got {depth!r}$"):
        RecurrentDepth(nn.Linear(DIM, DIM), "copy", depth_law=Mine(4))


class Unsaid(SASRecBlock):
    """Promises nothing of its own."""


def test_a_loop_may_be_captured_where_all_its_parts_may_and_nothing_is_recomputed() -> None:
    def block(kind: type[SASRecBlock] = SASRecBlock) -> SASRecBlock:
        return kind(DIM, layers=1, inner=12)

    assert RecurrentDepth(block(), block()).capturable
    assert not RecurrentDepth(block(), block(), checkpoint_steps=True).capturable
    for parts in ((block(Unsaid), block()), (block(), block(Unsaid)), (block(), block(), lambda t, h: t - h)):
        assert not RecurrentDepth(*parts).capturable
