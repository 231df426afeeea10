"""A core-block that knows which thought it is: some of its modules are its own at each step, all others are shared."""

from __future__ import annotations

import copy
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from latentloop.adapt import adapt
from latentloop.checks import at_least
from latentloop.encoder import read_newest
from latentloop.errors import InputError, InputTypeError
from latentloop.facts import facts

__all__ = ["PerStep"]


class PerStep(nn.Module):
    """`block` with `steps` copies of each module of type `own` inside it, of which step i uses the i-th.

    A loop whose weights are all shared does the same at each step, and comes to rest. Layer norms of their own cost a
    percent of its weights and let each step scale and shift what it reads and adds. Steps beyond the last use the last
    copy. Copies start with the weights that the block came with.

    Args:
        block: any module that `adapt` understands. It is not changed; weights that are not copied stay shared with it.
        steps: how many thoughts have copies of their own, at least 1.
        own: a type of module, or several; the outermost that match are copied.

    Raises:
        InputError: for `steps` below 1, or a block without such a module.
        InputTypeError: for a block that cannot be adapted, or an `own` that is no type.
    """

    def __init__(self, block: nn.Module, steps: int, own: type[nn.Module] | tuple[type[nn.Module], ...] = nn.LayerNorm):
        super().__init__()
        self.steps, self.own = at_least("steps", steps, 1), own
        kinds = own if isinstance(own, tuple) else (own,)
        if not kinds or not all(isinstance(kind, type) and issubclass(kind, nn.Module) for kind in kinds):
            raise InputTypeError(f"own must be a type of module, or several, got {own!r}")
        adapt(block)  # what cannot be one is refused before it is copied
        self.block = adapt(_apart(block, own))
        self._copies = _copied(self.block, own, self.steps)
        if not self._copies:
            raise InputError(
                f"own must be a type of modules inside {type(block).__name__}, which holds no "
                f"{' or '.join(kind.__name__ for kind in kinds)}"
            )
        found = facts(self.block)
        self.causal, self.pad_invariant = found.causal, found.pad_invariant
        self.fixed_length, self.packed, self.capturable = found.fixed_length, found.packed, found.capturable

    def forward(self, x: Float[Tensor, "*n d"], *, step: int = 0, **context: Any) -> Float[Tensor, "*n d"]:
        """The block's pass at one step.

        Args:
            x: left-padded rows or packed tokens.
            step: 0 at the first thought.
            context: see `RecurrentDepth.unroll`.
        """
        self._turn_to(step)
        output: Tensor = self.block(x, **context)
        return output

    def last(self, x: Float[Tensor, "*n d"], *, step: int = 0, **context: Any) -> Float[Tensor, "B d"]:
        """The newest position of `forward`."""
        self._turn_to(step)
        return read_newest("block", self.block, x, **context)

    def _turn_to(self, step: int) -> None:
        for copies in self._copies:
            copies.turn_to(min(step, self.steps - 1))


class _Copies(nn.Module):
    """Copies of a module, of which one at a time stands in its place."""

    def __init__(self, module: nn.Module, steps: int) -> None:
        super().__init__()
        self.copies = nn.ModuleList(copy.deepcopy(module) for _ in range(steps))
        self._step = 0

    def turn_to(self, step: int) -> None:
        """Let the copy of `step` stand here."""
        self._step = step

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the present copy answers."""
        return self.copies[self._step](*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        """An attribute of the present copy, such as its weight, where there is none here."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name in ("copies", "_step"):  # not made yet
                raise
            return getattr(self.copies[self._step], name)


def _apart(block: nn.Module, own: type[nn.Module] | tuple[type[nn.Module], ...]) -> nn.Module:
    """Another module of the same weights, but for those of its modules of type `own`."""
    owned = {id(t) for part in block.modules() if isinstance(part, own) for t in (*part.parameters(), *part.buffers())}
    shared: dict[int, Any] = {id(t): t for t in (*block.parameters(), *block.buffers()) if id(t) not in owned}
    return copy.deepcopy(block, shared)


def _copied(module: nn.Module, own: type[nn.Module] | tuple[type[nn.Module], ...], steps: int) -> list[_Copies]:
    """Put copies in the place of all modules of type `own` inside `module`."""
    made: dict[nn.Module, _Copies] = {}  # one that is used twice stays one

    def replace(parent: nn.Module) -> None:
        for name, child in list(parent._modules.items()):  # `named_children` leaves second uses out
            if isinstance(child, own):
                if child not in made:
                    made[child] = _Copies(child, steps)
                setattr(parent, name, made[child])
            elif child is not None and not isinstance(child, _Copies):
                replace(child)

    replace(module)
    return list(made.values())
