"""Beyond the tables: whatever lies in a file or stands in a configuration, it is used, or refused in one line."""

from __future__ import annotations

import gzip
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from latentloop.commands.evaluate import open_run
from latentloop.commands.requests import Requests, read_requests
from latentloop.data.interactions import Interactions
from latentloop.data.item_embeddings import load_embeddings
from latentloop.data.item_text import load_item_text
from latentloop.data.readers import FORMATS, load_interactions
from latentloop.data.text_store import load_saved_text_features
from latentloop.errors import InputError, InputTypeError
from latentloop.items.ids import ItemIds
from latentloop.items.text_features import TextFeatures
from latentloop.recommender import Recommender
from latentloop.runs.directory import RunDirectory
from tests.inputs.worlds import Trained, unchecked


def parquet(**columns: Any) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.table(columns), file)
    return file.getvalue()


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


ROWS = [("u\xe9", "i1", 5), ("v", "i,2", 2**40), ("u\xe9", "i3", 7)]
TABLE = {"user": [r[0] for r in ROWS], "item": [r[1] for r in ROWS], "timestamp": [r[2] for r in ROWS]}
OBJECTS = [dict(zip(TABLE, row, strict=True)) for row in ROWS]
SOUND = {
    "csv": 'user,item,timestamp\nu\xe9,i1,5\nv,"i,2",1099511627776\n\nu\xe9,i3,7\n'.encode(),
    "tsv": 'user\titem\ttimestamp\nu\xe9\ti1\t2023-05-01\nv\t"i\n2"\t2024-05-01T10:00\n'.encode(),
    "inter": b"user_id:token\titem_id:token\ttimestamp:float\n1\t2\t3.5\n-1\t4\t5\n",
    "parquet": parquet(**TABLE),
    "jsonl": "".join(json.dumps(row) + "\n" for row in OBJECTS).encode(),
    "text": b"1 2 3 4\n5 6\n\n1 9\n",
}
PIECES = st.one_of(
    st.binary(max_size=12),
    st.sampled_from(
        [b"", b'"', b",", b"\t", b"\r", b"\n", b"\0", b"\xff", b"nan", b"1e999", b"9" * 30, b"-", b"[", b"{}", b"null",
         b"\\ud800", b"[" * 99999, b"PK\x03\x04", b"\x1f\x8b\x08", b"PAR1", b"\xef\xbb\xbf", b"\x00\xd8", b" ", b"'"]
    ),
)  # fmt: skip


@st.composite
def mutated(draw: st.DrawFn, sound: bytes) -> bytes:
    """Anything at all, or a sound file a few places of which hold something else; some of them packed, and cut off."""
    content = draw(st.binary(max_size=60)) if draw(st.integers(0, 4)) == 0 else sound
    for _ in range(draw(st.integers(0, 3))):
        start = draw(st.integers(0, len(content)))
        stop = draw(st.integers(start, min(len(content), start + 8)))
        content = content[:start] + draw(PIECES) + content[stop:]
    if draw(st.integers(0, 3)) == 0:
        content = gzip.compress(content, mtime=0)
        content = content[: draw(st.integers(2, len(content)))] if draw(st.booleans()) else content
    return content


