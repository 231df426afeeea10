"""Prepared data comes back as it was, or not at all."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from latentloop.data import DataCard, Interactions, load_interactions, load_saved_interactions, save_interactions
from latentloop.errors import InputError

TEXT = st.text(st.characters(codec="utf-8"), max_size=5)
IDS = st.lists(TEXT, min_size=1, max_size=20) | st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=20)


@pytest.fixture
def prepared(tmp_path: Path) -> Path:
    table = Interactions.of([1, 1, 2, 2], ["a", "b", "b", "c"], [1, 2, 3, 4])
    save_interactions(table, tmp_path / "data")
    return tmp_path / "data"


@given(
    users=IDS,
    items=IDS,
    times=st.none() | st.lists(st.integers(-(2**40), 2**40) | st.floats(-1e9, 1e9), min_size=20, max_size=20),
)
def test_what_is_saved_is_loaded(
    tmp_path_factory: pytest.TempPathFactory, users: list[int | str], items: list[int | str], times: list[float] | None
) -> None:
    count = min(len(users), len(items))
    table = Interactions.of(users[:count], items[:count], None if times is None else times[:count])
    folder = tmp_path_factory.mktemp("prepared") / "deep" / "data"
    card = save_interactions(table, folder)
    loaded = load_saved_interactions(folder)
    assert torch.equal(loaded.user, table.user) and torch.equal(loaded.item, table.item)
    assert (loaded.timestamp is None) == (table.timestamp is None)
    if table.timestamp is not None and loaded.timestamp is not None:
        assert torch.equal(loaded.timestamp, table.timestamp) and loaded.timestamp.dtype == table.timestamp.dtype
    assert (list(loaded.user_ids), list(loaded.item_ids)) == (list(table.user_ids), list(table.item_ids))
    assert DataCard.of(loaded) == card
    assert [path.name for path in folder.parent.iterdir()] == ["data"]  # no drafts left


def test_prepared_data_is_a_source(prepared: Path) -> None:
    assert len(load_interactions(prepared)) == 4
    assert len(load_interactions(str(prepared))) == 4


def test_an_existing_folder_is_kept_unless_told(prepared: Path, tmp_path: Path) -> None:
    other = Interactions.of([1], [1])
    with pytest.raises(InputError, match="exists already"):
        save_interactions(other, prepared)
    assert len(load_saved_interactions(prepared)) == 4
    save_interactions(other, prepared, overwrite=True)
    assert len(load_saved_interactions(prepared)) == 1
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match="not prepared data"):
        save_interactions(other, foreign, overwrite=True)
    assert (foreign / "thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize("name", ["interactions.parquet", "users.parquet", "items.parquet", "card.json"])
@pytest.mark.parametrize("harm", ["cut", "gone", "garbage"])
def test_damage_is_one_line(prepared: Path, name: str, harm: str) -> None:
    path = prepared / name
    if harm == "gone":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-9] if harm == "cut" else b"\x80\x04garbage")
    with pytest.raises(InputError) as caught:
        load_saved_interactions(prepared)
    assert "\n" not in str(caught.value) and str(prepared) in str(caught.value)


def test_changed_content_does_not_match_the_hash(prepared: Path, tmp_path: Path) -> None:
    save_interactions(Interactions.of([1, 1, 2, 2], ["a", "b", "c", "c"], [1, 2, 3, 4]), tmp_path / "other")
    (tmp_path / "other" / "interactions.parquet").replace(prepared / "interactions.parquet")
    with pytest.raises(InputError, match=r"does not match the hash in card\.json"):
        load_saved_interactions(prepared)
    card = json.loads((prepared / "card.json").read_text())
    (prepared / "card.json").write_text(json.dumps({**card, "version": 99}))
    with pytest.raises(InputError, match="version 99, this release reads version 1"):
        load_saved_interactions(prepared)


def test_a_folder_of_something_else_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no card\.json in it"):
        load_interactions(tmp_path)


@pytest.mark.parametrize("option", ["user", "item", "timestamp", "format"])
def test_columns_of_what_was_read_already_cannot_be_chosen(prepared: Path, option: str) -> None:
    for source in (prepared, load_saved_interactions(prepared)):
        with pytest.raises(InputError, match=f"was read already, {option} cannot be chosen again") as refused:
            load_interactions(source, **{option: "csv"})
        assert refused.value.settings == (option,)
