"""Modules that padding makes NaN: answered and trained as if nothing were padded, or refused with what to do."""

from __future__ import annotations

import copy
import logging
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from latentloop import NextItem, Recommender, RecurrentDepth
from latentloop.adapt import adapt
from latentloop.blocks.safe_attention import safe_attention
from latentloop.data.batch import Batch
from latentloop.depth import FixedDepth
from latentloop.errors import InputError
from latentloop.objectives.views import encode_views
from latentloop.stacked import Stacked
from tests.adapt.zoo import TOLERANCE, D, Rows, every_padding, rows, seeds

KINDS = ("filled", "added", "added, then nan_to_num", "logarithm")


class Attention(nn.Module):
    """Causal attention as it is written by hand: queries at the padding that leads a row see nothing at all."""

    def __init__(
        self, kind: str = "filled", layers: int = 1, *, sees_itself: bool = False, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.kind, self.sees_itself = kind, sees_itself
        self.layers = nn.ModuleList(nn.Linear(D, 3 * D) for _ in range(layers))
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor, padding_mask: Tensor | None = None) -> Tensor:
        """(B, L, d) -> (B, L, d)."""
        length = x.shape[1]
        hidden = torch.ones(length, length, dtype=torch.bool, device=x.device).triu(1)
        if padding_mask is not None:
            hidden = hidden | padding_mask[:, None, :]
        if self.sees_itself:
            hidden = hidden & ~torch.eye(length, dtype=torch.bool, device=x.device)
        for layer in self.layers:
            query, key, value = layer(x).chunk(3, -1)
            scores = query @ key.transpose(1, 2) / D**0.5
            if self.kind.startswith("added"):
                scores = scores + torch.zeros_like(scores).masked_fill(hidden, -torch.inf)
            else:
                scores = scores.masked_fill(hidden, -torch.inf)
            if self.kind == "by hand":
                shares = (scores - scores.amax(-1, keepdim=True)).exp()
                weights = shares / shares.sum(-1, keepdim=True)
            else:
                weights = scores.log_softmax(-1).exp() if self.kind == "logarithm" else scores.softmax(-1)
            x = x + self.drop((weights.nan_to_num() if "nan_to_num" in self.kind else weights) @ value)
        return x


class MeanBefore(nn.Module):
    """The mean of what came before, 0 / 0 where nothing did."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(D, D)

    def forward(self, x: Tensor, padding_mask: Tensor | None = None) -> Tensor:
        """(B, L, d) -> (B, L, d)."""
        real = torch.ones_like(x[..., :1]) if padding_mask is None else (~padding_mask)[..., None].to(x.dtype)
        mean: Tensor = self.linear(x) + (x * real).cumsum(1) / real.cumsum(1)
        return mean


class Logarithm(nn.Module):
    """NaN whatever is padded."""

    def forward(self, x: Tensor, padding_mask: Tensor | None = None) -> Tensor:
        """(B, L, d) -> (B, L, d)."""
        return (x - x.detach() - 1).log()


def made(kind: str, layers: int, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return MeanBefore() if kind == "mean" else Attention(kind, layers)


CASES = [*((kind, layers) for kind in KINDS for layers in (1, 2)), ("mean", 1)]


def weighed(output: Tensor, seed: int) -> Tensor:
    """A loss in which each place counts otherwise, from the row's end."""
    shares = torch.randn(9, D, generator=torch.Generator().manual_seed(seed))
    return (output * shares[-output.shape[1] :]).sum()


def gradients(module: nn.Module) -> list[Tensor]:
    found = [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in module.parameters()]
    module.zero_grad()
    return found


@pytest.mark.parametrize(("kind", "layers"), CASES)
def test_the_modules_of_these_tests_do_break(kind: str, layers: int) -> None:
    given_rows, module = every_padding(4), made(kind, layers, 0)
    x = given_rows.x.clone().requires_grad_()
    output = module(x, given_rows.padding)
    weighed(output.masked_fill(given_rows.padding[..., None], 0.0), 0).backward()
    broken = [g for g in [x.grad, *gradients(module)] if g is not None and not bool(g.isfinite().all())]
    assert broken


