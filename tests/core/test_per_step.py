"""Modules of each step's own: the wrapped block is what blocks written out step by step are."""

from __future__ import annotations

import copy
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from latentloop.backbones.sasrec import SASRec, SASRecBlock, SASRecLayer
from latentloop.blocks.low_rank import LowRank, low_rank
from latentloop.depth import FixedDepth
from latentloop.errors import InputError, InputTypeError
from latentloop.per_step import PerStep
from latentloop.recipes import build_recommender
from latentloop.recommender import Recommender
from latentloop.recurrence import RecurrentDepth
from latentloop.thinking.packing import Packing
from tests.core.worlds import DIM, depths, fewer, ragged, seeds, unchecked

KINDS = st.sampled_from([nn.LayerNorm, nn.Linear, SASRecLayer, (nn.LayerNorm, nn.Linear)])


def block(seed: int, layers: int = 2) -> SASRecBlock:
    torch.manual_seed(seed)
    return SASRecBlock(DIM, layers=layers, inner=12, dropout=0.0)


def shaken(module: nn.Module) -> None:
    """Tell all copies apart."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.3 * torch.randn_like(parameter)


def loop_of(seed: int, steps: int, own: Any, rank: int = 0, **settings: Any) -> RecurrentDepth:
    rank = rank if own is nn.LayerNorm else 0  # of others no matrix is shared
    return RecurrentDepth(block(seed + 1, 1), PerStep(block(seed), steps, own, rank=rank), dim=DIM, **settings)


def written_out(step: nn.Module, into: nn.Module) -> nn.Module:
    """`into` with the weights of a step's block, each matrix added up from the shared one and the step's change."""
    weights = dict(step.named_parameters())
    ups = [name for name in weights if name.endswith(".parametrizations.weight.0.up")]
    for up in ups:
        whole = up.removesuffix(".0.up")
        change = weights.pop(up).detach() @ weights.pop(f"{whole}.0.down").detach()
        plain = whole.replace(".parametrizations", "")
        weights[plain] = nn.Parameter(weights.pop(f"{whole}.original").detach() + change)
    into.load_state_dict(weights)
    return into


def rows(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """H, T_0 and the padding of uneven rows."""
    history = ragged(seed)
    history[:, -1].clamp_(min=1)
    torch.manual_seed(seed + 2)
    shape = (*history.shape, DIM)
    return torch.randn(shape), torch.randn(shape), history == 0


@fewer
@given(seed=seeds, steps=depths, depth=depths, own=KINDS, rank=st.integers(0, 40))
def test_each_step_is_a_block_written_out(seed: int, steps: int, depth: int, own: Any, rank: int) -> None:
    loop = loop_of(seed, steps, own, rank).double()
    shaken(loop)
    hidden, state, padding = rows(seed)
    hidden, state = hidden.double(), state.double()
    # the twin: as many blocks as steps, each filled with what its step should have
    twins = []
    for step in range(min(depth, steps)):
        twins.append(written_out(loop.core_block.module.blocks[step].module, block(seed).double()))
    expected = state
    for step in range(depth):
        twin = twins[min(step, steps - 1)]
        assert loop.norm is not None
        expected = twin(loop.norm(expected + hidden), padding_mask=padding).masked_fill(padding[..., None], 0.0)
    *_, found = loop.unroll(hidden, state=state, depth=depth, padding_mask=padding)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    read = loop.thoughts(hidden, state=state, depth=depth, padding_mask=padding)
    torch.testing.assert_close(read.final, expected[:, -1], rtol=1e-5, atol=1e-6)
    last, states = loop.everywhere(hidden, state=state, depth=depth, padding_mask=padding)
    torch.testing.assert_close(states, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(last.steps, read.steps, rtol=1e-5, atol=1e-6)


@fewer
@given(seed=seeds, steps=depths, depth=depths)
def test_copies_begin_as_the_block_and_share_its_gradient(seed: int, steps: int, depth: int) -> None:
    shared = RecurrentDepth(block(seed + 1, 1), block(seed), dim=DIM)
    own = loop_of(seed, steps, nn.LayerNorm)
    hidden, state, padding = rows(seed)
    for loop in (shared, own):
        loop.thoughts(hidden, state=state, depth=depth, padding_mask=padding).steps.square().sum().backward()
    norm = shared.core_block.module.layers[0].attention_norm.weight.grad
    norms = [one.module.layers[0].attention_norm.weight for one in own.core_block.module.blocks]
    reached = [one.grad for one in norms[:depth]]
    torch.testing.assert_close(sum(reached), norm, rtol=1e-4, atol=1e-4)
    assert all(one.grad is None for one in norms[depth:])
    whole = shared.core_block.module.layers[1].attention.output.weight.grad
    again = own.core_block.module.blocks[-1].module.layers[1].attention.output.weight.grad
    torch.testing.assert_close(again, whole, rtol=1e-4, atol=1e-4)


@fewer
@given(seed=seeds, depth=depths, own=KINDS, rank=st.sampled_from([0, 2]))
def test_packed_rows_and_recomputed_steps_are_the_same(seed: int, depth: int, own: Any, rank: int) -> None:
    loop = loop_of(seed, 3, own, rank)
    shaken(loop)
    hidden, state, padding = rows(seed)
    packing = Packing.of((~padding).long())
    padded = loop.thoughts(hidden, state=state, depth=depth, padding_mask=padding)
    packed = loop.thoughts(
        hidden[~padding], state=state[~padding], depth=depth, offsets=packing.offsets, max_length=packing.max_length
    )
    torch.testing.assert_close(packed.steps, padded.steps, rtol=1e-5, atol=1e-6)
    gradients = []
    for recompute in (False, True):
        loop.checkpoint_steps = recompute
        loop.zero_grad()
        *_, last = loop.unroll(hidden, state=state, depth=depth, padding_mask=padding)
        last.square().sum().backward()
        gradients.append([None if p.grad is None else p.grad.clone() for p in loop.parameters()])
    for one, other in zip(*gradients, strict=True):
        assert (one is None) == (other is None)
        if one is not None and other is not None:
            assert torch.equal(one, other)


def test_what_is_shared_stays_the_blocks_and_what_is_own_does_not() -> None:
    core = block(0)
    before = copy.deepcopy(core.state_dict())
    wrapped = PerStep(core, 3)
    norms = sum(p.numel() for part in core.modules() if isinstance(part, nn.LayerNorm) for p in part.parameters())
    whole = sum(p.numel() for p in core.parameters())
    assert sum(p.numel() for p in wrapped.parameters()) == whole + 2 * norms
    ours = {id(p) for p in core.parameters()}
    assert sum(p.numel() for p in wrapped.parameters() if id(p) in ours) == whole - norms
    shaken(wrapped)
    assert torch.equal(core.output_norm.weight, before["output_norm.weight"])
    assert not torch.equal(core.layers[0].attention.output.weight, before["layers.0.attention.output.weight"])
    assert list(core.state_dict()) == list(before)
    assert (wrapped.causal, wrapped.pad_invariant, wrapped.packed, wrapped.fixed_length) == (True, True, True, False)


@pytest.mark.parametrize("rank", [1, 3, 99])
def test_changes_of_low_rank_are_each_steps_and_begin_at_nothing(rank: int) -> None:
    core = block(0)
    before = copy.deepcopy(core)
    wrapped = PerStep(core, 3, rank=rank)
    assert list(core.state_dict()) == list(before.state_dict()) and type(core.layers[0].attention.output) is nn.Linear
    x = torch.randn(2, 4, DIM)
    for step in range(4):
        assert torch.equal(wrapped(x, step=step), before(x))
    matrices = [part.weight for part in core.modules() if isinstance(part, nn.Linear)]
    ranks = [min(rank, *matrix.shape) for matrix in matrices]
    changes = sum(r * sum(matrix.shape) for r, matrix in zip(ranks, matrices, strict=True))
    plain = sum(p.numel() for p in PerStep(core, 3).parameters())
    assert sum(p.numel() for p in wrapped.parameters()) == plain + 3 * changes
    ours = {id(p) for p in wrapped.parameters()}
    assert all(id(matrix) in ours for matrix in matrices)
    loop = RecurrentDepth(nn.Identity(), wrapped, dim=DIM)
    loop(x, depth=2).square().sum().backward()
    ups = [[p.grad for name, p in one.named_parameters() if name.endswith(".up")] for one in wrapped.blocks]
    assert all(grad is not None and grad.any() for step in ups[:2] for grad in step)
    assert not any(grad is not None for grad in ups[2])
    assert all(matrix.grad is not None and matrix.grad.any() for matrix in matrices)


def test_one_module_as_pre_and_core_block_keeps_changes_out_of_the_pre_block() -> None:
    both = block(0)
    loop = RecurrentDepth(both, PerStep(both, 2, rank=2), dim=DIM)
    x = torch.randn(2, 4, DIM)
    before = both(x)
    with torch.no_grad():
        for name, parameter in loop.core_block.named_parameters():
            if name.endswith(".up"):
                parameter += 1
    assert torch.equal(both(x), before)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_changes_are_of_the_matrix_s_dtype_and_device(dtype: torch.dtype) -> None:
    for where in ("cpu", "meta"):
        core = block(0).to(where, dtype)
        for name, parameter in PerStep(core, 2, rank=2).named_parameters():
            assert (parameter.dtype, parameter.device.type) == (dtype, where), name


def test_layers_of_one_matrix_have_one_change_and_what_a_step_owns_has_none() -> None:
    tied = PerStep(nn.Sequential(nn.LayerNorm(DIM), Tied()), 2, rank=2)
    assert sum(isinstance(part, LowRank) for part in tied.modules()) == 2
    assert tied.rank == 2 and PerStep(block(0), 2, rank=10**9).rank == DIM
    one, two = (tied.blocks[0].module[1].one, tied.blocks[0].module[1].two)
    shaken(tied)
    assert torch.equal(one.weight, two.weight)
    with pytest.raises(
        InputError, match=r"has no nn\.Linear or nn\.MultiheadAttention of which a matrix is shared and could"
    ):
        PerStep(block(0), 2, nn.Linear, rank=2)


def test_layers_that_cannot_change_are_named() -> None:
    lazy = nn.Sequential(nn.LayerNorm(DIM), nn.LazyLinear(DIM))
    with pytest.raises(InputError, match="^block: 1 has no size yet"):
        PerStep(lazy, 2, rank=2)
    normed = nn.utils.parametrizations.spectral_norm(nn.Linear(DIM, DIM))
    wrapped = PerStep(nn.Sequential(nn.LayerNorm(DIM), normed), 2, rank=2).eval()
    assert wrapped(torch.randn(2, 4, DIM)).isfinite().all()


@fewer
@given(seed=seeds, steps=depths, depth=depths, more=depths, own=KINDS)
def test_steps_go_on_where_others_stopped(seed: int, steps: int, depth: int, more: int, own: Any) -> None:
    loop = loop_of(seed, steps, own, 2)
    shaken(loop)
    hidden, state, padding = rows(seed)
    deep = list(loop.unroll(hidden, state=state, depth=depth + more, padding_mask=padding))
    then = list(loop.unroll(hidden, state=deep[depth - 1], depth=more, first_step=depth, padding_mask=padding))
    for one, other in zip(deep[depth:], then, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)
    with pytest.raises(InputError, match="first_step must be a whole number of at least 0, got -1"):
        loop.unroll(hidden, state=state, depth=1, first_step=-1)


@fewer
@given(seed=seeds, rank=st.integers(1, 9), training=st.booleans())
def test_attention_changes_all_its_projections(seed: int, rank: int, training: bool) -> None:
    torch.manual_seed(seed)
    layer = nn.TransformerEncoderLayer(DIM, 2, 12, 0.0, batch_first=True)
    names = ["self_attn.in_proj_weight", "self_attn.out_proj.weight", "linear1.weight", "linear2.weight"]
    wrapped = PerStep(layer, 2, rank=rank).train(training)
    x, history = torch.randn(3, 4, DIM), torch.ones(3, 4, dtype=torch.int64)
    history[0, :2] = 0
    context = {"history": history}
    before = wrapped(x, step=1, **context)
    torch.testing.assert_close(before, wrapped(x, step=0, **context))
    shaken(wrapped)
    second = wrapped.blocks[1].module
    weights = {name: tensor.detach() for name, tensor in second.named_parameters() if "parametrizations" not in name}
    for name in names:
        place, _, attribute = name.rpartition(".")
        parts = second.get_submodule(f"{place}.parametrizations.{attribute}")
        weights[name] = (parts.original + parts[0].up @ parts[0].down).detach()
    plain = copy.deepcopy(layer).train(training)
    plain.load_state_dict(weights)
    out = PerStep(plain, 1)(x, **context)
    torch.testing.assert_close(wrapped(x, step=1, **context), out, rtol=1e-4, atol=1e-5)
    with torch.no_grad():  # torch's own fast path, where it takes it
        torch.testing.assert_close(wrapped(x, step=1, **context), out, rtol=1e-4, atol=1e-5)
    wrapped(x, step=1, **context).square().sum().backward()
    for name in names:
        place, _, attribute = name.rpartition(".")
        parts = second.get_submodule(f"{place}.parametrizations.{attribute}")
        assert all(p.grad is not None and p.grad.any() for p in parts.parameters()), name


def test_attention_of_ones_own_kind_keeps_what_it_has_not() -> None:
    class Other(nn.MultiheadAttention):
        def __init__(self) -> None:
            super().__init__(DIM, 2)
            del self.in_proj_weight

    assert low_rank(Other(), 2) == 2  # its output's projection


def test_changes_alone_without_modules_of_a_step_s_own() -> None:
    core = nn.Sequential(nn.Linear(DIM, DIM), nn.ReLU())
    with pytest.raises(InputError, match=r"none in a LayerNorm; own=\(\) is none but the changes of that rank$"):
        PerStep(core, 2, rank=2)
    with unchecked(), pytest.raises(InputTypeError, match="own must be a type of module"):
        PerStep(core, 2, ())
    wrapped, x = PerStep(core, 2, (), rank=2), torch.randn(2, 4, DIM)
    assert torch.equal(wrapped(x, step=1), core(x))
    shaken(wrapped)
    assert not torch.equal(wrapped(x, step=1), wrapped(x, step=0))
    assert wrapped.blocks[0].module[0].bias is wrapped.blocks[1].module[0].bias


def test_attention_of_other_sizes_changes_each_projection() -> None:
    attention = nn.MultiheadAttention(DIM, 2, kdim=3, vdim=5, batch_first=True)
    assert low_rank(attention, 2) == 2
    changed = {name.split(".")[1] for name, _ in attention.named_parameters() if name.endswith(".up")}
    assert changed == {"q_proj_weight", "k_proj_weight", "v_proj_weight", "parametrizations"}
    x = torch.randn(2, 4, DIM)
    assert attention(x, torch.randn(2, 4, 3), torch.randn(2, 4, 5))[0].shape == x.shape


@pytest.mark.parametrize("steps", [1, 3])
def test_alone_it_is_its_first_block(steps: int) -> None:
    wrapped = PerStep(block(0), steps)
    shaken(wrapped)
    x = torch.randn(2, 4, DIM)
    first = wrapped.blocks[0].module
    torch.testing.assert_close(wrapped(x), first(x))
    torch.testing.assert_close(wrapped.last(x), first(x)[:, -1], rtol=1e-5, atol=1e-6)


class Numbered(nn.Module):
    """Adds its step, and remembers it."""

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[int] = []

    def forward(self, x: Tensor, *, step: int = -1) -> Tensor:
        self.steps.append(step)
        return x + step


class Context(nn.Module):
    """Takes whatever there is."""

    def forward(self, x: Tensor, **context: Any) -> Tensor:
        assert "step" not in context
        return x


def test_a_block_that_names_the_step_is_told_which_thought_it_makes() -> None:
    core = Numbered()
    loop = RecurrentDepth(nn.Identity(), core, dim=DIM, depth_law=FixedDepth(3))
    x = torch.randn(2, 4, DIM)
    loop(x)
    loop.thoughts(x, state=x, depth=4)
    loop.everywhere(x, state=x, depth=2)
    assert core.steps == [0, 1, 2, 0, 1, 2, 3, 0, 1]
    pre = Numbered()
    RecurrentDepth(pre, Context(), dim=DIM)(x)
    assert pre.steps == [0]


class Needs(nn.Module):
    """Cannot do without its step, and has norms."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(DIM)
        self.which = nn.Embedding(4, DIM)

    def forward(self, x: Tensor, step: int) -> Tensor:
        normed: Tensor = self.norm(x + self.which.weight[step])
        return normed


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_block_that_needs_the_step_stands_in_a_model(wrapped: bool) -> None:
    core: nn.Module = PerStep(Needs(), 2) if wrapped else Needs()
    model = Recommender(9, RecurrentDepth(nn.Identity(), core), DIM, 6)
    model.think(torch.tensor([[0, 1, 2]]), depth=3).final[:, 0].sum().backward()
    tables = [part.which.weight.grad for part in model.modules() if isinstance(part, Needs)]
    for table in tables:  # one table for all steps
        assert table is not None and table[:3].any(1).all() and not table[3].any()


