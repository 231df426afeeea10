"""What CUDA graphs of thinking need, on every device, and the graphs themselves where there are any."""

from __future__ import annotations

import gc
import weakref
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from latentloop.backbones.bsarec import BSARec
from latentloop.backbones.sasrec import SASRec, SASRecBlock
from latentloop.blocks.facts import facts
from latentloop.data.batch import batches
from latentloop.data.counted import counted
from latentloop.data.splits import Split, leave_one_out
from latentloop.data.synthetic import synthetic_log
from latentloop.fitting.accelerator import make_accelerator
from latentloop.graphed_thinking import STEP, GraphedThinking, Thinking, filled_up
from latentloop.objectives import RPT, SPT, NextItem, NextItemEverywhere, Weighted
from latentloop.objectives.replay import may_replay
from latentloop.objectives.views import Views, encode_views
from latentloop.randomness import dropout_seed, row_keys
from latentloop.recommender import Recommender
from latentloop.recurrence import RecurrentDepth
from latentloop.replayable import replayable
from latentloop.thinking.packing import Packing
from latentloop.training import fit
from tests.core.worlds import ragged
from tests.devices.worlds import DIM, MAX_LENGTH, NUM_ITEMS, close, every_backbone, fresh, recommender


@pytest.fixture(scope="module")
def split() -> Split:
    return leave_one_out(synthetic_log(num_users=40, num_items=30, seed=2), 6)


@pytest.mark.parametrize("same_target", [True, False])
def test_counted_batches_are_the_same_and_know_their_tokens(
    same_target: bool, split: Split, device: torch.device
) -> None:
    def loop() -> Any:
        return batches(split.train.to(device), 50, key=1, epoch=1, same_target=same_target)

    found = list(counted(loop(), 6, 3))
    assert len(found) > 1
    for one, other in zip(found, loop(), strict=True):
        assert one.history.device.type == device.type and one.key == other.key
        assert torch.equal(one.history, other.history) and torch.equal(one.rows, other.rows)
        pair = [one.history, *([one.same_target] if same_target else [])]
        naive = [sum(max(1, sum(item != 0 for item in row)) for row in history.tolist()) for history in pair]
        assert one.tokens == (naive[0], naive[1] if same_target else 0)


@given(
    lengths=st.lists(st.integers(0, 6), min_size=1, max_size=8), longest=st.integers(1, 6),
    fillers=st.integers(1, 5), share=st.floats(0, 1),
)  # fmt: skip
def test_filled_packing_is_the_real_one_and_padding_behind(
    device: torch.device, lengths: list[int], longest: int, fillers: int, share: float
) -> None:
    history = torch.zeros(len(lengths), longest, dtype=torch.int64)
    for row, length in enumerate(lengths):
        history[row, longest - min(length, longest) :] = torch.arange(min(length, longest)) + 1 + 10 * row
    expected = Packing.of(history)
    real, rows = len(expected.items), len(lengths)
    tokens = real + fillers + round(share * fillers * (longest - 1))
    found = Packing.filled(history.to(device), tokens, fillers)
    for name in ("items", "slots", "rows"):
        column = getattr(found, name)
        assert len(column) == tokens and column[:real].tolist() == getattr(expected, name).tolist(), name
    assert found.offsets[: rows + 1].tolist() == expected.offsets.tolist()
    bounds = found.offsets.tolist()
    assert len(bounds) == rows + fillers + 1 and bounds[-1] == tokens and found.max_length == longest
    assert not found.items[real:].any()
    for row in range(rows, rows + fillers):
        part = slice(bounds[row], bounds[row + 1])
        assert found.slots[part].tolist() == list(range(bounds[row + 1] - bounds[row] - 1, -1, -1))
        assert bounds[row] < bounds[row + 1] <= bounds[row] + longest and set(found.rows[part].tolist()) == {row}


def gradients(model: Recommender, steps: Tensor) -> dict[str, Tensor]:
    """Of a loss that reads every thought, zeros where it does not reach."""
    model.zero_grad(set_to_none=True)
    (steps * torch.linspace(-1, 1, steps.numel(), device=steps.device).view_as(steps)).sum().backward()
    named = model.named_parameters()
    return {name: torch.zeros_like(one) if one.grad is None else one.grad.clone() for name, one in named}


