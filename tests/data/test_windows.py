"""Windows: each training target exactly once, with the past that it is promised, and nothing of later parts."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from latentloop.data import SameTarget, Samples, Windows, batches, leave_one_out
from latentloop.data.synthetic import synthetic_log
from latentloop.errors import InputError
from tests.data.test_sequences import HISTORIES, samples_of, transitions
from tests.data.test_splits import table_of

LENGTHS = st.integers(1, 7)


def learned(windows: Windows) -> list[tuple[int, int, tuple[int, ...]]]:
    """(user, place of the target in `items`, items of the row up to the one before it) of every target, by loops."""
    index = torch.arange(len(windows))
    histories, targets = windows.samples.history(index).tolist(), windows.targets(index).tolist()
    found = []
    for number, (history, row) in enumerate(zip(histories, targets, strict=True)):
        user, end = int(windows.samples.user[number]), int(windows.samples.end[number])
        for column, target in enumerate(row):
            if target:
                place = end - (len(row) - 1 - column)
                assert target == int(windows.samples.sequences.items[place])
                found.append((user, place, tuple(item for item in history[: column + 1] if item)))
    return found


@given(histories=HISTORIES, length=LENGTHS, data=st.data())
def test_every_target_is_learned_once_with_its_promised_past(
    histories: list[list[int]], length: int, data: st.DataObject
) -> None:
    pairs = transitions(histories)
    if not pairs:
        return
    samples = samples_of(histories, pairs, length)
    shuffled = data.draw(st.permutations(range(len(pairs))))
    kept = samples.select(torch.tensor(shuffled[: data.draw(st.integers(1, len(pairs)))]))
    stride = data.draw(st.one_of(st.none(), st.integers(1, length)))
    windows = Windows.of(kept, stride=stride)
    found = learned(windows)
    assert Counter((user, place) for user, place, _ in found) == Counter(
        zip(kept.user.tolist(), kept.end.tolist(), strict=True)
    )
    assert int(windows.counts.sum()) == len(kept)
    assert set(windows.samples.rows.tolist()) <= set(kept.rows.tolist())
    step = (length + 1) // 2 if stride is None else stride
    for user, place, past in found:
        start = int(samples.sequences.offsets[user])
        whole = tuple(samples.sequences.items[start:place].tolist())
        assert past == whole[-len(past) :]
        promised = len(whole) if len(whole) <= length else length - step + 1
        assert len(past) >= promised
        if step == 1:
            assert past == whole[-length:]


@given(histories=st.lists(st.lists(st.integers(1, 6), min_size=1, max_size=9), min_size=1, max_size=6), length=LENGTHS)
def test_first_items_are_learned_in_rows_of_their_own(histories: list[list[int]], length: int) -> None:
    begins = [sum(map(len, histories[:user])) for user in range(len(histories))]  # the users' sequences touch
    pairs = [*transitions(histories), *((user, 0) for user in range(len(histories)))]
    windows = Windows.of(samples_of(histories, pairs, length))
    found = learned(windows)
    assert Counter((user, place) for user, place, _ in found) == Counter((u, begins[u] + place) for u, place in pairs)
    assert {past for user, place, past in found if place == begins[user]} == {()}
    empty = ~windows.samples.history(torch.arange(len(windows))).any(1)
    assert windows.counts[empty].tolist() == [1] * len(histories)
    # no other row reaches back to its user's first item, let alone to another user's
    first = windows.samples.end - windows.counts + 1
    assert bool((first[~empty] > torch.tensor(begins)[windows.samples.user[~empty]]).all())


@given(histories=HISTORIES.map(lambda hs: [h for h in hs if len(h) > 1]), length=LENGTHS)
def test_a_user_whose_targets_fit_has_one_row(histories: list[list[int]], length: int) -> None:
    pairs = transitions(histories)
    if not pairs:
        return
    windows = Windows.of(samples_of(histories, pairs, length))
    rows = Counter(windows.samples.user.tolist())
    half = (length + 1) // 2
    for user, history in enumerate(histories):
        beyond = len(history) - 1 - length
        assert rows[user] == (1 if beyond <= 0 else 1 + -(-beyond // half))


@given(histories=st.lists(st.lists(st.integers(1, 6), min_size=1, max_size=9), min_size=2, max_size=7), length=LENGTHS)
def test_nothing_of_validation_and_test_is_learned_or_read(histories: list[list[int]], length: int) -> None:
    if not any(len(history) >= 3 for history in histories):
        return
    split = leave_one_out(table_of(histories), length)
    if not len(split.train):
        return
    windows = Windows.of(split.train)
    places = [place for _, place, _ in learned(windows)]
    assert sorted(places) == sorted(split.train.end.tolist())
    assert not set(places) & set(split.validation.end.tolist() + split.test.end.tolist())
    asked = set(split.validation.end.tolist() + split.test.end.tolist())
    start = split.train.sequences.offsets[windows.samples.user].tolist()
    for first, end in zip(start, windows.samples.end.tolist(), strict=True):
        assert not asked & set(range(first, end + 1))


@given(seed=st.integers(0, 1000), size=st.integers(1, 60))
def test_an_epoch_of_batches_holds_every_target_once(seed: int, size: int) -> None:
    split = leave_one_out(synthetic_log(num_users=30, num_items=20, seed=seed), 4)
    windows, positives = Windows.of(split.train), SameTarget(split.train)
    seen: Counter[tuple[int, ...]] = Counter()
    drawn = set()
    for batch in batches(windows, size, key=seed, epoch=1, same_target=positives):
        assert batch.targets is not None and batch.same_target is not None
        assert torch.equal(batch.targets[:, -1], batch.target)
        assert torch.equal(batch.targets[:, :-1] == 0, ~_inner(windows, batch.rows))
        seen.update(batch.targets[batch.targets != 0].tolist())
        drawn.update(map(tuple, batch.same_target.tolist()))
    everything = torch.arange(len(split.train))
    assert seen == Counter(split.train.target(everything).tolist())
    # positives come from all samples, the inner ones too, not from the windows' newest alone
    newest = set(map(tuple, windows.samples.history(torch.arange(len(windows))).tolist()))
    assert drawn - newest
    assert drawn <= set(map(tuple, split.train.history(everything).tolist()))


def _inner(windows: Windows, rows: torch.Tensor) -> torch.Tensor:
    """Which columns but the newest are learned, of the windows numbered `rows`."""
    counts = windows.counts[windows.samples.locate(rows)]
    return torch.tensor(
        [[slot < int(count) for slot in range(windows.samples.max_length - 1, 0, -1)] for count in counts]
    )


def test_mistakes_are_named() -> None:
    samples = samples_of([[1, 2, 3, 4], [5, 6]], [(0, 1), (0, 2), (1, 1)], 3)
    with pytest.raises(InputError, match="stride must be a whole number of at least 1, got 0"):
        Windows.of(samples, stride=0)
    with pytest.raises(InputError, match="stride must be at most max_length = 3, got 4"):
        Windows.of(samples, stride=4)
    with pytest.raises(InputError, match="counts: 1, expected one for each of 3 windows"):
        Windows(samples, torch.tensor([1]))
    with pytest.raises(InputError, match="no item follows"):
        Windows.of(samples.sequences.latest(3))
    for counts in ([1, 0, 1], [1, 3, 1]):
        with pytest.raises(InputError, match="counts: a window learns from"):
            Windows(samples, torch.tensor(counts))


def test_a_device_answers_the_same(device: torch.device) -> None:
    samples: Samples = samples_of([[1, 2, 3, 4], [5, 6]], [(0, 1), (0, 2), (0, 3), (1, 1)], 2)
    windows, index = Windows.of(samples), torch.tensor([1, 0])
    moved = windows.to(device)
    assert moved.counts.device.type == moved.samples.device.type == device.type
    assert torch.equal(moved.targets(index.to(device)).cpu(), windows.targets(index))
