"""BSARec (Shin et al., 2024): self-attention, mixed with a rescaler of high frequencies as its inductive bias.

    S(X) = alpha * B(X) + (1 - alpha) * attention(X),    B(X) = low(X) + beta^2 * (X - low(X))

low(X) keeps the first c // 2 + 1 components of rfft(X) along the sequence, with c the `cutoff`. That is a fixed (L, L)
projection, and is computed as one: three times as fast as both transforms on a CPU (forward and backward, L = 20 and
50). The projection runs over the whole padded row and lets earlier positions see later ones; the attention is causal.
Padding counts as zeros before it, so what the input stage or T_0 holds there changes nothing, and all but the rescaler
runs on packed tokens too; with `padding="keep"` it is filtered like items, as published. The attention never looks at
padding.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from latentloop.backbones.layout import Layout, packed_layout
from latentloop.backbones.residual import Norm, Padding, Residual, check_block, feed_forward
from latentloop.backbones.rows import Rows
from latentloop.backbones.sasrec import CausalAttention
from latentloop.backbones.stack import LayerStack
from latentloop.backbones.tiles import in_tiles
from latentloop.errors import InputError

__all__ = ["BSARec", "BSARecBlock", "BSARecLayer", "FrequencyRescaler", "low_pass"]


def low_pass(length: int, cutoff: int) -> Float[Tensor, "L L"]:
    """The matrix of X -> irfft(the first cutoff // 2 + 1 components of rfft(X)), zeros in the others' place.

    It is symmetric and a projection, of rank `cutoff` where that is odd, and one more where it is even and below L.
    """
    spectrum = torch.fft.rfft(torch.eye(length, dtype=torch.float64), dim=0)
    spectrum[cutoff // 2 + 1 :] = 0
    matrix: Tensor = torch.fft.irfft(spectrum, n=length, dim=0)
    return matrix.to(torch.get_default_dtype())


class FrequencyRescaler(nn.Module):
    """low(x) + beta^2 * (x - low(x)), with one learned beta a channel, N(0, 1) at the start.

    Args:
        dim: d.
        max_length: L.
        cutoff: c; low(x) keeps c // 2 + 1 frequencies.
    """

    projection: Tensor

    def __init__(self, dim: int, *, max_length: int, cutoff: int) -> None:
        super().__init__()
        self.beta = nn.Parameter(torch.randn(1, 1, dim))
        self.register_buffer("projection", low_pass(max_length, cutoff), persistent=False)

    def forward(self, x: Float[Tensor, "B L d"]) -> Float[Tensor, "B L d"]:
        """Rescale every row."""
        return self._mix(self.projection @ x, x)

    def last(self, x: Float[Tensor, "B L d"]) -> Float[Tensor, "B d"]:
        """The newest position of `forward`."""
        return self._mix(self.projection[-1] @ x, x[:, -1])

    def _mix(self, low: Tensor, x: Tensor) -> Tensor:
        squared = self.beta.square().view(-1).to(x.dtype)
        return torch.lerp(low.to(x.dtype), x, squared)  # low + squared * (x - low)


class BSARecLayer(nn.Module):
    """Rescaler beside attention, then a feed-forward net; each of the three with dropout, residual and layer norm.

    Args:
        dim: d.
        max_length: L.
        heads: attention heads.
        inner: width of the feed-forward net.
        dropout: probability for attention weights and each sub-layer's output.
        norm: "pre" normalises each sub-layer's input, "post" (as published) its sum with the residual.
        alpha: weight of the rescaler against the attention.
        cutoff: c of the rescaler.
    """

    def __init__(
        self,
        dim: int,
        *,
        max_length: int,
        heads: int,
        inner: int,
        dropout: float,
        norm: Norm,
        alpha: float,
        cutoff: int,
    ) -> None:
        super().__init__()
        self.alpha = alpha
        self.rescaler = FrequencyRescaler(dim, max_length=max_length, cutoff=cutoff)
        self.rescaler_residual = Residual(dim, dropout=dropout, norm=norm)
        self.attention = CausalAttention(dim, heads=heads, dropout=dropout)
        self.attention_residual = Residual(dim, dropout=dropout, norm=norm)
        self.feed_forward = feed_forward(dim, inner)
        self.feed_forward_residual = Residual(dim, dropout=dropout, norm=norm)

    def forward(self, x: Float[Tensor, "*n d"], rows: Rows, layout: Layout) -> Float[Tensor, "*n d"]:
        """Every position's output."""
        rescaled = self.rescaler(rows.spread(self.rescaler_residual.enter(x)))
        attended = self.attention(self.attention_residual.enter(x), layout)
        return self._finish(x, rows.gather(rescaled), attended)

    def last(self, x: Float[Tensor, "*n d"], rows: Rows, layout: Layout) -> Float[Tensor, "B d"]:
        """The newest position's output only."""
        rescaled = self.rescaler.last(rows.spread(self.rescaler_residual.enter(x)))
        attended = self.attention.last(self.attention_residual.enter(x), layout)
        return self._finish(rows.newest(x), rescaled, attended)

    def _finish(self, x: Tensor, rescaled: Tensor, attended: Tensor) -> Tensor:
        bias = self.rescaler_residual.leave(x, rescaled)
        x = torch.lerp(self.attention_residual.leave(x, attended).to(bias.dtype), bias, self.alpha)
        return in_tiles(self._feed, x, training=self.training)

    def _feed(self, x: Tensor) -> Tensor:
        return self.feed_forward_residual.leave(x, self.feed_forward(self.feed_forward_residual.enter(x)))


class BSARecBlock(LayerStack):
    """A stack of `BSARecLayer`s as a block: rows have exactly `max_length` positions, and later items act on earlier.

    Args:
        dim: d.
        max_length: L.
        layers: number of layers, at least 1.
        heads: attention heads; divides `dim`.
        inner: width of the feed-forward nets.
        dropout: probability.
        norm: "pre" or "post".
        alpha: weight of the rescaler, in [0, 1]; 1 - alpha is the attention's.
        cutoff: c, in 1..L.
        padding: "zero" makes padding zeros before each rescaler; "keep" rescales what it holds (and takes no packed
            tokens).

    Raises:
        InputError: for values out of range.
    """

    fixed_length = True
    packed: bool
    """Whether it also takes packed tokens: with `padding="zero"`."""
    capturable: bool
    """Whether CUDA graphs may replay it: where it is packed."""

    def __init__(
        self,
        dim: int,
        *,
        max_length: int,
        layers: int = 2,
        heads: int = 1,
        inner: int = 256,
        dropout: float = 0.5,
        norm: Norm = "pre",
        alpha: float = 0.7,
        cutoff: int = 5,
        padding: Padding = "zero",
    ) -> None:
        check_block(layers=layers, inner=inner, dropout=dropout, norm=norm, padding=padding, max_length=max_length)
        if heads < 1 or dim % heads:
            raise InputError(f"heads must divide dim, got {heads} heads for dim {dim}")
        if not 0 <= alpha <= 1:
            raise InputError(f"alpha must lie in [0, 1], got {alpha!r}")
        if isinstance(cutoff, bool) or not isinstance(cutoff, int) or not 1 <= cutoff <= max_length:
            raise InputError(f"cutoff must be a whole number in 1..{max_length}, the rows' max_length, got {cutoff!r}")
        stacked = (
            BSARecLayer(
                dim,
                max_length=max_length,
                heads=heads,
                inner=inner,
                dropout=dropout,
                norm=norm,
                alpha=alpha,
                cutoff=cutoff,
            )
            for _ in range(layers)
        )
        super().__init__(stacked, dim, norm=norm)
        self.max_length = max_length
        self.padding: Padding = padding
        self.packed = self.capturable = padding == "zero"

    def _read(
        self, x: Tensor, padding_mask: Tensor | None, offsets: Tensor | None, max_length: int | None
    ) -> tuple[Rows, Layout]:
        name, length = type(self).__name__, self.max_length
        if offsets is not None:
            if not self.packed:
                raise InputError(f"{name} with padding='keep' takes no packed tokens: give it (B, L, d) rows")
            rows = Rows.packed(name, x, offsets, max_length, length=length)
            return rows, packed_layout(x, offsets, max_length)
        rows = Rows.padded(name, x, padding_mask if self.padding == "zero" else None, length=length)
        return rows, Layout.padded(x, padding_mask)


@dataclass(frozen=True)
class BSARec:
    """BSARec's hyper-parameters, and the blocks they make.

    `heads`, `alpha` and `cutoff` are as published for Beauty. Published for all sets: two layers (`pre_layers=1,
    core_layers=1` makes them of `base`), inner = 4 d, dropout 0.5, post norm and kept padding, at d = 64 and L = 50.

    Args:
        pre_layers: layers of the pre-block.
        core_layers: layers of the core-block.
        heads: attention heads.
        inner: width of the feed-forward nets.
        dropout: probability, in blocks.
        norm: "pre" or "post" layer norm.
        alpha: weight of the frequency rescaler; 1 - alpha is the attention's.
        cutoff: c: the rescaler's low pass keeps frequencies 0..c // 2.
        padding: "zero" makes padding zeros before each rescaler; "keep" rescales what it holds.
    """

    pre_layers: int = 2
    core_layers: int = 2
    heads: int = 1
    inner: int = 256
    dropout: float = 0.5
    norm: Norm = "pre"
    alpha: float = 0.7
    cutoff: int = 5
    padding: Padding = "zero"

    def blocks(self, dim: int, max_length: int) -> tuple[BSARecBlock, BSARecBlock]:
        """The pre-block and the core-block for latent size `dim` and rows of `max_length` positions."""
        return self._block(dim, max_length, self.pre_layers), self._block(dim, max_length, self.core_layers)

    def base(self, dim: int, max_length: int) -> BSARecBlock:
        """Pre- and core-layers stacked once, without a loop: the plain backbone with as many parameters."""
        return self._block(dim, max_length, self.pre_layers + self.core_layers)

    def _block(self, dim: int, max_length: int, layers: int) -> BSARecBlock:
        return BSARecBlock(
            dim,
            max_length=max_length,
            layers=layers,
            heads=self.heads,
            inner=self.inner,
            dropout=self.dropout,
            norm=self.norm,
            alpha=self.alpha,
            cutoff=self.cutoff,
            padding=self.padding,
        )
