"""Any table comes back from every format, and every mistake gets one line that says where."""

from __future__ import annotations

import csv
import gzip
import json
import logging
import subprocess
import sys
from collections.abc import Callable
from datetime import date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import datasets
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from latentloop.data import Interactions, load_interactions
from latentloop.data.formats.delimited import refuse_open_quote
from latentloop.errors import InputError, InputTypeError

Row = tuple[Any, Any, Any]

# Printable ids that are no number, with everything a quoted field may hold.
WORDS = (
    st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc")), min_size=1, max_size=6)
    .filter(lambda text: bool(text.strip()) and text not in ("nan", "NaN"))
    .map(lambda text: "x" + text)
)
# For formats without quotes: no whitespace of any kind.
PLAIN = st.text(st.characters(codec="ascii", categories=("L", "N", "P", "S")), min_size=1, max_size=6).map(
    lambda t: "x" + t
)
NUMBERS = st.integers(-(2**63), 2**63 - 1)
TIMES = st.integers(-(2**62), 2**62)


def tables(words: st.SearchStrategy[str], times: st.SearchStrategy[Any] = TIMES) -> st.SearchStrategy[list[Row]]:
    """Rows with few distinct ids, all of one type a column."""

    def of_pools(pools: tuple[list[Any], list[Any]]) -> st.SearchStrategy[list[Row]]:
        users, items = pools
        return st.lists(st.tuples(st.sampled_from(users), st.sampled_from(items), times), min_size=1, max_size=25)

    pool = st.lists(words, min_size=1, max_size=5) | st.lists(NUMBERS, min_size=1, max_size=5)
    return st.tuples(pool, pool).flatmap(of_pools)


def write(path: Path, content: bytes, packed: bool) -> Path:
    path = path.with_name(path.name + ".gz") if packed else path
    path.write_bytes(gzip.compress(content) if packed else content)
    return path


def delimited(
    rows: list[Row],
    timed: bool,
    delimiter: str,
    header: tuple[str, ...] = ("user_id", "rating", "parent_asin", "timestamp"),
) -> bytes:
    import io

    out = io.StringIO()
    writer = csv.writer(out, delimiter=delimiter)
    writer.writerow(header[: 4 if timed else 3])
    writer.writerows([(u, 5.0, i, t)[: 4 if timed else 3] for u, i, t in rows])
    return out.getvalue().encode()


def jsonl(rows: list[Row], timed: bool) -> bytes:
    lines = [{"user": u, "text": {"a": [1]}, "item": i, **({"ts": t} if timed else {})} for u, i, t in rows]
    return "\n".join(json.dumps(line, ensure_ascii=n % 2 == 0) for n, line in enumerate(lines)).encode()


def frame(rows: list[Row], timed: bool) -> pd.DataFrame:
    data = {"uid": [u for u, _, _ in rows], "item_id": [i for _, i, _ in rows], "note": ["n"] * len(rows)}
    return pd.DataFrame({**data, **({"time": [t for *_, t in rows]} if timed else {})}, index=[7] * len(rows))


def check(found: Interactions, rows: list[Row], timed: bool) -> None:
    """Against a plain sort of the rows."""
    expected = sorted(rows, key=lambda row: (row[0], row[2] if timed else 0))
    if timed:
        expected = list(dict.fromkeys(expected))
        assert found.timestamp is not None
        assert found.timestamp.tolist() == [t for *_, t in expected]
    else:
        assert found.timestamp is None
    spelled = [
        (found.user_ids[u], found.item_ids[i - 1])
        for u, i in zip(found.user.tolist(), found.item.tolist(), strict=True)
    ]
    assert spelled == [(u, i) for u, i, _ in expected]
    assert {type(i) for i in found.user_ids} == {type(rows[0][0])}
    assert {type(i) for i in found.item_ids} == {type(rows[0][1])}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("formats")


@given(rows=tables(WORDS), timed=st.booleans(), packed=st.booleans())
def test_quoted_tables_round_trip(folder: Path, rows: list[Row], timed: bool, packed: bool) -> None:
    check(load_interactions(write(folder / "log.csv", delimited(rows, timed, ","), packed)), rows, timed)
    check(load_interactions(str(write(folder / "log.tsv", delimited(rows, timed, "\t"), packed))), rows, timed)


@given(rows=tables(PLAIN), timed=st.booleans(), packed=st.booleans())
def test_inter_round_trips(folder: Path, rows: list[Row], timed: bool, packed: bool) -> None:
    header = ["user_id:token", "item_id:token", *(["timestamp:float"] if timed else [])]
    lines = ["\t".join(header), *("\t".join(map(str, row[: len(header)])) for row in rows)]
    path = write(folder / "log.inter", "\n".join(lines).encode(), packed)
    check(load_interactions(path), rows, timed)
    check(load_interactions(path, user="user_id", item="item_id:token"), rows, timed)