def test_a_step_of_a_step_reaches_the_block_inside() -> None:
    core = PerStep(PerStep(block(0), 3, nn.Linear), 3, nn.LayerNorm)
    shaken(core)
    x = torch.randn(2, 4, DIM)
    RecurrentDepth(nn.Identity(), core, dim=DIM)(x, depth=3).sum().backward()
    for outer in range(3):  # the norms of the outer, the products of the inner
        inner = core.blocks[outer].module.blocks[outer].module
        assert inner.layers[0].attention_norm.weight.grad is not None
        assert inner.layers[0].attention.output.weight.grad is not None


class Recomputed(nn.Module):
    """Keeps no activations."""

    def __init__(self, recompute: bool) -> None:
        super().__init__()
        self.inner, self.recompute = nn.Sequential(nn.LayerNorm(DIM), nn.Linear(DIM, DIM), nn.Tanh()), recompute

    def forward(self, x: Tensor) -> Tensor:
        read: Tensor = checkpoint(self.inner, x, use_reentrant=False) if self.recompute else self.inner(x)
        return read


def test_a_block_that_recomputes_itself_has_the_gradients_of_its_own_step() -> None:
    x, gradients = torch.randn(2, 4, DIM), []
    for recompute in (False, True):
        torch.manual_seed(0)
        core = PerStep(Recomputed(recompute), 3)
        shaken(core)
        RecurrentDepth(nn.Identity(), core, dim=DIM)(x, state=x, depth=3).sum().backward()
        gradients.append([parameter.grad for parameter in core.parameters()])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


