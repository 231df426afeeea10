"""Batches cover every sample once, on any number of processes and from any starting point."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from latentloop.data import Batch, Interactions, SameTarget, Samples, batches, leave_one_out, num_batches
from latentloop.data.windows import Windows
from latentloop.errors import InputError, InputTypeError
from latentloop.randomness import fold
from tests.inputs.worlds import unchecked

HISTORIES = st.lists(st.lists(st.integers(1, 4), min_size=1, max_size=9), min_size=2, max_size=8).filter(
    lambda hs: any(len(h) >= 4 for h in hs)
)
KEYS = st.integers(0, 2**63 - 1)


def train_of(histories: list[list[int]]) -> Samples:
    return leave_one_out(
        Interactions.of([u for u, h in enumerate(histories) for _ in h], [i for h in histories for i in h]), 5
    ).train


def thinned(samples: Samples) -> Samples:
    """Every other sample in reverse, so that numbers and positions differ."""
    return samples.select(torch.arange(len(samples)).flip(0)[::2])


@given(
    histories=HISTORIES,
    size=st.integers(1, 12),
    world=st.integers(1, 5),
    key=KEYS,
    shuffle=st.booleans(),
    epoch=st.integers(0, 3),
)
def test_every_sample_exactly_once(
    histories: list[list[int]], size: int, world: int, key: int, shuffle: bool, epoch: int
) -> None:
    samples = thinned(train_of(histories))
    if size < world:
        with pytest.raises(InputError, match="expected at least 1"):
            batches(samples, size, key=key, epoch=epoch, world=world)
        return
    ranks = [
        list(batches(samples, size, key=key, epoch=epoch, shuffle=shuffle, rank=rank, world=world))
        for rank in range(world)
    ]
    assert {len(steps) for steps in ranks} == {num_batches(len(samples), size)}
    own = [[batch if batch.share is None else batch.rows[: batch.share.own] for batch in steps] for steps in ranks]
    numbers = [[part.rows if isinstance(part, Batch) else part for part in steps] for steps in own]
    assert Counter(row for steps in numbers for rows in steps for row in rows.tolist()) == Counter(
        samples.rows.tolist()
    )
    for steps, parts in zip(zip(*ranks, strict=True), zip(*numbers, strict=True), strict=True):
        assert len({batch.key for batch in steps}) == 1
        assert {batch.total for batch in steps} == {sum(map(len, parts))}
        assert max(map(len, parts)) - min(map(len, parts)) <= 1
        for batch, part in zip(steps, parts, strict=True):  # a process without a row holds one that stands in
            assert len(batch) == max(1, len(part))
            assert (batch.share is None) == (world == 1)
    sizes = [sum(map(len, parts)) for parts in zip(*numbers, strict=True)]
    assert all(size == s for s in sizes[:-1]) and sizes[-1] <= size
    for batch in ranks[0]:
        index = samples.locate(batch.rows)
        assert torch.equal(batch.history, samples.history(index))
        assert torch.equal(batch.target, samples.target(index))
    if not shuffle and world == 1:
        assert torch.cat([batch.rows for batch in ranks[0]]).tolist() == samples.rows.tolist()


@given(histories=HISTORIES, size=st.integers(3, 6), key=KEYS)
def test_processes_share_the_very_batches_of_one_process(histories: list[list[int]], size: int, key: int) -> None:
    samples = train_of(histories * 3)
    alone = list(batches(samples, size, key=key, epoch=1, same_target=True))
    shared = zip(
        *(batches(samples, size, key=key, epoch=1, same_target=True, rank=r, world=3) for r in range(3)), strict=True
    )
    for one, parts in zip(alone, shared, strict=True):
        assert one.key == parts[0].key
        assert one.same_target is not None
        for rank, part in enumerate(parts):
            here = slice(rank, None, 3) if rank < len(one) else slice(0, 1)  # the first row stands in
            assert torch.equal(one.rows[here], part.rows)
            assert part.same_target is not None and torch.equal(one.same_target[here], part.same_target)
            assert part.share is not None and part.share.counts == tuple(len(one.rows[r::3]) for r in range(3))


@given(histories=HISTORIES, size=st.integers(1, 6), key=KEYS, start=st.integers(0, 9))
def test_an_epoch_continues_where_it_stopped(histories: list[list[int]], size: int, key: int, start: int) -> None:
    samples = train_of(histories)
    positives = SameTarget(samples)
    whole = list(batches(samples, size, key=key, epoch=2, same_target=positives))
    rest = list(batches(samples, size, key=key, epoch=2, same_target=True, start=start))
    assert len(rest) == max(0, len(whole) - start)
    for one, two in zip(whole[start:], rest, strict=True):
        assert (one.key, one.rows.tolist()) == (two.key, two.rows.tolist())
        assert one.same_target is not None and two.same_target is not None
        assert torch.equal(one.same_target, two.same_target)


def test_epochs_and_keys_change_the_order_and_steps_have_their_own_keys() -> None:
    samples = train_of([[1, 2, 3, 4, 1, 2, 3, 4, 2], [2, 3, 1, 4, 2, 1, 3]] * 4)

    def order(key: int, epoch: int) -> list[int]:
        return torch.cat([batch.rows for batch in batches(samples, 7, key=key, epoch=epoch)]).tolist()

    assert order(1, 0) == order(1, 0)
    assert len({tuple(order(key, epoch)) for key in (1, 2) for epoch in (0, 1)}) == 4
    keys = [batch.key for epoch in (0, 1) for batch in batches(samples, 7, key=5, epoch=epoch)]
    assert keys == [fold(5, "step", epoch, i) for epoch in (0, 1) for i in range(len(keys) // 2)]
    assert len(set(keys)) == len(keys)


@given(histories=HISTORIES, key=KEYS)
def test_same_target_is_the_history_of_another_sample_of_that_target(histories: list[list[int]], key: int) -> None:
    samples = thinned(train_of(histories))
    everything = torch.arange(len(samples))
    histories_of: dict[int, list[tuple[int, list[int]]]] = {}
    for row, target, history in zip(
        samples.rows.tolist(), samples.target(everything).tolist(), samples.history(everything).tolist(), strict=True
    ):
        histories_of.setdefault(target, []).append((row, history))
    for batch in batches(samples, 4, key=key, epoch=0, same_target=True):
        assert batch.same_target is not None
        for row, target, found in zip(
            batch.rows.tolist(), batch.target.tolist(), batch.same_target.tolist(), strict=True
        ):
            others = [history for other, history in histories_of[target] if other != row]
            own = [history for other, history in histories_of[target] if other == row]
            assert found in (others or own)


@given(histories=HISTORIES, key=KEYS)
def test_positives_are_another_sample_wherever_there_is_one(histories: list[list[int]], key: int) -> None:
    samples = thinned(train_of(histories))
    target = dict(zip(samples.rows.tolist(), samples.target(torch.arange(len(samples))).tolist(), strict=True))
    sizes = Counter(target.values())
    positives = SameTarget(samples)
    drawn = samples.rows[positives.draw(torch.arange(len(samples)), key)]
    for row, other in zip(samples.rows.tolist(), drawn.tolist(), strict=True):
        assert target[other] == target[row]
        assert (other == row) == (sizes[target[row]] == 1)
    # keyed by (key, row): companions and their order change nothing
    backwards = positives.draw(torch.arange(len(samples)).flip(0), key)
    assert torch.equal(samples.rows[backwards].flip(0), drawn)


def test_positives_are_uniform_over_the_others() -> None:
    samples = train_of([[1, 2, 1, 1, 1, 1, 1, 9, 9]])  # six prefixes, five of them lead to item 1
    positives = SameTarget(samples)
    rows = samples.rows[samples.target(samples.rows) == 1]
    assert len(rows) == 5
    counts: Counter[tuple[int, int]] = Counter()
    draws = 2000
    for key in range(draws):
        counts.update(zip(rows.tolist(), samples.rows[positives.draw(rows, fold(0, key))].tolist(), strict=True))
    assert set(counts) == {(a, b) for a in rows.tolist() for b in rows.tolist() if a != b}
    spread = (draws * 0.25 * 0.75) ** 0.5
    assert max(abs(count - draws / 4) for count in counts.values()) < 5 * spread


def test_a_batch_moves_whole() -> None:
    batch = next(batches(train_of([[1, 2, 3, 4, 1], [1, 2, 3, 4]]), 2, key=0, epoch=0, same_target=True))
    moved = batch.to("meta")
    assert isinstance(moved, Batch) and moved.same_target is not None
    assert {t.device.type for t in (moved.history, moved.target, moved.rows, moved.same_target)} == {"meta"}
    assert (moved.key, moved.total, len(moved)) == (batch.key, batch.total, len(batch))


def test_wrong_arguments_are_named() -> None:
    samples = train_of([[1, 2, 3, 4, 1], [1, 2, 3, 4]])
    with pytest.raises(InputError, match="rank: 2 of world 2"):
        batches(samples, 4, key=0, epoch=0, rank=2, world=2)
    with pytest.raises(InputError, match="batch_size: 1, expected at least 1 row for each of 2"):
        batches(samples, 1, key=0, epoch=0, world=2)


@pytest.mark.parametrize("wrong", [-1, 2.5, 4.0, True, "4", None])
@pytest.mark.parametrize("name", ["batch_size", "epoch", "start", "rank", "world"])
def test_numbers_of_batches_are_whole(name: str, wrong: Any) -> None:
    """Refused where batches are asked for, not where the first is taken."""
    samples = train_of([[1, 2, 3, 4, 1], [1, 2, 3, 4]])
    given: dict[str, Any] = {"batch_size": 4, "key": 0, "epoch": 0} | {name: wrong}
    with (
        unchecked(),
        pytest.raises(InputError, match=f"^{name} must be a whole number of at least [01], got {wrong!r}$"),
    ):
        batches(samples, **given)


@pytest.mark.parametrize("name", ["batch_size", "world"])
def test_there_is_at_least_one_row_and_one_process(name: str) -> None:
    given: dict[str, Any] = {"batch_size": 4, "key": 0, "epoch": 0} | {name: 0}
    with pytest.raises(InputError, match=f"^{name} must be a whole number of at least 1, got 0$"):
        batches(train_of([[1, 2, 3, 4, 1]]), **given)


def test_numpys_numbers_give_the_same_batches() -> None:
    samples = train_of([[1, 2, 3, 4, 1, 2, 2, 4, 1], [2, 3, 1, 4, 2], [1, 3]])
    ours = list(batches(samples, 3, key=5, epoch=1, start=1, world=2, rank=1))
    whole = np.int64
    with unchecked():
        theirs = list(
            batches(samples, whole(3), key=whole(5), epoch=whole(1), start=whole(1), world=whole(2), rank=whole(1))
        )
    assert [batch.key for batch in ours] == [batch.key for batch in theirs]
    assert all(torch.equal(one.rows, two.rows) for one, two in zip(ours, theirs, strict=True))


@pytest.mark.parametrize(("name", "wrong"), [
    ("num_samples", -1), ("num_samples", 2.5), ("batch_size", 0), ("batch_size", 2.5), ("batch_size", "4"),
])  # fmt: skip
def test_numbers_to_count_batches_from_are_whole(name: str, wrong: Any) -> None:
    with unchecked(), pytest.raises(InputError, match=f"^{name} must be a whole number"):
        num_batches(**({"num_samples": 9, "batch_size": 4} | {name: wrong}))
    assert (num_batches(0, 1), num_batches(9, 4)) == (0, 3)


@pytest.mark.parametrize("wrong", [2.5, True, "4", None])
def test_the_key_of_a_positive_is_a_whole_number(wrong: Any) -> None:
    samples = train_of([[1, 2, 1, 1, 1, 1, 1, 9, 9]])
    positives, index = SameTarget(samples), torch.arange(len(samples))
    with unchecked():
        with pytest.raises(InputTypeError, match=f"^key must be a whole number, or .*, got {wrong!r}$"):
            positives.draw(index, wrong)
        numpys = positives.draw(index, np.int64(2**62 + 7))
    assert torch.equal(numpys, positives.draw(index, 2**62 + 7))


@given(
    histories=HISTORIES, size=st.integers(2, 6), key=KEYS, together=st.integers(2, 4), start=st.integers(0, 5),
    world=st.integers(1, 2), kind=st.sampled_from(["own", "other", "none"]), in_windows=st.booleans(),
)  # fmt: skip
def test_batches_that_are_made_together_are_those_made_one_by_one(
    histories: list[list[int]], size: int, key: int, together: int, start: int, world: int, kind: str, in_windows: bool
) -> None:
    samples = train_of(histories) if in_windows else thinned(train_of(histories))
    positives = {"own": SameTarget(samples), "other": SameTarget(train_of(histories)), "none": False}[kind]

    def made(at_once: int) -> list[Batch]:
        source = Windows.of(samples) if in_windows else samples
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("latentloop.data.batch.at_once", lambda device, batch_size: at_once)
            return list(
                batches(source, size, key=key, epoch=1, same_target=positives, rank=world - 1, world=world, start=start)
            )

    for one, two in zip(made(1), made(together), strict=True):
        for name in ("history", "target", "rows", "same_target", "targets"):
            ours, theirs = getattr(one, name), getattr(two, name)
            assert (ours is None and theirs is None) or torch.equal(ours, theirs)
        assert (one.key, one.share) == (two.key, two.share)


def test_every_device_makes_the_same_batches(device: torch.device) -> None:
    samples = thinned(train_of([[1, 2, 3, 4, 1, 2, 2, 4, 1], [2, 3, 1, 4, 2], [1, 3], [4, 4, 4, 2, 1]]))
    here = batches(samples, 4, key=11, epoch=1, same_target=True)
    there = batches(samples.to(device), 4, key=11, epoch=1, same_target=True)
    for one, two in zip(here, there, strict=True):
        assert two.history.device.type == device.type
        assert one.same_target is not None and two.same_target is not None
        for ours, theirs in ((one.history, two.history), (one.rows, two.rows), (one.same_target, two.same_target)):
            assert torch.equal(ours, theirs.cpu())
        assert (one.key, one.total) == (two.key, two.total)
