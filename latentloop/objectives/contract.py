"""What an objective is, and how it is called: whatever a user wrote comes back as a loss and its terms, or is named."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from latentloop.errors import InputTypeError

__all__ = ["Objective", "Terms", "call", "end", "free_name", "start", "touches_few_items", "underway", "views_of"]

Terms = dict[str, Tensor]


@runtime_checkable
class Objective(Protocol):
    """What `fit` trains with; a plain function of this signature is one too."""

    def __call__(self, views: Any, batch: Any, /) -> tuple[Tensor, Terms]:
        """The loss to differentiate, and detached 0-d terms for the logs."""
        ...


def views_of(part: Objective) -> tuple[str, ...]:
    """The views a part reads: its `views`, or the anchor where it names none."""
    views: tuple[str, ...] = getattr(part, "views", ("anchor",))
    return views


def touches_few_items(part: Objective) -> bool:
    """Whether a part's gradient reaches the item table in the rows that are looked up in it only.

    That is so for parts that read nothing but thoughts and `model.item_table(ids)` of some ids, and say so with an
    attribute `touches_few_items = True`. A step's work then need not grow with the catalog.
    """
    return bool(getattr(part, "touches_few_items", False))


def start(part: Objective, model: Any) -> None:
    """Tell a part that has a `start` that a stage begins."""
    begin = getattr(part, "start", None)
    if begin is not None:
        begin(model)


def end(part: Objective) -> None:
    """Tell a part that has an `end` that the stage is over; a number of this name is its own."""
    over = getattr(part, "end", None)
    if callable(over):
        over()


@contextmanager
def underway(part: Objective, model: Any) -> Iterator[None]:
    """A stage of a part: from its `start` to its `end`, whatever happens in between; what happened first is raised."""
    start(part, model)
    try:
        yield
    except BaseException:
        with suppress(Exception):
            end(part)
        raise
    end(part)


def call(part: Objective, views: Any, batch: Any) -> tuple[Tensor, Terms]:
    """The loss and the terms of `part(views, batch)`; terms that are plain numbers become tensors.

    Raises:
        InputTypeError: where it returned anything but a scalar loss and a mapping of named numbers.
    """
    found: object = part(views, batch)
    if not (isinstance(found, tuple) and len(found) == 2):
        raise _unlike(part, _described(found))
    loss, terms = found
    if not (isinstance(loss, Tensor) and loss.numel() == 1 and isinstance(terms, Mapping)) or loss.is_complex():
        raise _unlike(part, f"({_described(loss)}, {_described(terms)})")
    for name, value in terms.items():
        if not isinstance(name, str):
            raise _unlike(part, f"a term named {name!r}")
        if not _is_number(value):
            raise _unlike(part, f"{_described(value)} as term {name!r}")
    return loss, {name: _as_tensor(value) for name, value in terms.items()}


def free_name(name: str, taken: Container[str]) -> str:
    """`name`, or with the first number from 2 on that makes it a name that is not taken."""
    number, free = 2, name
    while free in taken:
        free, number = f"{name}_{number}", number + 1
    return free


def _is_number(value: object) -> bool:
    if isinstance(value, Tensor):
        return value.numel() == 1 and not value.is_complex()
    return isinstance(value, float) or (isinstance(value, int) and value.bit_length() <= 1000)


def _as_tensor(value: Tensor | float) -> Tensor:
    # a whole number may have more bits than torch's
    return value if isinstance(value, Tensor) else torch.as_tensor(float(value))


def _unlike(part: Objective, found: str) -> InputTypeError:
    name = getattr(part, "__name__", type(part).__name__)
    return InputTypeError(
        f"objective {name} must return (loss, terms), a scalar tensor and a dict of named scalars such as "
        f"{{'{name.strip('<>')}': loss.detach()}}, got {found}"
    )


def _described(found: object) -> str:
    if isinstance(found, Tensor) and found.is_complex():
        return "a complex tensor"
    if isinstance(found, Tensor):
        return "a scalar tensor" if found.numel() == 1 else f"a tensor of shape {tuple(found.shape)}"
    if isinstance(found, tuple):
        return f"({', '.join(map(_described, found))})"
    kind = type(found).__name__
    return "None" if found is None else f"{'an' if kind[0] in 'aeiou' else 'a'} {kind}"
