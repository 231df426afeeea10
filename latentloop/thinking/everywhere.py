"""Every position's last thought: what a causal encoder makes of each prefix of a history, all in one pass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from latentloop.blocks.facts import facts
from latentloop.encoder import Thoughts
from latentloop.errors import InputError
from latentloop.thinking.packing import Packing

__all__ = ["Everywhere", "ThinksEverywhere", "check_everywhere"]


@dataclass(frozen=True)
class Everywhere:
    """The thoughts of the newest position, and the last state of all positions, from one pass.

    Args:
        thoughts: t_1..t_k of the newest position, as `Recommender.think` gives them.
        states: T_k, (tokens, d); the state of a token has seen the items up to it and none after it.
        packing: which token is which: its item, its row, its distance from the row's newest item.
    """

    thoughts: Thoughts
    states: Float[Tensor, "tokens d"]
    packing: Packing


@runtime_checkable
class ThinksEverywhere(Protocol):
    """What `Recommender.think_everywhere` asks of an encoder beside `Encoder`."""

    def everywhere(self, hidden: Tensor, *, state: Tensor, depth: int, **context: Any) -> tuple[Thoughts, Tensor]:
        """The newest position's state after each of `depth` steps, and all positions' state after the last."""
        ...


def check_everywhere(encoder: Any) -> ThinksEverywhere:
    """Refuse an encoder whose inner positions are no answers to their own prefixes, by the facts that it declares.

    Raises:
        InputError: for one that does not promise to be causal and pad-invariant.
    """
    promised, found = facts(encoder), ""
    if not promised.causal:
        found = "is not causal, or does not declare it: a later item would leak its own target"
    elif not promised.pad_invariant:
        found = "is not pad-invariant, or does not declare it: a prefix is read otherwise inside a longer row"
    elif not isinstance(encoder, ThinksEverywhere):
        found = "has no method `everywhere`"
    if found:
        raise InputError(
            f"learning from every position needs another encoder, this one {found}; "
            "learn from prefix samples (NextItem, --positions newest)"
        )
    return encoder  # type: ignore[no-any-return]
