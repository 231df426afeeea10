"""What every encoder owes, whoever wrote it."""

from __future__ import annotations

import copy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from latentloop.baselines import popularity
from latentloop.blocks.facts import facts
from latentloop.data.interactions import Interactions
from latentloop.data.splits import Split, leave_one_out
from latentloop.depth import UniformDepth
from latentloop.errors import InputError
from latentloop.evaluation import evaluate
from latentloop.objectives import RPT, SPT
from latentloop.recommender import Recommender
from latentloop.recurrence import RecurrentDepth
from latentloop.training import fit, make_accelerator
from tests.contracts.encoders import DIM, ENCODERS, MAX_LENGTH, NUM_ITEMS, Blocks
from tests.core.worlds import ragged

every_encoder = pytest.mark.parametrize("blocks", ENCODERS.values(), ids=ENCODERS.keys())
few = settings(max_examples=5)
seeds = st.integers(0, 2**31 - 1)
CLOSE = {"rtol": 1e-4, "atol": 1e-5}


def recommender(blocks: Callable[[], Blocks], seed: int, *, init_std: float = 0.5) -> Recommender:
    """The three lines, with tables large enough to matter."""
    torch.manual_seed(seed)
    encoder = RecurrentDepth(*blocks(), "add", depth_law=UniformDepth(1, 4))
    return Recommender(NUM_ITEMS, encoder, DIM, MAX_LENGTH, init_std=init_std, dropout=0.1)


def histories(seed: int) -> Tensor:
    """Ragged rows, one empty and one longer than the model reads."""
    return ragged(seed, longest=MAX_LENGTH + 2, num_items=NUM_ITEMS)


@every_encoder
@few
@given(seed=seeds, depth=st.integers(1, 4))
def test_shapes(blocks: Callable[[], Blocks], seed: int, depth: int) -> None:
    model, history = recommender(blocks, seed).eval(), histories(seed)
    steps = model.think(history, depth=depth).steps
    assert steps.shape == (depth, len(history), DIM)
    assert steps.isfinite().all()
    assert model.score(history).shape == (len(history), NUM_ITEMS)


@every_encoder
@pytest.mark.parametrize("train", [True, False])
def test_no_rows_give_no_thoughts(blocks: Callable[[], Blocks], train: bool) -> None:
    model = recommender(blocks, 0).train(train)
    assert model.think(torch.zeros(0, 4, dtype=torch.int64), depth=2).steps.shape == (2, 0, DIM)


@every_encoder
@few
@given(seed=seeds, depth=st.integers(1, 3), more=st.integers(1, 3))
def test_a_shallow_run_is_the_start_of_a_deep_one(
    blocks: Callable[[], Blocks], seed: int, depth: int, more: int
) -> None:
    model, history = recommender(blocks, seed).eval(), histories(seed)
    with torch.no_grad():
        deep = model.think(history, depth=depth + more).steps
        torch.testing.assert_close(model.think(history, depth=depth).steps, deep[:depth], **CLOSE)


@every_encoder
@few
@given(seed=seeds)
def test_rows_do_not_know_of_each_other(blocks: Callable[[], Blocks], seed: int) -> None:
    model, history = recommender(blocks, seed).eval(), histories(seed)
    with torch.no_grad():
        together = model.think(history).steps
        for row in range(len(history)):
            torch.testing.assert_close(model.think(history[row : row + 1]).steps, together[:, row : row + 1], **CLOSE)


@every_encoder
@few
@given(seed=seeds, wider=st.integers(1, 3))
def test_extra_padding_changes_nothing(blocks: Callable[[], Blocks], seed: int, wider: int) -> None:
    """Because no block reads padding, or because the `Recommender` brings all rows to one length."""
    model, history = recommender(blocks, seed).eval(), histories(seed)[:, -MAX_LENGTH + 3 :]
    padded = nn.functional.pad(history, (wider, 0))
    with torch.no_grad():
        torch.testing.assert_close(model.encode(padded), model.encode(history), **CLOSE)


@every_encoder
def test_a_causal_block_sees_nothing_later(blocks: Callable[[], Blocks]) -> None:
    model = recommender(blocks, 0).eval()
    for block in (model.encoder.pre_block, model.encoder.core_block):  # type: ignore[union-attr]
        x = torch.randn(3, MAX_LENGTH, DIM)
        later = torch.cat([x[:, :-1], x[:, -1:] + torch.randn(3, 1, DIM)], 1)
        with torch.no_grad():
            history = torch.ones(3, MAX_LENGTH, dtype=torch.int64)
            before, after = (block(rows, history=history)[:, :-1] for rows in (x, later))  # type: ignore[operator]
        if facts(block).causal:
            torch.testing.assert_close(after, before, **CLOSE)


@every_encoder
@pytest.mark.parametrize("depth", [1, 2, 4])
def test_gradients_reach_every_parameter(blocks: Callable[[], Blocks], depth: int) -> None:
    model, history = recommender(blocks, 1).train(), histories(1)
    model.think(history[(history > 0).sum(1) > 3], depth=depth).final.square().sum().backward()
    missing = [
        name
        for name, parameter in model.encoder.named_parameters()
        if parameter.requires_grad and (parameter.grad is None or not parameter.grad.any())
    ]
    # an embedding of word ids is never read where embeddings are given, nor is a bias that a softmax ignores
    unread: tuple[str, ...] = ("embeddings.word", "wte", "embed_tokens", "in_proj_bias", "key.bias")
    if depth == 1:  # an RNN that reads backwards starts at the newest position, the only one that is read out
        # and the second thought, which has norms of its own, is never made
        unread = (*unread, "hh_l0_reverse", "core_block.module.blocks.1.")
    assert [name for name in missing if not any(part in name for part in unread)] == []


