"""SASRec (Kang and McAuley, 2018): causal self-attention over the history.

The block runs in two layouts with the same result: left-padded rows (B, L, d), and packed tokens (tokens, d), where
everything but the attention scores touches real tokens only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from latentloop.backbones.layout import Layout, packed_layout
from latentloop.backbones.stack import LayerStack
from latentloop.backbones.tiles import in_tiles
from latentloop.checks import MOST_LAYERS, as_deep, at_least, dropout_rate
from latentloop.errors import InputError
from latentloop.modes.quick_dropout import QuickDropout, quick_dropout

__all__ = ["CausalAttention", "SASRec", "SASRecBlock", "SASRecLayer"]


class CausalAttention(nn.Module):
    """Multi-head attention in which a position sees itself and older positions.

    Args:
        dim: d, a multiple of `heads`.
        heads: number of heads.
        dropout: probability of dropping an attention weight.
    """

    def __init__(self, dim: int, *, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.query_key_value = nn.Linear(dim, 3 * dim)
        self.output = nn.Linear(dim, dim)

    def forward(self, x: Float[Tensor, "*n d"], layout: Layout) -> Float[Tensor, "*n d"]:
        """Attend from every position."""
        projected = self.query_key_value(x)
        read: list[Tensor] = []
        for group in layout.everywhere:
            query, key, value = group.rows_of(projected).chunk(3, dim=-1)
            read.append(self._attend(query, key, value, group.mask).flatten(0, 1))
        mixed: Tensor = self.output(layout.gather(read).view_as(x))
        return mixed

    def last(self, x: Float[Tensor, "*n d"], layout: Layout) -> Float[Tensor, "B d"]:
        """Attend from the newest position only; equal to that row of `forward`."""
        dim = x.shape[-1]
        weight, bias = self.query_key_value.weight, self.query_key_value.bias
        query = F.linear(layout.newest(x), weight[:dim], bias[:dim])[:, None]
        key_value = F.linear(x, weight[dim:], bias[dim:])
        read: list[Tensor] = []
        for group in layout.groups:
            key, value = group.rows_of(key_value).chunk(2, dim=-1)
            read.append(self._attend(group.newest_of(query), key, value, group.last_mask)[:, 0])
        mixed: Tensor = self.output(layout.gather_rows(read))
        return mixed

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        query, key, value = (rearrange(t, "b l (h c) -> b h l c", h=self.heads) for t in (query, key, value))
        dropout = self.dropout if self.training else 0.0
        if query.device.type == "cpu":
            read = _attend_on_cpu(query, key, value, mask, dropout)
        elif query.shape[-2] == 1:  # a fused kernel would fill a tile with each
            read = _attend_plainly(query, key, value, mask, dropout)
        else:
            read = F.scaled_dot_product_attention(
                query, key, value, attn_mask=mask, dropout_p=dropout, is_causal=mask is None
            )
        return rearrange(read, "b h l c -> b l (h c)")


def _attend_on_cpu(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, dropout: float) -> Tensor:
    """`scaled_dot_product_attention` of short rows, in what is fastest there."""
    if dropout:
        return _attend_plainly(query, key, value, mask, dropout)
    with torch.autocast("cpu", enabled=False):
        # in bfloat16 rows so short take three times as long
        wide = torch.promote_types(query.dtype, torch.float32)
        q, k, v = query.to(wide), key.to(wide), value.to(wide)
        if torch.compiler.is_compiling() or torch.get_num_threads() == 1:
            read = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None)
        else:  # with two threads the kernel is slower than with one, and takes twice as long as products do
            read = _attend_by_products(q, k, v, _seen(query, key, mask))
    return read.to(query.dtype)


def _attend_plainly(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, dropout: float) -> Tensor:
    """What `scaled_dot_product_attention` computes where it has no fused kernel, with cheaper masks."""
    scores = (query * query.shape[-1] ** -0.5) @ key.mT
    weights = scores.masked_fill(~_seen(query, key, mask), -torch.inf).softmax(-1)
    return quick_dropout(weights, dropout) @ value


def _attend_by_products(query: Tensor, key: Tensor, value: Tensor, seen: Tensor) -> Tensor:
    unseen = query.new_zeros(seen.shape).masked_fill_(~seen, -torch.inf)
    unseen = unseen.expand(*query.shape[:-1], key.shape[-2]).flatten(0, 1)
    scores = torch.baddbmm(unseen, query.flatten(0, 1), key.flatten(0, 1).mT, alpha=query.shape[-1] ** -0.5)
    return (scores.softmax(-1) @ value.flatten(0, 1)).view_as(query)


def _seen(query: Tensor, key: Tensor, mask: Tensor | None) -> Tensor:
    """True where a query may attend."""
    if mask is not None:
        return mask
    return torch.ones(query.shape[-2], key.shape[-2], dtype=torch.bool, device=query.device).tril_()


class SASRecLayer(nn.Module):
    """Attention, then a two-layer feed-forward net, each with dropout, residual and layer norm.

    Args:
        dim: d.
        heads: attention heads.
        inner: width of the feed-forward net.
        dropout: probability for weights, attention output and feed-forward output.
        norm: "pre" normalises each sub-layer's input, "post" (as published) its sum with the residual.
    """

    def __init__(self, dim: int, *, heads: int, inner: int, dropout: float, norm: Literal["pre", "post"]) -> None:
        super().__init__()
        self.attention = CausalAttention(dim, heads=heads, dropout=dropout)
        self.feed_forward = nn.Sequential(nn.Linear(dim, inner), nn.GELU(), nn.Linear(inner, dim))
        self.attention_norm = nn.LayerNorm(dim)
        self.feed_forward_norm = nn.LayerNorm(dim)
        self.dropout = QuickDropout(dropout)
        self.pre_norm = norm == "pre"

    def forward(self, x: Float[Tensor, "*n d"], layout: Layout) -> Float[Tensor, "*n d"]:
        """Every position's output."""
        attended = self.attention(self.attention_norm(x) if self.pre_norm else x, layout)
        return self._finish(x, attended)

    def last(self, x: Float[Tensor, "*n d"], layout: Layout) -> Float[Tensor, "B d"]:
        """The newest position's output only."""
        attended = self.attention.last(self.attention_norm(x) if self.pre_norm else x, layout)
        return self._finish(layout.newest(x), attended)

    def _finish(self, x: Tensor, attended: Tensor) -> Tensor:
        x = x + self.dropout(attended)
        return in_tiles(self._feed, x if self.pre_norm else self.attention_norm(x), training=self.training)

    def _feed(self, x: Tensor) -> Tensor:
        inner = self.feed_forward(self.feed_forward_norm(x) if self.pre_norm else x)
        summed: Tensor = x + self.dropout(inner)
        normed: Tensor = summed if self.pre_norm else self.feed_forward_norm(summed)
        return normed