def alike(model: Recommender, found: Tensor, expected: Tensor, tolerance: float = 1e-5) -> None:
    """Thoughts and the gradients through them."""
    close(found, expected, tolerance)
    one, other = gradients(model, found), gradients(model, expected)
    for name, gradient in one.items():
        close(gradient, other[name], 10 * tolerance)


def asked(seed: int, device: torch.device, rows: int = 9) -> tuple[Tensor, Tensor, int]:
    """Histories, keys and the number of tokens."""
    history = ragged(seed, rows, longest=MAX_LENGTH, num_items=NUM_ITEMS)
    return history.to(device), row_keys(seed, torch.arange(rows, device=device)), len(Packing.of(history).items)


def eager(model: Recommender, history: Tensor, keys: Tensor, tokens: int, depth: int) -> Tensor:
    packing, inputs = filled_up(model, history, keys, tokens)
    assert len(packing.items) % STEP == 0
    return Thinking(model, depth, len(history))(*inputs)


class Eager(GraphedThinking):
    """All but the graphs."""

    def __init__(self, model: Recommender) -> None:
        self.model, self.shape, self.graphs = model, None, {}

    def _graph(self, kind: type[Thinking], depth: int, copies: int, inputs: tuple[Tensor, ...]) -> Thinking:
        return kind(self.model, depth, self.shape[0], copies)


@every_backbone
def test_thinking_of_filled_tokens_is_thinking(name: str, device: torch.device) -> None:
    model = recommender(name).to(device)
    if not model.encoder.packed:
        assert name == "tedrec" and not GraphedThinking.suits(model)
        return
    assert GraphedThinking.suits(model) == (device.type == "cuda")
    for seed, depth in ((1, 1), (2, 3)):
        history, keys, tokens = asked(seed, device)
        expected = model.think(history, depth=depth, state_keys=keys).steps
        alike(model, eager(model, history, keys, tokens, depth), expected)


@pytest.mark.parametrize("read", [6, 3])
def test_views_of_filled_tokens_are_the_views(read: int, split: Split, device: torch.device) -> None:
    """Of histories that are longer than the model reads, too."""
    model, names = fresh(split, dropout=0.0, max_length=read).to(device).train(), ("anchor", "same_target", "self")
    for batch in counted(batches(split.train.to(device), 300, key=1, epoch=1, same_target=True), read):
        for asked_for in (names, ("everywhere", *names)):
            found, expected = (encode_views(model, batch, asked_for, by) for by in (Eager(model), None))
            assert found.depth == expected.depth
            for name in names:
                close(found[name].steps, expected[name].steps, 1e-5)
        assert found.everywhere is not None and expected.everywhere is not None
        real = len(expected.everywhere.states)
        close(found.everywhere.states[:real], expected.everywhere.states, 1e-5)
        assert torch.equal(found.everywhere.packing.rows[:real], expected.everywhere.packing.rows)


@pytest.mark.parametrize("kl", ["full", "target"])
def test_rollouts_of_filled_tokens_are_the_rollouts(kl: Any, split: Split, device: torch.device) -> None:
    model = fresh(split, dropout=0.3, max_length=6).to(device).train()
    (batch,) = list(counted(batches(split.train.to(device), 10**6, key=1, epoch=1), 6))
    found, expected = RPT(rollouts=3, kl=kl), RPT(rollouts=3, kl=kl)
    found.start(model)
    expected.start(model)
    with torch.no_grad():  # so that the divergence is not zero
        model.position_table += 0.1 * torch.randn_like(model.position_table)
    if device.type == "cpu":
        found._graphed = [Eager(model), Eager(found.reference)]
    assert [graphed.model for graphed in found._graphed] == [model, found.reference]
    results = []
    for rpt, rows in ((found, batch), (expected, replace(batch, tokens=None)), (found, batch)):
        loss, terms = rpt(Views(model, 1, {}), rpt.prepare(model, rows))
        results.append((gradients_of(model, loss), terms))
    assert not device.type == "cuda" or [len(graphed.graphs) for graphed in found._graphed] == [1, 1]
    for one in (0, 2):
        for name, gradient in results[1][0].items():
            close(results[one][0][name], gradient, 1e-4)
        for name, term in results[1][1].items():
            close(results[one][1][name], term, 1e-4)


