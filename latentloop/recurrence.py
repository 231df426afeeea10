"""The loop: a pre-block maps the history into latent space, a core-block is applied to all positions again and again.

    H = pre(x),   T_i = core(LN(f(T_{i-1}, H))),   i = 1..k          (LARES eq. 5)

The loop acts on the last dimension only. It knows nothing of items, data or losses, and it runs on padded rows
(B, L, d), newest position last, as well as on packed tokens (tokens, d) with `offsets` (B + 1,).

Shapes: B rows, L positions, d latent size, k depth; `*n d` is either layout.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from latentloop.adapt import adapt
from latentloop.aggregate import Aggregate, build_aggregate
from latentloop.depth import DepthLaw, FixedDepth, LogNormalPoisson
from latentloop.dropout import replayed_modes
from latentloop.errors import InputError, InputTypeError
from latentloop.facts import facts
from latentloop.randomness import keyed_normal

__all__ = ["Encoder", "RecurrentDepth", "SinglePass", "Thoughts", "check_depth", "distance_from_newest"]


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


def check_depth(depth: int) -> int:
    """Return `depth` if it is a whole number of at least 1, else raise `InputError`."""
    if isinstance(depth, bool) or not isinstance(depth, int) or depth < 1:
        raise InputError(f"depth must be a whole number of at least 1, got {depth!r}")
    return depth


def distance_from_newest(x: Float[Tensor, "*n d"], offsets: Int[Tensor, " B1"] | None = None) -> Int[Tensor, "*n"]:
    """How many positions after each one lie before the row's end: 0 at the newest, in either layout."""
    if offsets is None:
        length = x.shape[-2]
        return torch.arange(length - 1, -1, -1, device=x.device).expand(x.shape[:-1])
    ends = torch.repeat_interleave(offsets[1:] - 1, offsets.diff(), output_size=x.shape[0])
    return ends - torch.arange(x.shape[0], device=x.device)


def _newest(x: Float[Tensor, "*n d"], offsets: Int[Tensor, " B1"] | None = None) -> Float[Tensor, "B d"]:
    return x[:, -1] if offsets is None else x[offsets[1:] - 1]


def _same_shape(name: str, output: Tensor, wanted: Tensor) -> Tensor:
    if output.shape != wanted.shape:
        raise InputError(f"{name} must return {tuple(wanted.shape)} like its input, got {tuple(output.shape)}")
    return output


def _read_newest(name: str, block: nn.Module, x: Tensor, **context: Any) -> Float[Tensor, "B d"]:
    """The block's output at the newest position; a block's optional `last` computes only that."""
    last: Callable[..., Tensor] | None = getattr(block, "last", None)
    if last is not None:
        return last(x, **context)
    return _newest(_same_shape(name, block(x, **context), x), context.get("offsets"))


