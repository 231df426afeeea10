"""Malformed inputs to the command line: each is one line and exit code 2, and leaves nothing behind.

One row an input: how to make it and the command that is given it, and what the line says.
"""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load, save

from latentloop.cli import main
from tests.inputs.worlds import ITEMS, LOG, NUMBERED, TINY, World, cut, edit_json, flipped, tree, unchecked

Row = tuple[str, Callable[[World], list[str]], str]

HEADER = "user,item,timestamp\n"
LINES = LOG.splitlines()
BEYOND = 2**63  # the smallest number that is no int64
DEEP = "[" * 100_000  # nested too deep for a parser


def with_row(row: str, place: int = 2) -> str:
    """The sound log with one more line, which is then line `place` + 1 of the file."""
    return "\n".join([*LINES[:place], row, *LINES[place:]]) + "\n"


def jsonl(*rows: object) -> str:
    """JSON Lines; text is a line as it stands."""
    return "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)


def twice(world: World) -> str:
    """A Parquet file with two columns of one name."""
    pq.write_table(pa.Table.from_arrays([pa.array([1])] * 3, names=["user", "user", "item"]), world.here / "a.parquet")
    return "a.parquet"


def without(world: World, place: str) -> list[str]:
    """Evaluate a run that lacks a file."""
    (world.copy() / place).unlink()
    return world.evaluate(place)


def with_nan(content: bytes) -> bytes:
    """Weights as a stranger may make them: all NaN, without a checksum."""
    return save({name: torch.full_like(tensor, float("nan")) for name, tensor in load(content).items()})


def other_texts(content: bytes) -> bytes:
    """Features of fewer items, by the same names."""
    return save({name: tensor[:4].contiguous() for name, tensor in load(content).items()})


def pipe(world: World, name: str) -> str:
    """What waits for a writer, or a reader."""
    os.mkfifo(world.here / name)
    return str(world.here / name)


def link(world: World, name: str, to: str) -> str:
    """A link, to a file or folder that may not be there."""
    (world.here / name).symlink_to(world.here / to)
    return str(world.here / name)


def logged(world: World, number: str) -> list[str]:
    """Evaluate a run whose metrics say this of its epochs."""
    return world.damaged("metrics.jsonl", lambda c: re.sub(rb'"ndcg@10": [^,}]+', b'"ndcg@10": ' + number.encode(), c))


def kept(world: World, name: str, change: Callable[[pa.Table], pa.Table]) -> list[str]:
    """Train on prepared data of which one table is another."""
    path = world.copy() / "data" / f"{name}.parquet"
    pq.write_table(change(pq.read_table(path)), path)
    return world.train(str(path.parent))


def with_column(name: str, make: Callable[[Any], Any]) -> Callable[[pa.Table], pa.Table]:
    """A table in which a column is made of what it was."""
    return lambda t: t.set_column(t.column_names.index(name), name, pa.array(make(t[name].to_numpy())))


def resumed_with(world: World, *keys: str, value: Any) -> list[str]:
    """Resume a run whose configuration says something else."""
    edit_json(world.copy() / "config.json", *keys, value=value)
    return world.resume()


def other_data(world: World) -> list[str]:
    """Resume a run that lost its data, when its source has changed: what it was trained on can still be put back."""
    changed, (verb, _, *options) = world.file("log.csv", LOG.replace("u1,i5", "u1,i2")), world.resume()
    shutil.rmtree(world.copy() / "data")
    edit_json(world.copied / "config.json", "source", value=changed)
    return [verb, changed, *options]


def other_options(world: World, *options: str) -> list[str]:
    """Resume a sound run with something else."""
    world.copy()
    return [*world.resume(), *options]