class SASRecBlock(LayerStack):
    """A stack of `SASRecLayer`s as a block.

    Args:
        dim: d.
        layers: number of layers, at least 1.
        heads: attention heads; divides `dim`.
        inner: width of the feed-forward nets.
        dropout: probability.
        norm: "pre" or "post".

    Raises:
        InputError: for values out of range.
    """

    causal = True
    pad_invariant = True
    packed = True
    capturable = True

    def __init__(
        self,
        dim: int,
        *,
        layers: int = 2,
        heads: int = 2,
        inner: int = 256,
        dropout: float = 0.5,
        norm: Literal["pre", "post"] = "pre",
    ) -> None:
        as_deep("layers", layers, MOST_LAYERS)
        if heads < 1 or dim % heads:
            raise InputError(f"heads must divide dim, got {heads} heads for dim {dim}")
        dropout_rate(dropout)
        if norm not in ("pre", "post"):
            raise InputError(f"norm must be 'pre' or 'post', got {norm!r}")
        stacked = (SASRecLayer(dim, heads=heads, inner=inner, dropout=dropout, norm=norm) for _ in range(layers))
        super().__init__(stacked, dim, norm=norm)

    def _read(
        self, x: Tensor, padding_mask: Tensor | None, offsets: Tensor | None, max_length: int | None
    ) -> tuple[Layout]:
        if offsets is None:
            return (Layout.padded(x, padding_mask),)
        return (packed_layout(x, offsets, max_length),)


@dataclass(frozen=True)
class SASRec:
    """SASRec's hyper-parameters, and the blocks they make.

    Args:
        pre_layers: layers of the pre-block.
        core_layers: layers of the core-block.
        heads: attention heads.
        inner: width of the feed-forward nets.
        dropout: probability, in blocks.
        norm: "pre" or "post" layer norm.

    Raises:
        InputError: for a size below 1.
    """

    pre_layers: int = 2
    core_layers: int = 2
    heads: int = 2
    inner: int = 256
    dropout: float = 0.5
    norm: Literal["pre", "post"] = "pre"

    def __post_init__(self) -> None:
        for name in ("pre_layers", "core_layers"):
            as_deep(name, getattr(self, name), MOST_LAYERS)
        for name in ("heads", "inner"):
            at_least(name, getattr(self, name), 1)

    def blocks(self, dim: int, max_length: int | None = None) -> tuple[SASRecBlock, SASRecBlock]:
        """The pre-block and the core-block for latent size `dim`; they take rows of any length."""
        return self._block(dim, self.pre_layers), self._block(dim, self.core_layers)

    def base(self, dim: int, max_length: int | None = None) -> SASRecBlock:
        """Pre- and core-layers stacked once, without a loop: the plain backbone with as many parameters."""
        return self._block(dim, self.pre_layers + self.core_layers)

    def _block(self, dim: int, layers: int) -> SASRecBlock:
        return SASRecBlock(dim, layers=layers, heads=self.heads, inner=self.inner, dropout=self.dropout, norm=self.norm)