@pytest.mark.parametrize(("kind", "layers"), CASES)
@given(given_rows=rows(shortest=1), seed=seeds)
def test_answers_and_gradients_are_those_of_each_row_alone(kind: str, layers: int, given_rows: Rows, seed: int) -> None:
    module = made(kind, layers, seed)
    x = given_rows.x.clone().requires_grad_()
    output = adapt(module)(x, padding_mask=given_rows.padding)
    weighed(output, seed).backward()
    found, of_x = gradients(module), x.grad
    assert of_x is not None and bool(output.isfinite().all()) and bool(of_x.isfinite().all())
    alone = given_rows.x.clone().requires_grad_()
    for row, n in enumerate(given_rows.lengths.tolist()):
        answer = module(alone[row : row + 1, -n:])
        torch.testing.assert_close(output[row : row + 1, -n:], answer, **TOLERANCE)
        weighed(answer, seed).backward()
    assert alone.grad is not None
    torch.testing.assert_close(of_x, alone.grad, **TOLERANCE)
    for one, other in zip(found, gradients(module), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


@given(seed=seeds, checkpoint=st.booleans(), copies=st.booleans())
def test_a_model_is_trained_as_with_a_module_that_never_breaks(seed: int, checkpoint: bool, copies: bool) -> None:
    def model(sees_itself: bool) -> Recommender:
        torch.manual_seed(seed)
        block = Attention("added", 2, sees_itself=sees_itself)
        encoder = RecurrentDepth(
            block, "copy" if copies else block, depth_law=FixedDepth(2), checkpoint_steps=checkpoint
        )
        return Recommender(12, encoder, D, 5, dropout=0.0, init_std=0.5).train()

    generator = torch.Generator().manual_seed(seed)
    history = torch.randint(1, 13, (6, 5), generator=generator)
    history[torch.arange(5) < torch.arange(6)[:, None] - 1] = 0  # lengths 5, 5, 4, 3, 2, 1
    batch = Batch(history, torch.randint(1, 13, (6,), generator=generator), torch.arange(6), key=seed)
    losses, found = [], []
    for sees_itself in (False, True):
        one = model(sees_itself)
        loss, _ = NextItem()(encode_views(one, batch, ("anchor",)), batch)
        loss.backward()
        losses.append(loss.detach())
        found.append(gradients(one))
    torch.testing.assert_close(*losses)
    for one_gradient, other in zip(*found, strict=True):
        torch.testing.assert_close(one_gradient, other, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    ("layers", "said"),
    [
        (
            1,
            "Attention gives NaN or infinity at padded positions .* backward pass: let every query see at least itself",
        ),
        (2, "Attention gives NaN or infinity at real positions .*: let every query see at least itself"),
    ],
)
@pytest.mark.parametrize("grad", [True, False])
def test_what_no_remedy_mends_is_refused_at_the_first_call(layers: int, said: str, grad: bool) -> None:
    given_rows = every_padding(4)
    with torch.set_grad_enabled(grad), pytest.raises(InputError, match=said) as caught:
        adapt(Attention("by hand", layers))(given_rows.x, padding_mask=given_rows.padding)
    assert "\n" not in str(caught.value)


def test_where_nothing_is_padded_nothing_is_tried() -> None:
    x = torch.randn(3, 4, D)
    assert bool(adapt(Attention("by hand", 2))(x).isfinite().all())


def test_what_is_broken_without_padding_is_none_of_paddings_doing() -> None:
    given_rows = every_padding(3)
    output = adapt(Logarithm())(given_rows.x, padding_mask=given_rows.padding)
    assert torch.equal(output.isnan(), ~given_rows.padding[..., None].expand_as(output))


def test_a_mended_softmax_is_told_once_with_what_to_do(caplog: pytest.LogCaptureFixture) -> None:
    given_rows, block = every_padding(4), adapt(Attention("filled", 2))
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            block(given_rows.x, padding_mask=given_rows.padding)
    (record,) = caplog.records
    assert "Attention gives NaN at padded positions" in record.message
    assert "let every query see at least itself" in record.message


def test_it_is_tried_once_on_one_row() -> None:
    sizes: list[int] = []
    module = Attention(sees_itself=True)
    module.register_forward_hook(lambda _, inputs, __: sizes.append(len(inputs[0])))
    block, given_rows = adapt(module), every_padding(4)
    block(given_rows.x, padding_mask=given_rows.padding)
    assert sizes == [1, 1, 5]
    block(given_rows.x, padding_mask=given_rows.padding)
    assert sizes == [1, 1, 5, 5]


class Drawing(nn.Module):
    """Batch statistics, dropout, and noise that its mode does not switch off."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.attention, self.drop = nn.BatchNorm1d(D), Attention("added", 2), nn.Dropout(0.5)
        self.frozen = nn.Dropout(0.5).eval()

    def forward(self, x: Tensor, padding_mask: Tensor) -> Tensor:
        """(B, L, d) -> (B, L, d)."""
        x = self.norm(x.transpose(1, 2)).transpose(1, 2)
        hidden: Tensor = self.frozen(self.drop(self.attention(x, padding_mask)))
        return hidden + torch.randn_like(x)


def test_the_trial_leaves_no_trace() -> None:
    given_rows = every_padding(4)
    first = adapt(Drawing())
    again = copy.deepcopy(first)
    torch.manual_seed(1)
    again(given_rows.x, padding_mask=given_rows.padding)  # tried here
    again.load_state_dict(copy.deepcopy(first.state_dict()))
    modes = [part.training for part in first.modules()]
    outputs = []
    for block in (first, again):
        torch.manual_seed(2)
        outputs.append(block(given_rows.x, padding_mask=given_rows.padding))
    assert torch.equal(*outputs)
    assert modes == [part.training for part in first.modules()]
    for one, other in zip(first.state_dict().values(), again.state_dict().values(), strict=True):
        assert torch.equal(one, other)


def test_weights_get_their_gradient_under_autocast_at_the_first_call() -> None:
    given_rows, module = every_padding(4), Attention("filled", 1, sees_itself=True)
    with torch.autocast("cpu", torch.bfloat16):
        output = adapt(module)(given_rows.x, padding_mask=given_rows.padding)
    weighed(output.float(), 0).backward()
    assert all(bool(gradient.any()) for gradient in gradients(module))


def test_the_first_call_may_be_in_inference_mode() -> None:
    given_rows, module = every_padding(4), Attention("filled", 2)
    block = adapt(module)
    with torch.inference_mode():
        answer = block(given_rows.x.clone(), padding_mask=given_rows.padding)
    assert bool(answer.isfinite().all())
    torch.testing.assert_close(answer, block(given_rows.x, padding_mask=given_rows.padding))


class Frozen(nn.Module):
    """Features of another model, which nothing is learned through."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(D, D)

    @torch.no_grad()
    def forward(self, x: Tensor, padding_mask: Tensor | None = None) -> Tensor:
        hidden: Tensor = self.linear(x)
        return hidden if padding_mask is None else hidden / (~padding_mask)[..., None]  # 0 / 0 or infinite at padding


class UnitLength(nn.Module):
    """Divides by the length of its input, which in a loop is 0 at padded positions from the second thought on."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(D, D)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.linear(x / x.norm(dim=-1, keepdim=True))
        return out


class UnitLengthTold(UnitLength):
    def forward(self, x: Tensor, padding_mask: Tensor | None = None) -> Tensor:
        return super().forward(x)


@pytest.mark.parametrize("make", [UnitLength, UnitLengthTold])
def test_what_zeros_make_nan_is_refused_in_a_loop_and_nowhere_else(make: type[UnitLength]) -> None:
    def first_gradients(encoder: nn.Module) -> bool:
        model = Recommender(9, encoder, dim=D, max_length=6)
        batch = Batch(torch.tensor([[0, 0, 0, 0, 1, 2], [0, 3, 4, 5, 6, 7]]), torch.tensor([3, 4]), torch.arange(2), 0)
        loss, _ = NextItem()(encode_views(model, batch, ("anchor",)), batch)
        loss.backward()
        return all(bool(p.grad.isfinite().all()) for p in model.parameters() if p.grad is not None)

    with pytest.raises(InputError, match=f"^{make.__name__} gives NaN .* at padded positions .* reaches its weights"):
        first_gradients(RecurrentDepth(nn.Linear(D, D), make(), depth_law=FixedDepth(3)))
    assert first_gradients(RecurrentDepth(make(), nn.Linear(D, D), depth_law=FixedDepth(3)))
    assert first_gradients(make())
    block = adapt(make())
    for looped in (RecurrentDepth(block, block, depth_law=FixedDepth(3)), Stacked(nn.Linear(D, D), make())):
        with pytest.raises(InputError, match=f"^{make.__name__} gives NaN .* at padded positions"):
            first_gradients(looped)
    # nothing is zero there: the bias of the aggregate, or T_0 before the only thought
    assert first_gradients(RecurrentDepth(nn.Linear(D, D), make(), "concat", depth_law=FixedDepth(3)))
    assert first_gradients(RecurrentDepth(nn.Linear(D, D), make(), depth_law=FixedDepth(1)))


def test_a_module_without_a_gradient_is_answered_too() -> None:
    torch.manual_seed(0)
    module, given_rows = Frozen(), every_padding(4)
    output = adapt(module)(given_rows.x.requires_grad_(), padding_mask=given_rows.padding)
    wanted = module(given_rows.x)
    assert torch.equal(output[~given_rows.padding], wanted[~given_rows.padding]) and not output.requires_grad
    assert bool(output.isfinite().all())


@torch.no_grad()
def test_torchs_fast_path_is_off_until_the_last_of_several_threads_leaves_and_then_as_it_was() -> None:
    fast = torch.backends.mha.get_fastpath_enabled
    with ThreadPoolExecutor(1) as other:

        def elsewhere(act: Any) -> None:
            other.submit(torch.no_grad()(act)).result()

        for found in (True, False):
            torch.backends.mha.set_fastpath_enabled(found)
            here, there = safe_attention(), safe_attention()
            here.__enter__()
            elsewhere(there.__enter__)
            here.__exit__(None, None, None)
            assert not fast()
            elsewhere(lambda there=there: there.__exit__(None, None, None))
            assert fast() == found
    torch.backends.mha.set_fastpath_enabled(True)


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("boolean", [True, False])
def test_within_safe_attention_a_query_that_sees_nothing_sees_everything(grad: bool, boolean: bool) -> None:
    torch.manual_seed(0)
    module, x = nn.MultiheadAttention(D, 2), torch.randn(4, 3, D)  # (L, B, d)
    hidden = torch.ones(4, 4, dtype=torch.bool).triu(1)
    padding = torch.tensor([[True, True, False, False], [False] * 4, [True, False, False, False]])

    def attend(mask: Tensor | None, padded: Tensor | None) -> Tensor:
        if not boolean:
            mask, padded = (m if m is None else torch.zeros(m.shape).masked_fill(m, -torch.inf) for m in (mask, padded))
        return nn.functional.multi_head_attention_forward(
            x, x, x, D, 2, module.in_proj_weight, module.in_proj_bias, None, None, False, 0.0,
            module.out_proj.weight, module.out_proj.bias, attn_mask=mask, key_padding_mask=padded,
        )[0]  # fmt: skip

    with torch.set_grad_enabled(grad):
        plain, everything = attend(hidden, padding), attend(None, None)
        with safe_attention():
            safe = attend(hidden, padding)
    blind = (hidden[:, None] | padding[None]).all(-1)  # (L, B)
    assert int(blind.sum()) == 3 and not bool(plain[blind].isfinite().any())
    torch.testing.assert_close(safe[~blind], plain[~blind], **TOLERANCE)
    torch.testing.assert_close(safe[blind], everything[blind], **TOLERANCE)
