"""`adapt` against each module called by hand, row by row, without padding."""

from __future__ import annotations

import copy
import itertools
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from latentloop.adapt import adapt
from latentloop.blocks.facts import facts
from tests.adapt.zoo import CASES, TOLERANCE, Case, D, Rows, by_hand, every_padding, rows, seeds

every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())


def close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, **TOLERANCE)


@every_case
@given(batch=rows(), seed=seeds, other=seeds)
def test_rows_equal_the_module_alone(case: Case, batch: Rows, seed: int, other: int) -> None:
    """Companions and padding, whatever stands in it, change nothing; padded outputs are zero."""
    torch.manual_seed(seed)
    module = case.make()
    block = adapt(module, causal=case.causal)
    expected = by_hand(case, module, batch)
    close(block(batch.x, padding_mask=batch.padding, lengths=batch.lengths), expected)
    close(block(batch.with_other_padding(other), padding_mask=batch.padding), expected)
    close(block(batch.x, lengths=batch.lengths), expected)
    close(block(batch.x, history=(~batch.padding).long()), expected)


@every_case
@pytest.mark.parametrize("train, grad", list(itertools.product([True, False], repeat=2)))
def test_every_padding_length_in_every_mode(case: Case, train: bool, grad: bool) -> None:
    torch.manual_seed(1)
    module = case.make()
    block = adapt(module, causal=case.causal)
    for length in (1, 2, 5):
        batch = every_padding(length, seed=length)
        expected = by_hand(case, module, batch)
        block.train(train)
        with torch.set_grad_enabled(grad):
            close(block(batch.x, padding_mask=batch.padding, lengths=batch.lengths).detach(), expected)
    assert torch.backends.mha.get_fastpath_enabled()


@every_case
@given(length=st.integers(1, 5), seed=seeds)
def test_without_padding_nothing_needs_to_be_said(case: Case, length: int, seed: int) -> None:
    torch.manual_seed(seed)
    module = case.make()
    batch = Rows(torch.randn(3, length, D), torch.full((3,), length))
    close(adapt(module, causal=case.causal)(batch.x).detach(), by_hand(case, module, batch))


@every_case
@given(batch=rows(), seed=seeds)
def test_gradients_are_those_of_the_rows_alone(case: Case, batch: Rows, seed: int) -> None:
    torch.manual_seed(seed)
    module = case.make()
    block = adapt(module, causal=case.causal)
    x = batch.x.clone().requires_grad_()
    block(x, padding_mask=batch.padding, lengths=batch.lengths).square().sum().backward()
    assert x.grad is not None and x.grad[batch.padding].eq(0).all()
    found = {name: p.grad for name, p in module.named_parameters() if p.grad is not None}

    twin = case.make()
    twin.load_state_dict(module.state_dict())
    total = sum(
        (case.by_hand(twin, batch.real(r)).square().sum() for r, n in enumerate(batch.lengths) if n), x.sum() * 0
    )
    total.backward()
    for name, parameter in twin.named_parameters():
        expected = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        actual = found.get(name, torch.zeros_like(parameter))
        torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-4)  # sums over all rows, in another order


@every_case
def test_facts_are_declared_and_hold(case: Case) -> None:
    torch.manual_seed(2)
    block = adapt(case.make(), causal=case.causal).eval()
    assert facts(block) == case.facts
    batch = every_padding(6)
    later = batch.x.clone()
    later[:, -1] += 1
    before, after = (block(x, padding_mask=batch.padding, lengths=batch.lengths)[:, :-1] for x in (batch.x, later))
    if case.facts.causal:
        close(before, after)
    if case.facts.pad_invariant:
        wide = nn.functional.pad(batch.x, (0, 0, 3, 0), value=1.0)
        close(block(wide, lengths=batch.lengths)[:, 3:], block(batch.x, lengths=batch.lengths))


@pytest.mark.parametrize("name", ["gru, both ways", "lstm, both ways, projected", "layer", "encoder 2"])
def test_what_is_not_declared_causal_sees_later_positions(name: str) -> None:
    block = adapt(CASES[name].make()).eval()
    batch = every_padding(6)
    later = batch.x.clone()
    later[:, -1] += torch.arange(D)
    before, after = (block(x, lengths=batch.lengths)[-1, 0] for x in (batch.x, later))
    assert not torch.allclose(before, after)


@every_case
@pytest.mark.parametrize("grad", [True, False])
def test_bfloat16_autocast(case: Case, grad: bool) -> None:
    torch.manual_seed(3)
    module = case.make()
    block = adapt(module, causal=case.causal).eval()
    batch = every_padding(5)
    with torch.autocast("cpu", torch.bfloat16), torch.set_grad_enabled(grad):
        output = block(batch.x, padding_mask=batch.padding, lengths=batch.lengths).detach().float()
    assert output[batch.padding].eq(0).all()
    # 8 bits of mantissa, through a few layers of values around 1
    torch.testing.assert_close(output, by_hand(case, module, batch), rtol=0.1, atol=0.1)


@every_case
def test_saves_under_stable_names_and_loads_the_same_bits(case: Case, tmp_path: Path) -> None:
    module = case.make()
    block = adapt(module, causal=case.causal).eval()
    assert set(block.state_dict()) == {f"module.{name}" for name in module.state_dict()}
    save_file(block.state_dict(), tmp_path / "block.safetensors")
    other = adapt(case.make(), causal=case.causal).eval()
    other.load_state_dict(load_file(tmp_path / "block.safetensors"))
    batch = every_padding(4)
    context = {"padding_mask": batch.padding, "lengths": batch.lengths}
    assert torch.equal(block(batch.x, **context), other(batch.x, **context))


@every_case
def test_a_deep_copy_is_independent(case: Case) -> None:
    block = adapt(case.make(), causal=case.causal).eval()
    twin = copy.deepcopy(block)
    batch = every_padding(4)
    before = block(batch.x, lengths=batch.lengths)
    assert torch.equal(before, twin(batch.x, lengths=batch.lengths))
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.add_(1)
    assert torch.equal(before, block(batch.x, lengths=batch.lengths))
    assert not torch.equal(before, twin(batch.x, lengths=batch.lengths))


@pytest.mark.skipif(torch.__version__ < "2.13", reason="torch.compile of 2.6 to 2.9 stumbles over its own code")
def test_compiles() -> None:
    """In a process of its own: torch.compile does not look through the checks that the tests put on every call."""
    script = Path(__file__).with_name("compile_blocks.py")
    result = subprocess.run([sys.executable, str(script)], check=False, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr[-3000:]


@given(batch=rows(shortest=1), seed=seeds)
def test_last_and_the_packed_layout_pass_through(batch: Rows, seed: int) -> None:
    torch.manual_seed(seed)
    block = adapt(CASES["sasrec"].make())
    padded = block(batch.x, padding_mask=batch.padding)
    close(block.last(batch.x, padding_mask=batch.padding, lengths=batch.lengths), padded[:, -1])  # type: ignore[operator]
    offsets = nn.functional.pad(batch.lengths.cumsum(0), (1, 0))
    tokens = batch.x[~batch.padding]
    close(block(tokens, offsets=offsets), padded[~batch.padding])
    close(block.last(tokens, offsets=offsets, max_length=batch.x.shape[1]), padded[:, -1])  # type: ignore[operator]


def test_last_of_an_empty_row_is_zero() -> None:
    block = adapt(CASES["sasrec"].make())
    newest = block.last(torch.randn(2, 3, D), lengths=torch.tensor([0, 2]))  # type: ignore[operator]
    assert newest[0].eq(0).all() and newest[1].ne(0).any()