FILES: list[Row] = [
    ("no such file", lambda w: w.train("no.csv"), r"no\.csv: no such file"),
    ("a folder of anything", lambda w: w.train(str(w.here)), r"no card\.json in it"),
    ("nothing in it", lambda w: w.train(w.file("a.csv", "")), r"a\.csv: the file is empty"),
    ("a header alone", lambda w: w.train(w.file("a.csv", HEADER)), r"a header and no rows"),
    ("an unknown ending", lambda w: w.train(w.file("a.xlsx", LOG)), r"does not tell the format.*\(--format\)"),
    ("a Parquet called CSV", lambda w: w.train(Path(w.parquet("a.parquet", user=[1], item=[1])).rename("a.csv").name),
     r"a\.csv: line \d+: bytes that are not UTF-8"),
    ("a CSV called Parquet", lambda w: w.train(w.file("a.parquet", LOG)), r"cannot be read as Parquet .*\(--format\)"),
    ("a zip called CSV", lambda w: w.train(w.file("a.csv", b"PK\x03\x04\x14\0\0\0\xff\xfe")), r"not UTF-8|no column"),
    ("a cut-off gzip", lambda w: w.train(w.file("a.csv.gz", gzip.compress(LOG.encode())[:-30])), r"cut-off gzip"),
    ("a damaged gzip", lambda w: w.train(w.file("a.txt.gz", flipped(0.5)(gzip.compress(b"1 2 3 4\n" * 50)))), r"gzip"),
    ("a cut-off Parquet", lambda w: w.train(w.file("b.parquet", cut(0.6)(
        Path(w.parquet("a.parquet", user=[1, 2], item=[1, 2])).read_bytes()))), r"b\.parquet: cannot be read as Parquet"),
    ("a Parquet with a flipped bit", lambda w: w.train(w.file("b.parquet", flipped(0.01)(
        Path(w.parquet("a.parquet", user=["ab", "cd"] * 50, item=[1, 2] * 50)).read_bytes()))), r"b\.parquet"),
    ("a Parquet without rows", lambda w: w.train(w.parquet("a.parquet", user=pa.array([], pa.int64()),
                                                           item=pa.array([], pa.int64()))), r"no rows"),
    ("Latin-1", lambda w: w.train(w.file("a.csv", with_row("caf\xe9,i1,5").encode("latin-1"))),
     r"line 3: bytes that are not UTF-8; convert"),
    ("UTF-16", lambda w: w.train(w.file("a.csv", LOG.encode("utf-16"))), r"line 1: bytes that are not UTF-8"),
    ("NUL bytes", lambda w: w.train(w.file("a.csv", "\0" * 4096)), r"a\.csv: "),
    ("JSON nested too deep", lambda w: w.train(w.file("a.jsonl", DEEP)), r"a\.jsonl: line 1: no valid JSON"),
    ("a JSON number of 5000 digits", lambda w: w.train(w.file("a.jsonl", f'{{"user": {"9" * 5000}, "item": 1}}')),
     r"a\.jsonl: line 1: no valid JSON"),
    ("a pipe", lambda w: w.train(pipe(w, "a.csv")), r"a\.csv: is a pipe or device; save"),
    ("a name that is not UTF-8", lambda w: w.train(os.fsdecode(w.file("a.csv", LOG)[:-4].encode() + b"\xe9.csv")),
     r"a\\udce9\.csv: no name in UTF-8"),
    ("a JSON list", lambda w: w.train(w.file("a.jsonl", json.dumps([{"user": 1, "item": 2}]))), r"a JSON list"),
]  # fmt: skip

COLUMNS: list[Row] = [
    ("nothing known", lambda w: w.train(w.file("a.csv", "a,b\n1,2\n")), r"no column recognised as the user"),
    ("two items of one name", lambda w: w.train(w.file("a.csv", "user,item,item\n1,2,3\n")), r"2 columns .*rename one"),
    ("two columns of users", lambda w: w.train(w.file("a.csv", "user,uid,item\n1,2,3\n")), r"name the user column"),
    ("one for two things", lambda w: w.train(w.file("a.csv", LOG), "--item", "user"), r"one column is named for two"),
    ("two of one name in Parquet", lambda w: w.train(twice(w)), r"a\.parquet: 2 columns could be the user"),
    ("one name twice in JSON", lambda w: w.train(w.file("a.jsonl", jsonl('{"user": 1, "user": 2, "item": 3}'))),
     r"a\.jsonl: .*twice|a\.jsonl: cannot be read"),
    ("a named one that is missing", lambda w: w.train(w.file("a.csv", LOG), "--timestamp", "when"), r"\(--timestamp\)"),
    ("separated by what is not clear", lambda w: w.train(w.file("a.csv", "user;item|ts\n1;2|3\n")), r"by ';' or '\|'; keep one"),
    ("dates of either order", lambda w: w.train(w.file("a.csv", "user,item,InvoiceDate\n1,2,03/04/2024\n")),
     r"line 2: .*ambiguous here; .*\"none\" .*\(--timestamp\)"),
]  # fmt: skip

