"""Left-padded rows, modules to adapt, and how one row without padding is computed by hand."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from latentloop.backbones.sasrec import SASRec
from latentloop.blocks.facts import Facts

__all__ = [
    "CASES",
    "TOLERANCE",
    "Case",
    "CausalAttention",
    "D",
    "FakeHuggingFace",
    "Rows",
    "by_hand",
    "every_padding",
    "rows",
    "seeds",
    "transformer",
]

D = 8
seeds = st.integers(0, 2**31 - 1)
TOLERANCE = {"rtol": 1e-4, "atol": 1e-5}  # float32 sums of some tens of terms in another order


@dataclass(frozen=True)
class Rows:
    """Left-padded rows and what `adapt` is told of them."""

    x: Tensor
    lengths: Tensor

    @property
    def padding(self) -> Tensor:
        length = self.x.shape[1]
        return torch.tensor([[column < length - int(n) for column in range(length)] for n in self.lengths])

    def real(self, row: int) -> Tensor:
        """One row alone, without its padding: (1, n, d)."""
        return self.x[row : row + 1, self.x.shape[1] - int(self.lengths[row]) :]

    def with_other_padding(self, seed: int) -> Tensor:
        noise = 5 * torch.randn(self.x.shape, generator=torch.Generator().manual_seed(seed))
        return torch.where(self.padding[..., None], noise, self.x)


@st.composite
def rows(draw: st.DrawFn, *, shortest: int = 0) -> Rows:
    length = draw(st.integers(1, 6))
    lengths = draw(st.lists(st.integers(shortest, length), min_size=1, max_size=4))
    generator = torch.Generator().manual_seed(draw(seeds))
    return Rows(torch.randn(len(lengths), length, D, generator=generator), torch.tensor(lengths))


def every_padding(length: int, seed: int = 0) -> Rows:
    generator = torch.Generator().manual_seed(seed)
    return Rows(torch.randn(length + 1, length, D, generator=generator), torch.arange(length + 1))


def transformer(layers: int, *, batch_first: bool = True, dropout: float = 0.0, norm_first: bool = False) -> nn.Module:
    layer = nn.TransformerEncoderLayer(
        D, 2, 16, dropout=dropout, batch_first=batch_first, norm_first=norm_first, activation="gelu"
    )
    return (
        nn.TransformerEncoder(layer, layers, enable_nested_tensor=batch_first and not norm_first) if layers else layer
    )


class CausalAttention(nn.Module):
    """A user's module as they are written: two attention layers, a causal mask and the padding mask at each."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.MultiheadAttention(D, 2, batch_first=True) for _ in range(2))

    def forward(self, x: Tensor, padding_mask: Tensor | None = None) -> Tensor:
        ahead = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device).triu(1)
        for layer in self.layers:
            x = x + layer(x, x, x, key_padding_mask=padding_mask, attn_mask=ahead)[0]
        return x


class CausalEncoder(nn.Module):
    """A user's module around torch's encoder, which takes its fast path in eval without grad."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = transformer(2)

    def forward(self, x: Tensor, *, padding_mask: Tensor | None = None) -> Tensor:
        ahead = nn.Transformer.generate_square_subsequent_mask(x.shape[1])
        hidden: Tensor = self.encoder(x, mask=ahead, src_key_padding_mask=_as_float(padding_mask))
        return hidden


class LengthsGRU(nn.Module):
    """An encoder that takes (x, lengths), and needs them."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(D, D, batch_first=True)

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, None]:
        hidden = torch.zeros_like(x)
        for row, n in enumerate(lengths.tolist()):
            hidden[row, x.shape[1] - n :] = self.gru(x[row : row + 1, x.shape[1] - n :])[0][0]
        return hidden, None


class FakeHuggingFace(nn.Module):
    """The signature and the habits of a Hugging Face decoder: absolute positions from the left, a ModelOutput."""

    def __init__(self) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(3, D)
        self.positions = nn.Embedding(32, D)
        self.attention = nn.Linear(D, D)
        self.seen: dict[str, Any] = {}

    def get_input_embeddings(self) -> nn.Module:
        return self.word_embeddings

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        assert input_ids is None and inputs_embeds is not None and not kwargs
        self.seen = {"attention_mask": attention_mask, "use_cache": use_cache}
        x = inputs_embeds
        if position_ids is None:
            position_ids = torch.arange(x.shape[1])
        keep = torch.ones(x.shape[:2]) if attention_mask is None else attention_mask.float()
        x = x + self.positions(position_ids)
        mean = (x * keep[..., None]).sum(1) / keep.sum(1)[:, None]
        return OrderedDict(last_hidden_state=x + self.attention(mean)[:, None], past_key_values=None)