@every_encoder
def test_saved_and_loaded_to_the_same_bits(blocks: Callable[[], Blocks], tmp_path: Path) -> None:
    model, history = recommender(blocks, 2).eval(), histories(2)
    model.save_pretrained(tmp_path)
    again = RecurrentDepth(*blocks(), "add", depth_law=UniformDepth(1, 4))
    loaded = Recommender.from_pretrained(tmp_path, encoder=again)
    with torch.no_grad():
        assert torch.equal(loaded.score(history), model.score(history))


@every_encoder
def test_bfloat16_is_close(blocks: Callable[[], Blocks]) -> None:
    model, history = recommender(blocks, 3).eval(), histories(3)
    with torch.no_grad():
        exact = model.encode(history)
        with torch.autocast("cpu", torch.bfloat16):
            rounded = model.encode(history)
    assert rounded.isfinite().all()
    # bfloat16 keeps 8 bits: two significant digits after some tens of rounded layers
    assert (rounded.float() - exact).norm() < 0.1 * exact.norm()


@pytest.fixture(scope="module")
def chain() -> Split:
    """Each item but a few is followed by one other: learnable from the newest item, and Popularity knows nothing."""
    generator = torch.Generator().manual_seed(0)
    successor = torch.randperm(NUM_ITEMS, generator=generator) + 1
    rows = []
    for user in range(80):
        item = int(torch.randint(1, NUM_ITEMS + 1, (), generator=generator))
        for place in range(int(torch.randint(5, 9, (), generator=generator))):
            rows.append((user, item, place))
            item = int(successor[item - 1])
    user, item, time = (torch.tensor(column) for column in zip(*rows, strict=True))
    return leave_one_out(Interactions.of(user.tolist(), item.tolist(), time.tolist()), MAX_LENGTH)


@every_encoder
def test_both_stages_learn(blocks: Callable[[], Blocks], chain: Split) -> None:
    model = recommender(blocks, 4, init_std=0.1)
    settings = {"batch_size": 64, "accelerator": make_accelerator(device="cpu")}
    first = fit(model, chain.train, chain.validation, SPT(), epochs=2, learning_rate=1e-2, **settings)
    half_trained = copy.deepcopy(model.state_dict())
    more = fit(model, chain.train, chain.validation, SPT(), epochs=4, learning_rate=1e-2, seed=1, **settings)
    losses = [line["loss"] for line in first.history + more.history]
    assert all(torch.tensor(losses).isfinite())
    assert losses[-1] < losses[0] - 0.5
    assert more.best > popularity(chain, chain.validation, name="validation").metrics["ndcg@10"] + 0.1

    model.load_state_dict(half_trained)  # where there is something left to win
    # the hybrid policy: pushing the target itself down where A < 0 teaches no ranking
    objective = RPT(policy="hybrid", reward=lambda greater, ties: 1.0 / (1.0 + greater))
    before = mean_reward(model, chain)
    post = fit(model, chain.train, chain.validation, objective, stage="rpt", epochs=3, learning_rate=1e-3, **settings)
    assert all(torch.tensor([line["loss"] for line in post.history]).isfinite())
    assert mean_reward(model, chain) > before


def mean_reward(model: Recommender, split: Split) -> float:
    """Mean reciprocal rank of the training targets."""
    evaluation = evaluate(model, split.train, split="train", stage="rpt")
    return evaluation.metrics["mrr"]


@pytest.mark.skipif(torch.__version__ < "2.13", reason="torch.compile of 2.6 to 2.9 stumbles over its own code")
def test_the_blocks_compile() -> None:
    """In a process of its own: torch.compile does not look through the checks that the tests put on every call."""
    script = Path(__file__).with_name("compile_blocks.py")
    result = subprocess.run([sys.executable, str(script)], check=False, capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stderr[-3000:]
    assert set(result.stdout.split(";")[:-1]) <= set(ENCODERS)
    assert len(result.stdout.split(";")) > len(ENCODERS) - 3  # Hugging Face's three may be missing


ANSWERS_PREFIXES = {
    "sasrec",
    "sasrec, norms of each step",
    "sasrec, changes of each step",
    "gru",
    "lstm",
    "gru shared",
    "gru copied",
    "gru, then sasrec",
    "transformer 1, causal",
    "transformer 2, causal",
}


@pytest.mark.parametrize(("name", "blocks"), ENCODERS.items(), ids=ENCODERS.keys())
def test_every_position_answers_its_prefix_or_the_encoder_is_refused(name: str, blocks: Callable[[], Blocks]) -> None:
    model, history = recommender(blocks, 0).eval(), histories(0)[:, -MAX_LENGTH:]
    if name not in ANSWERS_PREFIXES:
        with pytest.raises(InputError, match="causal|pad-invariant"):
            model.think_everywhere(history)
        return
    model.inference_state = "zero"
    with torch.no_grad():
        model.position_table.zero_()  # a prefix of its own stands elsewhere
        found = model.think_everywhere(history, depth=3)
        slots = found.packing.slots.tolist()
        prefixes = [
            torch.cat([torch.zeros(slot, dtype=torch.int64), history[row, : MAX_LENGTH - slot]])
            for row, slot in zip(found.packing.rows.tolist(), slots, strict=True)
        ]
        wanted = model.think(torch.stack(prefixes), depth=3)
    assert max(slots) == MAX_LENGTH - 1
    torch.testing.assert_close(found.states, wanted.final, **CLOSE)
    of_rows = [place for place, slot in enumerate(slots) if slot == 0]
    torch.testing.assert_close(found.thoughts.steps, wanted.steps[:, of_rows], **CLOSE)