ROWS: list[Row] = [
    ("too few fields", lambda w: w.train(w.file("a.csv", with_row("u1,i1"))), r"line 3: 2 fields, expected 3"),
    ("too many fields", lambda w: w.train(w.file("a.csv", with_row("u1,i1,1,1"))), r"line 3: 4 fields, expected 3"),
    ("an open quote", lambda w: w.train(w.file("a.csv", with_row('u1,"i1,1'))), r"line 3: 2 fields, expected 3"),
    ("an open quote at the end", lambda w: w.train(w.file("a.csv", LOG + 'u1,i1,"1\n')), r"line 63: a quote that is never closed"),
    ("no user", lambda w: w.train(w.file("a.csv", with_row(",i1,1"))), r"line 3: no value in column 'user'"),
    ("a blank item", lambda w: w.train(w.file("a.csv", with_row("u1,  ,1"))), r"line 3: no value in column 'item'"),
    ("an item that is NaN", lambda w: w.train(w.file("a.csv", with_row("u1,NaN,1"))), r"line 3: no value"),
    ("bytes among the ids of Parquet", lambda w: w.train(w.file("b.parquet", Path(w.parquet(
        "a.parquet", user=["abcd", "efgh"], item=[1, 2])).read_bytes().replace(b"efgh", b"e\xffgh"))), r"b\.parquet: row 2 .*UTF"),
    ("bytes among the ids of JSON", lambda w: w.train(w.file("a.jsonl", b'{"user": "a", "item": 1}\n{"user": "\x80", "item": 1}')),
     r"line 2: bytes that are not UTF-8"),
    ("a null", lambda w: w.train(w.parquet("a.parquet", user=[1, None], item=[1, 2])), r"row 2 .*no value"),
    ("ids that are fractions", lambda w: w.train(w.parquet("a.parquet", user=[1.5, 2.0], item=[1, 2])), r"holds double"),
    ("ids that are NaN", lambda w: w.train(w.parquet("a.parquet", user=[float("nan")], item=[1])), r"holds double"),
    ("ids that are lists", lambda w: w.train(w.parquet("a.parquet", user=[[1]], item=[1])), r"column 'user' holds list"),
    ("ids that are true or false", lambda w: w.train(w.file("a.jsonl", jsonl({"user": True, "item": 1}))), r"is bool"),
    ("mixed types", lambda w: w.train(w.file("a.jsonl", jsonl({"user": 1, "item": 1}, {"user": "b", "item": 1}))),
     r"line 2: 'user' is 'b', expected the type of the first line \(int\)"),
    ("ids beyond int64 in JSON", lambda w: w.train(w.file("a.jsonl", jsonl({"user": 1, "item": 1},
                                                                        {"user": BEYOND, "item": 1}))),
     r"line 2: 'user' is beyond 64-bit integers; store ids as text"),
    ("ids beyond int64 in Parquet", lambda w: w.train(w.parquet(
        "a.parquet", user=pa.array([1, BEYOND], pa.uint64()), item=[1, 2])), r"row 2 .*'user' is beyond 64-bit"),
    ("times beyond int64 in Parquet", lambda w: w.train(w.parquet(
        "a.parquet", user=[1, 2], item=[1, 2], ts=pa.array([1, BEYOND], pa.uint64()))), r"row 2 .*'ts' is beyond 64-bit"),
    ("a time that is NaN", lambda w: w.train(w.file("a.csv", with_row("u1,i1,nan"))), r"line 3: 'timestamp' is nan"),
    ("a time that is infinite", lambda w: w.train(w.file("a.csv", with_row("u1,i1,-inf"))), r"line 3: .*is -inf"),
    ("an infinite time in JSON", lambda w: w.train(w.file("a.jsonl", jsonl(
        {"user": 1, "item": 1, "ts": 1.5}, '{"user": 1, "item": 2, "ts": 1e999}'))), r"line 2"),
    ("a time that is empty", lambda w: w.train(w.file("a.csv", with_row("u1,i1,"))), r"line 3: 'timestamp' is ''"),
    ("a time that is a word", lambda w: w.train(w.file("a.csv", with_row("u1,i1,noon"))), r"line 3: .*'noon', expected"),
    ("dates among numbers", lambda w: w.train(w.file("a.csv", with_row("u1,i1,2023-05-01"))), r"line 3: .*a number"),
    ("no such day", lambda w: w.train(w.file("a.csv", HEADER + "u1,i1,2023-02-30\n")), r"line 2: .*'2023-02-30'"),
    ("times that are true or false", lambda w: w.train(w.parquet("a.parquet", user=[1], item=[1], ts=[True])),
     r"column 'ts' holds bool, expected timestamps"),
    ("a user without items", lambda w: w.train(w.file("a.txt", "1 2 3 4\n\n7\n")), r"line 3: '7' is a user without items"),
    ("a table called text", lambda w: w.train(w.file("a.txt", LOG)), r"looks like column names.*\(--format\)"),
]  # fmt: skip

SIZES: list[Row] = [
    ("one user of one item", lambda w: w.train(w.file("a.csv", HEADER + "u,i,1\n")), r"none of 1 users has 3 items"),
    ("histories of one item", lambda w: w.train(w.file("a.csv", HEADER + "u,i,1\nv,j,1\nw,i,2\n")), r"has 3 items"),
    ("histories of two items", lambda w: w.train(w.file("a.csv", HEADER + "u,i,1\nu,j,2\nv,i,1\nv,j,2\n")), r"has 3 items"),
    ("one item, once", lambda w: w.train(w.file("a.csv", HEADER + "u,i,1\nu,i,1\nu,i,1\n")), r"has 3 items"),
    ("nothing to learn from", lambda w: w.train(w.file("a.csv", HEADER + "u,i,1\nu,j,2\nu,k,3\n")), r"no training sample"),
    ("nobody in the k-core", lambda w: w.train(w.file("a.csv", LOG), "--k-core", "50"), r"\(--k-core\)"),
    ("all at one time", lambda w: w.train(w.file("a.csv", HEADER + "u,i,1\nu,j,1\nv,i,1\n"), "--split", "global-time"),
     r"the training part has no sample"),
    ("no times for a split by time", lambda w: w.train(w.file("a.txt", "1 1 2 3\n2 1 2 3\n"), "--split", "global-time"),
     r"no timestamps.*\(--split, --timestamp\)"),
    ("a model larger than the memory", lambda w: w.train(w.file("a.csv", LOG), "--dim", str(10**14)), r"memory"),
    *((f"{option} beyond int64", lambda w, option=option: w.train(w.file("a.csv", LOG), option, str(10**30)), r"not enough memory")
      for option in ("--dim", "--inner", "--max-length")),
    ("fewer thoughts than one", lambda w: w.train(w.file("a.csv", LOG), "--depth", "fixed", "--mean-depth", "-1"),
     r"--mean-depth must be a whole number of at least 0, got -1"),
    ("as many thoughts as none takes", lambda w: w.train(w.file("a.csv", LOG), "--depth", "uniform", "--mean-depth", "5000"),
     r"--mean-depth must be at most 4999, got 5000"),
    ("a filter's weight out of range", lambda w: w.train(w.file("a.csv", LOG), "--backbone", "bsarec", "--filter-weight", "2"),
     r"--filter-weight must lie in \[0, 1\], got 2"),
    ("prepared data over its own parent", lambda w: ["prepare", w.file("a.csv", LOG), "--k-core", "0", "--out", "new/.."],
     r"new"),
    ("thoughts without end", lambda w: w.train(w.file("a.csv", LOG), "--mean-depth", str(10**30)),
     r"--mean-depth must be at most 3333"),
    ("negatives without end", lambda w: w.train(w.file("a.csv", LOG), "--negatives", str(10**30)), r"--negatives must be"),
    ("a cutoff without end", lambda w: w.train(w.file("a.csv", LOG), "--reward-cutoff", str(10**30)),
     r"--reward-cutoff must be at most"),
    ("a clip without end", lambda w: w.train(w.file("a.csv", LOG), "--clip", "1e300"), r"--clip must be at most 1e\+30"),
    ("layers without end", lambda w: w.train(w.file("a.csv", LOG), "--pre-layers", str(10**9)),
     r"--pre-layers must be at most 1000"),
    ("layers of filters without end", lambda w: ["train", w.file("a.csv", LOG), "--out", "out", "--k-core", "0",
        "--backbone", "fmlprec", "--core-layers", str(10**9)], r"layers must be at most 1000"),
    ("positions beyond the memory", lambda w: w.train(w.file("a.csv", LOG), "--max-length", str(10**15)), r"memory"),
]  # fmt: skip