def _as_float(padding: Tensor | None) -> Tensor | None:
    return None if padding is None else torch.zeros(padding.shape).masked_fill(padding, float("-inf"))


def _rnn(module: nn.Module, row: Tensor) -> Tensor:
    hidden: Tensor = module(row)[0]
    return hidden


def _time_first(module: nn.Module, row: Tensor) -> Tensor:
    return _rnn(module, row.transpose(0, 1)).transpose(0, 1)


def _itself(module: nn.Module, row: Tensor) -> Tensor:
    hidden: Tensor = module(row)
    return hidden


def _masked(name: str) -> Callable[[nn.Module, Tensor], Tensor]:
    def run(module: nn.Module, row: Tensor) -> Tensor:
        hidden: Tensor = module(row, **{name: nn.Transformer.generate_square_subsequent_mask(row.shape[1])})
        return hidden

    return run


BOTH_WAYS = Facts(pad_invariant=True)
ONE_WAY = Facts(causal=True, pad_invariant=True)


@dataclass(frozen=True)
class Case:
    """A module, how `adapt` is asked, how one row without padding is computed by hand, and what must be declared."""

    make: Callable[[], nn.Module]
    by_hand: Callable[[nn.Module, Tensor], Tensor]
    causal: bool = False
    facts: Facts = ONE_WAY


CASES = {
    "gru": Case(lambda: nn.GRU(D, D, batch_first=True), _rnn),
    "gru, 2 layers, time first": Case(lambda: nn.GRU(D, D, num_layers=2), _time_first),
    "lstm": Case(lambda: nn.LSTM(D, D, batch_first=True), _rnn),
    "lstm, causal asked for": Case(lambda: nn.LSTM(D, D, batch_first=True), _rnn, causal=True),
    "rnn": Case(lambda: nn.RNN(D, D, batch_first=True), _rnn),
    "gru, both ways": Case(lambda: nn.GRU(D, D // 2, batch_first=True, bidirectional=True), _rnn, facts=BOTH_WAYS),
    "lstm, both ways, projected": Case(
        lambda: nn.LSTM(D, 11, proj_size=D // 2, batch_first=True, bidirectional=True), _rnn, facts=BOTH_WAYS
    ),
    "layer": Case(lambda: transformer(0), _itself, facts=BOTH_WAYS),
    "layer, causal": Case(lambda: transformer(0), _masked("src_mask"), causal=True),
    "encoder 1": Case(lambda: transformer(1), _itself, facts=BOTH_WAYS),
    "encoder 1, causal": Case(lambda: transformer(1), _masked("mask"), causal=True),
    "encoder 2": Case(lambda: transformer(2), _itself, facts=BOTH_WAYS),
    "encoder 2, causal": Case(lambda: transformer(2), _masked("mask"), causal=True),
    "encoder 2, causal, pre-norm": Case(lambda: transformer(2, norm_first=True), _masked("mask"), causal=True),
    "encoder 2, causal, time first": Case(
        lambda: transformer(2, batch_first=False),
        lambda m, row: m(
            row.transpose(0, 1), mask=nn.Transformer.generate_square_subsequent_mask(row.shape[1])
        ).transpose(0, 1),
        causal=True,
    ),
    "user's attention": Case(CausalAttention, _itself, facts=Facts()),
    "user's encoder": Case(CausalEncoder, _itself, facts=Facts()),
    "user's (x, lengths)": Case(LengthsGRU, lambda m, row: m(row, torch.tensor([row.shape[1]]))[0], facts=Facts()),
    "hugging face": Case(FakeHuggingFace, lambda m, row: m(inputs_embeds=row)["last_hidden_state"], facts=Facts()),
    "sasrec": Case(
        lambda: SASRec(dropout=0.0).blocks(D)[0],
        _itself,
        facts=Facts(causal=True, pad_invariant=True, packed=True, capturable=True),
    ),
}


def by_hand(case: Case, module: nn.Module, rows: Rows) -> Tensor:
    """Row by row without padding, in train mode (no dropout in the zoo), where torch takes no short cuts."""
    expected = torch.zeros_like(rows.x)
    module.train()
    for row, n in enumerate(rows.lengths.tolist()):
        if n:
            expected[row, -n:] = case.by_hand(module, rows.real(row))[0]
    return expected.detach()
