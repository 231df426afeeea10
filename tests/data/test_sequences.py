"""Index arithmetic equals Python loops over ragged histories."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from latentloop.data import Interactions, Samples, Sequences
from latentloop.errors import InputError
from tests.inputs.worlds import unchecked

HISTORIES = st.lists(st.lists(st.integers(1, 9), max_size=12), min_size=2, max_size=6).filter(
    lambda h: sum(map(len, h)) > 0
)


def sequences_of(histories: list[list[int]]) -> Sequences:
    flat = [item for history in histories for item in history]
    offsets = [0]
    for history in histories:
        offsets.append(offsets[-1] + len(history))
    return Sequences(torch.tensor(flat, dtype=torch.int32), torch.tensor(offsets), 9)


def transitions(histories: list[list[int]]) -> list[tuple[int, int]]:
    """(user, place of the target) of every transition."""
    return [(u, place) for u, history in enumerate(histories) for place in range(1, len(history))]


def samples_of(histories: list[list[int]], pairs: list[tuple[int, int]], max_length: int) -> Samples:
    sequences = sequences_of(histories)
    user = torch.tensor([u for u, _ in pairs], dtype=torch.int64)
    place = torch.tensor([p for _, p in pairs], dtype=torch.int64)
    return Samples(sequences, user, sequences.offsets[user] + place, max_length)


@given(histories=HISTORIES)
def test_flat_histories_equal_the_loop(histories: list[list[int]]) -> None:
    rows = [(u, i) for u, history in enumerate(histories) for i in history]
    users, items = [u for u, _ in rows], [i for _, i in rows]
    table = Interactions.of(users, items)
    sequences = Sequences.of(table)
    kept = [h for h in histories if h]  # users without items are no users of the table
    assert sequences.num_users == len(kept)
    for u, history in enumerate(kept):
        start, stop = sequences.offsets[u : u + 2].tolist()
        assert [table.item_ids[i - 1] for i in sequences.items[start:stop].tolist()] == history


@given(histories=HISTORIES, max_length=st.integers(1, 14), data=st.data())
def test_samples_equal_the_loop(histories: list[list[int]], max_length: int, data: st.DataObject) -> None:
    pairs = transitions(histories)
    if not pairs:
        return
    samples = samples_of(histories, pairs, max_length)
    chosen = data.draw(st.lists(st.integers(0, len(pairs) - 1), max_size=8))
    index = torch.tensor(chosen, dtype=torch.int64)
    expected = [([0] * max_length + histories[u][:p])[-max_length:] for u, p in (pairs[c] for c in chosen)]
    assert samples.history(index).tolist() == expected
    assert samples.history(index).shape == (len(chosen), max_length)
    assert samples.target(index).tolist() == [histories[u][p] for u, p in (pairs[c] for c in chosen)]
    assert samples.lengths(index).tolist() == [min(p, max_length) for _, p in (pairs[c] for c in chosen)]
    flat, offsets = samples.past(index)
    few, of_few = samples.past(index, 2)
    for row in range(len(index)):
        assert few[of_few[row] : of_few[row + 1]].tolist() == flat[offsets[row] : offsets[row + 1]].tolist()[-2:]
    whole = samples.whole(index)
    assert whole.shape == (len(index), max([1, *offsets.diff().tolist()]))
    assert torch.equal(samples.whole(index, 3), whole[:, -3:])
    for row, padded in enumerate(whole.tolist()):
        items = flat[offsets[row] : offsets[row + 1]].tolist()
        assert padded == [0] * (len(padded) - len(items)) + items
    assert len(offsets) == len(chosen) + 1
    for row, c in enumerate(chosen):
        user, place = pairs[c]
        assert flat[offsets[row] : offsets[row + 1]].tolist() == histories[user][:place]
    for tensor in (samples.history(index), samples.target(index), samples.lengths(index), flat, offsets):
        assert tensor.dtype == torch.int64


@given(histories=HISTORIES, data=st.data())
def test_selected_samples_keep_their_numbers(histories: list[list[int]], data: st.DataObject) -> None:
    pairs = transitions(histories)
    if not pairs:
        return
    samples = samples_of(histories, pairs, 5)
    first = data.draw(st.permutations(range(len(pairs))))[: data.draw(st.integers(1, len(pairs)))]
    once = samples.select(torch.tensor(first))
    mask = torch.tensor(data.draw(st.lists(st.booleans(), min_size=len(first), max_size=len(first))), dtype=torch.bool)
    twice = once.select(mask)
    kept = [number for number, keep in zip(first, mask.tolist(), strict=True) if keep]
    assert twice.rows.tolist() == kept
    everything = torch.arange(len(kept))
    assert torch.equal(twice.history(everything), samples.history(torch.tensor(kept, dtype=torch.int64)))
    assert torch.equal(twice.locate(twice.rows), everything)
    gone = sorted(set(range(len(pairs))) - set(kept))
    if gone:
        with pytest.raises(InputError, match="do not hold"):
            twice.locate(torch.tensor(gone))


@given(histories=HISTORIES.map(lambda h: [x for x in h if x]), max_length=st.integers(1, 14))
def test_the_latest_histories_reach_to_the_newest_item_and_have_no_target(
    histories: list[list[int]], max_length: int
) -> None:
    latest = sequences_of(histories).latest(max_length)
    index = torch.arange(len(histories))
    assert latest.history(index).tolist() == [([0] * max_length + h)[-max_length:] for h in histories]
    assert latest.user.tolist() == index.tolist()
    with pytest.raises(InputError, match="no item follows"):
        latest.target(index)


def test_samples_refuse_what_leaves_a_sequence() -> None:
    sequences = sequences_of([[1, 2, 3], [4, 5]])
    for user, end in ((0, -1), (1, 2), (0, 4), (1, 6)):
        with pytest.raises(InputError, match="history leaves its user's sequence"):
            Samples(sequences, torch.tensor([user]), torch.tensor([end]), 4)


@pytest.mark.parametrize("wrong", [0, -1, 2.5, 8.0, True, "8", None])
def test_max_length_is_a_whole_number_of_at_least_one(wrong: Any) -> None:
    sequences = sequences_of([[1, 2, 3], [4, 5]])
    message = f"^max_length must be a whole number of at least 1, got {wrong!r}$"
    with unchecked():
        for make in (
            lambda: Samples(sequences, torch.tensor([0]), torch.tensor([1]), wrong),
            lambda: sequences.latest(wrong),
        ):
            with pytest.raises(InputError, match=message):
                make()


def test_max_length_may_be_numpys_and_is_pythons_from_there() -> None:
    with unchecked():
        samples = sequences_of([[1, 2, 3], [4, 5]]).latest(np.int64(2))
    assert type(samples.max_length) is int
    assert samples.history(torch.tensor([0])).tolist() == [[2, 3]]


@given(histories=HISTORIES, times=st.sampled_from([1, 400]), max_length=st.integers(1, 14))
def test_samples_and_sequences_are_shown_by_their_sizes(
    histories: list[list[int]], times: int, max_length: int
) -> None:
    histories = histories * times
    sequences = sequences_of(histories)
    actions, users = sum(map(len, histories)), len(histories)
    assert repr(sequences) == f"Sequences(users={users}, items=9, actions={actions})"
    sizes = f"samples={users}, max_length={max_length}, users={users}, items=9)"
    latest = sequences.latest(max_length)
    assert repr(latest) == f"Samples({sizes}"
    assert repr(replace(latest, part="test")) == f"Samples(part='test', {sizes}"


def test_an_empty_history_is_padding_before_the_first_item() -> None:
    samples = Samples(sequences_of([[1, 2, 3], [4, 5]]), torch.tensor([0, 1]), torch.tensor([0, 3]), 2)
    index = torch.arange(2)
    assert samples.history(index).tolist() == [[0, 0], [0, 0]]
    assert samples.target(index).tolist() == [1, 4]
    assert samples.lengths(index).tolist() == [0, 0]
    assert samples.past(index)[0].tolist() == [] and samples.past(index)[1].tolist() == [0, 0, 0]


def test_a_device_holds_everything_and_answers_the_same(device: torch.device) -> None:
    samples = samples_of([[1, 2, 3], [4, 5]], [(0, 1), (0, 2), (1, 1)], 3)
    index = torch.tensor([2, 0, 1])
    moved = samples.to(device)
    tensors = (moved.user, moved.end, moved.rows, moved.sequences.items, moved.sequences.offsets)
    assert {tensor.device.type for tensor in tensors} == {device.type} == {moved.device.type}
    for ours, theirs in (
        (samples.history(index), moved.history(index.to(device))),
        (samples.target(index), moved.target(index.to(device))),
        (samples.past(index)[0], moved.past(index.to(device))[0]),
        (samples.select(index).rows, moved.select(index).rows),
    ):
        assert torch.equal(ours, theirs.cpu())


def test_samples_of_different_numbers_of_users_and_ends_are_refused() -> None:
    sequences = sequences_of([[1, 2, 3], [4, 5]])
    with unchecked(), pytest.raises(InputError, match="samples: 2 users, 1 ends, 2 rows; expected as many of each"):
        Samples(sequences, torch.tensor([0, 1]), torch.tensor([1]), 3)
