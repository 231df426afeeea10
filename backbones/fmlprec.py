"""FMLP-Rec (Zhou et al., 2022): a learnable filter over the history's frequencies in the place of attention.

    Y = irfft(W * rfft(X))        W (L/2 + 1, d) complex, both transforms orthonormal and along the sequence

The product of spectra is a circular convolution: each channel has one kernel as long as the history, and every position
sees all others, later ones too. The transform runs over the whole padded row. Padding counts as zeros before each
filter, so what the input stage or T_0 holds there changes nothing, and all but the filter runs on packed tokens too;
with `padding="keep"` it is filtered like items, as published.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from latentloop.backbones.residual import Norm, Padding, Residual, check_block, feed_forward
from latentloop.backbones.rows import Rows
from latentloop.backbones.stack import LayerStack
from latentloop.backbones.tiles import in_tiles
from latentloop.errors import InputError
from latentloop.modes.exporting import exporting

__all__ = ["FMLPRec", "FMLPRecBlock", "FMLPRecLayer", "LearnableFilter"]


class LearnableFilter(nn.Module):
    """Multiply each channel's spectrum by learned complex weights (FMLP-Rec's filter layer).

    The weights start at N(0, 0.02^2). The imaginary parts of frequency 0 and, where L is even, of frequency L/2 act on
    nothing: a real signal has none there.

    Args:
        dim: d.
        max_length: L.
    """

    def __init__(self, dim: int, *, max_length: int) -> None:
        super().__init__()
        self.max_length = max_length
        self.weight = nn.Parameter(torch.empty(max_length // 2 + 1, dim, 2))  # real part, imaginary part
        nn.init.normal_(self.weight, std=0.02)

    def forward(self, x: Float[Tensor, "B L d"]) -> Float[Tensor, "B L d"]:
        """Filter every row."""
        if not exporting() and not len(x):  # a transform of nothing is an error
            return x
        wide = _wide(x)  # there is no transform in bf16, so none under autocast either
        spectrum = torch.fft.rfft(wide, dim=1, norm="ortho") * torch.view_as_complex(_wide(self.weight))
        filtered: Tensor = torch.fft.irfft(spectrum, n=self.max_length, dim=1, norm="ortho")
        return filtered.to(x.dtype)

    def last(self, x: Float[Tensor, "B L d"]) -> Float[Tensor, "B d"]:
        """The newest position of `forward`, from the kernel: y[L-1] = sum over lags r of kernel[r] x[L-1-r]."""
        kernel = torch.fft.irfft(torch.view_as_complex(_wide(self.weight)), n=self.max_length, dim=0)
        newest: Tensor = (_wide(x) * kernel.flip(0)).sum(1)
        return newest.to(x.dtype)


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


class FMLPRecLayer(nn.Module):
    """A learnable filter, then a two-layer feed-forward net, each with dropout, residual and layer norm.

    Args:
        dim: d.
        max_length: L.
        inner: width of the feed-forward net.
        dropout: probability on the output of filter and feed-forward net.
        norm: "pre" normalises each sub-layer's input, "post" (as published) its sum with the residual.
    """

    def __init__(self, dim: int, *, max_length: int, inner: int, dropout: float, norm: Norm) -> None:
        super().__init__()
        self.filter = LearnableFilter(dim, max_length=max_length)
        self.filter_residual = Residual(dim, dropout=dropout, norm=norm)
        self.feed_forward = feed_forward(dim, inner)
        self.feed_forward_residual = Residual(dim, dropout=dropout, norm=norm)

    def forward(self, x: Float[Tensor, "*n d"], rows: Rows) -> Float[Tensor, "*n d"]:
        """Every position's output."""
        filtered = self.filter(rows.spread(self.filter_residual.enter(x)))
        return self._finish(x, rows.gather(filtered))

    def last(self, x: Float[Tensor, "*n d"], rows: Rows) -> Float[Tensor, "B d"]:
        """The newest position's output only."""
        filtered = self.filter.last(rows.spread(self.filter_residual.enter(x)))
        return self._finish(rows.newest(x), filtered)

    def _finish(self, x: Tensor, filtered: Tensor) -> Tensor:
        x = self.filter_residual.leave(x, filtered)
        return in_tiles(self._feed, x, training=self.training)

    def _feed(self, x: Tensor) -> Tensor:
        return self.feed_forward_residual.leave(x, self.feed_forward(self.feed_forward_residual.enter(x)))


class FMLPRecBlock(LayerStack):
    """A stack of `FMLPRecLayer`s as a block: rows have exactly `max_length` positions, and later items act on earlier.

    Args:
        dim: d.
        max_length: L.
        layers: number of layers, at least 1.
        inner: width of the feed-forward nets.
        dropout: probability.
        norm: "pre" or "post".
        padding: "zero" makes padding zeros before each filter; "keep" filters what it holds (and takes no packed
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
        inner: int = 256,
        dropout: float = 0.5,
        norm: Norm = "pre",
        padding: Padding = "zero",
    ) -> None:
        check_block(layers=layers, inner=inner, dropout=dropout, norm=norm, padding=padding, max_length=max_length)
        stacked = (
            FMLPRecLayer(dim, max_length=max_length, inner=inner, dropout=dropout, norm=norm) for _ in range(layers)
        )
        super().__init__(stacked, dim, norm=norm)
        self.max_length = max_length
        self.padding: Padding = padding
        self.packed = self.capturable = padding == "zero"

    def _read(
        self, x: Tensor, padding_mask: Tensor | None, offsets: Tensor | None, max_length: int | None
    ) -> tuple[Rows]:
        name, length = type(self).__name__, self.max_length
        if offsets is not None:
            if not self.packed:
                raise InputError(f"{name} with padding='keep' takes no packed tokens: give it (B, L, d) rows")
            return (Rows.packed(name, x, offsets, max_length, length=length),)
        return (Rows.padded(name, x, padding_mask if self.padding == "zero" else None, length=length),)


@dataclass(frozen=True)
class FMLPRec:
    """FMLP-Rec's hyper-parameters, and the blocks they make.

    Published: two layers (`pre_layers=1, core_layers=1` makes them of `base`), inner = 4 d, dropout 0.5, post norm and
    kept padding, at d = 64 and L = 50.

    Args:
        pre_layers: layers of the pre-block.
        core_layers: layers of the core-block.
        inner: width of the feed-forward nets.
        dropout: probability, in blocks.
        norm: "pre" or "post" layer norm.
        padding: "zero" makes padding zeros before each filter; "keep" filters what it holds.
    """

    pre_layers: int = 2
    core_layers: int = 2
    inner: int = 256
    dropout: float = 0.5
    norm: Norm = "pre"
    padding: Padding = "zero"

    def blocks(self, dim: int, max_length: int) -> tuple[FMLPRecBlock, FMLPRecBlock]:
        """The pre-block and the core-block for latent size `dim` and rows of `max_length` positions."""
        return self._block(dim, max_length, self.pre_layers), self._block(dim, max_length, self.core_layers)

    def base(self, dim: int, max_length: int) -> FMLPRecBlock:
        """Pre- and core-layers stacked once, without a loop: the plain backbone with as many parameters."""
        return self._block(dim, max_length, self.pre_layers + self.core_layers)

    def _block(self, dim: int, max_length: int, layers: int) -> FMLPRecBlock:
        return FMLPRecBlock(
            dim,
            max_length=max_length,
            layers=layers,
            inner=self.inner,
            dropout=self.dropout,
            norm=self.norm,
            padding=self.padding,
        )