def gradients_of(model: Recommender, loss: Tensor) -> dict[str, Tensor]:
    named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    found = torch.autograd.grad(loss, [parameter for _, parameter in named], allow_unused=True)
    return {name: gradient for (name, _), gradient in zip(named, found, strict=True) if gradient is not None}


def on_cuda(device: torch.device) -> None:
    if device.type != "cuda":
        pytest.skip("graphs are CUDA's")


@pytest.mark.parametrize(
    ("name", "settings"),
    [("sasrec", {}), ("sasrec", {"own_norms": 2, "own_rank": 2}), ("fmlprec", {}), ("bsarec", {})],
)
def test_graphs_think_as_the_model_does(name: str, settings: dict[str, Any], device: torch.device) -> None:
    model = recommender(name, **settings)
    assert replayable(model)
    on_cuda(device)
    with torch.no_grad():
        for name, parameter in model.encoder.named_parameters():
            if name.endswith(".up"):  # which begins at 0
                parameter += 0.1 * torch.randn_like(parameter)
    model.to(device).train()
    graphed = GraphedThinking(model)
    for seed, depth in ((1, 2), (2, 3), (3, 2), (4, 3), (1, 2)):
        history, keys, tokens = asked(seed, device)
        found = graphed(history, depth=depth, state_keys=keys, tokens=tokens).steps
        alike(model, found, model.think(history, depth=depth, state_keys=keys).steps)
    assert len(graphed.graphs) == 2


@pytest.mark.parametrize("backbone", [SASRec, BSARec])
def test_graphs_drop_what_the_seed_says(backbone: Any, split: Split, device: torch.device) -> None:
    on_cuda(device)
    model = fresh(split, backbone, dropout=0.3, max_length=MAX_LENGTH).to(device).train()
    graphed, drawn = GraphedThinking(model), []
    for seed, depth in ((1, 2), (2, 3), (3, 2), (1, 2)):
        history, keys, tokens = asked(seed, device)
        with dropout_seed(seed, device):
            found = graphed(history, depth=depth, state_keys=keys, tokens=tokens).steps
            after = torch.rand(3, device=device)
        with dropout_seed(seed, device):
            expected = eager(model, history, keys, tokens, depth)
            assert torch.equal(torch.rand(3, device=device), after)  # as many were drawn
        assert torch.equal(found, expected)
        drawn.append(found.detach().clone())
        one, other = gradients(model, found), gradients(model, expected)
        for name, gradient in one.items():
            close(gradient, other[name], 1e-6)
    assert torch.equal(drawn[0], drawn[3])


class Inherits(SASRecBlock):
    """Whatever it adds, its base class did not promise."""


class Declares(SASRecBlock):
    capturable = True


class Denies(SASRecBlock):
    capturable = False


@pytest.mark.parametrize(
    ("core_block", "settings", "promised"),
    [
        (SASRecBlock, {}, True),
        (Inherits, {}, False),
        (Declares, {}, True),
        (Denies, {}, False),
        (SASRecBlock, {"aggregate": "gate"}, True),
        (SASRecBlock, {"aggregate": torch.add}, False),
        (SASRecBlock, {"checkpoint_steps": True}, False),
    ],
)
def test_only_what_promises_it_is_captured(
    core_block: type[SASRecBlock], settings: dict[str, Any], promised: bool, device: torch.device
) -> None:
    blocks = [make(DIM, layers=1, inner=32, dropout=0.3) for make in (SASRecBlock, core_block)]
    model = Recommender(NUM_ITEMS, RecurrentDepth(*blocks, **settings), DIM, MAX_LENGTH).to(device)
    assert facts(model.encoder).capturable == replayable(model) == promised
    assert GraphedThinking.suits(model) == (promised and device.type == "cuda")