@given(rows=tables(PLAIN), packed=st.booleans(), joined=st.booleans(), crlf=st.booleans())
def test_user_lines_round_trip(folder: Path, rows: list[Row], packed: bool, joined: bool, crlf: bool) -> None:
    lines: dict[Any, list[str]] = {}
    if joined:
        for user, item, _ in rows:
            lines.setdefault(user, []).append(str(item))
    text = [f"{u} {' '.join(items)}" for u, items in lines.items()] if joined else [f"{u}\t {i} " for u, i, _ in rows]
    end = "\r\n" if crlf else "\n"
    check(load_interactions(write(folder / "log.txt", (end.join(text) + end + end).encode(), packed)), rows, False)


@given(rows=tables(WORDS), timed=st.booleans(), packed=st.booleans())
def test_typed_sources_round_trip(folder: Path, rows: list[Row], timed: bool, packed: bool) -> None:
    table = pa.table({c: frame(rows, timed)[c].to_list() for c in frame(rows, timed).columns})
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    check(load_interactions(write(folder / "log.parquet", sink.getvalue().to_pybytes(), packed)), rows, timed)
    check(load_interactions(write(folder / "log.jsonl", jsonl(rows, timed), packed)), rows, timed)
    check(load_interactions(frame(rows, timed)), rows, timed)
    check(load_interactions(frame(rows, timed).astype({"uid": "category"})), rows, timed)
    check(load_interactions(table), rows, timed)


@given(rows=tables(WORDS), timed=st.booleans(), data=st.data())
def test_a_dataset_keeps_the_order_it_was_given(rows: list[Row], timed: bool, data: st.DataObject) -> None:
    order = data.draw(st.permutations(range(len(rows))))
    columns = {c: frame(rows, timed)[c].to_list() for c in frame(rows, timed).columns}
    check(load_interactions(datasets.Dataset.from_dict(columns).select(order)), [rows[n] for n in order], timed)


@given(rows=tables(WORDS, st.integers(-100, 100).map(lambda n: n / 8)), packed=st.booleans())
def test_fractional_times_round_trip(folder: Path, rows: list[Row], packed: bool) -> None:
    check(load_interactions(write(folder / "f.csv", delimited(rows, True, ","), packed)), rows, True)
    check(load_interactions(write(folder / "f.jsonl", jsonl(rows, True), packed)), rows, True)
    check(load_interactions(frame(rows, True)), rows, True)


def test_whole_times_may_turn_fractional_far_into_the_file(tmp_path: Path) -> None:
    rows: list[Row] = [("u", n, float(n)) for n in range(50)] + [("u", 50, 60.5)]
    text = delimited(rows, True, ",").replace(b".0\r", b"\r")
    (tmp_path / "a.csv").write_bytes(text)
    (tmp_path / "a.jsonl").write_bytes(jsonl(rows, True).replace(b".0}", b"}"))
    for name in ("a.csv", "a.jsonl"):
        table = load_interactions(tmp_path / name)
        assert table.timestamp is not None and table.timestamp.tolist() == [t for *_, t in rows]


def test_decimal_times_are_read_as_what_they_say(tmp_path: Path) -> None:
    large = 1_588_888_888_888_888_888  # float64 would make it ...832, and the next one too
    for scale, times, read in ((0, [large + 1, large], [large, large + 1]), (2, [2, 1.25], [1.25, 2.0])):
        column = pa.array([Decimal(time) for time in times], pa.decimal128(38, scale))
        table = load_interactions(pa.table({"user": [1, 1], "item": [1, 2], "timestamp": column}))
        assert table.timestamp is not None and table.timestamp.tolist() == read and table.item.tolist() == [2, 1]
    with pytest.raises(InputError, match="row 2 .*: 'timestamp' is '1588888888888888888.00'"):
        column = pa.array([Decimal("1.25"), Decimal(large)], pa.decimal128(38, 2))
        load_interactions(pa.table({"user": [1, 1], "item": [1, 2], "timestamp": column}))


