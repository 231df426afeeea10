"""Parquet parts of one table are that table, and what is not a part is named."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from latentloop.data import load_interactions, save_interactions
from latentloop.errors import InputError

ROWS = [(f"u{n % 3}", f"i{(n * 7) % 5}", "x") for n in range(9)]


def table(rows: list[tuple[str, str, str]]) -> pa.Table:
    return pa.table(
        {name: pa.array([row[n] for row in rows], pa.string()) for n, name in enumerate(("user", "item", "kind"))}
    )


def write(folder: Path, sizes: list[int], name: Callable[[int], str] = "part-{:05}-c000.snappy.parquet".format) -> Path:
    """`ROWS` cut into parts, and what Spark lays beside them."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "_SUCCESS").touch()
    (folder / ".part-00000-c000.snappy.parquet.crc").write_bytes(b"crc")
    rows = list(ROWS)
    for number, size in enumerate([*sizes, len(rows)]):
        pq.write_table(table(rows[:size]), folder / name(number))
        rows = rows[size:]
    return folder


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> list[list[object]]:
    path = tmp_path_factory.mktemp("whole") / "log.parquet"
    pq.write_table(table(ROWS), path)
    return content(path)


def content(source: Path | str, **columns: str) -> list[list[object]]:
    log = load_interactions(source, **columns)
    return [log.user.tolist(), log.item.tolist(), list(log.user_ids), list(log.item_ids)]


