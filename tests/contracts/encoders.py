"""Every encoder that the contract is held against: the built-in backbones, torch's own, modules of a user, Hugging Face."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import pytest
import torch
from einops.layers.torch import Rearrange
from torch import Tensor, nn

from latentloop.adapt import adapt
from latentloop.backbones.bsarec import BSARec
from latentloop.backbones.fmlprec import FMLPRec
from latentloop.backbones.sasrec import SASRec
from latentloop.backbones.tedrec import TedRec
from latentloop.blocks.low_rank import LowRank
from latentloop.items.text_features import TextFeatures
from latentloop.per_step import PerStep

__all__ = ["DIM", "ENCODERS", "MAX_LENGTH", "NUM_ITEMS", "Blocks"]

DIM, MAX_LENGTH, NUM_ITEMS = 16, 8, 20

TEXT = TextFeatures.of(torch.randn(NUM_ITEMS, 12, generator=torch.Generator().manual_seed(0)))

Blocks = tuple[nn.Module, nn.Module | Literal["copy"]]


class MaskedAttention(nn.Module):
    """A user's module around `nn.MultiheadAttention`."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(DIM, 2, batch_first=True)
        self.norm = nn.LayerNorm(DIM)

    def forward(self, x: Tensor, key_padding_mask: Tensor) -> Tensor:
        """(B, L, d) and (B, L), True = padding -> (B, L, d)."""
        mixed: Tensor = self.norm(x + self.attention(x, x, x, key_padding_mask=key_padding_mask)[0])
        return mixed


def causal_convolutions() -> nn.Module:
    """Channels-first layers, which einops turns around; what lies left of the row is zero."""

    def layer(width: int) -> list[nn.Module]:
        return [nn.ConstantPad1d((2, 0), 0.0), nn.Conv1d(DIM, DIM, 3), nn.GELU()][: width + 1]

    return nn.Sequential(Rearrange("b l d -> b d l"), *layer(2), *layer(1), Rearrange("b d l -> b l d"))


class MLPMixer(nn.Module):
    """Mixes positions by a matrix of L x L, so that rows must have L positions."""

    fixed_length = True

    def __init__(self) -> None:
        super().__init__()
        self.positions = nn.Sequential(
            nn.LayerNorm(DIM), Rearrange("b l d -> b d l"), nn.Linear(MAX_LENGTH, MAX_LENGTH), nn.GELU(),
            Rearrange("b d l -> b l d"),
        )  # fmt: skip
        self.channels = nn.Sequential(nn.LayerNorm(DIM), nn.Linear(DIM, 2 * DIM), nn.GELU(), nn.Linear(2 * DIM, DIM))

    def forward(self, x: Tensor) -> Tensor:
        """(B, L, d) -> (B, L, d)."""
        x = x + self.positions(x)
        mixed: Tensor = x + self.channels(x)
        return mixed


class OwnPositions(nn.Module):
    """Knows its positions by their place in the row, which moves with its padding."""

    def __init__(self) -> None:
        super().__init__()
        self.positions = nn.Embedding(MAX_LENGTH, DIM)
        self.layer = nn.TransformerEncoderLayer(DIM, 2, 32, dropout=0.1, batch_first=True)

    def forward(self, x: Tensor, src_key_padding_mask: Tensor | None = None) -> Tensor:
        """(B, L, d) -> (B, L, d)."""
        places = torch.arange(x.shape[1], device=x.device)
        mixed: Tensor = self.layer(x + self.positions(places), src_key_padding_mask=src_key_padding_mask)
        return mixed


class TakesLengths(nn.Module):
    """A bidirectional LSTM with a projection, called with (x, lengths)."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(DIM, 12, proj_size=DIM // 2, bidirectional=True, batch_first=True)

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, None]:
        """(B, L, d), rows left-padded, and (B,) -> (B, L, d)."""
        shift = (x.shape[1] - lengths)[:, None] + torch.arange(x.shape[1])
        from_left = x.gather(1, (shift % x.shape[1])[..., None].expand_as(x))
        packed = nn.utils.rnn.pack_padded_sequence(
            from_left, lengths.clamp_min(1), batch_first=True, enforce_sorted=False
        )
        read = nn.utils.rnn.pad_packed_sequence(self.lstm(packed)[0], batch_first=True, total_length=x.shape[1])[0]
        back = (torch.arange(x.shape[1]) - (x.shape[1] - lengths)[:, None]) % x.shape[1]
        return read.gather(1, back[..., None].expand_as(read)), None


class PackedByLengths(nn.Module):
    """A GRU as it is usually written for (x, lengths): it packs rows that start with their oldest token."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(DIM, DIM, batch_first=True)

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """(B, L, d) and (B,) -> (B, longest, d) and (B,)."""
        packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        return nn.utils.rnn.pad_packed_sequence(self.gru(packed)[0], batch_first=True)


