"""Views: the thoughts that a step's objectives share, encoded in one forward pass at one depth."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from latentloop.data.batch import Batch
from latentloop.depth import draw_depth
from latentloop.encoder import Thoughts
from latentloop.errors import InputError
from latentloop.graphed_thinking import GraphedThinking
from latentloop.randomness import fold, row_keys
from latentloop.thinking.everywhere import Everywhere

if TYPE_CHECKING:
    from latentloop.recommender import Recommender

__all__ = ["VIEW_NAMES", "Views", "encode_views"]

VIEW_NAMES = ("anchor", "same_target", "self", "everywhere")


@dataclass(frozen=True, eq=False)
class Views:
    """What the parts of an objective read.

    Args:
        model: the model that thought.
        depth: k, the same for all views.
        thoughts: by view name: "anchor" is the batch's own histories, "same_target" other histories with the same
            target, "self" the batch's histories again under their own T_0 (and dropout).
        everywhere: the last states of all positions, row after row, the anchor's first; None where not asked for.
    """

    model: Recommender
    depth: int
    thoughts: Mapping[str, Thoughts]
    everywhere: Everywhere | None = None

    def __getitem__(self, name: str) -> Thoughts:
        """The thoughts of one view.

        Raises:
            InputError: for a view that was not encoded.
        """
        if name not in self.thoughts:
            known = ", ".join(self.thoughts) or "none"
            raise InputError(f"view {name!r} was not encoded (there is {known}): name it in the part's `views`")
        return self.thoughts[name]


def encode_views(
    model: Recommender, batch: Batch, names: Sequence[str], graphed: GraphedThinking | None = None
) -> Views:
    """Think once over all views' histories together.

    The depth is drawn from the model's depth law by fold(batch.key, "depth"), and T_0 of each row by
    (fold(batch.key, "state", view), sample number): neither depends on which views are asked for.

    Args:
        model: the model.
        batch: B rows; `same_target` histories where that view is asked for.
        names: views to encode, of "anchor", "same_target" and "self", none is fine; and "everywhere" for the last
            states of all of the anchor's positions, from the same pass.
        graphed: thinks where the batch knows its `tokens`.

    Raises:
        InputError: for an unknown view, a batch without same-target histories, or states of all positions of an
            encoder that lets them see later items.
    """
    depth = draw_depth(model.depth_law, fold(batch.key, "depth"))
    if not names:
        return Views(model, depth, {})
    wants_all = "everywhere" in names
    if wants_all:  # the anchor comes first, so that its tokens do
        names = ("anchor", *(name for name in names if name not in ("anchor", "everywhere")))
    histories = torch.cat([_history(batch, name) for name in names])
    drawn_from = torch.cat([torch.full_like(batch.rows, fold(batch.key, "state", name)) for name in names])
    keys = row_keys(drawn_from, batch.rows.repeat(len(names)))
    think: Callable[..., Thoughts] = model.think
    everywhere_of: Callable[..., Everywhere] = model.think_everywhere
    if graphed is not None and batch.tokens is not None:
        tokens = sum(batch.tokens[name == "same_target"] for name in names)
        think, everywhere_of = partial(graphed, tokens=tokens), partial(graphed.everywhere, tokens=tokens)
    everywhere = everywhere_of(histories, depth=depth, state_keys=keys) if wants_all else None
    thoughts = everywhere.thoughts if everywhere else think(histories, depth=depth, state_keys=keys)
    size = len(batch)
    by_name = {name: thoughts.rows(i * size, (i + 1) * size) for i, name in enumerate(names)}
    return Views(model, depth, by_name, everywhere)


def _history(batch: Batch, name: str) -> Tensor:
    if name not in VIEW_NAMES:
        raise InputError(f"view must be one of {', '.join(VIEW_NAMES)}, got {name!r}")
    if name != "same_target":
        return batch.history
    if batch.same_target is None:
        raise InputError("this batch has no same-target histories: make it with batches(..., same_target=True)")
    return batch.same_target
