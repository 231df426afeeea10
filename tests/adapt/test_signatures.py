"""What a module is given, by the names in its signature, and what is taken out of what it returns."""

from __future__ import annotations

import logging
from collections import OrderedDict
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from einops.layers.torch import Rearrange
from hypothesis import given
from torch import Tensor, nn

from latentloop.adapt import Adapted, adapt
from latentloop.blocks.facts import Facts, facts
from tests.adapt.zoo import D, FakeHuggingFace, Rows, every_padding, rows


class Recorder(nn.Module):
    """Keeps what it was called with."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[str, Any] = {}

    def keep(self, x: Tensor, **seen: Any) -> Tensor:
        self.seen = seen
        return x


class OursByName(Recorder):
    def forward(self, x: Tensor, *, padding_mask: Tensor, lengths: Tensor, history: Tensor | None = None) -> Tensor:
        return self.keep(x, padding_mask=padding_mask, lengths=lengths, history=history)


class TorchNames(Recorder):
    def forward(self, src: Tensor, src_key_padding_mask: Tensor | None = None) -> Tensor:
        return self.keep(src, src_key_padding_mask=src_key_padding_mask)


class KeyPadding(Recorder):
    def forward(self, x: Tensor, key_padding_mask: Tensor) -> Tensor:
        return self.keep(x, key_padding_mask=key_padding_mask)


class KeepMask(Recorder):
    def forward(self, x: Tensor, attention_mask: Tensor | None = None, other: int = 3) -> Tensor:
        return self.keep(x, attention_mask=attention_mask, other=other)


class Anything(Recorder):
    def forward(self, x: Tensor, **context: Any) -> Tensor:
        return self.keep(x, **context)


class OnlyX(Recorder):
    def forward(self, anything_at_all: Tensor) -> Tensor:
        return self.keep(anything_at_all)


class AttentionMask(Recorder):
    def forward(self, x: Tensor, attn_mask: Tensor | None = None, padding_mask: Tensor | None = None) -> Tensor:
        return self.keep(x, attn_mask=attn_mask, padding_mask=padding_mask)


def seen(module: Recorder, batch: Rows, **kwargs: Any) -> dict[str, Any]:
    history = (~batch.padding).long() * 7
    adapt(module, **kwargs)(batch.x, padding_mask=batch.padding, lengths=batch.lengths, history=history)
    return module.seen


@given(batch=rows(shortest=1))
def test_each_name_gets_its_own_convention(batch: Rows) -> None:
    ours = seen(OursByName(), batch)
    assert torch.equal(ours["padding_mask"], batch.padding)
    assert torch.equal(ours["lengths"], batch.lengths)
    assert torch.equal(ours["history"], (~batch.padding).long() * 7)
    assert torch.equal(seen(TorchNames(), batch)["src_key_padding_mask"], batch.padding)
    assert torch.equal(seen(KeyPadding(), batch)["key_padding_mask"], batch.padding)
    keep = seen(KeepMask(), batch)
    assert keep["attention_mask"].dtype == torch.int64 and keep["other"] == 3
    assert torch.equal(keep["attention_mask"], (~batch.padding).long())
    assert set(seen(Anything(), batch)) == {"padding_mask", "lengths", "history"}
    assert seen(OnlyX(), batch) == {}


def test_a_row_without_items_keeps_its_newest_position() -> None:
    batch = Rows(torch.randn(2, 3, D), torch.tensor([0, 2]))
    given = seen(OursByName(), batch)
    assert given["padding_mask"].tolist() == [[True, True, False], [True, False, False]]
    assert given["lengths"].tolist() == [1, 2]


def test_what_must_be_given_is_made_up_where_nothing_is_padded() -> None:
    module = OursByName()
    adapt(module)(torch.randn(2, 3, D))
    assert not module.seen["padding_mask"].any() and module.seen["padding_mask"].shape == (2, 3)
    assert module.seen["lengths"].tolist() == [3, 3]
    optional = TorchNames()
    adapt(optional)(torch.randn(2, 3, D))
    assert optional.seen["src_key_padding_mask"] is None


def test_causal_masks_are_true_where_a_position_must_not_look() -> None:
    batch = every_padding(3)
    mask = seen(AttentionMask(), batch, causal=True)["attn_mask"]
    assert mask.tolist() == [[False, True, True], [False, False, True], [False, False, False]]
    assert seen(AttentionMask(), batch)["attn_mask"] is None


def test_hugging_face_models_read_real_tokens_first_and_keep_no_cache() -> None:
    module = FakeHuggingFace()
    adapt(module)(torch.randn(2, 3, D), lengths=torch.tensor([1, 3]))
    assert module.seen["use_cache"] is False
    assert module.seen["attention_mask"].tolist() == [[1, 0, 0], [1, 1, 1]]
    assert module.seen["attention_mask"].dtype == torch.int64


class Returns(nn.Module):
    def __init__(self, pack: Any) -> None:
        super().__init__()
        self.pack = pack

    def forward(self, x: Tensor) -> Any:
        return self.pack(x * 2)


@pytest.mark.parametrize(
    "pack",
    [
        lambda h: h,
        lambda h: (h, None),
        lambda h: [h],
        lambda h: {"last_hidden_state": h, "loss": None},
        lambda h: OrderedDict(other=1, last_hidden_state=h),
        lambda h: SimpleNamespace(last_hidden_state=h),
    ],
)
def test_hidden_states_are_found(pack: Any) -> None:
    x = torch.randn(2, 3, D)
    assert torch.equal(adapt(Returns(pack))(x), x * 2)


def test_adapting_twice_is_adapting_once() -> None:
    block = adapt(nn.GRU(D, D))
    assert isinstance(block, Adapted) and adapt(block) is block and adapt(block, causal=True) is block


def test_channels_first_by_einops_layers() -> None:
    convolution = nn.Conv1d(D, D, 3)
    stack = nn.Sequential(
        Rearrange("b l d -> b d l"), nn.ConstantPad1d((2, 0), 0.0), convolution, Rearrange("b d l -> b l d")
    )
    x = torch.randn(2, 5, D)
    padded = nn.functional.pad(x, (0, 0, 2, 0))
    expected = torch.stack(
        [torch.einsum("bkd,edk->be", padded[:, t : t + 3], convolution.weight) + convolution.bias for t in range(5)], 1
    )
    torch.testing.assert_close(adapt(stack)(x), expected, rtol=1e-4, atol=1e-5)


class Declares(nn.Linear):
    causal = True
    pad_invariant = True
    packed = True
    fixed_length = True


def test_declared_facts_are_kept_and_packed_is_never_claimed() -> None:
    everything = Facts(causal=True, pad_invariant=True, fixed_length=True, packed=True)
    assert facts(adapt(Declares(D, D))) == everything
    assert facts(adapt(nn.Linear(D, D))) == Facts()
    assert not any(facts(adapt(m)).packed for m in (nn.GRU(D, D), nn.Identity(), OursByName(), Anything()))
    tokens, offsets = torch.randn(5, D), torch.tensor([0, 2, 5])
    module = Declares(D, D)
    assert torch.equal(adapt(module)(tokens, offsets=offsets), module(tokens))


class NotLast(nn.Module):
    """A layer called `last` is not the method of the contract."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(D, D)

    def forward(self, x: Tensor) -> Tensor:
        hidden: Tensor = self.last(x)
        return hidden


