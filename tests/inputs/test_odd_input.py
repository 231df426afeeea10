"""Inputs that look wrong and are not: they are taken as they are, and come back as they were."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from latentloop.cli import main
from tests.inputs.worlds import LOG, World, unchecked

LONG = 1_000_000
Ids = list[int] | list[str]


def log(users: Ids, items: Ids, times: list[str] | None = None) -> str:
    """Three users of four of four items each."""
    order = [(user, items[(u + step) % 4]) for u, user in enumerate(users) for step in range(4)]
    times = times or [str(place) for place in range(12)]
    return "user,item,timestamp\n" + "".join(f"{u},{i},{t}\n" for (u, i), t in zip(order, times, strict=True))


UNICODE = ["\U0001f600", "\u05d0\u05d1", "caf\xe9", "cafe\u0301"]  # the last two look alike and are two
IDS: dict[str, tuple[Ids, Ids]] = {
    "unicode": (["\xe5sa", "\u5929\u6c17", "\U0001f600"], UNICODE),
    "negative": ([-3, -2, -1], [-9, -1, 0, 7]),
    "beyond int64": ([str(2**70), str(2**71), str(2**72)], [str(10**30 + n) for n in range(4)]),
    "zeros in front": (["007", "07", "7"], ["00", "0", "000", "1"]),
    "numbers and words": (["1", "two", "3"], ["1", "b", "2.5", "-0"]),
    "the ends of int64": ([-(2**63), 0, 2**63 - 1], [-(2**63), 1, 2, 2**63 - 1]),
}


@pytest.mark.parametrize("kind", IDS)
def test_ids_of_any_kind_come_back(kind: str, world: World) -> None:
    users, items = IDS[kind]
    assert main(world.train(world.file("log.csv", "\ufeff" + log(users, items).replace("\n", "\r\n")))) == 0
    kept = [pq.read_table(world.here / f"out/data/{name}.parquet")["id"].to_pylist() for name in ("users", "items")]
    assert [sorted(ids) for ids in kept] == [sorted(users), sorted(items)]
    command = ["recommend", "out", "--input", world.file("asked.jsonl", json.dumps({"user": users[0]})), "--k", "4"]
    assert main([*command, "--out", "answer.csv", "--include-history", "--device", "cpu", "--strict"]) == 0
    with Path("answer.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["user"] for row in rows} == {str(users[0])} and {row["item"] for row in rows} == set(map(str, items))


TIMES = {
    "negative": [str(n - 6) for n in range(12)],
    "fractions": [f"{n / 8}" for n in range(12)],
    "the ends of int64": [*["-9223372036854775808"] * 6, *["9223372036854775807"] * 6],
    "all the same": ["5"] * 12,
    "dates before 1970": [f"1969-01-{n + 1:02}" for n in range(12)],
}


@pytest.mark.parametrize("kind", TIMES)
def test_times_of_any_kind_are_an_order(kind: str, world: World) -> None:
    source = world.file("log.csv", log(["a", "b", "c"], ["i", "j", "k", "l"], TIMES[kind]))
    assert main(["prepare", source, "--out", "data", "--k-core", "0"]) == 0
    rows = pq.read_table("data/interactions.parquet").to_pydict()
    assert rows["item"] == [1, 2, 3, 4, 2, 3, 4, 1, 3, 4, 1, 2]  # each user's rows in the order of the file


ROWS: dict[str, tuple[str, int]] = {
    "the same row twice": ("user,item,timestamp\nu,i,1\nu,i,1\nu,j,2\n", 2),
    "blank lines": ("user,item,timestamp\n\nu,i,1\n\n\nu,j,2\n\n", 2),
    "no end of the last line": ("user,item,timestamp\nu,i,1\nu,j,2", 2),
    "blank lines before the header": ("\n\r\nuser,item\nu,i\nv,j\n", 2),
    "a mark and a blank line before the header": ("\ufeff\nuser,item\nu,i\nv,j\n", 2),
    "quotes and commas": ('user,item,timestamp\n"a,""b""",i,1\n"a\nb",j,2\n', 2),
    "other columns of anything": ('user,x,item,y\nu,"\n",i,\nu,,j,NaN\n', 2),
    "one user of one item": ("user,item\nu,i\n", 1),
}


@pytest.mark.parametrize("kind", ROWS)
def test_rows_that_are_sound(kind: str, world: World) -> None:
    text, actions = ROWS[kind]
    assert main(["prepare", world.file("log.csv", text), "--out", "data", "--k-core", "0"]) == 0
    assert pq.read_table("data/interactions.parquet").num_rows == actions