@given(sizes=st.lists(st.integers(0, 4), max_size=12), name=st.sampled_from(["part-{:05}-c000.parquet", "part.{}.pq"]))
def test_parts_are_their_table(
    sizes: list[int], name: str, whole: list[list[object]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Without times the order counts: part.10 stands behind part.9. Parts may be without rows."""
    folder = write(tmp_path_factory.mktemp("parts") / "log", sizes, name.format)
    assert content(folder) == content(str(folder / "part*")) == content(f"{folder}/**/*.p*q*") == whole


def test_gzipped_parts_and_parts_in_folders_below(tmp_path: Path, whole: list[list[object]]) -> None:
    for day, rows in (("day=1", ROWS[:4]), ("day=2", ROWS[4:])):
        write(tmp_path / "log" / day, [], lambda _: "x.parquet")
        pq.write_table(table(rows), tmp_path / "log" / day / "x.parquet")
    packed = tmp_path / "log" / "day=2" / "x.parquet.gz"
    packed.write_bytes(gzip.compress(packed.with_suffix("").read_bytes()))
    packed.with_suffix("").unlink()
    assert content(f"{tmp_path}/log/*/x.*", format="parquet") == whole
    with pytest.raises(InputError, match=r"log: no card\.json in it, .* and no Parquet files; make prepared data"):
        load_interactions(tmp_path / "log")


def test_a_column_is_told_once_for_all_parts(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = write(tmp_path / "log", [2, 2])
    content(folder)
    assert caplog.text.count("no column recognised as the time") == 1 and f"{folder}: " in caplog.text
    assert content(folder, item="kind")[3] == ["x"]


def test_a_mistake_says_in_which_part_it_is(tmp_path: Path) -> None:
    folder = write(tmp_path / "log", [2, 0, 3], "p{}.parquet".format)
    pq.write_table(table([("u", "i", "x"), ("", "i", "x")]), folder / "p2.parquet")
    with pytest.raises(
        InputError, match=r"^\S+/log: \S+/log/p2\.parquet: row 2 \(counted from 1\): no value in column 'user'; fill"
    ):
        load_interactions(folder)


def test_what_is_no_part_of_the_table_is_refused(tmp_path: Path) -> None:
    text = table(ROWS)
    cases: list[tuple[str, Callable[[Path], object], str]] = [
        ("other", lambda path: pq.write_table(text.drop_columns("item"), path / "z.pq"), r"z\.pq: column 'item' is missing, expected string as in p0"),
        ("type", lambda path: pq.write_table(pa.table({"user": [1], "item": ["a"]}), path / "z.pq"), r"'user' is int64, expected string"),
        ("twice", lambda path: pq.write_table(pa.Table.from_arrays([pa.array(["a"])] * 3, ["user", "item", "item"]), path / "z.pq"), "'item' is string, string, expected"),
        ("text", lambda path: (path / "z.csv").write_text("user,item\n"), r"text: \S+z\.csv is no Parquet file.*move it away, or name the parts by a pattern"),
        ("below", lambda path: (path / "more").mkdir(), "more is no Parquet file"),
        ("empty", lambda path: (path / "z.parquet").touch(), r"z\.parquet: the file is empty, expected Parquet"),
        ("damaged", lambda path: (path / "z.parquet").write_bytes(b"PAR1 none PAR1"), r"z\.parquet: cannot be read as Parquet"),
    ]  # fmt: skip
    for name, spoil, message in cases:
        folder = write(tmp_path / name, [3], "p{}.parquet".format)
        spoil(folder)
        with pytest.raises(InputError, match=message) as caught:
            load_interactions(folder)
        assert "\n" not in str(caught.value)
    assert len(load_interactions(f"{tmp_path}/text/p*.parquet")) == len(ROWS)
    with pytest.raises(InputError, match=r"z\.csv is no Parquet file.*narrow the pattern"):
        load_interactions(f"{tmp_path}/text/*")
    with pytest.raises(InputError, match="no rows, expected at least one"):
        pq.write_table(text.slice(0, 0), write(tmp_path / "none", [], lambda _: "p.pq") / "p.pq")
        load_interactions(tmp_path / "none")
    for setting in ("csv", "text"):
        with pytest.raises(InputError, match=f"is read as Parquet parts, which are not {setting}"):
            load_interactions(write(tmp_path / "said", [3]), format=setting)
    with pytest.raises(InputError, match=r"no\*\.parquet: no such file"):
        load_interactions(tmp_path / "no*.parquet")


def test_a_link_that_leads_nowhere_and_names_that_look_like_patterns(tmp_path: Path, whole: list[list[object]]) -> None:
    (tmp_path / "gone.parquet").symlink_to(tmp_path / "nothing")
    with pytest.raises(InputError, match=r"gone\.parquet: no such file"):
        load_interactions(tmp_path / "gone.parquet")
    pq.write_table(table(ROWS), tmp_path / "log[1].parquet")
    assert content(tmp_path / "log[1].parquet") == content(write(tmp_path / "log[*]", [4])) == whole


def test_prepared_data_stays_prepared_data(tmp_path: Path, whole: list[list[object]]) -> None:
    folder = write(tmp_path / "log", [4])
    save_interactions(load_interactions(folder), tmp_path / "prepared")
    assert content(tmp_path / "prepared") == whole
    (tmp_path / "prepared" / "card.json").unlink()
    with pytest.raises(InputError, match=r"items\.parquet: column 'user' is missing"):
        load_interactions(tmp_path / "prepared")


def test_a_part_without_rows_has_no_types_and_may_come_first(tmp_path: Path) -> None:
    empty = pa.table({name: pa.array([], pa.float64()) for name in ("user", "item")})
    for number, part in enumerate((empty, table(ROWS), empty)):
        pq.write_table(part, tmp_path / f"part-{number}.parquet")
    alone = tmp_path / "alone.pq"
    pq.write_table(table(ROWS), alone)
    assert content(f"{tmp_path}/part-*.parquet") == content(alone)
    (tmp_path / "part-1.parquet").unlink()
    with pytest.raises(InputError, match="no rows"):
        load_interactions(f"{tmp_path}/part-*.parquet")


def test_times_of_later_parts_are_not_dropped_in_silence(tmp_path: Path) -> None:
    pq.write_table(pa.table({"user": ["a"], "item": ["x"]}), tmp_path / "part-0.parquet")
    pq.write_table(pa.table({"user": ["a"], "item": ["y"], "timestamp": [3]}), tmp_path / "part-1.parquet")
    with pytest.raises(InputError, match=r"part-1.parquet: has 'timestamp' besides the columns of part-0.parquet"):
        load_interactions(tmp_path)
    assert len(load_interactions(tmp_path, timestamp="none")) == 2


def test_a_delta_table_is_not_read_with_its_deleted_rows(tmp_path: Path) -> None:
    write(tmp_path, [3])
    (tmp_path / "_delta_log").mkdir()
    with pytest.raises(InputError, match="is a Delta table"):
        load_interactions(tmp_path)