def used_or_refused(use: Callable[[], Any], kind: type | tuple[type, ...]) -> None:
    """The one thing that may come of it, or the other."""
    with unchecked():
        try:
            assert isinstance(use(), kind)
        except (InputError, InputTypeError) as error:
            assert str(error) and "\n" not in str(error)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One for all examples of a property."""
    return tmp_path_factory.mktemp("fuzzed")


@pytest.mark.parametrize("form", FORMATS)
@given(data=st.data())
def test_a_reader_gives_interactions_or_one_line(form: str, folder: Path, data: st.DataObject) -> None:
    path = folder / f"log.{form}"
    path.write_bytes(data.draw(mutated(SOUND[form])))
    used_or_refused(lambda: load_interactions(path, format=form), Interactions)


VALUES = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(-(2**65), 2**65), st.floats(), st.text(max_size=3),
        st.sampled_from(["2023-05-01", "nan", "", " ", "9" * 25, "1e999", "-0", "007", "\0", "\ud800"]),
    ),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
    max_leaves=3,
)  # fmt: skip


@given(rows=st.lists(st.dictionaries(st.sampled_from(["user", "item", "ts"]), VALUES), max_size=4))
@example(rows=[{"user": 1, "item": 1, "ts": 1.5}, {"user": 2, "item": 1, "ts": float("inf")}])
def test_objects_of_any_values_are_read_or_one_line(folder: Path, rows: list[dict[str, Any]]) -> None:
    path = folder / "log.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    used_or_refused(lambda: load_interactions(path), Interactions)
    used_or_refused(lambda: read_requests(path), Requests)


KINDS = [
    pa.int8(), pa.uint64(), pa.float32(), pa.bool_(), pa.string(), pa.large_string(), pa.binary(), pa.date32(),
    pa.timestamp("ns"), pa.timestamp("s", "UTC"), pa.time32("s"), pa.duration("s"), pa.decimal128(30, 2), pa.null(),
    pa.list_(pa.int64()), pa.struct({"a": pa.int64()}), pa.dictionary(pa.int8(), pa.string()), pa.string_view(),
    pa.dictionary(pa.int32(), pa.int64()), pa.map_(pa.string(), pa.int64()),
]  # fmt: skip
PLAIN: dict[Any, Any] = {pa.list_(pa.int64()): [1], pa.struct({"a": pa.int64()}): {"a": 1}, pa.binary(): b"\xff",
                         pa.map_(pa.string(), pa.int64()): [("a", 1)], pa.bool_(): True}  # fmt: skip


@given(kinds=st.tuples(*[st.sampled_from(KINDS)] * 3), hole=st.sampled_from([None, 0, 1, 2]))
def test_columns_of_any_kind_are_read_or_one_line(folder: Path, kinds: tuple[Any, ...], hole: int | None) -> None:
    names = ["user", "item", "timestamp"]
    columns = [column_of(kind, place == hole) for place, kind in enumerate(kinds)]
    pq.write_table(pa.Table.from_arrays(columns, names=names), folder / "log.parquet", store_schema=True)
    used_or_refused(lambda: load_interactions(folder / "log.parquet"), Interactions)
    used_or_refused(lambda: load_interactions(pa.Table.from_arrays(columns, names=names)), Interactions)


def column_of(kind: Any, hole: bool) -> pa.Array:
    """Two values, the second of which may be missing."""
    inner = kind.value_type if pa.types.is_dictionary(kind) else kind
    text = pa.types.is_string(inner) or pa.types.is_large_string(inner) or inner == pa.string_view()
    value = None if pa.types.is_null(inner) else PLAIN.get(inner, "a" if text else None)
    if value is None and not pa.types.is_null(inner):
        whole = pa.array([1, None if hole else 2]).cast(pa.int32() if inner.bit_width == 32 else pa.int64())
        column = whole.cast(inner)
    else:
        column = pa.array([value, None if hole else value], inner)
    return column.dictionary_encode() if pa.types.is_dictionary(kind) else column


OTHERS: dict[str, tuple[bytes, Callable[[Path], Any], type]] = {
    "t.csv": (b'id,title\n1,"a ""b"""\n2,\n', load_item_text, dict),
    "t.tsv": (b"id\ttext\n1\ta\n2\t\n", load_item_text, dict),
    "t.jsonl": (b'{"id": 1, "title": "a", "categories": ["x", ["y"]]}\n{"id": 2, "title": null}\n', load_item_text, dict),
    "t.parquet": (parquet(id=["a", "b"], text=["x", None]), load_item_text, dict),
    "e.npy": (npy(np.ones((3, 2), np.float32)), load_embeddings, np.ndarray),
    "q.csv": (b'user,history\nu1,i1 i2\n"u\n2",\n', read_requests, Requests),
    "q.jsonl": (b'{"user": "u1", "history": ["i1", 2]}\n{"user": 5, "history": []}\n', read_requests, Requests),
    "q.parquet": (parquet(user=["a", "b"], history=[["x"], []]), read_requests, Requests),
}  # fmt: skip