@pytest.mark.parametrize("backbone", [SASRec, BSARec])
def test_a_model_that_was_changed_is_not_captured(backbone: Any, split: Split) -> None:
    def made() -> Recommender:
        return fresh(split, backbone, dropout=0.3, max_length=MAX_LENGTH)

    assert replayable(made())
    hooked, other = made(), made()
    hooked.encoder.core_block.module.layers[0].register_forward_hook(lambda *_: None)
    other.position_table.register_hook(lambda gradient: gradient)
    replaced, mine, dropped = made(), made(), made()
    replaced.encoder.core_block.module.layers[0].dropout = Noise()
    mine.think = lambda *args, **kwargs: None
    dropped.input_dropout = torch.nn.Dropout(0.3)
    for model in (hooked, other, replaced, mine, dropped):
        assert not replayable(model)


class Noise(torch.nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x


def test_objectives_of_others_get_no_replayed_thoughts() -> None:
    def mine(views: Any, batch: Any) -> Any:
        return views["anchor"].final.sum(), {}

    for ours in (SPT(), RPT(), NextItemEverywhere(), SPT(next_item=NextItemEverywhere()), RPT() + 0.1 * NextItem()):
        assert may_replay(ours)
    for other in (mine, SPT() + mine, Weighted(mine, 2.0), NextItemEverywhere(mine), SPT(next_item=mine)):
        assert not may_replay(other)


def test_a_graph_more_than_there_may_be_is_thought_of_step_by_step(split: Split, device: torch.device) -> None:
    on_cuda(device)
    model = fresh(split, dropout=0.0, max_length=MAX_LENGTH).to(device).train()
    graphed = GraphedThinking(model)
    history, keys, tokens = asked(1, device)
    for depth in (1, 2):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("latentloop.graphed_thinking.MOST", 1)
            found = graphed(history, depth=depth, state_keys=keys, tokens=tokens).steps
        alike(model, found, model.think(history, depth=depth, state_keys=keys).steps)
    assert len(graphed.graphs) == 1
    graphed.close()
    assert not graphed.graphs


def test_closing_lets_go_of_what_holds_itself(split: Split) -> None:
    """Torch puts a function that holds the graphs, and the module, in place of the module's `forward`."""
    graphed = Eager(fresh(split, dropout=0.0, max_length=MAX_LENGTH))
    thinking = Thinking(graphed.model, 1, 1)
    thinking.forward = partial(thinking.forward)
    held = weakref.ref(thinking)
    graphed.graphs[("key",)] = thinking
    del thinking
    gc.disable()
    try:
        graphed.close()
        assert not graphed.graphs and held() is None
    finally:
        gc.enable()


@pytest.mark.parametrize(
    "objective",
    [SPT, lambda: SPT(next_item=NextItemEverywhere()), lambda: RPT(rollouts=2), lambda: RPT() + 0.1 * SPT()],
)
def test_a_stage_learns_the_same_from_filled_tokens(
    objective: Any, split: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All that `fit` does for graphs, without them."""

    def trained() -> Tensor:
        """What the users' vectors come to; a key's bias, say, has no gradient but rounding, and no effect."""
        model = fresh(split, dropout=0.0, max_length=MAX_LENGTH).double()
        accelerator = make_accelerator(device="cpu")
        fit(model, split.train, split.validation, objective(), epochs=1, batch_size=32, accelerator=accelerator)
        return model.eval().encode(split.test.history(torch.arange(len(split.test)))).detach()

    expected, thought = trained(), []
    with monkeypatch.context() as patch:
        patch.setattr(GraphedThinking, "suits", staticmethod(replayable))
        patch.setattr(GraphedThinking, "__init__", Eager.__init__)
        patch.setattr(
            GraphedThinking, "_graph", lambda self, *asked: thought.append(asked) or Eager._graph(self, *asked)
        )
        found = trained()
    assert len(thought) > 1
    close(found, expected, 1e-6)