class RecurrentDepth(nn.Module):
    """Latent reasoning around any two blocks: `T_i = core(LN(f(T_{i-1}, pre(x))))` (LARES eq. 5).

    Each block is any module that `adapt` understands; one module may serve as both. The number of parameters does
    not depend on the depth.

    Args:
        pre_block: maps embedded histories (B, L, d) to H (B, L, d).
        core_block: one pass of it is one thought.
        aggregate: f: "add" (T + H), "mean", "concat" (then linear 2d -> d), "gate", or any callable or module of
            (state, hidden).
        depth_law: what training draws the depth from and what an answer's depth is; k-bar = 3 by default.
        state_std: s1, the standard deviation of T_0 ~ N(0, s1^2 I).
        dim: d, where no `Recommender` will tell it.
        checkpoint_steps: recompute each step in the backward pass instead of keeping its activations.

    Raises:
        InputError: for a value out of range.
        InputTypeError: for a block that cannot be adapted or an unknown aggregate.
    """

    def __init__(
        self,
        pre_block: nn.Module,
        core_block: nn.Module,
        aggregate: str | Aggregate = "add",
        *,
        depth_law: DepthLaw | None = None,
        state_std: float = 1.0,
        dim: int | None = None,
        checkpoint_steps: bool = False,
    ) -> None:
        super().__init__()
        if not state_std >= 0:
            raise InputError(f"state_std must be at least 0, got {state_std!r}")
        if depth_law is not None and not isinstance(depth_law, DepthLaw):
            raise InputTypeError(f"depth_law must be a depth law such as FixedDepth(4), got {depth_law!r}")
        self.pre_block = adapt(pre_block)
        self.core_block = adapt(core_block)
        self.aggregate = build_aggregate(aggregate)
        self.depth_law: DepthLaw = LogNormalPoisson() if depth_law is None else depth_law
        self.state_std = float(state_std)
        self.checkpoint_steps = checkpoint_steps
        self.dim: int | None = None
        self.norm: nn.LayerNorm | None = None
        if dim is not None:
            self.bind(dim)

    def bind(self, dim: int) -> None:
        """Learn d; a second call must name the same one.

        Raises:
            InputError: where d is not a whole number of at least 1, or was bound to another value before.
        """
        if isinstance(dim, bool) or not isinstance(dim, int) or dim < 1:
            raise InputError(f"dim must be a whole number of at least 1, got {dim!r}")
        if self.dim not in (None, dim):
            raise InputError(f"dim is {self.dim} since this encoder was first bound and cannot become {dim}")
        for name, block in (("pre_block", self.pre_block), ("core_block", self.core_block)):
            if getattr(block, "dim", None) not in (None, dim):
                raise InputError(f"{name} is made for vectors of size {block.dim}, but dim is {dim}: make them agree")
        if self.dim is None:
            self.dim = dim
            self.norm = nn.LayerNorm(dim)
            bind = getattr(self.aggregate, "bind", None)
            if bind is not None:
                bind(dim)

    @property
    def packed(self) -> bool:
        """Whether both blocks also take packed tokens."""
        return facts(self.pre_block).packed and self.packed_core

    @property
    def packed_core(self) -> bool:
        """Whether the core-block also takes packed tokens; every step is its."""
        return facts(self.core_block).packed

    @property
    def fixed_length(self) -> bool:
        """Whether a block needs rows of exactly `max_length` positions."""
        return facts(self.pre_block).fixed_length or facts(self.core_block).fixed_length

    def draw_state(self, keys: Int[Tensor, " n"], slots: Int[Tensor, " n"]) -> Float[Tensor, "n d"]:
        """T_0 ~ N(0, s1^2 I) for each (row key, distance from the newest item)."""
        return keyed_normal(keys, slots, self._bound()) * self.state_std

    def pre(self, x: Float[Tensor, "*n d"], **context: Any) -> Float[Tensor, "*n d"]:
        """H = pre_block(x)."""
        self._bound()
        return _same_shape("pre_block", self.pre_block(x, **context), x)

    def step(
        self, state: Float[Tensor, "*n d"], hidden: Float[Tensor, "*n d"], **context: Any
    ) -> Float[Tensor, "*n d"]:
        """One thought at every position: core_block(LN(f(state, hidden)))."""
        mixed = self._mix(state, hidden)
        return _same_shape("core_block", self.core_block(mixed, **context), hidden)

    def unroll(
        self,
        hidden: Float[Tensor, "*n d"],
        *,
        state: Float[Tensor, "*n d"],
        depth: int | None = None,
        **context: Any,
    ) -> Iterator[Float[Tensor, "*n d"]]:
        """Yield T_1..T_k, full states each, lazily.

        Args:
            hidden: H, (B, L, d) or packed (tokens, d).
            state: T_0, shaped like `hidden`.
            depth: k; None is the depth law's inference depth.
            context: what the blocks may ask for: `padding_mask` (B, L) bool, True = padding; `lengths` (B,);
                `history` (B, L); or, packed, `offsets` (B + 1,).

        Raises:
            InputError: for a depth below 1 or a state shaped unlike `hidden`.
        """
        depth = check_depth(self.depth_law.inference_depth if depth is None else depth)
        if state.shape != hidden.shape:
            raise InputError(f"state must be shaped like hidden, {tuple(hidden.shape)}, got {tuple(state.shape)}")
        return self._steps(hidden, state, depth, context)

    def thoughts(
        self, hidden: Float[Tensor, "*n d"], *, state: Float[Tensor, "*n d"], depth: int, **context: Any
    ) -> Thoughts:
        """Read the newest position after each step; equal to stacking it from `unroll`, only cheaper."""
        read: list[Tensor] = []
        if depth > 1:
            for unrolled in self.unroll(hidden, state=state, depth=depth - 1, **context):
                state = unrolled
                read.append(_newest(state, context.get("offsets")))
        check_depth(depth)
        read.append(_read_newest("core_block", self.core_block, self._mix(state, hidden), **context))
        return Thoughts(torch.stack(read))

    def forward(
        self,
        x: Float[Tensor, "*n d"],
        *,
        state: Float[Tensor, "*n d"] | None = None,
        depth: int | None = None,
        **context: Any,
    ) -> Float[Tensor, "*n d"]:
        """`pre` and `unroll` together; returns T_k.

        Args:
            x: embedded histories, (B, L, d) or packed.
            state: T_0, shaped like `x`; None draws the same fixed noise for every row, by distance from the newest.
            depth: k; None is the depth law's inference depth.
            context: see `unroll`.
        """
        hidden = self.pre(x, **context)
        if state is None:
            slots = distance_from_newest(hidden, context.get("offsets"))
            noise = self.draw_state(torch.zeros_like(slots).flatten(), slots.flatten())
            state = noise.view_as(hidden).to(hidden.dtype)
        for unrolled in self.unroll(hidden, state=state, depth=depth, **context):
            state = unrolled
        return state

    def extra_repr(self) -> str:
        """The loop's settings."""
        return f"depth_law={self.depth_law}, state_std={self.state_std}"

    def _steps(self, hidden: Tensor, state: Tensor, depth: int, context: dict[str, Any]) -> Iterator[Tensor]:
        for _ in range(depth):
            if self.checkpoint_steps and torch.is_grad_enabled():
                state = checkpoint(
                    self.step, state, hidden, use_reentrant=False, context_fn=partial(replayed_modes, self), **context
                )
            else:
                state = self.step(state, hidden, **context)
            yield state

    def _mix(self, state: Tensor, hidden: Tensor) -> Tensor:
        self._bound()
        mixed: Tensor = self.norm(self.aggregate(state, hidden))  # type: ignore[misc]  # bound: not None
        return mixed

    def _bound(self) -> int:
        if self.dim is None:
            raise InputError("this encoder does not know its dim yet: pass dim= or give it to a Recommender")
        return self.dim


