"""What the layers of the filter backbones share: residuals with dropout and layer norm, feed-forward nets, checks."""

from __future__ import annotations

from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn

from latentloop.checks import MOST_LAYERS, as_deep, at_least, dropout_rate
from latentloop.errors import InputError
from latentloop.modes.quick_dropout import QuickDropout

__all__ = ["Norm", "Padding", "Residual", "check_block", "feed_forward"]

Norm = Literal["pre", "post"]
Padding = Literal["zero", "keep"]


class Residual(nn.Module):
    """What stands around a sub-layer: `leave(x, sublayer(enter(x)))`.

    Args:
        dim: d.
        dropout: probability on the sub-layer's output.
        norm: "pre": x + dropout(sublayer(LN(x))); "post": LN(x + dropout(sublayer(x))).
    """

    def __init__(self, dim: int, *, dropout: float, norm: Norm) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.dropout = QuickDropout(dropout)
        self.pre_norm = norm == "pre"

    def enter(self, x: Float[Tensor, "*n d"]) -> Float[Tensor, "*n d"]:
        """What the sub-layer gets."""
        entered: Tensor = self.norm(x) if self.pre_norm else x
        return entered

    def leave(self, x: Float[Tensor, "*n d"], output: Float[Tensor, "*n d"]) -> Float[Tensor, "*n d"]:
        """What comes after it."""
        summed: Tensor = x + self.dropout(output)
        left: Tensor = summed if self.pre_norm else self.norm(summed)
        return left


def feed_forward(dim: int, inner: int) -> nn.Sequential:
    """Two linear maps, d -> inner -> d, with GELU between them."""
    return nn.Sequential(nn.Linear(dim, inner), nn.GELU(), nn.Linear(inner, dim))


def check_block(*, layers: int, inner: int, dropout: float, norm: str, padding: str, max_length: int) -> None:
    """Raise `InputError` for a setting out of range."""
    as_deep("layers", layers, MOST_LAYERS)
    at_least("inner", inner, 1)
    at_least("max_length", max_length, 1)
    dropout_rate(dropout)
    if norm not in ("pre", "post"):
        raise InputError(f"norm must be 'pre' or 'post', got {norm!r}")
    if padding not in ("zero", "keep"):
        raise InputError(f"padding must be 'zero' or 'keep', got {padding!r}")