def test_norms_of_thoughts_need_thoughts() -> None:
    with pytest.raises(InputError, match="^own_norms is 4, but loop=False does not think: leave it out$"):
        build_recommender(SASRec(inner=32), 20, dim=DIM, own_norms=4, loop=False)
    with pytest.raises(InputError, match="^own_rank is 8, but own_norms is 0: say how many thoughts"):
        build_recommender(SASRec(inner=32), 20, dim=DIM, own_rank=8)


def test_two_threads_may_ask_one_model() -> None:
    model = build_recommender(SASRec(inner=32), 20, dim=DIM, own_norms=4, max_length=6, dropout=0.0).eval()
    shaken(model.encoder)
    history = torch.randint(1, 21, (5, 6))
    with torch.no_grad():
        expected = model.score(history)

    def ask(_: int) -> bool:
        with torch.no_grad():
            return torch.equal(model.score(history), expected)

    with ThreadPoolExecutor(2) as pool:
        assert all(pool.map(ask, range(60)))


class Lies(nn.Module):
    """Says that it is causal."""

    causal = pad_invariant = True

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(DIM)

    def forward(self, x: Tensor) -> Tensor:
        normed: Tensor = self.norm(x + x.mean(1, keepdim=True))
        return normed


def test_what_a_model_checks_of_a_block_it_checks_inside() -> None:
    with pytest.raises(InputError, match="Lies"):
        Recommender(9, RecurrentDepth(nn.GRU(DIM, DIM, batch_first=True), PerStep(Lies(), 2)), DIM, 6)
    wide = nn.TransformerEncoderLayer(2 * DIM, 2, 12, batch_first=True)
    with pytest.raises(InputError, match=f"made for vectors of size {2 * DIM}, but dim is {DIM}"):
        Recommender(9, RecurrentDepth(nn.Identity(), PerStep(wide, 2)), DIM, 6)