@pytest.mark.parametrize("name", OTHERS)
@given(data=st.data())
def test_every_other_file_is_used_or_one_line(name: str, folder: Path, data: st.DataObject) -> None:
    sound, read, kind = OTHERS[name]
    (folder / name).write_bytes(data.draw(mutated(sound)))
    used_or_refused(lambda: read(folder / name), kind)


@given(data=st.data())
def test_requests_of_any_words_are_answered_or_one_line(folder: Path, data: st.DataObject) -> None:
    """A row that is wrong is found again in the file, to say where."""
    name = data.draw(st.sampled_from(["q.csv", "q.jsonl", "q.parquet"]))
    (folder / name).write_bytes(data.draw(mutated(OTHERS[name][0])))
    users, items = ItemIds(["u1", "a"]), ItemIds(["i1", "x"])
    used_or_refused(lambda: read_requests(folder / name).known(users, items, strict=data.draw(st.booleans())), Requests)


def places(value: Any, *path: Any) -> list[tuple[Any, ...]]:
    """Every place in a JSON value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(found for key, part in inner for found in places(part, *path, key))]


@st.composite
def reconfigured(draw: st.DrawFn, text: str) -> str:
    """A configuration of which one value is another, is gone, or has company."""
    holder = {"whole": json.loads(text)}
    path = draw(st.sampled_from(places(holder)[1:]))
    inner: Any = holder
    for key in path[:-1]:
        inner = inner[key]
    change = draw(st.sampled_from(["replace", "remove", "add"]))
    if change == "replace" or (isinstance(inner, list) and change == "add"):
        inner[path[-1]] = draw(VALUES)
    elif change == "add":
        inner[draw(st.text(max_size=5))] = draw(VALUES)
    else:
        del inner[path[-1]]
    return json.dumps(holder.get("whole"))


@pytest.mark.parametrize("name", ["config.json", "items.json"])
@given(data=st.data())
def test_a_model_of_any_configuration_loads_or_is_one_line(
    name: str, plain: Trained, folder: Path, data: st.DataObject
) -> None:
    path = folder / "model"
    shutil.copytree(plain.path / "spt", path, dirs_exist_ok=True)
    (path / name).write_text(data.draw(reconfigured((path / name).read_text())))
    used_or_refused(lambda: Recommender.from_pretrained(path), Recommender)


@pytest.mark.parametrize("name", ["config.json", "spt/config.json", "data/card.json"])
@given(data=st.data())
def test_a_run_of_any_configuration_opens_or_is_one_line(
    name: str, plain: Trained, folder: Path, data: st.DataObject
) -> None:
    path = folder / "run"
    shutil.copytree(plain.path, path, dirs_exist_ok=True)
    (path / name).write_text(data.draw(reconfigured((path / name).read_text())))

    def use() -> Any:
        run = RunDirectory.open(path)
        run.seed()
        return open_run(run)

    used_or_refused(use, tuple)


@given(data=st.data())
def test_a_run_of_any_data_opens_or_is_one_line(plain: Trained, folder: Path, data: st.DataObject) -> None:
    path = folder / "damaged"
    shutil.copytree(plain.path, path, dirs_exist_ok=True)
    name = data.draw(st.sampled_from(["metrics.jsonl", "data/users.parquet", "data/interactions.parquet"]))
    (path / name).write_bytes(data.draw(mutated((path / name).read_bytes())))
    used_or_refused(lambda: open_run(RunDirectory.open(path)), tuple)


@given(data=st.data())
def test_kept_texts_load_or_are_one_line(texts: Trained, folder: Path, data: st.DataObject) -> None:
    path = folder / "item_text.safetensors"
    path.write_bytes(data.draw(mutated((texts.path / path.name).read_bytes())))
    used_or_refused(lambda: load_saved_text_features(path), TextFeatures)
