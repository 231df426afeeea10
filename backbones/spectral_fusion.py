"""Two sequences fused in the frequency domain (TedRec): one filtered, and each a filter of the other.

    Y = irfft(V * (W + T)),   V = rfft(g_v v),   T = rfft(g_t t),   W (L/2 + 1, d) complex

A product of spectra is a circular convolution over the sequence, so every position of v meets every position of t:
what stands at i in v and at j in t meets at i + j (modulo L). v is the embedded item sequence, t the text sequence;
g_v = sigmoid(v w_v + b_v) and g_t = sigmoid(t w_t + b_t) are learned gates, one number a position. All transforms are orthonormal and run in float32 at least.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from latentloop.modes.exporting import exporting

__all__ = ["SpectralFusion"]


class SpectralFusion(nn.Module):
    """The fusion alone, without residual or norm.

    W starts at N(0, 0.02^2), gates at one half. The imaginary parts of frequency 0 and, where L is even, of frequency
    L/2 act on nothing: a real signal has none there.

    Args:
        dim: d.
        max_length: L.
    """

    def __init__(self, dim: int, *, max_length: int) -> None:
        super().__init__()
        self.max_length = max_length
        self.filter = nn.Parameter(0.02 * torch.randn(max_length // 2 + 1, dim, 2))  # real part, imaginary part
        self.item_gate = nn.Linear(dim, 1)
        self.text_gate = nn.Linear(dim, 1)
        for gate in (self.item_gate, self.text_gate):
            nn.init.zeros_(gate.weight)
            nn.init.zeros_(gate.bias)

    def forward(self, items: Float[Tensor, "B L d"], text: Float[Tensor, "B L d"]) -> Float[Tensor, "B L d"]:
        """Fuse rows of exactly L positions.

        Args:
            items: padding is zeros, wherever it stands.
            text: likewise, and its place 0 leaves the item it meets where it is.
        """
        if not exporting() and not len(items):  # an empty batch has no transform
            return items
        gated_items = items * self.item_gate(items).sigmoid()
        gated_text = text * self.text_gate(text).sigmoid()
        item_spectrum = torch.fft.rfft(_wide(gated_items), dim=1, norm="ortho")
        text_spectrum = torch.fft.rfft(_wide(gated_text), dim=1, norm="ortho")
        product = item_spectrum * (torch.view_as_complex(_wide(self.filter)) + text_spectrum)
        fused: Tensor = torch.fft.irfft(product, n=self.max_length, dim=1, norm="ortho")
        return fused.to(items.dtype)


def _wide(x: Tensor) -> Tensor:
    """There is no transform in bf16, so none under autocast either."""
    return x if x.dtype == torch.float64 else x.float()