class Tied(nn.Module):
    """One matrix used twice, and running statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(DIM, DIM, bias=False), nn.Linear(DIM, DIM, bias=False)
        self.two.weight = self.one.weight
        self.register_buffer("scale", torch.ones(DIM))

    def forward(self, x: Tensor) -> Tensor:
        mixed: Tensor = self.two(self.one(x).tanh()) * self.scale
        return mixed


def test_ties_inside_a_step_stay_and_models_move_and_come_back(tmp_path: Any) -> None:
    core = PerStep(Tied(), 2, nn.Linear)
    assert sum(p.numel() for p in core.parameters()) == 2 * DIM * DIM
    both = Tied()
    model = Recommender(9, RecurrentDepth(both, PerStep(both, 2, nn.Linear)), DIM, 6)
    model._apply(lambda tensor: tensor.clone())  # as moving to another device does
    again = copy.deepcopy(model)
    shaken(again.encoder)
    again.eval().save_pretrained(tmp_path)
    other = Tied()
    loaded = Recommender.from_pretrained(tmp_path, encoder=RecurrentDepth(other, PerStep(other, 2, nn.Linear)))
    with torch.no_grad():
        history = torch.tensor([[0, 1, 2], [3, 4, 5]])
        assert torch.equal(loaded.score(history, depth=3), again.score(history, depth=3))


def test_a_module_that_stands_twice_stays_one_and_the_block_itself_may_be_copied() -> None:
    twice = nn.LayerNorm(DIM)
    wrapped = PerStep(nn.Sequential(twice, nn.Linear(DIM, DIM), twice), 2)
    assert sum(p.numel() for p in wrapped.parameters()) == 2 * 2 * DIM + DIM * DIM + DIM
    whole = PerStep(nn.TransformerEncoderLayer(DIM, 2, 12, batch_first=True), 2, nn.TransformerEncoderLayer)
    shaken(whole)
    x = torch.randn(2, 3, DIM)
    whole.eval()
    for step in (0, 1, 2):
        torch.testing.assert_close(whole(x, step=step), whole.blocks[min(step, 1)].module(x))


def test_one_module_as_pre_and_core_block_shares_all_but_the_norms(tmp_path: Any) -> None:
    both = block(0)
    model = Recommender(9, RecurrentDepth(both, PerStep(both, 2)), DIM, 6)
    shaken(model.encoder)
    model.save_pretrained(tmp_path)
    again = block(1)
    loaded = Recommender.from_pretrained(tmp_path, encoder=RecurrentDepth(again, PerStep(again, 2)))
    history = torch.tensor([[0, 1, 2], [3, 4, 5]])
    with torch.no_grad():
        assert torch.equal(loaded.score(history, depth=3), model.eval().score(history, depth=3))


def test_what_cannot_be_is_refused() -> None:
    for steps in (0, -1, 1.5):
        with unchecked(), pytest.raises(InputError, match="steps must be a whole number of at least 1"):
            PerStep(block(0), steps)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="own must be .* with weights inside Linear, which has none in a LayerNorm"):
        PerStep(nn.Linear(DIM, DIM), 2)
    with pytest.raises(InputError, match="none in a GRU or LSTM"):
        PerStep(block(0), 2, (nn.GRU, nn.LSTM))
    for rank in (-1, 1.5):
        with unchecked(), pytest.raises(InputError, match="rank must be a whole number of at least 0"):
            PerStep(block(0), 2, rank=rank)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"^block: LayerNorm has no nn\.Linear or nn\.MultiheadAttention of which"):
        PerStep(nn.LayerNorm(DIM), 2, rank=1)
    with unchecked(), pytest.raises(InputTypeError, match="module must be an nn.Module"):
        PerStep("copy", 2)  # type: ignore[arg-type]
    with unchecked(), pytest.raises(InputTypeError, match="own must be a type of module, or several, got 'norms'"):
        PerStep(block(0), 2, "norms")  # type: ignore[arg-type]


def test_a_type_that_a_block_has_none_of_is_named_and_with_a_rank_what_else_may_be_said() -> None:
    block = nn.Linear(DIM, DIM)
    with pytest.raises(InputError, match=r"which has none in a LayerNorm$"):
        PerStep(block, 2)
    with pytest.raises(InputError, match=r"LayerNorm; own=\(\) is none but the changes of that rank$"):
        PerStep(block, 2, rank=2)


def test_the_rank_of_no_changes_is_nought() -> None:
    assert PerStep(nn.LayerNorm(DIM), 2).rank == 0
