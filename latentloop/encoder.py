"""What a `Recommender` asks of an encoder, and how its thoughts are read from the newest position in either layout.

An encoder runs on padded rows (B, L, d), newest position last, and where it is `packed` also on packed tokens
(tokens, d) with `offsets` (B + 1,).

Shapes: B rows, L positions, d latent size, k depth; `*n d` is either layout.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from latentloop.depth import DepthLaw
from latentloop.errors import InputError, InputTypeError

__all__ = ["Encoder", "Thoughts", "distance_from_newest", "newest", "read_newest", "same_shape"]


@dataclass(frozen=True)
class Thoughts:
    """The newest position's state after each step: t_1..t_k, of which the last is the user's preference p.

    Args:
        steps: (k, B, d) float.
    """

    steps: Float[Tensor, "k B d"]

    @property
    def final(self) -> Float[Tensor, "B d"]:
        """The last thought, p = t_k."""
        return self.steps[-1]

    @property
    def depth(self) -> int:
        """The number of thoughts, k."""
        return self.steps.shape[0]

    def rows(self, start: int, stop: int) -> Thoughts:
        """The thoughts of rows start..stop-1."""
        return Thoughts(self.steps[:, start:stop])


@runtime_checkable
class Encoder(Protocol):
    """What `Recommender` asks of an encoder; `RecurrentDepth` and `SinglePass` are the two that exist."""

    depth_law: DepthLaw

    @property
    def packed(self) -> bool:
        """Whether it also takes (tokens, d) with `offsets`."""
        ...

    @property
    def packed_core(self) -> bool:
        """Whether `thoughts` takes (tokens, d) with `offsets`, whatever `pre` does."""
        ...

    @property
    def fixed_length(self) -> bool:
        """Whether it needs rows of exactly `max_length` positions."""
        ...

    def bind(self, dim: int) -> None:
        """Learn the latent size d."""
        ...

    def draw_state(self, keys: Tensor, slots: Tensor) -> Tensor:
        """T_0 for each (row key, distance from the newest item)."""
        ...

    def pre(self, x: Tensor, **context: Any) -> Tensor:
        """H, shaped like `x`."""
        ...

    def thoughts(self, hidden: Tensor, *, state: Tensor, depth: int, **context: Any) -> Thoughts:
        """The newest position's state after each of `depth` steps."""
        ...


def distance_from_newest(x: Float[Tensor, "*n d"], offsets: Int[Tensor, " B1"] | None = None) -> Int[Tensor, "*n"]:
    """How many positions after each one lie before the row's end: 0 at the newest, in either layout."""
    if offsets is None:
        length = x.shape[-2]
        return torch.arange(length - 1, -1, -1, device=x.device).expand(x.shape[:-1])
    ends = torch.repeat_interleave(offsets[1:] - 1, offsets.diff(), output_size=x.shape[0])
    return ends - torch.arange(x.shape[0], device=x.device)


def newest(x: Float[Tensor, "*n d"], offsets: Int[Tensor, " B1"] | None = None) -> Float[Tensor, "B d"]:
    """Each row's newest position, in either layout."""
    return x[:, -1] if offsets is None else x.index_select(0, offsets[1:] - 1)


def same_shape(name: str, output: Tensor, wanted: Tensor) -> Tensor:
    """Return what block `name` put out if it is shaped like `wanted`, else raise `InputError` or `InputTypeError`."""
    if not isinstance(output, Tensor):
        raise InputTypeError(f"{name} must return one tensor shaped like its input, got {type(output).__name__}")
    if not output.is_floating_point():
        raise InputTypeError(f"{name} must return floating-point numbers like its input, got {output.dtype}")
    if output.shape != wanted.shape:
        raise InputError(f"{name} must return {tuple(wanted.shape)} like its input, got {tuple(output.shape)}")
    return output


def read_newest(name: str, block: nn.Module, x: Tensor, **context: Any) -> Float[Tensor, "B d"]:
    """The block's output at the newest position; a block's optional `last` computes only that."""
    last: Callable[..., Tensor] | None = getattr(block, "last", None)
    if last is not None:
        return last(x, **context)
    return newest(same_shape(name, block(x, **context), x), context.get("offsets"))
