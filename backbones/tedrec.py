"""TedRec (Xu et al., 2024): item ids and item texts fused over the whole history, then a Transformer.

    text:    a frozen embedding of each item's text, through a mixture of experts      (`TextAdaptor`)
    fusion:  LN(x + dropout(fuse(x, text)))                                            (`SpectralFusion`)
    encoder: causal Transformer layers                                                 (`SASRecBlock`)

In the loop, text, fusion and the pre-layers are the pre-block; the core-block is Transformer layers alone, so texts are
read once and not at every step. Scores are cosines over a temperature of .07 (`scorer`).

Texts are laid from the oldest item on, items end with the newest: the convolution then puts the product of the i-th
oldest item and the j-th oldest text at the (i + j)-th oldest position, so the newest one gets its share of texts, as in
rows padded on the right. Were both left-padded, it would land further left by the padding, for short rows outside.

Known of the published setting: d 300, L 50, BERT text, cosine scores at temperature .07. Two layers of two heads, 8
experts, inner 256 and dropout .5 are those of UniSRec, by the same group, which TedRec is compared with. What the paper
leaves open, or could not be read there, is ours: the encoder is SASRec's (causal), padding is zeros in both sequences
before they are fused, and gates, dropout and starting values are as `SpectralFusion` and `TextAdaptor` say.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from latentloop.backbones.sasrec import SASRecBlock
from latentloop.backbones.spectral_fusion import SpectralFusion
from latentloop.backbones.text_adaptor import TextAdaptor
from latentloop.backbones.text_table import TextTable
from latentloop.errors import InputError
from latentloop.items.text_features import TextFeatures
from latentloop.modes.exporting import exporting
from latentloop.modes.quick_dropout import QuickDropout

__all__ = ["TedRec", "TedRecBlock"]

Norm = Literal["pre", "post"]


class TedRecBlock(nn.Module):
    """Text, fusion and Transformer layers as a block: rows have exactly `max_length` positions.

    Args:
        text: the items' embeddings.
        adaptor: from text embeddings to d.
        fusion: of the item sequence and the text sequence.
        encoder: what reads the fused sequence.
        dim: d.
        dropout: probability on what the fusion adds.
        norm: "pre" normalises the item sequence before the fusion, "post" its sum with the residual.
    """

    fixed_length = True

    def __init__(
        self,
        text: TextTable,
        adaptor: TextAdaptor,
        fusion: SpectralFusion,
        encoder: SASRecBlock,
        *,
        dim: int,
        dropout: float,
        norm: Norm,
    ) -> None:
        super().__init__()
        self.text, self.adaptor, self.fusion, self.encoder = text, adaptor, fusion, encoder
        self.fusion_norm = nn.LayerNorm(dim)
        self.dropout = QuickDropout(dropout)
        self.pre_norm = norm == "pre"

    def forward(
        self,
        x: Float[Tensor, "B L d"],
        *,
        history: Int[Tensor, "B L"],
        padding_mask: Bool[Tensor, "B L"] | None = None,
    ) -> Float[Tensor, "B L d"]:
        """Every position's output.

        Args:
            x: embedded item ids, left-padded rows of `max_length` positions.
            history: the ids, 0 = padding.
            padding_mask: True = padding; None where there is none.

        Raises:
            InputError: for rows of another length.
        """
        fused = self._fused(x, history, padding_mask)
        real, context = self._layout(fused, padding_mask)
        if real is None:
            return self.encoder(fused, **context)  # type: ignore[no-any-return]
        encoded: Tensor = self.encoder(fused[real], **context)
        return encoded.new_zeros(fused.shape).masked_scatter(real[..., None], encoded)

    def last(
        self,
        x: Float[Tensor, "B L d"],
        *,
        history: Int[Tensor, "B L"],
        padding_mask: Bool[Tensor, "B L"] | None = None,
    ) -> Float[Tensor, "B d"]:
        """The newest position's output only: the last layer computes no other."""
        fused = self._fused(x, history, padding_mask)
        real, context = self._layout(fused, padding_mask)
        return self.encoder.last(fused if real is None else fused[real], **context)

    def text_sequence(self, history: Int[Tensor, "B L"]) -> Float[Tensor, "B L d"]:
        """The adapted texts of `history`, padding on the right."""
        size = len(self.text.features)
        if exporting() or size <= history.numel():  # whichever is less work: all items once, or every position
            return self._adapted(torch.arange(size, device=history.device), history)
        places = torch.arange(history.numel(), device=history.device).view(history.shape)
        return self._adapted(history.flatten(), places)

    @staticmethod
    def _layout(x: Tensor, padding_mask: Tensor | None) -> tuple[Tensor | None, dict[str, Any]]:
        """Which positions the encoder gets, None for all, and what it is told of them.

        On a CPU it gets the real tokens only, which takes a third of the time; an accelerator would wait for their
        number, and is faster at padding.
        """
        if padding_mask is None or x.device.type != "cpu" or torch.compiler.is_compiling() or exporting():
            return None, {"padding_mask": padding_mask}
        real = ~padding_mask
        real[:, -1] = True  # a row without items still gets an answer
        return real, {"offsets": nn.functional.pad(real.sum(1).cumsum(0), (1, 0))}

    def _adapted(self, items: Tensor, places: Tensor) -> Tensor:
        adapted: Tensor = self.adaptor(self.text(items), places)
        return adapted

    def _fused(self, x: Tensor, history: Tensor, padding_mask: Tensor | None) -> Tensor:
        if x.shape[1] != self.fusion.max_length:
            raise InputError(
                f"TedRecBlock is made for rows of max_length = {self.fusion.max_length} positions, got {x.shape[1]}: "
                "make it with the recommender's max_length"
            )
        items: Tensor = self.fusion_norm(x) if self.pre_norm else x
        text_padding = padding_mask
        if padding_mask is not None:
            items = items.masked_fill(padding_mask[..., None], 0.0)
            places = torch.arange(x.shape[1], device=x.device) + padding_mask.sum(1, keepdim=True)
            places = places % x.shape[1]  # the oldest item first
            history, text_padding = history.gather(1, places), padding_mask.gather(1, places)
        text = self.text_sequence(history).to(items.dtype)
        if text_padding is not None:
            text = text.masked_fill(text_padding[..., None], 0.0)
        fused: Tensor = x + self.dropout(self.fusion(items, text))
        return fused if self.pre_norm else self.fusion_norm(fused)