TEXTS: list[Row] = [
    ("embeddings that are missing", lambda w: w.text("--item-embeddings", "no.npy"), r"no\.npy: no such file"),
    ("embeddings of one dimension", lambda w: w.text("--item-embeddings", w.embeddings(np.ones(ITEMS))), r"\(9,\), expected"),
    ("embeddings of three", lambda w: w.text("--item-embeddings", w.embeddings(np.ones((ITEMS, 2, 2)))), r"\(9, 2, 2\)"),
    ("embeddings of no size", lambda w: w.text("--item-embeddings", w.embeddings(np.ones((ITEMS, 0)))), r"\(9, 0\), expect"),
    ("embeddings of too few items", lambda w: w.text("--item-embeddings", w.embeddings(np.ones((3, 2)))), r"3 rows.* item"),
    ("embeddings of text", lambda w: w.text("--item-embeddings", w.embeddings(np.full((ITEMS, 2), "x"))), r"<U1"),
    ("embeddings of complex numbers", lambda w: w.text("--item-embeddings", w.embeddings(np.full((ITEMS, 2), 1j))), r"compl"),
    ("embeddings that are objects", lambda w: w.text("--item-embeddings", w.embeddings(np.full((ITEMS, 2), None))),
     r"without unpickling"),
    ("embeddings with a NaN", lambda w: w.text("--item-embeddings", w.embeddings(
        np.where(np.arange(2 * ITEMS).reshape(ITEMS, 2) == 4, np.nan, 1))), r"row 3, item 3, holds a number .* not finite"),
    ("embeddings that overflow", lambda w: w.text("--item-embeddings", w.embeddings(np.full((ITEMS, 2), 1e300))),
     r"row 1.*not finite"),
    ("embeddings that are cut off", lambda w: w.text("--item-embeddings", w.file("b.npy", cut(0.9)(
        Path(w.embeddings(np.ones((ITEMS, 2)))).read_bytes()))), r"b\.npy: cannot be read as \.npy"),
    ("embeddings that promise too much", lambda w: w.text("--item-embeddings", w.file("b.npy", Path(
        w.embeddings(np.ones((ITEMS, 2)))).read_bytes().replace(b"(9, 2)", b"(9, 9**9)"))), r"b\.npy: cannot be read"),
    ("a broken archive of embeddings", lambda w: w.text("--item-embeddings", w.file("b.npy", b"PK\x03\x04 and no more")),
     r"b\.npy: cannot be read as \.npy"),
    ("embeddings of ids with a zero in front", lambda w: w.train(w.file("a.csv", NUMBERED + "1,01,99\n"), "--backbone", "tedrec",
        "--item-embeddings", w.embeddings(np.ones((ITEMS, 2)))), r"item '01' is none of 1\.\.9"),
    ("embeddings of an id of 5000 digits", lambda w: w.train(
        w.file("a.csv", NUMBERED + f"1,{'9' * 5000},99\n"), "--backbone", "tedrec", "--item-embeddings",
        w.embeddings(np.ones((ITEMS, 2)))), r"item '9+' is none of 1\.\.9"),
    ("a quote left open in a text", lambda w: w.hashed("items.csv", 'id,text\n1,a\n2,"b\n3,c\n'), r"line 3: a quote that is never"),
    ("ids that are days beyond the calendar", lambda w: w.hashed("items.parquet", Path(w.parquet("b.parquet", text=["x"], id=pa.array(
        [2**31 - 1], pa.int32()).cast(pa.date32()))).read_bytes()), r"items\.parquet: cannot be read"),
    ("texts without ids", lambda w: w.hashed("items.tsv", "id\ttext\n\tx\n"), r"line 2: the id is ''"),
    ("texts of other items", lambda w: w.hashed("items.tsv", "id\ttext\n900\tx\n"), r"none of the 9 items"),
    ("two texts of one item", lambda w: w.hashed("items.tsv", "id\ttext\n1\tx\n1\ty\n"), r"line 3: a second text of item '1'"),
    ("texts that are blank", lambda w: w.hashed("items.tsv", "id\ttext\n1\t \n2\t\n"), r"every text .* is blank"),
    ("texts in Latin-1", lambda w: w.hashed("items.csv", "id,text\n1,caf\xe9\n".encode("latin-1")), r"line 2: .*not UTF-8"),
    ("half a character in JSON", lambda w: w.hashed("items.jsonl", jsonl('{"id": 1, "text": "\\ud800"}')), r"items\.jsonl"),
    ("texts cut off", lambda w: w.hashed("items.jsonl", '{"id": 1, "text": "x"}\n{"id": 2'), r"line 2: no valid JSON"),
    ("texts without a column", lambda w: w.hashed("items.csv", "a,b,c\n1,2,3\n"), r"no column recognised as the item ids"),
]  # fmt: skip

