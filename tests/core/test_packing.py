"""Packing against a loop over rows."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from latentloop.thinking.packing import Packing
from tests.core.worlds import ragged, seeds


@given(seed=seeds)
def test_packing_is_the_rows_without_padding(seed: int) -> None:
    history = ragged(seed)
    packing = Packing.of(history)
    rows = [[i for i in row if i] or [0] for row in history.tolist()]  # an empty row keeps one padding token
    assert packing.items.tolist() == [i for row in rows for i in row]
    assert packing.rows.tolist() == [place for place, row in enumerate(rows) for _ in row]
    assert packing.slots.tolist() == [len(row) - 1 - j for row in rows for j in range(len(row))]
    assert packing.offsets.diff().tolist() == [len(row) for row in rows]
    assert packing.offsets[0] == 0
    assert packing.max_length == max(map(len, rows))


@given(seed=seeds, copies=st.integers(1, 4))
def test_repeat_packs_repeated_histories(seed: int, copies: int) -> None:
    history = ragged(seed)
    packing = Packing.of(history)
    repeated, source = packing.repeat(copies)
    wanted = Packing.of(history.repeat_interleave(copies, 0))
    for name in ("items", "slots", "rows", "offsets"):
        assert torch.equal(getattr(repeated, name), getattr(wanted, name))
    assert repeated.max_length == wanted.max_length
    assert torch.equal(packing.items[source], wanted.items)
    assert torch.equal(packing.rows[source], wanted.rows // copies)
