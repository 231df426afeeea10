"""The loop: a pre-block maps the history into latent space, a core-block is applied to all positions again and again.

    H = pre(x),   T_i = core(LN(f(T_{i-1}, H))),   i = 1..k          (LARES eq. 5)

The loop acts on the last dimension only. It knows nothing of items, data or losses, and it runs on padded rows
(B, L, d), newest position last, as well as on packed tokens (tokens, d) with `offsets` (B + 1,).

Shapes: B rows, L positions, d latent size, k depth; `*n d` is either layout.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from latentloop.adapt import Adapted, adapt_both
from latentloop.aggregate import Add, Aggregate, Gate, Mean, build_aggregate
from latentloop.blocks.facts import facts
from latentloop.blocks.left_padded import check_left_padded
from latentloop.checks import as_deep, at_least, zero_or_more
from latentloop.depth import DepthLaw, LogNormalPoisson, varies
from latentloop.encoder import Encoder, Thoughts, distance_from_newest, newest, read_newest, same_shape
from latentloop.errors import InputError, InputTypeError
from latentloop.modes.recomputing import recomputing
from latentloop.randomness import keyed_normal

__all__ = ["Encoder", "RecurrentDepth", "Thoughts", "distance_from_newest"]


class RecurrentDepth(nn.Module):
    """Latent reasoning around any two blocks: `T_i = core(LN(f(T_{i-1}, pre(x))))` (LARES eq. 5).

    Each block is any module that `adapt` understands; one module may serve as both, with shared weights. The number of
    parameters does not depend on the depth.

    Args:
        pre_block: maps embedded histories (B, L, d) to H (B, L, d).
        core_block: one pass of it is one thought; "copy" is a deep copy of `pre_block`, the same weights at the start.
        aggregate: f: "add" (T + H), "mean", "concat" (then linear 2d -> d), "gate", or any callable or module of
            (state, hidden).
        depth_law: what training draws the depth from and what an answer's depth is; k-bar = 3 by default.
        state_std: s1, the standard deviation of T_0 ~ N(0, s1^2 I).
        dim: d, where no `Recommender` will tell it.
        checkpoint_steps: recompute each step in the backward pass instead of keeping its activations.
        grad_steps: the last so many steps keep a graph, and memory does not grow with the steps before; what reads an
            earlier thought gets no gradient from it, nor does a rollout of `RPT(own_depth=True)` that is shallower by more
            than that than the deepest of its batch. None, the paper's, is all of them.

    Raises:
        InputError: for a value out of range.
        InputTypeError: for a block that cannot be adapted or an unknown aggregate.
    """

    def __init__(
        self,
        pre_block: nn.Module,
        core_block: nn.Module | Literal["copy"],
        aggregate: str | Aggregate = "add",
        *,
        depth_law: DepthLaw | None = None,
        state_std: float = 1.0,
        dim: int | None = None,
        checkpoint_steps: bool = False,
        grad_steps: int | None = None,
    ) -> None:
        super().__init__()
        if depth_law is not None and not isinstance(depth_law, DepthLaw):
            raise InputTypeError(f"depth_law must be a depth law such as FixedDepth(4), got {depth_law!r}")
        self.pre_block, self.core_block = adapt_both(pre_block, core_block)
        self.aggregate = build_aggregate(aggregate)
        self.depth_law: DepthLaw = LogNormalPoisson() if depth_law is None else depth_law
        as_deep(f"inference_depth of {type(self.depth_law).__name__}", self.depth_law.inference_depth)
        self.state_std = zero_or_more("state_std", state_std)
        self.checkpoint_steps = checkpoint_steps
        self.grad_steps = None if grad_steps is None else at_least("grad_steps", grad_steps, 1)
        self.dim: int | None = None
        self.norm: nn.LayerNorm | None = None
        if dim is not None:
            self.bind(dim)

    def bind(self, dim: int) -> None:
        """Learn d; a second call must name the same one.

        Raises:
            InputError: where d is not a whole number of at least 1, or was bound to another value before.
        """
        dim = at_least("dim", dim, 1)
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
    def capturable(self) -> bool:
        """Whether a CUDA graph may replay thoughts of packed tokens: all parts allow it, and no step is recomputed."""
        parts = (self.pre_block, self.core_block, self.aggregate)
        return all(facts(part).capturable for part in parts) and not self.checkpoint_steps

    @property
    def causal(self) -> bool:
        """Whether no position of either block sees later ones."""
        return facts(self.pre_block).causal and facts(self.core_block).causal

    @property
    def pad_invariant(self) -> bool:
        """Whether extra left padding changes nothing for either block."""
        return facts(self.pre_block).pad_invariant and facts(self.core_block).pad_invariant

    @property
    def fixed_length(self) -> bool:
        """Whether a block needs rows of exactly `max_length` positions."""
        return facts(self.pre_block).fixed_length or facts(self.core_block).fixed_length

    @property
    def zeros_at_padding(self) -> bool:
        """Whether the core-block, before training, finds zeros at padded positions from the second thought on."""
        again = varies(self.depth_law) or self.depth_law.inference_depth > 1
        return again and isinstance(self.pre_block, Adapted) and isinstance(self.aggregate, Add | Mean | Gate)

    def draw_state(self, keys: Int[Tensor, " n"], slots: Int[Tensor, " n"]) -> Float[Tensor, "n d"]:
        """T_0 ~ N(0, s1^2 I) for each (row key, distance from the newest item)."""
        return keyed_normal(keys, slots, self._bound()) * self.state_std

    def pre(self, x: Float[Tensor, "*n d"], **context: Any) -> Float[Tensor, "*n d"]:
        """H = pre_block(x)."""
        self._bound()
        return same_shape("pre_block", self.pre_block(x, **context), x)

    def step(
        self, state: Float[Tensor, "*n d"], hidden: Float[Tensor, "*n d"], **context: Any
    ) -> Float[Tensor, "*n d"]:
        """One thought at every position: core_block(LN(f(state, hidden))); the context may say which, `step` = 0 first."""
        mixed = self._mix(state, hidden)
        return same_shape("core_block", self.core_block(mixed, **context), hidden)

    def unroll(
        self,
        hidden: Float[Tensor, "*n d"],
        *,
        state: Float[Tensor, "*n d"],
        depth: int | None = None,
        first_step: int = 0,
        **context: Any,
    ) -> Iterator[Float[Tensor, "*n d"]]:
        """Yield T_1..T_k, full states each, lazily.

        Args:
            hidden: H, (B, L, d) or packed (tokens, d).
            state: T_0, shaped like `hidden`.
            depth: k; None is the depth law's inference depth.
            first_step: how many thoughts `state` already is of, for blocks that know which they make: k steps and then m
                from the state after them, with first_step k, are k + m.
            context: what the blocks may ask for: `padding_mask` (B, L) bool, True = padding; `lengths` (B,);
                `history` (B, L); or, packed, `offsets` (B + 1,).

        Raises:
            InputError: for a depth outside 1..10,000, a first step below 0 or a state shaped unlike `hidden`.
        """
        depth = as_deep("depth", self.depth_law.inference_depth if depth is None else depth)
        first_step = at_least("first_step", first_step, 0)
        return self._steps(hidden, state, depth, depth, context, first_step)

    def thoughts(
        self, hidden: Float[Tensor, "*n d"], *, state: Float[Tensor, "*n d"], depth: int, **context: Any
    ) -> Thoughts:
        """Read the newest position after each step; equal to stacking it from `unroll`, only cheaper."""
        read: list[Tensor] = []
        depth = as_deep("depth", depth)
        for unrolled in self._steps(hidden, state, depth - 1, depth, context):
            state = unrolled
            read.append(newest(state, context.get("offsets")))
        mixed = self._mix(state, hidden)
        read.append(read_newest("core_block", self.core_block, mixed, step=depth - 1, **context))
        return Thoughts(torch.stack(read))

    def everywhere(
        self, hidden: Float[Tensor, "*n d"], *, state: Float[Tensor, "*n d"], depth: int, **context: Any
    ) -> tuple[Thoughts, Float[Tensor, "*n d"]]:
        """`thoughts`, and T_k of every position."""
        read: list[Tensor] = []
        for unrolled in self.unroll(hidden, state=state, depth=depth, **context):
            state = unrolled
            read.append(newest(state, context.get("offsets")))
        return Thoughts(torch.stack(read)), state

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

        Raises:
            InputError: as `unroll`, and for padding after an item.
        """
        if x.ndim == 3:
            told = {name: context.get(name) for name in ("padding_mask", "lengths", "history")}
            check_left_padded(x.shape[1], **told)
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

    def _steps(
        self, hidden: Tensor, state: Tensor, count: int, depth: int, context: dict[str, Any], first_step: int = 0
    ) -> Iterator[Tensor]:
        """The first `count` of `depth` steps."""
        if state.shape != hidden.shape:
            raise InputError(f"state must be shaped like hidden, {tuple(hidden.shape)}, got {tuple(state.shape)}")
        return self._run(hidden, state, count, depth, context, first_step)

    def _run(
        self, hidden: Tensor, state: Tensor, count: int, depth: int, context: dict[str, Any], first_step: int
    ) -> Iterator[Tensor]:
        without_graph = 0 if self.grad_steps is None else depth - self.grad_steps
        for number in range(count):
            told = {**context, "step": first_step + number}
            if number < without_graph:
                with torch.no_grad():
                    state = self.step(state, hidden, **told)
            elif self.checkpoint_steps and torch.is_grad_enabled():
                state = checkpoint(
                    self.step, state, hidden, use_reentrant=False, context_fn=partial(recomputing, self), **told
                )
            else:
                state = self.step(state, hidden, **told)
            yield state

    def _mix(self, state: Tensor, hidden: Tensor) -> Tensor:
        self._bound()
        before = _versions(state, hidden)
        combined = same_shape("aggregate", self.aggregate(state, hidden), hidden)
        if _versions(state, hidden) != before:  # earlier thoughts are read from what it was given
            raise InputError(
                "aggregate must return a new tensor, and it changed one that it was given in place: write state + hidden, "
                "not state.add_(hidden)"
            )
        norm: Any = self.norm  # bound: not None
        if combined.dtype == torch.float64 != norm.weight.dtype:
            raise InputTypeError(f"aggregate must return {norm.weight.dtype} like the loop's norm, got torch.float64")
        mixed: Tensor = norm(combined)
        return mixed

    def _bound(self) -> int:
        if self.dim is None:
            raise InputError("this encoder does not know its dim yet: pass dim= or give it to a Recommender")
        return self.dim


def _versions(*tensors: Tensor) -> tuple[int, ...]:
    """How often each was changed in place; nothing where torch does not count."""
    if torch.compiler.is_compiling():
        return ()
    return tuple(tensor._version for tensor in tensors if not tensor.is_inference())