def transformer(layers: int, *, causal: bool = False) -> Callable[[], Blocks]:
    """Torch's own encoder as both blocks, or one of its layers where `layers` is 0."""

    def make() -> nn.Module:
        layer = nn.TransformerEncoderLayer(DIM, 2, 32, dropout=0.1, batch_first=True)
        return adapt(nn.TransformerEncoder(layer, layers) if layers else layer, causal=causal)

    return lambda: (make(), make())


def twice(make: Callable[[], nn.Module]) -> Callable[[], Blocks]:
    """A module of each kind, of their own weights."""
    return lambda: (make(), make())


def shared(make: Callable[[], nn.Module]) -> Callable[[], Blocks]:
    """One module as both blocks."""

    def blocks() -> Blocks:
        block = make()
        return block, block

    return blocks


def copied() -> tuple[nn.Module, Literal["copy"]]:
    """A copy of the pre-block as core-block."""
    return nn.GRU(DIM, DIM, batch_first=True), "copy"


def norms_of_each_step(blocks: Callable[[], Blocks], rank: int = 0) -> Callable[[], Blocks]:
    """The same, but that the first two thoughts have layer norms of their own, and changes of each matrix."""

    def make() -> Blocks:
        pre_block, core_block = blocks()
        assert isinstance(core_block, nn.Module)
        core = PerStep(core_block, 2, rank=rank)
        for part in core.modules():
            if isinstance(part, LowRank):
                nn.init.normal_(part.up, std=0.1)  # of zeros, as it begins, the other factor has no gradient
        return pre_block, core

    return make


def hugging_face(name: str) -> Callable[[], Blocks]:
    """A small model of a Hugging Face family, from its configuration alone."""

    def make() -> nn.Module:
        transformers = pytest.importorskip("transformers")
        if name == "BertModel":
            config = transformers.BertConfig(
                vocab_size=2, hidden_size=DIM, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
            )
            model: nn.Module = transformers.BertModel(config, add_pooling_layer=False)
        elif name == "GPT2Model":
            model = transformers.GPT2Model(transformers.GPT2Config(vocab_size=2, n_embd=DIM, n_layer=1, n_head=2))
        else:
            config = transformers.LlamaConfig(
                vocab_size=2, hidden_size=DIM, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
            )
            model = transformers.LlamaModel(config)
        return model

    return twice(make)


ENCODERS: dict[str, Callable[[], Blocks]] = {
    "sasrec": lambda: SASRec(pre_layers=1, core_layers=1, inner=32, dropout=0.1).blocks(DIM),
    "fmlprec": lambda: FMLPRec(pre_layers=1, core_layers=1, inner=32, dropout=0.1).blocks(DIM, MAX_LENGTH),
    "fmlprec, padding kept": lambda: FMLPRec(
        pre_layers=1, core_layers=1, inner=32, dropout=0.1, norm="post", padding="keep"
    ).blocks(DIM, MAX_LENGTH),
    "bsarec": lambda: BSARec(pre_layers=1, core_layers=1, inner=32, dropout=0.1).blocks(DIM, MAX_LENGTH),
    "bsarec, padding kept": lambda: BSARec(
        pre_layers=1, core_layers=1, inner=32, dropout=0.1, norm="post", padding="keep"
    ).blocks(DIM, MAX_LENGTH),
    "tedrec": lambda: TedRec(text=TEXT, pre_layers=1, core_layers=1, inner=32, experts=2, dropout=0.1).blocks(
        DIM, MAX_LENGTH
    ),
    "gru": twice(lambda: nn.GRU(DIM, DIM, batch_first=True)),
    "lstm": twice(lambda: nn.LSTM(DIM, DIM, batch_first=True)),
    "gru shared": shared(lambda: nn.GRU(DIM, DIM, batch_first=True)),
    "gru copied": copied,
    "gru, then sasrec": lambda: (nn.GRU(DIM, DIM, batch_first=True), SASRec(inner=32, dropout=0.1).blocks(DIM)[1]),
    "sasrec, then mixer": lambda: (SASRec(inner=32, dropout=0.1).blocks(DIM)[0], MLPMixer()),
    "transformer layer": transformer(0),
    "transformer 1": transformer(1),
    "transformer 1, causal": transformer(1, causal=True),
    "transformer 2": transformer(2),
    "transformer 2, causal": transformer(2, causal=True),
    "multi-head attention": twice(MaskedAttention),
    "causal convolutions": twice(causal_convolutions),
    "mlp-mixer": twice(MLPMixer),
    "own positions": twice(OwnPositions),
    "lstm with lengths": twice(TakesLengths),
    "gru packed by lengths": twice(PackedByLengths),
    "sasrec, norms of each step": norms_of_each_step(lambda: SASRec(inner=32, dropout=0.1).blocks(DIM)),
    "sasrec, changes of each step": norms_of_each_step(lambda: SASRec(inner=32, dropout=0.1).blocks(DIM), rank=2),
    "mlp-mixer, norms of each step": norms_of_each_step(twice(MLPMixer)),
    "transformer 2, norms of each step": norms_of_each_step(transformer(2)),
    "bert": hugging_face("BertModel"),
    "gpt2": hugging_face("GPT2Model"),
    "llama": hugging_face("LlamaModel"),
}