def test_ids_that_integers_would_change_stay_text(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("user,item\n1,007\n2,8\n")
    table = load_interactions(tmp_path / "a.csv")
    assert (list(table.user_ids), list(table.item_ids)) == ([1, 2], ["007", "8"])
    assert list(load_interactions(pd.DataFrame({"user": ["1", "2"], "item": [1, 2]})).user_ids) == ["1", "2"]


def test_a_byte_order_mark_and_blank_lines_are_skipped(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("\ufeffuser,item\r\n\r\nu,1\r\n\r\nv,2\r\n", encoding="utf-8", newline="")
    (tmp_path / "a.txt").write_text("\ufeff\nu 1 2\n\n", encoding="utf-8")
    (tmp_path / "a.jsonl").write_text('\ufeff{"user": "u", "item": 1}\n\n{"user": "v", "item": 2}\n', encoding="utf-8")
    assert [len(load_interactions(tmp_path / name)) for name in ("a.csv", "a.txt", "a.jsonl")] == [2, 2, 2]
    assert list(load_interactions(tmp_path / "a.txt").user_ids) == ["u"]


@pytest.mark.parametrize(
    "header",
    [
        "user_id,item_id,timestamp",
        "User,Item,Time",
        "reviewerID,asin,unixReviewTime",
        "uid,iid,ts",
        "userId,movieId,timestamp",
        "user_id, parent_asin , timestamp",
    ],
)
def test_usual_names_are_recognised(tmp_path: Path, header: str) -> None:
    (tmp_path / "a.csv").write_text(header + "\nu,a,3\nu,b,1\n")
    table = load_interactions(tmp_path / "a.csv")
    assert table.item.tolist() == [2, 1] and table.timestamp is not None


def test_names_can_be_given(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("who,what,user,when\nu,a,no,3\nu,b,no,1\n")
    table = load_interactions(tmp_path / "a.csv", user="who", item="what", timestamp="when")
    assert (list(table.user_ids), table.item.tolist()) == (["u"], [2, 1])
    assert load_interactions(tmp_path / "a.csv", user="who", item="what").timestamp is None


def test_the_format_can_be_given(tmp_path: Path) -> None:
    (tmp_path / "log.dat").write_text("user\titem\nu\t1\n")
    assert len(load_interactions(tmp_path / "log.dat", format="tsv")) == 1
    with pytest.raises(InputError, match=r"log\.dat: the name does not tell the format"):
        load_interactions(tmp_path / "log.dat")
    with pytest.raises(InputError, match="format: 'xml', expected one of csv"):
        load_interactions(tmp_path / "log.dat", format="xml")


MOMENTS = st.datetimes(datetime(1700, 1, 1), datetime(2250, 1, 1))  # whose microseconds float64 counts exactly


def seconds_since_1970(moment: datetime) -> int | float:
    """By the calendar alone."""
    days = moment.toordinal() - date(1970, 1, 1).toordinal()
    whole = days * 86400 + moment.hour * 3600 + moment.minute * 60 + moment.second
    return (whole * 10**6 + moment.microsecond) / 10**6 if moment.microsecond else whole


@given(
    moments=st.lists(MOMENTS, min_size=1, max_size=8),
    style=st.sampled_from(["day", " ", "T", "Z", "+02:00", "-0530"]),
    fractions=st.booleans(),
    suffix=st.sampled_from(["csv", "jsonl"]),
)
def test_dates_as_text_are_seconds_in_utc(
    folder: Path, moments: list[datetime], style: str, fractions: bool, suffix: str
) -> None:
    if style == "day":
        moments = [moment.replace(hour=0, minute=0, second=0) for moment in moments]
    moments = [moment if fractions and style != "day" else moment.replace(microsecond=0) for moment in moments]
    ahead = {"+02:00": timedelta(hours=2), "-0530": -timedelta(hours=5, minutes=30)}.get(style, timedelta())
    zone = style if style[0] in "Z+-" else ""
    joint = " " if style == " " else "T"
    written = [m.date().isoformat() if style == "day" else m.isoformat(sep=joint) + zone for m in moments]
    rows = [("u", f"x{n}", text) for n, text in enumerate(written)]
    content = delimited(rows, True, ",") if suffix == "csv" else jsonl(rows, True)
    table = load_interactions(write(folder / f"dates.{suffix}", content, False))
    assert table.timestamp is not None
    assert table.timestamp.tolist() == sorted(seconds_since_1970(moment - ahead) for moment in moments)
    assert table.timestamp.is_floating_point() == any(moment.microsecond for moment in moments)


def test_dates_of_typed_sources_are_the_same_seconds(tmp_path: Path) -> None:
    days = pd.to_datetime(["2020-01-03", "2020-01-01"])
    frame = pd.DataFrame({"user": [1, 1], "item": [5, 6], "time": days})
    tables = [frame, pa.table({"user": [1, 1], "item": [5, 6], "time": pa.array([18264, 18262], pa.date32())})]
    tables += [frame.assign(time=days.tz_localize("UTC")), frame.assign(time=days.astype("datetime64[s]"))]
    frame.to_csv(tmp_path / "a.csv", index=False)
    for source in (*tables, tmp_path / "a.csv"):
        table = load_interactions(source)
        assert table.timestamp is not None
        assert (table.item.tolist(), table.timestamp.tolist()) == ([2, 1], [1577836800, 1578009600])


def test_a_table_whose_time_is_not_recognised_says_that_its_order_is_taken(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "log.csv"
    for header, told in (("user,item,created", True), ("user,item,time", False)):
        caplog.clear()
        path.write_text(f"{header}\na,x,3\na,y,2\n")
        table = load_interactions(path)
        assert ("no column recognised as the time of an action" in caplog.text) == told
        assert [table.item_ids[number - 1] for number in table.item.tolist()] == (["x", "y"] if told else ["y", "x"])
    caplog.clear()
    path.write_text("user,item\na,x\na,y\n")
    load_interactions(path)
    assert not caplog.text


@pytest.mark.parametrize("header", ["user,item,date", "User,Item,DateTime"])
def test_a_date_column_is_the_time_where_there_is_no_other(tmp_path: Path, header: str) -> None:
    (tmp_path / "a.csv").write_text(header + "\nu,a,2023-05-02\nu,b,2023-05-01\n")
    assert load_interactions(tmp_path / "a.csv").item.tolist() == [2, 1]
    (tmp_path / "b.csv").write_text(header + ",ts\nu,a,sunday,1\nu,b,monday,2\n")
    table = load_interactions(tmp_path / "b.csv")
    assert table.timestamp is not None and table.timestamp.tolist() == [1, 2]


@given(
    rows=tables(WORDS),
    timed=st.booleans(),
    delimiter=st.sampled_from(";|\t,"),
    name=st.sampled_from(["s.csv", "s.tsv"]),
    quoted=st.booleans(),
)
def test_what_separates_fields_is_seen_in_the_header(
    folder: Path, rows: list[Row], timed: bool, delimiter: str, name: str, quoted: bool
) -> None:
    content = delimited(rows, timed, delimiter)
    header, _, rest = content.partition(b"\r\n")
    if quoted:
        header = b'"' + header.replace(delimiter.encode(), b'"' + delimiter.encode() + b'"') + b'"'
    check(load_interactions(write(folder / name, header + b"\r\n" + rest, False)), rows, timed)


def test_the_other_separators_are_not_looked_for_where_the_formats_own_is_there(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("user,item;note\nu,1;2\n")
    with pytest.raises(InputError, match="no column recognised as the item.*columns found: 'user', 'item;note'"):
        load_interactions(tmp_path / "a.csv")
    assert list(load_interactions(tmp_path / "a.csv", item="item;note").item_ids) == ["1;2"]
    (tmp_path / "a.txt").write_text("user;item\nu;1\n")
    with pytest.raises(InputError, match="looks like column names.*name the format csv"):
        load_interactions(tmp_path / "a.txt")
    assert len(load_interactions(tmp_path / "a.txt", format="csv")) == 1


@pytest.mark.parametrize(
    "header",
    [
        "User ID,Item ID,Event Time",
        "user-id,ITEM-ID,order_date",
        "CustomerID,StockCode,InvoiceDate",
        "Customer ID,stock_code,Invoice Date",
        "customer_id,article_id,t_dat",
        "userId,trackId,playedAt",
        "User  Id,Product - ID,created_at",
    ],
)
def test_names_of_joined_words_are_recognised(tmp_path: Path, header: str, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "a.csv").write_text(header + ",price\nu,a,2023-05-02,1\nu,b,2023-05-01,2\n")
    table = load_interactions(tmp_path / "a.csv")
    assert table.item.tolist() == [2, 1] and table.timestamp is not None and not caplog.text


def test_names_recognised_loosely_never_compete(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A table of several such names, or of one that is known as it stands, is what it was before they were known."""
    path = tmp_path / "a.csv"
    path.write_text(
        "user,user id,item,Item ID,date,created_at\nu,x,a,y,2023-05-02,2023-05-01\nu,x,b,y,2023-05-01,2023-05-02\n"
    )
    table = load_interactions(path)
    assert (list(table.user_ids), list(table.item_ids), table.item.tolist()) == (["u"], ["a", "b"], [2, 1])
    path.write_text("user,item,order_date,created_at\nu,a,2,1\nu,b,1,2\n")
    assert load_interactions(path).timestamp is None and "if one of 'order_date', 'created_at' tells it" in caplog.text
    for header, what in (
        ("User ID,user-id,item", "user"),
        ("user,Item ID,StockCode", "item"),
        ("user,Item Name,n", "item"),
    ):
        path.write_text(f"{header}\na,b,c\n")
        with pytest.raises(InputError, match=f"no column recognised as the {what}"):
            load_interactions(path)


@pytest.mark.parametrize("nothing", ["", "none"])
def test_a_time_can_be_left_out(tmp_path: Path, nothing: str, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "a.csv").write_text("user,item,date\nu,b,05/02/2023\nu,a,05/01/2023\n")
    (tmp_path / "a.inter").write_text("user:token\titem:token\ttime:float\nu\tb\tlate\nu\ta\tsoon\n")
    (tmp_path / "a.jsonl").write_text('{"user": "u", "item": "b", "ts": null}\n{"user": "u", "item": "a", "ts": {}}\n')
    lines = tmp_path / "a.txt"
    lines.write_text("u b a\n")
    frame = pd.DataFrame({"user": ["u", "u"], "item": ["b", "a"], "time": [[], []], "ts": [2, 1]})
    for source in (tmp_path / "a.csv", tmp_path / "a.inter", tmp_path / "a.jsonl", frame, lines):
        caplog.clear()
        table = load_interactions(source, timestamp=nothing)
        assert table.timestamp is None and table.item.tolist() == [2, 1]
        assert ("no times are read, as asked: the order of the rows" in caplog.text) == (source is not lines)


def test_a_column_may_be_called_none(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(",user,item,none\n1,u,b,2\n2,u,a,1\n")
    assert load_interactions(tmp_path / "a.csv", timestamp="none").item.tolist() == [1, 2]
    table = load_interactions(tmp_path / "a.csv", timestamp="")  # an index without a name is no time
    assert table.timestamp is None and table.item.tolist() == [2, 1]
    with pytest.raises(InputError, match="no column 'none' for the item"):
        load_interactions(pd.DataFrame({"user": [1], "item": [2]}), item="none")


def test_a_column_that_is_no_time_says_how_to_leave_it_out(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("user,item,date\nu,b,monday\n")
    for source in (tmp_path / "a.csv", pa.table({"user": [1], "item": [2], "date": [True]})):
        with pytest.raises(InputError, match='name another column of times, or "none" to take the order') as caught:
            load_interactions(source)
        assert caught.value.settings == ("timestamp",)


HEADER = b"user_id,item_id,timestamp\n"
MISTAKES: list[tuple[str, bytes, str]] = [
    ("a.csv", b"", "the file is empty"),
    ("a.csv", b"\n\n", "the file is empty"),
    ("a.csv", HEADER, "a header and no rows"),
    ("a.csv", HEADER + b"u,1,1\nv,2\nw,3,3\n", "line 3: 2 fields, expected 3"),
    ("a.csv", HEADER + b'u,1,1\n"v\n\nv",2,2\n\nw,3,3,9\n', "line 7: 4 fields, expected 3"),
    ("a.csv", HEADER + b"u,1,1\nv,2,soon\n", "line 3: 'timestamp' is 'soon', expected a number"),
    ("a.csv", HEADER + b"u,1,1\n\nv,2,\n", "line 4: 'timestamp' is '', expected a number"),
    (
        "a.csv",
        HEADER + b"u,1,1.5\nv,2,1588888888888888888\nv,2,1588888888888888889\n",
        "line 3: 'timestamp' is '1588888888888888888', expected a number that is kept exactly: below 2.53 beside fractions",
    ),
    (
        "a.csv",
        HEADER + b"u,1,1.5\nv,2,9007199254740993\nv,2,9007199254740992\n",
        "line 3: 'timestamp' is '9007199254740993', expected a number that is kept exactly",
    ),
    (
        "a.jsonl",
        b'{"user": 1, "item": 1, "time": 1700000000000000003}\n\n{"user": 1, "item": 2, "time": 1.5}\n',
        "line 1: 'time' is 1700000000000000003, expected a number that is kept exactly: below 2.53 beside fractions",
    ),
    (
        "a.jsonl",
        b'{"user": 1, "item": 1, "time": 1.5}\n\n{"user": 1, "item": 2, "time": 9007199254740993}\n',
        "line 3: 'time' is 9007199254740993, expected a number that is kept exactly",
    ),
    (
        "a.jsonl",
        b'{"user": 1, "item": 1, "time": 1.5}\n{"user": 1, "item": 2}\n{"user": 1, "item": 3, "time": 9007199254740993}\n',
        "line 2: no value in column 'time'",
    ),
    (
        "a.jsonl",
        b'{"user": 1, "item": 1, "time": 1.5}\n{"user": 1, "item": 2, "time": 1' + b"0" * 400 + b"}\n",
        "line 2: 'time' is inf, expected a finite number",
    ),
    ("a.jsonl", b'{"user": 18446744073709551616, "item": 1}\n', "line 1: 'user' is beyond 64-bit integers"),
    ("a.csv", b"user,item\nu,1\nnan,2\n", r"line 3: no value in column 'user' \(nan means none\); fill it in"),
    ("a.csv", HEADER + b"u,1,1\nv,2,2.5\nv,2,2023-05-01\n", "line 4: 'timestamp' is '2023-05-01', expected a number"),
    (
        "a.csv",
        HEADER + b"u,1,2023-05-01\nv,2,2023-05-01 10:00\n\nv,2,1682899200\nv,3,x\n",
        "line 5: 'timestamp' is '1682899200', expected a date without a zone, as in the first row",
    ),
    (
        "a.csv",
        HEADER + b"u,1,2023-05-01T10:00Z\nv,2,2023-05-01T10:00\n",
        "line 3: 'timestamp' is '2023-05-01T10:00', expected a date with a zone",
    ),
    ("a.csv", HEADER + b"u,1,2023-02-28\nv,2,2023-02-30\n", "line 3: 'timestamp' is '2023-02-30'"),
    (
        "a.csv",
        HEADER + b"u,1,May 1\nv,2,May 2\n",
        "line 2: 'timestamp' is 'May 1', expected a number such as .*, or a date such as 2023-05-01T10:00:00Z",
    ),
    (
        "a.csv",
        HEADER + b"u,1,03/15/2024\nv,2,04/15/2024\n",
        "line 2: 'timestamp' is '03/15/2024', expected the year first.*ambiguous here; rewrite.*or \"none\" to take the order",
    ),
    (
        "a.csv",
        HEADER + b"u,1,2024-03-15\nv,2,15.3.24 10:00\n",
        "line 3: 'timestamp' is '15.3.24 10:00', expected the year",
    ),
    (
        "a.csv",
        HEADER + b"u,1,20240315\nv,2,03/15/2024\n",
        "line 3: 'timestamp' is '03/15/2024', expected a number, as in",
    ),
    (
        "a.csv",
        HEADER + b"u,1,2024-03-15 02:18 UTC\nv,2,2024/03/15\n",
        "line 3: .* is '2024/03/15', expected a date with a zone",
    ),
    ("a.csv", HEADER + b"u,1,2024-03 -15\n", "line 2: 'timestamp' is '2024-03 -15', expected a number such as"),
    (
        "a.jsonl",
        b'{"user": 1, "item": 2, "ts": "2023-05-01"}\n{"user": 1, "item": 2, "ts": "x"}\n',
        "line 2: 'ts' is 'x'",
    ),
    ("a.csv", HEADER + b"u,1,1\nv,2,nan\n", "line 3: 'timestamp' is nan, expected a finite number"),
    ("a.csv", HEADER + b"u,1,1\nv,,2\n", "line 3: no value in column 'item_id'"),
    ("a.csv", HEADER + b"u,1,1\nv,2,2\n  ,3,2\n", "line 4: no value in column 'user_id'"),
    ("a.csv", HEADER + b"u,1,1\nNaN,3,2\n", "line 3: no value in column 'user_id'"),
    ("a.csv", HEADER + b"u,1,1\nv\xff,3,2\n", "line 3: bytes that are not UTF-8"),
    ("a.csv", b"user\xff,item\nu,1\n", "line 1: bytes that are not UTF-8"),
    (
        "a.csv",
        b"user,thing\nu,1\n",
        "no column recognised as the item; name the item column; columns found: 'user', 'thing'",
    ),
    ("a.csv", b"a,b\nu,1\n", "no column recognised as the user"),
    (
        "a.csv",
        b"user,item,user_id\nu,1,2\n",
        r"2 columns could be the user \('user', 'user_id'\); name the user column",
    ),
    ("a.csv", b"user,item,item\nu,1,2\n", r"2 columns could be the item \('item', 'item'\); rename one of them"),
    ("a.csv", b"user,item,time,ts\nu,1,2,3\n", "2 columns could be the timestamp"),
    ("a.csv", HEADER + b'u,1,1\nv,"2,2\nw,3,3\n', "line 3: 2 fields, expected 3"),
    ("a.csv", HEADER + b'u,1,1\nv,2,"' + b"9" * 200_000 + b'",4\n', "line 3: cannot be split into fields"),
    ("a.tsv", b"user item\nu 1\n", "no column recognised as the user.*columns found: 'user item'"),
    ("a.csv", b"user;id;thing\nu;1;2\n", "no column recognised as the item.*columns found: 'user', 'id', 'thing'"),
    (
        "a.csv",
        b"user;item|kind\nu;1|2\n",
        r"the header 'user;item\|kind' has no ',', and fields may be separated by ';' or '\|'; keep one of these",
    ),
    ("a.csv", b"user;item\nu;1\nv;2;3\n", "line 3: 3 fields, expected 2 as in the header"),
    ("a.csv", b"user|item|ts\nu|1|1\n\nv|2|soon\n", "line 4: 'ts' is 'soon', expected a number, as in the first row"),
    ("a.csv", b'user\titem\nu\t1\nv\t"2\n', "line 3: a quote that is never closed"),
    ("a.inter", b"user_id:token\titem_id:token\nu\t1\nv\n", "line 3: 1 fields, expected 2"),
    ("a.csv.gz", b"\x1f\x8b\x08\x00rubbish", "damaged or cut-off gzip file"),
    ("a.csv.gz", gzip.compress(HEADER + b"u,1,1\n" * 9999)[:-40], "damaged or cut-off gzip file"),
    ("a.txt.gz", gzip.compress(b"u 1 2\n" * 9999)[:-40], "damaged or cut-off gzip file"),
    ("a.jsonl.gz", gzip.compress(b'{"user": 1, "item": 2}\n' * 9999)[:-40], "damaged or cut-off gzip file"),
    ("a.jsonl", b"", "the file is empty"),
    ("a.jsonl", b'{"user": 1, "item": 2}\n{"user": 1, "item": \n', "line 2: no valid JSON"),
    (
        "a.jsonl",
        b'{"user": 1, "item": 2}\n\n{"user": "x", "item": 2}\n',
        "line 3: 'user' is 'x', expected the type of the first line",
    ),
    ("a.jsonl", b'{"user": 1, "item": 2}\n{"user": 1, "item": 2.5}\n', r"line 2: 'item' is 2\.5"),
    ("a.jsonl", b'{"user": 1, "item": 2}\n{"user": 1}\n', "line 2: no value in column 'item'"),
    ("a.jsonl", b'{"user": 1, "item": "b"}\n{"user": 1, "item": ""}\n', "line 2: no value in column 'item'"),
    ("a.jsonl", b'{"user": 1, "item": null}\n', "line 1: 'item' is null"),
    (
        "a.jsonl",
        b'{"user": "u", "item": 2}\n{"user": "v"}\n{"user": 3, "item": 4}\n',
        "line 2: no value for 'item'; fill it in or drop the line",
    ),
    ("a.jsonl", b'{"user": 1, "item": 2.0}\n', "column 'item' holds double"),
    ("a.jsonl", b'{"user": 1, "item": 2, "ts": 3}\n{"user": 1, "item": 2, "ts": "x"}\n', "line 2: 'ts' is 'x'"),
    ("a.jsonl", b'[{"user": 1, "item": 2}]\n', "line 1: a JSON list, expected one object a line"),
    ("a.jsonl", b'{"user": 1, "item": 2}\n{"user": "\xff", "item": 2}\n', "line 2: bytes that are not UTF-8"),
    ("a.jsonl", b'{"who": 1, "item": 2}\n', "no column recognised as the user.*columns found: 'who', 'item'"),
    ("a.txt", b"", "the file is empty"),
    ("a.txt", b" \n\n", "the file is empty"),
    ("a.txt", b"1 2 3\n\n2\n3 4\n", "line 3: '2' is a user without items"),
    ("a.txt", b"1 2 3\n2 \xff\n", "line 2: bytes that are not UTF-8"),
    ("a.txt", b"user_id item_id timestamp\n1 2 3\n", "line 1: 'user_id item_id timestamp' looks like column names"),
    ("a.txt", b"user_id,item_id\n1,2\n", "looks like column names, not `user item item ...`; name the format csv"),
    ("a.parquet", b"", "the file is empty"),
    ("a.parquet", b"PAR1 this is no parquet PAR1", "cannot be read as Parquet"),
]


@pytest.mark.parametrize(("name", "content", "message"), MISTAKES, ids=[f"{n}-{m[:28]}" for n, _, m in MISTAKES])
def test_mistakes_in_files_get_one_line_that_says_where(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        load_interactions(tmp_path / name)
    assert str(caught.value).startswith(str(tmp_path / name)) and "\n" not in str(caught.value)


def test_mistakes_in_tables_say_which_row() -> None:
    def table(**columns: list[Any]) -> pd.DataFrame:
        return pd.DataFrame(columns)

    cases: list[tuple[pd.DataFrame, str]] = [
        (table(user=[1, 2], item=["a", None]), r"row 2 \(counted from 1\): no value in column 'item'"),
        (table(user=[1, None], item=["a", "b"]), r"row 2 \(counted from 1\): no value in column 'user'"),
        (table(user=[1.0, 2.0], item=["a", "b"]), "column 'user' holds double, expected ids"),
        (table(user=[True, False], item=["a", "b"]), "column 'user' holds bool, expected ids"),
        (table(user=[1, "x"], item=["a", "b"]), "column 'user' mixes types"),
        (table(user=[1, 2**63], item=["a", "b"]), "'user' is beyond 64-bit integers"),
        (table(user=[1, 2], item=["a", "b"], time=[1.0, float("nan")]), "row 2 .*: no value in column 'time'"),
        (table(user=[1, 2], item=["a", "b"], time=[1.0, float("inf")]), "row 2 .*: 'time' is inf"),
        (table(user=[1, 2], item=["a", "b"], time=["1", "x"]), "row 2 .*: 'time' is 'x'"),
        (table(user=[], item=[]), "no rows"),
        (table(user=[1], thing=[2]), "columns found: 'user', 'thing'"),
    ]
    for source, message in cases:
        with pytest.raises(InputError, match="DataFrame: .*" + message):
            load_interactions(source)


def test_a_dictionary_that_repeats_a_value_or_holds_unused_ones_names_each_id_once() -> None:
    users = pa.DictionaryArray.from_arrays(pa.array([0, 1, 2, 0]), pa.array(["u", "v", "u", "w"]))
    table = load_interactions(pa.table({"user": users, "item": [1, 2, 3, 4]}))
    assert (list(table.user_ids), table.user.tolist(), table.item.tolist()) == (["u", "v"], [0, 0, 0, 1], [1, 3, 4, 2])


def test_wrong_arguments_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("user,item,time\nu,1,2\n")
    (tmp_path / "a.txt").write_text("u 1\n")
    cases: list[tuple[Callable[[], object], str]] = [
        (
            lambda: load_interactions(tmp_path / "a.csv", user="who"),
            "no column 'who' .*columns found: 'user', 'item', 'time'",
        ),
        (lambda: load_interactions(tmp_path / "a.csv", timestamp="when"), "no column 'when'"),
        (lambda: load_interactions(tmp_path / "a.csv", user="item"), "one column is named for two things"),
        (lambda: load_interactions(tmp_path / "a.txt", user="u"), "has no columns to name"),
        (lambda: load_interactions(tmp_path / "missing.csv"), "missing.csv: no such file"),
        (lambda: load_interactions("amazon2023:Video_Games"), "amazon2023:Video_Games: no such file"),
    ]
    for call, message in cases:
        with pytest.raises(InputError, match=message):
            call()
    with pytest.raises(InputTypeError, match="source: list, expected a path"):
        load_interactions([("u", 1)])
    with pytest.raises(InputTypeError, match=r"choose one of \['test', 'train'\]"):
        rows = datasets.Dataset.from_dict({"user": [1], "item": [2]})
        load_interactions(datasets.DatasetDict({"train": rows, "test": rows}))


def test_a_table_that_is_read_already_passes_through() -> None:
    table = Interactions.of([1], [2])
    assert load_interactions(table) is table


def test_importing_the_package_imports_no_reader_library() -> None:
    code = "import sys, latentloop.data; print(sorted({'datasets', 'pandas', 'pyarrow', 'huggingface_hub'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_large_files_are_read_in_blocks_without_losing_rows(tmp_path: Path) -> None:
    # longer than one reading block, so that dictionaries of several blocks have to be joined
    rows = 700_000
    lines = [f"user-{n % 9973:05d},item-{n % 613:04d},{n}" for n in range(rows)]
    (tmp_path / "a.csv").write_text("user,item,time\n" + "\n".join(lines) + "\n")
    table = load_interactions(tmp_path / "a.csv")
    assert (table.num_users, table.num_items, len(table)) == (9973, 613, rows)
    assert table.timestamp is not None
    assert torch.equal(table.item - 1, table.timestamp % 613) and torch.equal(table.user, table.timestamp % 9973)


def test_a_quote_inside_a_field_opens_nothing(tmp_path: Path) -> None:
    """An odd number of quotes is no mistake where none of them begins a field, nor does an even number rule one out."""
    path = tmp_path / "a.csv"
    for rows in (["u,5 inch", 'u,6" screw'], ['u,6" screw', "u,5 inch"]):
        path.write_text("\n".join(["user,item", *rows, ""]))
        assert sorted(load_interactions(path).item_ids) == ["5 inch", '6" screw']
    path.write_text('user,item\nu,6" screw\nu,"5 inch\nv,7\n')
    with pytest.raises(InputError, match="line 3: a quote that is never closed"):
        load_interactions(path)


@settings(max_examples=100)
@given(text=st.text(st.sampled_from('a,"\n'), max_size=14))
def test_a_quote_left_open_is_found_whatever_stands_before_it(folder: Path, text: str) -> None:
    state = "begin"
    for character in text:  # what a reader of quoted fields does, one character at a time
        if state == "quoted":
            state = "closed" if character == '"' else "quoted"
        elif character == '"':
            state = {"begin": "quoted", "closed": "quoted"}.get(state, state)
        else:
            assume(state != "closed" or character in ",\n")  # text behind a closing quote: no field as it should be
            state = "begin" if character in ",\n" else "field"
    path = folder / "quotes.csv"
    path.write_text(text)
    if state == "quoted":
        with pytest.raises(InputError, match="a quote that is never closed"):
            refuse_open_quote(path, ",")
    else:
        refuse_open_quote(path, ",")


def test_dictionary_encoded_times_are_their_values() -> None:
    frame = pd.DataFrame({"user": [1, 1, 2], "item": [5, 6, 5], "time": [30, 10, 30]})
    for times in (frame["time"].astype("category"), frame["time"].astype(str).astype("category")):
        table = load_interactions(frame.assign(time=times))
        assert table.timestamp is not None
        assert (table.item.tolist(), table.timestamp.tolist()) == ([2, 1, 1], [10, 30, 30])


def test_an_arrow_table_without_rows_is_refused() -> None:
    with pytest.raises(InputError, match="no rows, expected at least one interaction"):
        load_interactions(pa.table({"user": pa.array([], pa.int64()), "item": pa.array([], pa.string())}))


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="needs a file that opens and cannot be read")
def test_a_file_that_cannot_be_read_is_one_line() -> None:
    with pytest.raises(InputError, match=r"^/proc/self/mem: cannot be read \([^\n]+\)$"):
        load_interactions("/proc/self/mem", format="text")


def test_rows_that_repeat_are_counted_and_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "log.csv"
    path.write_text("user,item,time\n1,2,3\n1,2,3\n1,2,4\n1,2,3\n")
    with caplog.at_level("INFO", "latentloop"):
        assert len(load_interactions(path)) == 2
    assert f"{path}: 2 row(s) repeat a user, an item and a time, and count once" in caplog.messages
    caplog.clear()
    path.write_text("user,item,time\n1,2,3\n1,2,4\n")
    with caplog.at_level("INFO", "latentloop"):
        load_interactions(path)
    assert caplog.messages == []


def test_spaces_after_the_separator_are_no_part_of_ids(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "log.csv"
    path.write_text("user, item, time\na, 2, 3\n a,2,1\nb , 10 , 2\n")
    found = load_interactions(path)
    assert found.user_ids == ["a", "b"] and found.item_ids == [2, 10]
    assert found.item.tolist() == [1, 1, 2] and found.user.tolist() == [0, 0, 1]
    for other, content in {
        "a.tsv": "user\titem\ttime\tnote \na\t 2\t3\tx\na\t2\t1\ty\n",
        "a.csv": "user,item ,time, n\na, 2,3,x\na,2,1,y\n",
    }.items():  # no space before what is read
        (tmp_path / other).write_text(content)
        assert load_interactions(tmp_path / other).item_ids == [" 2", "2"]
    with caplog.at_level(logging.INFO):
        path.write_text("user, item, time\na, 2, 3\na,2,1\n")
        assert load_interactions(path).item_ids == [2]
    assert "column ' item': 1 id(s) differ from others by spaces only, and count as these" in caplog.text
    path.write_text("user,item,time\na, 2,3\na,2,1\n")
    with caplog.at_level(logging.WARNING):
        assert load_interactions(path).item_ids == [" 2", "2"]
    assert "column 'item' holds ids with spaces around them, such as ' 2', which are a part of them" in caplog.text
    path.write_text("user, item, time\na, ,3\n")
    with pytest.raises(InputError, match="line 2: no value in column ' item'"):
        load_interactions(path)
