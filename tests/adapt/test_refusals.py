"""What cannot be a block says so in one line, at construction where it can be known."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from latentloop.adapt import adapt
from latentloop.blocks.facts import facts
from latentloop.errors import InputError, InputTypeError
from latentloop.recommender import Recommender
from latentloop.recurrence import RecurrentDepth
from latentloop.stacked import Stacked
from tests.adapt.zoo import CausalAttention, D, FakeHuggingFace, transformer
from tests.core.worlds import unchecked


class NeedsMore(nn.Module):
    def forward(self, x: Tensor, graph: Tensor, depth: int) -> Tensor:
        return x


class NoArgument(nn.Module):
    def forward(self) -> int:
        return 1


class HiddenStates(nn.Module):
    def forward(self, hidden_states: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        return hidden_states


class WithHead(FakeHuggingFace):
    @property
    def base_model(self) -> nn.Module:
        return FakeHuggingFace()


class EncoderDecoder(nn.Module):
    def forward(self, inputs_embeds: Tensor | None = None, decoder_inputs_embeds: Tensor | None = None) -> None: ...


class ReadsIds(nn.Module):
    main_input_name = "input_ids"

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        return input_ids


class OddFact(nn.Identity):
    fixed_length = 20


@pytest.mark.parametrize(
    "make, kind, said",
    [
        (lambda: 3, InputTypeError, "module must be an nn.Module, got int"),
        (lambda: nn.GRU, InputTypeError, "must be an nn.Module, got type"),
        (nn.ModuleList, InputTypeError, "ModuleList has no forward"),
        (lambda: nn.Conv1d(D, D, 3), InputTypeError, r"Conv1d takes channels first.*Rearrange\('b l d -> b d l'\)"),
        (lambda: nn.Sequential(nn.Conv1d(D, D, 3)), InputTypeError, "Conv1d takes channels first"),
        (lambda: nn.BatchNorm1d(D), InputTypeError, "BatchNorm1d takes channels first"),
        (lambda: nn.MaxPool1d(2), InputTypeError, "MaxPool1d takes channels first"),
        (lambda: nn.Embedding(9, D), InputTypeError, "Embedding takes ids.*wrap it"),
        (lambda: nn.GRUCell(D, D), InputTypeError, "pass nn.GRU instead"),
        (nn.CrossEntropyLoss, InputTypeError, "is a loss"),
        (lambda: nn.MultiheadAttention(D, 2), InputTypeError, "needs key, value.*wrap it"),
        (lambda: nn.Transformer(D, 2, 1, 1, 8), InputTypeError, "needs tgt"),
        (lambda: nn.Sequential(nn.Linear(D, D), nn.GRU(D, D)), InputTypeError, "GRU nothing of padding.*wrap it"),
        (lambda: nn.Sequential(transformer(0)), InputTypeError, "TransformerEncoderLayer nothing of padding"),
        (
            lambda: nn.Sequential(nn.Linear(D, D), nn.Sequential(nn.GRU(D, D))),
            InputTypeError,
            "GRU nothing of padding",
        ),
        (lambda: nn.Sequential(adapt(nn.GRU(D, D))), InputTypeError, "Adapted nothing of padding"),
        (lambda: nn.Sequential(CausalAttention()), InputTypeError, "CausalAttention nothing of padding"),
        (NeedsMore, InputTypeError, "needs depth, graph.*wrap it"),
        (NoArgument, InputTypeError, "no positional argument"),
        (HiddenStates, InputTypeError, "adapt the whole model"),
        (WithHead, InputTypeError, "pass its base_model"),
        (EncoderDecoder, InputTypeError, "get_encoder"),
        (ReadsIds, InputTypeError, "reads input_ids and no inputs_embeds.*wrap it"),
        (lambda: nn.DataParallel(nn.GRU(D, D)), InputTypeError, "DataParallel hides its module: adapt that"),
        (lambda: torch.jit.script(nn.Linear(D, D)), InputTypeError, "TorchScript.*wrap it"),
        (OddFact, InputTypeError, "fixed_length declares a fact and must be True or False, got 20"),
        (lambda: nn.GRU(D, 12), InputError, "maps 8 to 12.*hidden_size=8"),
        (lambda: nn.GRU(D, D, bidirectional=True), InputError, "bidirectional GRU maps 8 to 16.*hidden_size=4"),
        (lambda: nn.LSTM(D, D, bidirectional=True), InputError, "hidden_size=4 .or proj_size=4.*nn.Linear"),
        (lambda: nn.LSTM(D, D, proj_size=3), InputError, "LSTM maps 8 to 3"),
        (lambda: nn.Linear(D, 9), InputError, "Linear maps 8 to 9"),
        (lambda: nn.LazyLinear(D), InputError, "LazyLinear has no size yet"),
    ],
)
def test_refused_at_construction_in_one_line(make: Callable[[], Any], kind: type[Exception], said: str) -> None:
    module = make()
    with unchecked(), pytest.raises(kind, match=said) as caught:
        adapt(module)
    assert "\n" not in str(caught.value)


class AmbiguousMask(nn.Module):
    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return x


@pytest.mark.parametrize(
    "make, said",
    [
        (lambda: nn.Linear(D, D), "takes no src_mask or attn_mask or mask.*drop causal=True"),
        (CausalAttention, "drop causal=True"),
        (FakeHuggingFace, "drop causal=True"),
        (lambda: nn.GRU(D, D // 2, bidirectional=True), "reads later positions"),
        (lambda: adapt(transformer(1)), "adapted without causal=True"),
    ],
)
def test_causal_is_refused_where_it_cannot_be_had(make: Callable[[], nn.Module], said: str) -> None:
    with pytest.raises(InputTypeError, match=said):
        adapt(make(), causal=True)


def test_a_mask_of_unknown_meaning_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    adapt(AmbiguousMask())
    assert "call it padding_mask" in caplog.text
    caplog.clear()
    adapt(AmbiguousMask(), causal=True)
    assert caplog.text == ""


class SpareNames(nn.Module):
    def forward(
        self,
        x: Tensor,
        pad_masks: Tensor | None = None,
        seq_lens: Tensor | None = None,
        blend: float = 1.0,
        max_len: int = 50,
    ) -> Tensor:
        return x * blend


def test_names_that_sound_like_padding_and_are_not_ours_are_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    adapt(SpareNames())
    told = [record.getMessage() for record in caplog.records]
    assert [message.split("`")[1] for message in told] == ["pad_masks", "seq_lens"]


class TimeFirst(nn.Module):
    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.inner = module

    def forward(self, x: Tensor) -> Any:
        return self.inner(x)


def test_a_part_that_takes_time_first_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    adapt(TimeFirst(nn.GRU(D, D)))
    assert "TimeFirst holds a GRU with batch_first=False" in caplog.text
    caplog.clear()
    adapt(TimeFirst(nn.GRU(D, D, batch_first=True)))
    adapt(TimeFirst(adapt(nn.GRU(D, D))))
    adapt(nn.GRU(D, D))
    with pytest.raises(InputTypeError, match="needs key, value"):
        adapt(nn.MultiheadAttention(D, 2))
    assert caplog.text == ""


class Wrong(nn.Module):
    def __init__(self, output: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.output = output

    def forward(self, x: Tensor) -> Any:
        return self.output(x)


@pytest.mark.parametrize("output", [lambda x: x[:, -1], lambda x: x.transpose(0, 1), lambda x: torch.cat([x, x], -1)])
def test_a_wrong_shape_names_the_block_and_both_shapes(output: Callable[[Tensor], Tensor]) -> None:
    x = torch.randn(2, 3, D)
    with pytest.raises(InputError) as caught:
        adapt(Wrong(output))(x)
    message = str(caught.value)
    assert all(part in message for part in ("Wrong", "(2, 3, 8)", str(tuple(output(x).shape)))) and "\n" not in message


@pytest.mark.parametrize("output", [lambda x: None, lambda x: {"logits": x}, lambda x: (), lambda x: ("text", x)])
def test_no_hidden_states_says_what_was_returned(output: Callable[[Tensor], Any]) -> None:
    x = torch.randn(2, 3, D)
    with pytest.raises(InputTypeError, match=f"got {type(output(x)).__name__}"):
        adapt(Wrong(output))(x)


@pytest.mark.parametrize("loop", [True, False])
@pytest.mark.parametrize("output", [lambda x: x[:, -1], lambda x: torch.cat([x, x], -1), lambda x: {"logits": x}])
def test_what_is_no_block_for_its_size_fails_before_anything_is_trained(
    output: Callable[[Tensor], Any], loop: bool
) -> None:
    blocks = nn.Identity(), Wrong(output)
    encoder = RecurrentDepth(*blocks) if loop else Stacked(*blocks)
    torch.manual_seed(0)
    with unchecked(), pytest.raises((InputError, InputTypeError), match="Wrong must return .*: wrap it"):
        Recommender(9, encoder, D, 5)


class ElsewhereOnly(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(D, D)
        self.there = False

    def forward(self, x: Tensor, padding_mask: Tensor) -> Tensor:
        if not self.there:
            raise RuntimeError("no kernel")
        scores = (x @ x.mT).masked_fill(
            padding_mask[:, None] | torch.ones(x.shape[1], x.shape[1]).triu(1).bool(), -torch.inf
        )
        return self.linear(scores.softmax(-1) @ x)


def test_what_runs_elsewhere_only_is_tried_there() -> None:
    module = ElsewhereOnly()
    model = Recommender(9, RecurrentDepth(module, module), D, 5)
    module.there = True
    thoughts = model.think(torch.tensor([[0, 0, 0, 1, 2]])).final
    thoughts.sum().backward()
    assert module.linear.weight.grad is not None and bool(module.linear.weight.grad.isfinite().all())


def test_a_model_s_weights_are_the_same_whether_or_not_its_blocks_are_tried() -> None:
    tables = []
    for tried in (True, False):
        torch.manual_seed(0)
        block = Wrong(lambda x: x) if tried else nn.GRU(D, D)
        torch.manual_seed(1)
        model = Recommender(9, RecurrentDepth(block, block), D, 5)
        tables.append(model.item_table.weight.detach())
    assert torch.equal(*tables)


class LastOfWrongShape(nn.Identity):
    def last(self, x: Tensor) -> Tensor:
        return x


class NeedsHistory(nn.Module):
    def forward(self, x: Tensor, history: Tensor) -> Tensor:
        return x


X = torch.zeros(2, 3, D)


@pytest.mark.parametrize(
    "call, said",
    [
        (lambda: adapt(nn.GRU(D, D))(torch.zeros(2, 3, 5)), r"GRU is made for d = 8, got x \(2, 3, 5\)"),
        (lambda: adapt(transformer(1))(torch.zeros(2, 3, 5)), "TransformerEncoder is made for d = 8"),
        (lambda: adapt(FakeHuggingFace())(torch.zeros(2, 3, 5)), "FakeHuggingFace is made for d = 8"),
        (lambda: adapt(nn.Linear(D, D))(torch.zeros(2, 3, 5)), "Linear is made for d = 8"),
        (lambda: adapt(nn.Identity())(torch.zeros(3, D)), r"x must be \(B, L, d\).*got \(3, 8\)"),
        (
            lambda: adapt(nn.Identity())(X, lengths=torch.ones(3, dtype=torch.long)),
            r"lengths must be \(2,\).*got \(3,\)",
        ),
        (
            lambda: adapt(nn.Identity())(X, padding_mask=torch.zeros(2, 4, dtype=torch.bool)),
            r"padding_mask must be \(2, 3\).*got \(2, 4\)",
        ),
        (lambda: adapt(nn.Identity())(X, padding_mask=torch.zeros(2, 3)), "padding_mask must be bool"),
        (lambda: adapt(nn.Identity())(torch.zeros(5, D), offsets=torch.tensor([0, 5])), "takes no packed tokens"),
        (lambda: adapt(nn.GRU(D, D))(torch.zeros(5, D), offsets=torch.tensor([0, 5])), "takes no packed tokens"),
        (lambda: adapt(transformer(1))(torch.zeros(5, D), offsets=torch.tensor([0, 5])), "takes no packed tokens"),
        (lambda: adapt(NeedsHistory())(X), "NeedsHistory needs history"),
        (lambda: adapt(LastOfWrongShape()).last(X), r"last must return \(2, 8\), got \(2, 3, 8\)"),  # type: ignore[operator]
    ],
)
def test_a_call_that_does_not_fit_is_one_line(call: Callable[[], Any], said: str) -> None:
    with unchecked(), pytest.raises(InputError, match=said) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_facts_of_a_plain_object_default_to_no_promise() -> None:
    assert not any(vars(facts(object())).values())
