"""Sums of weighted parts: `NextItem() + 0.2 * TrajectoryAlignment() + 0.1 * StepAlignment()`.

A part is anything called as `part(views, batch) -> (loss, terms)`. It may name the views it reads in `views` (else the
anchor), and it may have `start(model)`, `prepare(model, batch)`, `end()`, `updates` and `touches_few_items`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor

from latentloop.data.batch import Batch
from latentloop.errors import InputError, InputTypeError
from latentloop.objectives.contract import Objective, Terms, call, end, free_name, start, touches_few_items, views_of
from latentloop.objectives.views import Views

if TYPE_CHECKING:
    from latentloop.recommender import Recommender

__all__ = ["Around", "Composable", "Sum", "Weighted", "parts_of"]


class Composable:
    """Gives a part `+` and `*`; nothing depends on a part having it, `Sum` and `Weighted` take any callable."""

    def __mul__(self, weight: float) -> Weighted:
        """This part, `weight` times."""
        return Weighted(self, weight)  # type: ignore[arg-type]  # parts are callable, this mix-in alone is not

    __rmul__ = __mul__

    def __add__(self, other: Objective) -> Sum:
        """This part and another."""
        return Sum([self, other])  # type: ignore[list-item]  # as above

    def __radd__(self, other: Objective | Literal[0]) -> Sum:
        """Another part and this one; Python's `sum` begins with 0."""
        return Sum([self] if isinstance(other, int) and other == 0 else [other, self])  # type: ignore[list-item]  # as above


class Around(Composable):
    """A part that has another inside, `part`, and tells it when a stage begins and ends."""

    part: Objective

    @property
    def touches_few_items(self) -> bool:
        """The part's own."""
        return touches_few_items(self.part)

    @property
    def updates(self) -> int:
        """The part's own."""
        return int(getattr(self.part, "updates", 1))

    def start(self, model: Recommender) -> None:
        """Pass on to the part."""
        start(self.part, model)

    def end(self) -> None:
        """Pass on to the part."""
        end(self.part)


class Weighted(Around):
    """A part times a number; its terms are logged unweighted.

    Args:
        part: any objective.
        weight: a finite number.

    Raises:
        InputTypeError: for a part that cannot be called or a weight that is no number.
        InputError: for a weight that is not finite.
    """

    def __init__(self, part: Objective, weight: float) -> None:
        if not callable(part):
            raise InputTypeError(f"part must be callable as part(views, batch), got {part!r}")
        if isinstance(weight, bool) or not isinstance(weight, int | float):
            raise InputTypeError(f"weight must be a number, got {weight!r}")
        if not math.isfinite(weight):
            raise InputError(f"weight must be finite, got {weight!r}")
        self.part, self.weight = part, float(weight)

    @property
    def views(self) -> tuple[str, ...]:
        """The part's own."""
        return views_of(self.part)

    def prepare(self, model: Recommender, batch: Batch) -> Batch:
        """Pass on to the part; without a `prepare` of its own the batch stays as it is."""
        prepare = getattr(self.part, "prepare", None)
        prepared: Batch = batch if prepare is None else prepare(model, batch)
        return prepared

    def __call__(self, views: Views, batch: Batch) -> tuple[Tensor, Terms]:
        """Weight times the part's loss, and its terms."""
        loss, terms = call(self.part, views, batch)
        return loss * self.weight, terms

    def __repr__(self) -> str:
        return f"{self.weight:.15g} * " + (f"({self.part!r})" if isinstance(self.part, Sum) else repr(self.part))


class Sum(Composable):
    """Parts added up; sums inside are flattened, and the union of the parts' views is encoded once.

    Args:
        parts: any objectives, at least one; at most one of them may have a `prepare`.

    Raises:
        InputTypeError: for a part that cannot be called.
        InputError: for no part, or more than one that prepares.
    """

    def __init__(self, parts: Iterable[Objective]) -> None:
        self.parts: tuple[Objective, ...] = tuple(
            inner for part in parts for inner in (part.parts if isinstance(part, Sum) else (part,))
        )
        if not self.parts:
            raise InputError("a sum needs at least one part, got none")
        for part in self.parts:
            if not callable(part):
                raise InputTypeError(f"part must be callable as part(views, batch), got {part!r}")
        preparing = [part for part in self.parts if _prepares(part)]
        if len(preparing) > 1:
            raise InputError(f"only one part of a sum may prepare rollouts, got {len(preparing)}: {preparing!r}")
        self._preparing = preparing[0] if preparing else None

    @property
    def views(self) -> tuple[str, ...]:
        """The union of the parts' views, in order of first mention."""
        return tuple(dict.fromkeys(name for part in self.parts for name in views_of(part)))

    @property
    def touches_few_items(self) -> bool:
        """Whether all parts do."""
        return all(map(touches_few_items, self.parts))

    @property
    def updates(self) -> int:
        """Optimizer steps for each batch: of the part that prepares it, else the most that any part asks for."""
        asked = self.parts if self._preparing is None else (self._preparing,)
        return max(int(getattr(part, "updates", 1)) for part in asked)

    def start(self, model: Recommender) -> None:
        """Pass on to every part that has a `start`; where one refuses, those before it end again."""
        for place, part in enumerate(self.parts):
            try:
                start(part, model)
            except BaseException:
                for begun in reversed(self.parts[:place]):
                    with suppress(Exception):  # what was refused says more
                        end(begun)
                raise

    def end(self) -> None:
        """Pass on to every part that has an `end`, also where one before it fails."""
        failed: Exception | None = None
        for part in self.parts:
            try:
                end(part)
            except Exception as error:
                failed = failed or error
        if failed is not None:
            raise failed

    def prepare(self, model: Recommender, batch: Batch) -> Batch:
        """Pass on to the part that prepares; without one the batch stays as it is."""
        prepare = getattr(self._preparing, "prepare", None)
        prepared: Batch = batch if prepare is None else prepare(model, batch)
        return prepared

    def __call__(self, views: Views, batch: Batch) -> tuple[Tensor, Terms]:
        """The sum of the losses and all terms; a name taken twice gets a number."""
        total, terms = call(self.parts[0], views, batch)
        for part in self.parts[1:]:
            loss, own = call(part, views, batch)
            total = total + loss
            for name, value in own.items():
                terms[free_name(name, terms)] = value
        return total, terms

    def __repr__(self) -> str:
        return " + ".join(map(repr, self.parts))


def parts_of(objective: Any) -> tuple[Objective, ...]:
    """The parts that an objective is made of, one level down; none of one that is no sum and has none inside."""
    if isinstance(objective, Sum):
        return objective.parts
    return (objective.part,) if isinstance(objective, Around) else ()


def _prepares(part: Objective) -> bool:
    if isinstance(part, Weighted):
        return _prepares(part.part)
    if isinstance(part, Sum):
        return part._preparing is not None
    return hasattr(part, "prepare")
