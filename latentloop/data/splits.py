"""Which items may be learned from and which are asked for: leave-one-out, and one moment in time for all."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from numbers import Real

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from latentloop.data.interactions import Id, Interactions, check_interactions
from latentloop.data.sequences import Samples, Sequences
from latentloop.errors import InputError, InputTypeError

__all__ = ["Split", "global_time", "leave_one_out"]


@dataclass(frozen=True, eq=False)
class Split:
    """Three sets of samples over the same sequences.

    Args:
        train: prefix samples of the training part.
        validation: samples for choosing.
        test: samples for the final numbers.
        interactions: the table that was split.
        training: (n,) bool, which rows of `interactions` belong to the training part.
        protocol: the name of the rule, for results.
    """

    train: Samples
    validation: Samples
    test: Samples
    interactions: Interactions
    training: Bool[Tensor, " n"]
    protocol: str

    def __repr__(self) -> str:
        log = f"users={self.num_users}, items={self.num_items}, actions={len(self.interactions)}"
        parts = f"training={len(self.train)}, validation={len(self.validation)}, test={len(self.test)}"
        return f"Split({self.protocol!r}, {log}, {parts}, max_length={self.max_length})"

    @property
    def num_items(self) -> int:
        """How many items the catalog has, padding not counted."""
        return self.interactions.num_items

    @property
    def num_users(self) -> int:
        """How many users there are, evaluated or not."""
        return self.interactions.num_users

    @cached_property
    def item_ids(self) -> tuple[Id, ...]:
        """The original id of item 1..N."""
        return tuple(self.interactions.item_ids)

    @cached_property
    def user_ids(self) -> tuple[Id, ...]:
        """The original id of user 0..U-1."""
        return tuple(self.interactions.user_ids)

    @property
    def max_length(self) -> int:
        """The longest history handed out."""
        return self.train.max_length

    @cached_property
    def latest(self) -> Samples:
        """Every user's history up to the newest item, without targets: what to recommend from."""
        return self.train.sequences.latest(self.max_length)

    @cached_property
    def item_counts(self) -> Int64[Tensor, " N_and_one"]:
        """How often each item occurs in the training part; place 0 is padding and 0."""
        return torch.bincount(self.interactions.item[self.training], minlength=self.num_items + 1)


def leave_one_out(interactions: Interactions, max_length: int = 20) -> Split:
    """The newest item of a user is the test target, the one before it the validation target, the rest is training.

    For a user of n >= 3 items (places 0..n-1): training targets 1..n-3, validation target n-2, test target n-1 whose
    history includes the validation item. A user of 2 items trains on that one transition and is not evaluated; a user
    of 1 item is unused.

    Args:
        interactions: the table to split.
        max_length: L, the longest history handed out.

    Raises:
        InputError: no user has 3 items, or `max_length` is no whole number of at least 1.
        InputTypeError: for anything but interactions.
    """
    check_interactions(interactions)
    sequences = Sequences.of(interactions)
    first, stop = sequences.offsets[:-1], sequences.offsets[1:]
    length = stop - first
    evaluated = torch.nonzero(length >= 3)[:, 0]
    if not len(evaluated):
        raise InputError(f"interactions: none of {interactions.num_users} users has 3 items; leave-one-out needs them")
    place = torch.arange(len(interactions)) - first.index_select(0, interactions.user)
    cut = torch.where(length >= 3, length - 2, torch.where(length == 2, length, 0))
    training = place < cut.index_select(0, interactions.user)
    samples = _prefixes(sequences, interactions.user, place, training, max_length, "training")
    return Split(
        train=samples,
        validation=Samples(sequences, evaluated, stop[evaluated] - 2, max_length, part="validation"),
        test=Samples(sequences, evaluated, stop[evaluated] - 1, max_length, part="test"),
        interactions=interactions,
        training=training,
        protocol="leave-one-out",
    )


def global_time(interactions: Interactions, max_length: int = 20, validation: float = 0.1, test: float = 0.1) -> Split:
    """One moment ends training for all users, a second one validation; nothing learned lies after what is asked.

    The moments are chosen so that about `validation` and `test` of all rows fall after them; rows of the same time
    stay together. Every row with an item of its user before it is a sample of the part its time falls into, with the
    user's whole past as history.

    Args:
        interactions: the table to split; its rows need timestamps.
        max_length: L, the longest history handed out.
        validation: share of rows for validation, in (0, 1).
        test: share of rows for test, in (0, 1).

    Raises:
        InputError: no timestamps, shares that leave nothing, a part without samples, or `max_length` is no whole number
            of at least 1.
        InputTypeError: a share that is no number, or anything but interactions.
    """
    check_interactions(interactions)
    if not (isinstance(validation, Real) and isinstance(test, Real)):
        raise InputTypeError(
            f"validation, test: {validation!r} and {test!r}, expected two numbers, such as 0.1 and 0.1"
        )
    if interactions.timestamp is None:
        raise InputError(
            "interactions: no timestamps; a global-time split needs them, use leave-one-out instead",
            settings=("split", "timestamp"),
        )
    if not (0 < validation < 1 and 0 < test < 1 and validation + test < 1):
        raise InputError(f"validation, test: {validation} and {test}, expected two shares that sum to less than 1")
    time, count = interactions.timestamp, len(interactions)
    ordered = torch.sort(time).values
    begin_validation = ordered[min(count - 1, round(count * (1 - validation - test)))]
    begin_test = ordered[min(count - 1, round(count * (1 - test)))]
    sequences = Sequences.of(interactions)
    place = torch.arange(count) - sequences.offsets[interactions.user]
    parts = {
        "training": time < begin_validation,
        "validation": (time >= begin_validation) & (time < begin_test),
        "test": time >= begin_test,
    }
    samples = {}
    for name, part in parts.items():
        samples[name] = _prefixes(sequences, interactions.user, place, part, max_length, name)
        if not len(samples[name]):
            raise InputError(
                f"interactions: the {name} part has no sample; the times are too alike or the share of "
                f"rows too small (validation={validation}, test={test})"
            )
    return Split(
        samples["training"], samples["validation"], samples["test"], interactions, parts["training"], "global-time"
    )


def _prefixes(sequences: Sequences, user: Tensor, place: Tensor, part: Tensor, max_length: int, name: str) -> Samples:
    """One sample for every row of the part that has an item of its user before it."""
    end = torch.nonzero(part & (place >= 1))[:, 0]
    return Samples(sequences, user.index_select(0, end), end, max_length, part=name)
