"""A core-block that knows which thought it is: some of its weights are each step's own, all others are shared."""

from __future__ import annotations

import copy
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from latentloop.adapt import Adapted, adapt
from latentloop.blocks.facts import facts
from latentloop.blocks.low_rank import LowRank, low_rank
from latentloop.checks import as_deep, at_least
from latentloop.encoder import read_newest
from latentloop.errors import InputError, InputTypeError

__all__ = ["PerStep"]

Kinds = type[nn.Module] | tuple[type[nn.Module], ...]


class PerStep(nn.Module):
    """As many blocks as steps, of which step i uses the i-th: each has modules of type `own` to itself, and all others'
    weights are those of `block`.

    A loop whose weights are all shared does the same at each step, and comes to rest. Layer norms let each step scale and
    shift what it reads and adds, for half to one percent of the block's weights a step; with a `rank` each step also
    changes each shared matrix of `nn.Linear` and `nn.MultiheadAttention`, W + U D, as adapters of low rank do (LoRA; Hu et
    al., 2022); such a matrix is parametrized, which torch pickles as a state_dict only. Steps beyond the last use the last block.
    All begin with the weights that `block` came with.

    Args:
        block: any module that `adapt` understands. It stays as it is and goes on sharing the weights that no step owns, but
            buffers, such as a batch norm's statistics, are each step's.
        steps: how many thoughts have modules of their own.
        own: a type of module, or several; with a `rank` there may be none, ().
        rank: of each step's change of each such matrix, as far as the matrix has as much (the attribute is the largest that
            one has); 0 changes none.

    Raises:
        InputError: for `steps` or `rank` out of range, or a block without weights in such a module, or with a `rank`
            without such a matrix that is shared.
        InputTypeError: for a block that cannot be adapted, or an `own` that is no type.
    """

    def __init__(self, block: nn.Module, steps: int, own: Kinds = nn.LayerNorm, *, rank: int = 0) -> None:
        super().__init__()
        self.steps, self.own = as_deep("steps", steps), own
        at_least("rank", rank, 0)
        kinds = own if isinstance(own, tuple) else (own,)
        if not (kinds or rank) or not all(isinstance(kind, type) and issubclass(kind, nn.Module) for kind in kinds):
            raise InputTypeError(f"own must be a type of module, or several, got {own!r}")
        adapt(block)  # what cannot be one is refused before it is copied
        owned = {id(p) for part in block.modules() if isinstance(part, kinds) for p in part.parameters()}
        if not owned and (kinds or not rank):
            names = " or ".join(kind.__name__ for kind in kinds)
            without = "; own=() is none but the changes of that rank" if rank else ""
            raise InputError(
                f"own must be a type of modules with weights inside {type(block).__name__}, which has none in a {names}"
                f"{without}"
            )
        self.rank = 0
        if rank:
            block = copy.deepcopy(block, dict[int, Any]({id(p): p for p in block.parameters()}))  # its weights stay
            self.rank = low_rank(block, rank, but=owned)
            kinds = (*kinds, LowRank)
            owned = {id(p) for part in block.modules() if isinstance(part, kinds) for p in part.parameters()}
        # one memo a step: weights that are tied inside the block stay tied
        shared = {id(p): p for p in block.parameters() if id(p) not in owned}
        self.blocks = nn.ModuleList(adapt(copy.deepcopy(block, dict[int, Any](shared))) for _ in range(steps))
        found = facts(self.blocks[0])
        self.causal, self.pad_invariant = found.causal, found.pad_invariant
        self.fixed_length, self.packed, self.capturable = found.fixed_length, found.packed, found.capturable

    @property
    def dim(self) -> int | None:
        """d, where the block says it."""
        dim: int | None = self._at(0).dim
        return dim

    def forward(self, x: Float[Tensor, "*n d"], *, step: int = 0, **context: Any) -> Float[Tensor, "*n d"]:
        """The block's pass at one step.

        Args:
            x: left-padded rows or packed tokens.
            step: 0 at the first thought.
            context: see `RecurrentDepth.unroll`.
        """
        output: Tensor = self._at(step)(x, step=step, **context)
        return output

    def last(self, x: Float[Tensor, "*n d"], *, step: int = 0, **context: Any) -> Float[Tensor, "B d"]:
        """The newest position of `forward`."""
        return read_newest("block", self._at(step), x, step=step, **context)

    def _at(self, step: int) -> Adapted:
        block = self.blocks[min(step, self.steps - 1)]
        assert isinstance(block, Adapted)
        return block