def test_a_log_with_a_history_of_a_million_items(world: World) -> None:
    long = " ".join(str(n % 1000) for n in range(LONG))
    assert main(["prepare", world.file("log.txt", f"1 {long}\n2 5\n"), "--out", "data", "--k-core", "0"]) == 0
    assert pq.read_table("data/interactions.parquet").num_rows == LONG + 1


REQUESTS: dict[str, Callable[[list[str]], tuple[str, str]]] = {
    "CSV": lambda history: ("asked.csv", "user,history\nnew," + " ".join(history) + "\n"),
    "JSON Lines": lambda history: ("asked.jsonl", json.dumps({"user": "new", "history": history})),
}


@pytest.mark.parametrize("form", REQUESTS)
@pytest.mark.parametrize("length", [0, 1, 2, LONG])
def test_a_history_of_any_length_is_answered(form: str, length: int, world: World) -> None:
    """Only its newest items are read: the answer to a million is the answer to the last twenty."""
    answers = []
    with unchecked():
        for n in {length, min(length, 20)}:
            history = [f"i{(place - n) % 5}" for place in range(n)]
            assert main([*world.ask(*REQUESTS[form](history)), "--overwrite"]) == 0
            answers.append(Path("answer.csv").read_text())
    assert len(answers[0].splitlines()) == 1 + 3 and len(set(answers)) == 1


SAME: dict[str, tuple[str, str]] = {
    "a space before a name": ("asked.csv", "user, history\nu1,i1 i2\n"),
    "a byte order mark": ("asked.csv", "\ufeffuser,history\nu1,i1 i2\n"),
    "quoted names": ("asked.csv", '"user","history"\n"u1","i1 i2"\n'),
}


@pytest.mark.parametrize("form", SAME)
def test_requests_of_any_form_are_the_same(form: str, world: World) -> None:
    answers = []
    for name, text in (("asked.csv", "user,history\nu1,i1 i2\n"), SAME[form]):
        assert main([*world.ask(name, text), "--overwrite"]) == 0
        answers.append(Path("answer.csv").read_text())
    assert answers[0] == answers[1]


def test_a_list_may_begin_with_a_byte_order_mark(world: World) -> None:
    listed = world.file("allow.txt", "\ufeffi7\n")
    assert main([*world.ask("asked.csv", "history\ni1 i2\n"), "--allow", listed, "--strict"]) == 0
    with Path("answer.csv").open(encoding="utf-8", newline="") as file:
        assert [row["item"] for row in csv.DictReader(file)] == ["i7"]


@pytest.mark.parametrize("form", [".csv", ".jsonl", ".parquet"])
def test_a_tilde_that_no_shell_has_replaced_is_a_folder_of_that_name(
    form: str, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in `--out=~/run`: nothing of it is read from, or written to, the home that arrow takes it for."""
    (world.here / "home").mkdir()
    monkeypatch.setenv("HOME", str(world.here / "home"))
    rows = [{"user": f"u{n % 3}", "item": f"i{n % 4}"} for n in range(12)]
    for name, chosen in (("~/log", rows), ("~/asked", [{"user": "u1"}])):
        pq.write_table(pa.Table.from_pylist(chosen), world.file(f"{name}.parquet", ""))
        world.file(f"{name}.jsonl", "".join(json.dumps(row) + "\n" for row in chosen))
        world.file(f"{name}.csv", "\n".join([",".join(chosen[0]), *(",".join(row.values()) for row in chosen)]) + "\n")
    source, asked, answer = (f"~/{name}{form}" for name in ("log", "asked", "answer"))
    assert main([*world.train(source, "--rpt-epochs", "0"), "--out", "~/run"]) == 0
    assert main(["recommend", "~/run", "--input", asked, "--out", answer, "--k", "1"]) == 0
    assert Path(answer).is_file() and not any((world.here / "home").iterdir())


def test_one_user_and_one_item_are_trained_on(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    one_user = "user,item\n" + "".join(f"u,i{n % 5}\n" for n in range(12))
    one_item = "user,item\n" + "".join(f"u{n % 3},i\n" for n in range(15))
    assert main([*world.train(world.file("user.csv", one_user)), "--out", "one-user", "--with-base"]) == 0
    assert capsys.readouterr().out.count("one user, which says nothing of others") >= 2
    assert main([*world.train(world.file("item.csv", one_item)), "--out", "one-item"]) == 0


def test_a_run_is_read_through_a_link_and_beside_other_files(world: World) -> None:
    """What the link is to is its owner's choice; only what lies in a run by the names that are ours is ours."""
    copy = world.copy()
    (copy / "notes").symlink_to(world.file("notes.txt", "mine"))
    Path("link").symlink_to(copy)
    assert main(["evaluate", "link", "--device", "cpu"]) == 0


def test_the_sound_log_is_sound(world: World) -> None:
    assert main(world.train(world.file("log.csv", LOG), "--rpt-epochs", "0")) == 0
