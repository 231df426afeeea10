"""Whether samples are of the items that a model knows, and hold as much of a history as it reads."""

from __future__ import annotations

import logging
from functools import cache
from typing import Any

from latentloop.data.sequences import Samples
from latentloop.errors import InputError
from latentloop.item_ids import ItemIds

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
        InputError: for another number of items, or an original id that has another number in the model.
    """
    if model.num_items != samples.num_items:
        raise InputError(f"{name}: of a catalog of {samples.num_items} items, but the model knows {model.num_items}")
    known: ItemIds | None = getattr(model, "item_ids", None)
    ids = samples.sequences.item_ids
    if known is None or ids is None or known.ids == list(ids):
        return
    for number, original in enumerate(ids, start=1):
        found = known.number(original)
        if found not in (None, number):
            raise InputError(
                f"{name}: item {original!r} is number {number} there and {found} in the model: number the data's items "
                "as the model does (`model.item_ids`), or make a new model"
            )


def cut_of(model: Any, samples: Samples) -> int | None:
    """The most items of a history that samples hand out, where the model would read more; None where it would not."""
    return samples.max_length if samples.max_length < getattr(model, "max_length", 0) else None


def warn_of_cut(model: Any, samples: Samples) -> None:
    """Say, once for the same two lengths, that a model reads longer histories than it is given."""
    cut = cut_of(model, samples)
    if cut is not None:
        _warn(cut, model.max_length)


@cache
def _warn(cut: int, read: int) -> None:
    logger.warning(
        "the samples hold the newest %d items of a history, and the model reads %d: split with max_length=%d to give it "
        "all",
        cut,
        read,
        read,
    )