REQUESTS: list[Row] = [
    ("nobody known", lambda w: w.ask("a.csv", "user\nnobody\n"), r"knows none of its users: 'nobody' \(line 2\)"),
    ("one unknown, strictly", lambda w: w.ask("a.csv", "user\nu1\nx\n", "--strict"), r"line 3: unknown user 'x'"),
    ("an unknown item, strictly", lambda w: w.ask("a.csv", "history\ni1 x\n", "--strict"), r"line 2: unknown item 'x'"),
    ("neither column", lambda w: w.ask("a.csv", "name\nx\n"), r"needs a column `user` or `history`, found name"),
    ("two columns of one name", lambda w: w.ask("a.csv", "user,user\nu1,u2\n"), r"2 columns named user"),
    ("an empty file", lambda w: w.ask("a.csv", ""), r"a\.csv is empty"),
    ("a user that is null", lambda w: w.ask("a.jsonl", jsonl({"user": "u1"}, {"user": None})), r"line 2: no user"),
    ("a user that is a list", lambda w: w.ask("a.jsonl", jsonl({"user": ["u1"]})), r"line 1: user must be text or a whole"),
    ("a history that is a number", lambda w: w.ask("a.jsonl", jsonl({"history": 5})), r"line 1: history must be a list"),
    ("a history of fractions", lambda w: w.ask("a.jsonl", jsonl({"history": [1.5]})), r"line 1: history must be a list"),
    ("requests in Latin-1", lambda w: w.ask("a.csv", b"user\nu1\n\xe9\n"), r"line 3: bytes that are not UTF-8"),
    ("one name twice in a request", lambda w: w.ask("a.jsonl", '{"user": "u1", "user": "u2"}'), r"line 1: .*'user' twice"),
    ("one name twice among texts", lambda w: w.hashed("items.jsonl", '{"id": 1, "text": "x", "text": "y"}'),
     r"line 1: .*'text' twice"),
    ("requests nested too deep", lambda w: w.ask("a.jsonl", DEEP), r"line 1: no valid JSON"),
    ("half a character in a name", lambda w: w.ask("a.jsonl", jsonl('{"user": "\\ud800", "history": ["i1"]}')),
     r"line 1: .*ud800 is half a character"),
    ("a Parquet that is none", lambda w: w.ask("a.parquet", b"PAR1PAR1PAR1"), r"a\.parquet cannot be read"),
    ("a cut-off quote", lambda w: w.ask("a.csv", 'user,history\nu1,"i1 i2\nu2,i3\n'), r"line 2: a quote that is never closed"),
    ("no such file of requests", lambda w: ["recommend", str(w.plain.path), "--input", "no.csv", "--out", "o.csv"],
     r"--input: there is no file no\.csv"),
    ("more items than there are", lambda w: w.ask("a.csv", "user\nu1\n", "--k", "10"), r"--k must lie in 1\.\.9"),
    ("a depth without end", lambda w: w.ask("a.csv", "user\nu1\n", "--depth", str(10**30)), r"--depth must be at most 10000"),
    ("a day beyond the calendar", lambda w: w.ask("a.parquet", Path(w.parquet("b.parquet", user=pa.array(
        [2**31 - 1], pa.int32()).cast(pa.date32()))).read_bytes()), r"a\.parquet cannot be read"),
    ("no depth", lambda w: w.ask("a.csv", "user\nu1\n", "--depth", "0"), r"--depth must"),
    ("a list in UTF-16", lambda w: w.ask("a.csv", "user\nu1\n", "--allow", w.file("l", "i1\n".encode("utf-16"))), r"UTF-8"),
]  # fmt: skip