@dataclass(frozen=True)
class TedRec:
    """TedRec's hyper-parameters, and the blocks they make.

    `TedRec(text=features)` is enough: the three sizes are read from it. The settings are plain values that JSON holds;
    the embeddings themselves are a buffer of the blocks, saved and loaded with the weights.

    Args:
        num_items: N, where there is no `text`.
        text_dim: size of a text embedding, where there is no `text`.
        num_missing: items without text, where there is no `text`.
        pre_layers: layers of the pre-block, after the fusion.
        core_layers: layers of the core-block.
        heads: attention heads.
        inner: width of the feed-forward nets.
        dropout: probability, in blocks.
        norm: "pre" or "post" layer norm.
        experts: of the text adaptor.
        noisy_gates: whether the adaptor's gates are noisy while training.
        positional: whether each expert has a shift for every position, or one.
        text: embeddings of the items' texts.

    Raises:
        InputError: for sizes that disagree with `text`, or neither.
    """

    scorer: ClassVar[str] = "cosine"
    """How thoughts meet items where nothing else is said: the cosine at temperature .07."""

    num_items: int | None = None
    text_dim: int | None = None
    num_missing: int | None = None
    pre_layers: int = 2
    core_layers: int = 2
    heads: int = 2
    inner: int = 256
    dropout: float = 0.5
    norm: Norm = "pre"
    experts: int = 8
    noisy_gates: bool = True
    positional: bool = True
    text: TextFeatures | None = field(default=None, repr=False, compare=False, metadata={"setting": False})

    def __post_init__(self) -> None:
        for name, found in (("num_items", "num_items"), ("text_dim", "dim"), ("num_missing", "num_missing")):
            given, told = getattr(self, name), getattr(self.text, found, None)
            if given is None and told is None:
                raise InputError("TedRec reads item texts: make it as TedRec(text=TextFeatures(...))")
            if given is not None and told is not None and given != told:
                raise InputError(f"{name} is {given!r}, but text holds {told}: leave {name} out")
            object.__setattr__(self, name, told if given is None else given)

    def blocks(self, dim: int, max_length: int) -> tuple[TedRecBlock, SASRecBlock]:
        """The pre-block and the core-block for latent size `dim` and rows of `max_length` positions."""
        return self._block(dim, max_length, self.pre_layers), self._encoder(dim, self.core_layers)

    def base(self, dim: int, max_length: int) -> TedRecBlock:
        """Fusion, pre- and core-layers stacked once, without a loop: the plain backbone with as many parameters."""
        return self._block(dim, max_length, self.pre_layers + self.core_layers)

    def _block(self, dim: int, max_length: int, layers: int) -> TedRecBlock:
        encoder = self._encoder(dim, layers)  # first: it checks the settings they share
        sizes = (self.num_items or 0, self.text_dim or 0)
        adaptor = TextAdaptor(
            sizes[1],
            dim,
            max_length=max_length,
            experts=self.experts,
            dropout=self.dropout,
            noisy=self.noisy_gates,
            positional=self.positional,
        )
        return TedRecBlock(
            TextTable(*sizes, num_missing=self.num_missing or 0, text=self.text),
            adaptor,
            SpectralFusion(dim, max_length=max_length),
            encoder,
            dim=dim,
            dropout=self.dropout,
            norm=self.norm,
        )

    def _encoder(self, dim: int, layers: int) -> SASRecBlock:
        return SASRecBlock(dim, layers=layers, heads=self.heads, inner=self.inner, dropout=self.dropout, norm=self.norm)