def test_a_layer_called_last_is_not_taken_for_the_method() -> None:
    assert not hasattr(adapt(NotLast()), "last")
    assert not hasattr(adapt(nn.GRU(D, D)), "last")


class TurnsItself(nn.Sequential):
    """A sequence of channels-first layers between turns of its own."""

    def forward(self, x: Tensor) -> Tensor:
        hidden: Tensor = super().forward(x.transpose(1, 2))
        return hidden.transpose(1, 2)


class TellsItself(nn.Sequential):
    """A sequence that is given the padding and says it to the layer that needs it."""

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        hidden: Tensor = self[0](x, lengths=lengths)
        return hidden


class OwnConvolution(nn.Conv1d):
    """A layer of torch's with a forward for (B, L, d)."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.transpose(1, 2)).transpose(1, 2)


@pytest.mark.parametrize(
    "make",
    [
        lambda: TurnsItself(nn.Conv1d(D, D, 3, padding=1)),
        lambda: nn.Sequential(TurnsItself(nn.Conv1d(D, D, 3, padding=1)), nn.GELU()),
        lambda: TellsItself(adapt(nn.GRU(D, D))),
        lambda: OwnConvolution(D, D, 3, padding=1),
    ],
)
def test_a_forward_of_ones_own_is_taken_at_its_word(make: Any) -> None:
    module = make()
    x, lengths = torch.randn(2, 5, D), torch.tensor([5, 5])
    expected = module(x, lengths) if isinstance(module, TellsItself) else module(x)
    torch.testing.assert_close(adapt(module)(x, lengths=lengths), expected, rtol=0, atol=0)


@pytest.mark.parametrize("module", [nn.GRU(D, D), FakeHuggingFace(), OnlyX(), Declares(D, D)])
def test_no_rows_are_no_rows(module: nn.Module) -> None:
    block, none = adapt(module), torch.randn(0, 3, D)
    assert block(none).shape == block(none, lengths=torch.zeros(0, dtype=torch.int64)).shape == (0, 3, D)


class BuiltIn(nn.Module):
    """Its forward is no Python function, and says nothing of what it takes."""

    forward = staticmethod(torch.relu)  # type: ignore[assignment]


class WithMore(nn.Module):
    def forward(self, x: Tensor, *more: Tensor) -> Tensor:
        return x * (1 + len(more))


def test_what_a_signature_leaves_open_is_not_given() -> None:
    batch = every_padding(4)
    assert torch.equal(adapt(nn.Sequential(nn.Identity(), BuiltIn()))(batch.x), batch.x.relu())
    assert torch.equal(adapt(WithMore())(batch.x), batch.x)


class Strided(nn.Module):
    """Has a step of its own."""

    def forward(self, x: Tensor, step: int = 2) -> Tensor:
        return x


class Counted(nn.Module):
    """Is told which thought it makes."""

    def forward(self, x: Tensor, step: int = 0) -> Tensor:
        return x


def test_a_step_with_a_default_of_its_own_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        adapt(Counted())
        assert not caplog.records
        adapt(Strided())
    assert caplog.messages == [
        "Strided takes `step` and is told which thought it makes: rename it if it means something else"
    ]