OUTPUTS: list[Row] = [
    ("a run in a file's place", lambda w: [*w.train(w.file("a.csv", LOG)), "--out", w.file("f", "mine")], r"f is a file"),
    ("a run below a file", lambda w: [*w.train(w.file("a.csv", LOG)), "--out", w.file("f", "mine") + "/out"], r"\bf\b"),
    ("a run over a run", lambda w: [*w.train(w.file("a.csv", LOG)), "--out", str(w.plain.path)], r"--resume"),
    ("a run over something else", lambda w: [*w.train(w.file("a.csv", LOG)), "--out", str(w.here), "--overwrite"],
     r"not a run of latentloop"),
    ("prepared data over a file", lambda w: ["prepare", w.file("a.csv", LOG), "--k-core", "0", "--out", w.file("f", "x"),
                                             "--overwrite"],
     r"f: exists and is not prepared data"),
    ("prepared data below a file", lambda w: ["prepare", w.file("a.csv", LOG), "--k-core", "0", "--out",
                                              w.file("f", "x") + "/data"], r"\bf\b"),
    ("metrics over a folder", lambda w: ["evaluate", str(w.plain.path), "--out", str(w.here), "--overwrite"], r"is a folder"),
    ("answers below a file", lambda w: [*w.ask("a.csv", "user\nu1\n"), "--out", w.file("f", "x") + "/o.csv"], r"f is a file"),
    ("answers over a file", lambda w: [*w.ask("a.csv", "user\nu1\n"), "--out", w.file("o.csv", "x")], r"--overwrite"),
    ("answers of an unknown kind", lambda w: [*w.ask("a.csv", "user\nu1\n"), "--out", "o.xlsx"], r"--out must end in"),
    ("metrics over a pipe", lambda w: ["evaluate", str(w.plain.path), "--out", pipe(w, "p"), "--overwrite"], r"no plain file"),
    ("metrics over a link", lambda w: ["evaluate", str(w.plain.path), "--out", link(w, "l", "gone")], r"a link or no plain"),
    ("answers over a pipe", lambda w: [*w.ask("a.csv", "user\nu1\n"), "--out", pipe(w, "p.csv"), "--overwrite"],
     r"no plain file"),
    ("prepared data over a link", lambda w: ["prepare", w.file("a.csv", LOG), "--k-core", "0", "--overwrite", "--out",
                                             link(w, "l", shutil.copytree(w.plain.path / "data", "mine"))], r"l: is a link"),
    ("prepared data of too long a name", lambda w: ["prepare", w.file("a.csv", LOG), "--k-core", "0", "--out",
                                                    "new/" + "x" * 300], r"too long"),
    ("answers of too long a name", lambda w: [*w.ask("a.csv", "user\nu1\n"), "--out", "new/" + "x" * 300 + ".csv"],
     r"too long"),
    ("metrics over a run's own", lambda w: ["evaluate", str(w.plain.path), "--overwrite", "--out",
                                            str(w.plain.path / "metrics.jsonl")], r"metrics\.jsonl is of the run"),
    ("answers over a run's weights", lambda w: [*w.ask("a.csv", "user\nu1\n"), "--overwrite", "--out",
                                                str(w.plain.path / "spt" / "new.csv")], r"new\.csv is of the run"),
    ("metrics over another run's own", lambda w: ["evaluate", str(w.plain.path), "--overwrite", "--out",
                                                  str(w.texts.path / "metrics.jsonl")], r"metrics\.jsonl is of the run"),
    ("prepared data over a run's", lambda w: ["prepare", w.file("a.csv", LOG), "--k-core", "0", "--overwrite", "--out",
                                              str(w.plain.path / "data")], r"data is of the run .*choose another name"),
    ("prepared data through a link to a run", lambda w: ["prepare", w.file("a.csv", LOG), "--k-core", "0", "--out",
        link(w, "l", str(w.copy())) + "/base/new"], r"l/base/new is of the run"),
    ("a run within a run's models", lambda w: [*w.train(w.file("a.csv", LOG)), "--out", str(w.copy() / "tensorboard")],
     r"tensorboard is of the run"),
    ("answers over their questions", lambda w: [*w.ask("a.csv", "user\nu1\n"), "--out", "a.csv", "--overwrite"],
     r"a\.csv is what the command reads"),
    ("answers over what is allowed", lambda w: [*w.ask("a.csv", "user\nu1\n"), "--allow", w.file("l.csv", "i1\n"), "--out",
                                                "l.csv", "--overwrite"], r"l\.csv is what the command reads"),
    ("a run over its own data", lambda w: ["train", str(w.copy() / "data"), "--out", str(w.copied), *TINY, "--overwrite"],
     r"--overwrite would remove .*data, which is read"),
    ("a name too long", lambda w: [*w.train(w.file("a.csv", LOG)), "--out", "x" * 300], r"too long"),
]  # fmt: skip