class SinglePass(nn.Module):
    """A bare block as an encoder: one pass, one thought, no T_0, no aggregate, no extra LN ("Base").

    Args:
        block: any module that `adapt` understands.
    """

    depth_law: DepthLaw = FixedDepth(1)

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = adapt(block)

    def bind(self, dim: int) -> None:
        """Nothing of a bare block depends on d."""

    @property
    def packed(self) -> bool:
        """Whether the block also takes packed tokens."""
        return facts(self.block).packed

    @property
    def packed_core(self) -> bool:
        """The same: there is one block."""
        return self.packed

    @property
    def fixed_length(self) -> bool:
        """Whether the block needs rows of exactly `max_length` positions."""
        return facts(self.block).fixed_length

    def draw_state(self, keys: Int[Tensor, " n"], slots: Int[Tensor, " n"]) -> Float[Tensor, "n 0"]:
        """No start state: (n, 0)."""
        return torch.empty(keys.shape[0], 0, device=keys.device)

    def pre(self, x: Float[Tensor, "*n d"], **context: Any) -> Float[Tensor, "*n d"]:
        """Nothing comes before the one pass."""
        return x

    def thoughts(
        self, hidden: Float[Tensor, "*n d"], *, state: Float[Tensor, "*n _"], depth: int, **context: Any
    ) -> Thoughts:
        """The newest position after the one pass.

        Raises:
            InputError: for a depth other than 1.
        """
        if depth != 1:
            raise InputError(f"depth must be 1 for an encoder without a loop, got {depth!r}: wrap it in RecurrentDepth")
        return Thoughts(_read_newest("encoder", self.block, hidden, **context)[None])
