"""Whether samples are of the items that a model knows, and hold as much of a history as it reads."""

from __future__ import annotations

import logging
from functools import cache
from typing import Any

from latentloop.data.sequences import Samples
from latentloop.errors import InputError
from latentloop.items.ids import ItemIds, check_numbering

__all__ = ["check_catalog", "cut_of", "warn_of_cut"]

logger = logging.getLogger(__name__)


def check_catalog(model: Any, samples: Samples, name: str = "samples") -> None:
    """Refuse samples whose item numbers mean other items than the model's.

    Ids that have nothing in common are taken for two names of the same items, and so are samples or models without any.

    Args:
        model: with `num_items`, and `item_ids` where it was given any.
        samples: what is to be learned from or ranked.
        name: what errors call them.

    Raises:
        InputError: for another number of items, or ids of which some are the model's and not all have its numbers.
    """
    if model.num_items != samples.num_items:
        raise InputError(f"{name}: of a catalog of {samples.num_items} items, but the model knows {model.num_items}")
    known = getattr(model, "item_ids", None)
    if isinstance(known, ItemIds):
        check_numbering(known.ids, samples.sequences.item_ids, name)


def cut_of(model: Any, samples: Samples) -> int | None:
    """The most items of a history that samples hand out, where some have more and the model would read them."""
    if samples.max_length >= (getattr(model, "max_length", None) or 0):
        return None
    whole = samples.end - samples.sequences.offsets[samples.user]
    return samples.max_length if bool((whole > samples.max_length).any()) else None


def warn_of_cut(model: Any, samples: Samples) -> int | None:
    """`cut_of`, and a warning, once for the same two lengths, where it is not None."""
    cut = cut_of(model, samples)
    if cut is not None:
        _warn(cut, model.max_length)
    return cut


@cache
def _warn(cut: int, read: int) -> None:
    logger.warning(
        "the samples hold the newest %d items of a history, and the model reads %d: split with max_length=%d to give it "
        "all",
        cut,
        read,
        read,
    )