RUNS: list[Row] = [
    ("no run", lambda w: ["evaluate", str(w.here)], r"is not a run of latentloop"),
    ("config.json cut off", lambda w: w.damaged("config.json", cut(0.5)), r"config\.json is damaged"),
    ("config.json in UTF-16", lambda w: w.damaged("config.json", lambda c: c.decode().encode("utf-16")), r"is damaged"),
    ("config.json nested too deep", lambda w: w.damaged("config.json", lambda _: DEEP.encode()), r"config\.json is damaged"),
    ("config.json is a list", lambda w: w.damaged("config.json", lambda _: b"[]"), r"is not a run"),
    ("an unknown option", lambda w: w.edited("config.json", "data", "shell", value="ls"), r"data\.shell is no option"),
    ("an option of another type", lambda w: w.edited("config.json", "data", "max_length", value="20"),
     r"data\.max_length must be a whole number, found '20'"),
    ("an option out of range", lambda w: w.edited("config.json", "data", "max_length", value=0), r"max_length"),
    ("an option that contradicts", lambda w: w.edited("config.json", "data", "max_length", value=7), r"max_length"),
    ("a group that is a list", lambda w: w.edited("config.json", "data", value=[]), r"data must be an object of options"),
    ("a run of another version", lambda w: w.edited("config.json", "latentloop_run", value=99), r"is a run of version 99"),
    ("a run of another version, resumed", lambda w: resumed_with(w, "latentloop_run", value=99), r"is a run of version 99"),
    ("a seed that is text", lambda w: w.edited("config.json", "seed", value="0"), r"seed must be a whole number"),
    ("a model of another format", lambda w: w.edited("rpt/config.json", "format", value=99), r"rpt/config\.json"),
    ("a number of items that is text", lambda w: w.edited("rpt/config.json", "num_items", value="9"), r"rpt/config\.json"),
    ("a size that is a fraction", lambda w: w.edited("rpt/config.json", "dim", value=8.0), r"rpt/config\.json"),
    ("an unknown backbone", lambda w: w.edited("rpt/config.json", "backbone", "name", value="gru"), r"must be one of sasrec"),
    ("an unknown setting", lambda w: w.edited("rpt/config.json", "backbone", "settings", value={"code": 1}), r"'code'"),
    ("layers without end", lambda w: w.edited("rpt/config.json", "backbone", "settings", "pre_layers", value=10**9),
     r"rpt/config\.json .*pre_layers"),
    ("nets without end", lambda w: w.edited("rpt/config.json", "backbone", "settings", "inner", value=10**10),
     r"rpt/config\.json .*inner"),
    ("heads that do not divide", lambda w: w.edited("rpt/config.json", "backbone", "settings", "heads", value=3), r"heads"),
    ("an aggregate of one's own", lambda w: w.edited("rpt/config.json", "backbone", "loop", "aggregate", value="os.system"),
     r"aggregate must be one of"),
    ("a depth below 1", lambda w: w.edited("rpt/config.json", "backbone", "loop", "depth_law", "mean_depth", value=0),
     r"mean_depth must be"),
    ("thoughts without end", lambda w: w.edited(
        "rpt/config.json", "backbone", "loop", "depth_law", "mean_depth", value=10**9), r"mean_depth must be at most 3333"),
    ("ids in another order", lambda w: w.damaged("rpt/items.json", lambda c: json.dumps(json.loads(c)[::-1]).encode()),
     r"rpt/items\.json lists other items than the run's data"),
    ("ids of too few items", lambda w: w.damaged("rpt/items.json", lambda _: b'["i1"]'), r"rpt/items\.json is damaged"),
    ("one id twice", lambda w: w.edited("rpt/items.json", 0, value="i1"), r"rpt/items\.json is damaged.*twice"),
    ("ids that are null", lambda w: w.edited("rpt/items.json", 0, value=None), r"rpt/items\.json is damaged"),
    ("weights cut off", lambda w: w.damaged("rpt/model.safetensors", cut(0.7)), r"rpt/model\.safetensors cannot be read"),
    ("weights with a flipped bit", lambda w: w.damaged("rpt/model.safetensors", flipped(0.8)), r"not match its checksum"),
    ("a flipped bit in their header", lambda w: w.damaged("rpt/model.safetensors", flipped(0.001)), r"rpt/model\.safetens"),
    ("weights of another model", lambda w: w.damaged(
        "rpt/model.safetensors", lambda _: (w.plain.path / "base/model.safetensors").read_bytes()), r"rpt/model\.safetens"),
    ("weights that are NaN", lambda w: w.damaged("rpt/model.safetensors", with_nan), r"NaN"),
    ("no weights", lambda w: without(w, "rpt/model.safetensors"), r"rpt/model\.safetensors is missing"),
    ("no data", lambda w: without(w, "data/card.json"), r"no card\.json"),
    ("data cut off", lambda w: w.damaged("data/interactions.parquet", cut(0.5)), r"prepared data is damaged"),
    ("data of other items", lambda w: w.damaged(
        "data/items.parquet", lambda _: (w.texts.path / "data/items.parquet").read_bytes()), r"does not match the hash"),
    ("users that are fractions", lambda w: kept(w, "interactions", with_column("user", lambda a: a.astype(float))),
     r"prepared data is damaged \(column 'user' of double"),
    ("times without end", lambda w: kept(w, "interactions", with_column("timestamp", lambda a: a + np.inf)),
     r"damaged \(a timestamp is not finite"),
    ("a column of something else", lambda w: kept(w, "interactions", lambda t: t.append_column("x", t["user"])),
     r"damaged \(column 'x'"),
    ("one item twice", lambda w: kept(w, "items", with_column("id", lambda a: [a[0], *a[:-1]])), r"one id twice in items\.p"),
    ("users that are null", lambda w: kept(w, "users", with_column("id", lambda a: [None, *a[1:]])), r"ids of string in users"),
    ("items that are lists", lambda w: kept(w, "items", with_column("id", lambda a: [[i] for i in a])), r"ids of list<.*items"),
    ("a version without end", lambda w: w.edited("data/card.json", "version", value=float("inf")), r"card\.json: damaged"),
    ("a card cut off", lambda w: w.damaged("data/card.json", cut(0.5)), r"card\.json: damaged"),
    ("a card nested too deep", lambda w: w.damaged("data/card.json", lambda _: DEEP.encode()), r"card\.json: damaged"),
    ("metrics of another tool", lambda w: w.damaged("metrics.jsonl", lambda _: b'{"loss": 1}\n'), r"metrics\.jsonl is damag"),
    ("metrics that are NaN", lambda w: logged(w, "NaN"), r"metrics\.jsonl is damaged"),
    ("metrics that are infinite", lambda w: logged(w, "1e999"), r"metrics\.jsonl is damaged"),
    ("metrics of 400 digits", lambda w: logged(w, "9" * 400), r"metrics\.jsonl is damaged"),
    ("metrics that are text", lambda w: logged(w, '"nan"'), r"metrics\.jsonl is damaged"),
    ("metrics that are gone", lambda w: without(w, "metrics.jsonl"), r"metrics\.jsonl is missing or says nothing of rpt"),
    ("metrics that are lists", lambda w: w.damaged("metrics.jsonl", lambda _: b"[1]\n"), r"metrics\.jsonl is damaged"),
    ("metrics in UTF-16", lambda w: w.damaged("metrics.jsonl", lambda c: c.decode().encode("utf-16")), r"metrics\.jsonl"),
    ("a stage that is not there", lambda w: ["evaluate", str(w.texts.path), "--stage", "base"], r"no base model"),
    ("a run's model for a run", lambda w: ["evaluate", str(w.plain.path / "rpt")], r"not a run of latentloop"),
    ("a state cut off", lambda w: w.resumed("state/rpt.safetensors", cut(0.5)), r"state/rpt\.safetensors is damaged"),
    ("a state of another model", lambda w: w.resumed(
        "state/rpt.safetensors", lambda _: (w.plain.path / "state/base.safetensors").read_bytes()), r"state/rpt\.safeten"),
    ("no line of ours, resumed", lambda w: w.resumed("metrics.jsonl", lambda _: b'{"loss": 1}\n'), r"metrics\.jsonl is dam"),
    ("texts cut off, resumed", lambda w: w.resumed("item_text.safetensors", cut(0.5), w.texts), r"item_text\.safetensors"),
    ("texts with a flipped bit", lambda w: w.resumed("item_text.safetensors", flipped(0.95), w.texts), r"item_text\.saf"),
    ("other data, resumed", other_data, r"state/base\.safetensors is of other data"),
    ("texts of another run", lambda w: w.resumed("item_text.safetensors", other_texts, w.texts), r"item_text\.safetensors"),
    ("other options, resumed", lambda w: other_options(w, "--seed", "9"), r"seed was 0 when"),
    ("a configuration of another run", lambda w: resumed_with(w, "model", "dim", value="8"), r"dim was '8' when"),
    ("a group of nothing, resumed", lambda w: resumed_with(w, "model", value=None), r" was .* when .* was started and is now "),
]  # fmt: skip

TABLES = {
    "file": FILES,
    "column": COLUMNS,
    "row": ROWS,
    "size": SIZES,
    "text": TEXTS,
    "request": REQUESTS,
    "output": OUTPUTS,
    "run": RUNS,
}
BAD = [pytest.param(make, said, id=f"{kind}: {name}") for kind, rows in TABLES.items() for name, make, said in rows]


def test_the_table_is_as_long_as_promised() -> None:
    assert len(BAD) >= 60 and len({row.id for row in BAD}) == len(BAD)


@pytest.mark.parametrize(("make", "said"), BAD)
def test_a_malformed_input_is_one_line(
    make: Callable[[World], list[str]], said: str, world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    command = make(world)
    before = tree(world.here.parent), tree(world.plain.path), tree(world.texts.path)
    capsys.readouterr()
    with unchecked():
        assert main(command) == 2
    out, err = capsys.readouterr()
    errors = [line for line in err.splitlines() if "error" in line.lower()]
    assert out == "" and "Traceback" not in err
    assert len(errors) == 1 and errors[0] == err.splitlines()[-1] and errors[0].startswith("latentloop: error: ")
    assert re.search(said, errors[0]), errors[0]
    assert (tree(world.here.parent), tree(world.plain.path), tree(world.texts.path)) == before


def test_metrics_that_cannot_be_written_are_printed_all_the_same(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", str(world.plain.path), "--device", "cpu", "--out", "new/er/" + "x" * 300]) == 2
    out, err = capsys.readouterr()
    assert "Popularity" in out and re.fullmatch(r"latentloop: error: .* too long: .*\n", err)
    assert not any(world.here.iterdir())
