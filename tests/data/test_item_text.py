"""Texts of items: files of every layout, embeddings made elsewhere, encoders, and mistakes in one line."""

from __future__ import annotations

import gzip
import hashlib
import json
import math
import os
import re
import sys
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from latentloop.data.hashing_encoder import HashingEncoder
from latentloop.data.item_embeddings import align_embeddings, load_embeddings, numbered_rows
from latentloop.data.item_text import load_item_text
from latentloop.data.sentence_encoder import SentenceTransformerEncoder
from latentloop.data.text_encoders import TextEncoder, build_text_encoder, encode_item_text, load_text_features
from latentloop.errors import InputError, InputTypeError
from tests.inputs.worlds import unchecked

TEXTS = {"a": 'A 5" nail', "b": "", "c": 'Ünï, the "best"', "d": "plain"}
words = st.text(st.sampled_from("ab c,.Ü\"'"), max_size=12)
seeds = st.integers(0, 2**31 - 1)


def refused(message: str, call: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
    """It is refused in one line that matches."""
    with pytest.raises(InputError, match=message) as caught:
        call(*args, **kwargs)
    assert "\n" not in str(caught.value)


def csv_of(rows: list[tuple[str, str]], delimiter: str) -> str:
    quoted = ((name, '"' + text.replace('"', '""') + '"') for name, text in rows)
    return "".join(f"{name}{delimiter}{text}\n" for name, text in quoted)


def write(path: Path, content: str) -> Path:
    data = content.encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def written(folder: Path, name: str) -> Path:
    """TEXTS in the layout that `name` tells."""
    path, kind = folder / name, name.removesuffix(".gz").rsplit(".", 1)[1]
    rows = list(TEXTS.items())
    if kind == "csv":
        return write(
            path, "year,item_id,text\n" + "".join(f"1999,{line}" for line in csv_of(rows, ",").splitlines(True))
        )
    if kind == "tsv":
        return write(path, "".join(f"{item}\t{text}\n" for item, text in rows))  # as it is, no names, no quotes
    if kind == "item":
        return write(path, "item_id:token\tmovie_title:token_seq\n" + "".join(f"{i}\t{t}\n" for i, t in rows))
    if kind == "jsonl":
        return write(path, "".join(json.dumps({"title": t or None, "parent_asin": i}) + "\n" for i, t in rows))
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"id": list(TEXTS), "name": [t or None for t in TEXTS.values()]}), path.with_suffix(""))
    data = path.with_suffix("").read_bytes()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


@pytest.mark.parametrize("packed", ["", ".gz"])
@pytest.mark.parametrize("kind", ["csv", "tsv", "item", "jsonl", "parquet"])
def test_every_layout_gives_the_same_texts_in_its_order(kind: str, packed: str, tmp_path: Path) -> None:
    found = load_item_text(written(tmp_path, f"texts.{kind}{packed}"))
    assert list(found.items()) == list(TEXTS.items())


@given(rows=st.dictionaries(st.text("abc123", min_size=1), words.map(str.strip), min_size=1))
def test_quoted_fields_come_back(rows: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("quoted")
    for name, delimiter in (("q.csv", ","), ("q.tsv", "\t")):
        header = f"item_id{delimiter}text\n"
        assert load_item_text(write(folder / name, header + csv_of(list(rows.items()), delimiter))) == rows


def test_columns_of_text_are_joined_and_lists_too(tmp_path: Path) -> None:
    lines = [
        {"asin": 7, "parent_asin": 1, "categories": ["Tools", ["Saws"]], "title": "Saw", "price": 3, "brand": None},
        {"asin": 8, "parent_asin": 2, "title": " Bolt "},
    ]
    path = write(tmp_path / "meta.jsonl", "\n".join(json.dumps(line) for line in lines))
    assert load_item_text(path) == {1: "Saw. Tools, Saws", 2: "Bolt"}
    assert load_item_text(path, item="asin", text=["price", "title"]) == {7: "3. Saw", 8: "Bolt"}
    assert load_item_text(path, text="title") == {1: "Saw", 2: "Bolt"}
    table = write(tmp_path / "t.csv", "id,blurb\n1,x\n")  # the other one of two columns
    assert load_item_text(table) == {"1": "x"}


def test_a_text_of_its_own_column_wins(tmp_path: Path) -> None:
    assert load_item_text(write(tmp_path / "t.csv", "id,title,text\n1,x,y\n")) == {"1": "y"}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", "", "the file is empty"),
        ("t.jsonl", "", "no rows"),
        ("t.csv", "item_id,text\n", "no rows"),
        (
            "t.csv",
            "sku,blurb,price\n1,x,2\n",
            r"no column recognised as the item ids; call it 'id' or name the item column; columns found",
        ),
        (
            "t.csv",
            "item_id,blurb,price\n1,x,2\n",
            "no column recognised as the texts; call it 'text' or name the text column; columns found",
        ),
        ("t.csv", "sku,title\n1,x\n", "no column recognised as the item ids"),
        ("t.csv", "item_id,asin,text\n1,2,x\n", "2 columns could be the item"),
        ("t.csv", "item_id,text\n1,x\n2\n", "line 3: 1 fields, expected 2"),
        ("t.tsv", "1\tx\n2\ty\tz\n", "line 2: 3 fields, expected 2"),
        ("t.csv", "item_id,text\n,x\n", "line 2: the id is ''"),
        ("t.csv", "item_id,text\n1,x\n2,y\n1,z\n", "line 4: a second text of item '1'"),
        ("t.jsonl", '{"item_id": 1, "text": "x"}\n{"text": "y"}\n', "line 2: the id is None"),
        ("t.jsonl", '{"item_id": 1.5, "text": "x"}\n', "line 1: the id is 1.5"),
        ("t.jsonl", '{"item_id": 1,\n', "line 1: no valid JSON"),
        ("t.parquet", "no parquet", "cannot be read as Parquet"),
        ("t.csv.gz", "", "the file is empty"),
        ("t.doc", "1,x", "the name does not tell the format"),
    ],
)
def test_mistakes_in_text_files(name: str, content: str, message: str, tmp_path: Path) -> None:
    path = write(tmp_path / name, content)
    refused(rf"{re.escape(str(path))}: .*{message}", load_item_text, path)


def test_mistakes_in_arguments_and_bytes(tmp_path: Path) -> None:
    refused("no such file", load_item_text, tmp_path / "none.csv")
    path = write(tmp_path / "t.csv", "item_id,text\n1,x\n1,x\n")
    assert load_item_text(path) == {"1": "x"}  # the same twice is no mistake
    refused("no column 'sku'", load_item_text, path, item="sku")
    refused("no column 'blurb'", load_item_text, path, text=["text", "blurb"])
    refused("expected one of csv, tsv", load_item_text, path, format="xml")
    (tmp_path / "latin.csv").write_bytes(b"item_id,text\n1,x\n2,caf\xe9\n")
    refused("line 3: bytes that are not UTF-8", load_item_text, tmp_path / "latin.csv")


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="needs a file that opens and cannot be read")
def test_a_file_that_cannot_be_read_is_one_line() -> None:
    refused(r"/proc/self/mem: cannot be read \(", load_item_text, Path("/proc/self/mem"), format="csv")


@given(seed=seeds, whole=st.booleans())
def test_rows_are_brought_into_the_catalogs_order(seed: int, whole: bool) -> None:
    rng = np.random.default_rng(seed)
    ids = list(rng.permutation(12) + 1)
    catalog = sorted(int(i) for i in rng.choice(15, 9, replace=False) + 1)
    array = rng.normal(size=(12, 4)).astype(np.float16)
    found = align_embeddings(array, [int(i) if whole else str(i) for i in ids], catalog)
    assert found.features.shape == (10, 4) and found.num_items == 9 and not bool(found.missing[0])
    for number, item in enumerate(catalog, start=1):
        assert bool(found.missing[number]) == (item > 12)
        wanted = np.zeros(4) if item > 12 else array[ids.index(item)]
        np.testing.assert_array_equal(found.features[number].numpy(), wanted.astype(np.float32))
    assert found.num_missing == sum(item > 12 for item in catalog)


def test_ids_and_rows_that_do_not_match() -> None:
    array = np.ones((3, 2))
    refused("e.npy: 3 rows for 4 ids, expected as many: the first id without a row is 'd'", align_embeddings, array,
            list("abcd"), list("abcd"), name="e.npy")  # fmt: skip
    refused("3 rows for 2 ids, expected as many: rows are left over", align_embeddings, array, list("ab"), list("ab"))
    refused("item 'a' has two rows, the second is row 3", align_embeddings, array, list("aba"), list("ab"))
    refused(r"none of the 3 ids \('a', ...\) is one of the 2 items of the data \('x', ...\)", align_embeddings, array,
            list("abc"), list("xy"))  # fmt: skip
    array[1, 1] = np.nan
    refused("row 2, item 'b', holds a number that is not finite", align_embeddings, array, list("abc"), list("ab"))
    assert align_embeddings(array, list("abc"), list("ac")).num_missing == 0  # the broken row is of no item here


def test_rows_without_ids_are_numbered_from_one() -> None:
    assert numbered_rows(4, [2, 4]) == numbered_rows(4, ["2", "4"]) == [1, 2, 3, 4]
    for catalog, wrong in (([0, 2], "0"), ([2, 5], "5"), (["2", "x"], "'x'"), ([-1], "-1")):
        refused(rf"e.npy: 4 rows, .* item {wrong} is none of 1..4 \({len(catalog)} items", numbered_rows, 4, catalog,
                name="e.npy")  # fmt: skip


def test_npy_files_are_never_unpickled(tmp_path: Path) -> None:
    path = tmp_path / "e.npy"
    np.save(path, np.ones((2, 3), np.float16))
    assert load_embeddings(path).shape == (2, 3)
    np.save(path, np.array([["a", {}]], dtype=object))
    refused("without unpickling", load_embeddings, path)
    for array in (np.ones(3), np.ones((2, 2), bool), np.ones((0, 3)), np.array([["a"]])):
        np.save(path, array)
        refused(r"expected numbers of shape \(items, size\)", load_embeddings, path)
    path.write_bytes(b"rubbish")
    refused("cannot be read as .npy", load_embeddings, path)
    np.savez(tmp_path / "e.npz", a=np.ones((2, 3)))
    refused("an archive of several arrays", load_embeddings, tmp_path / "e.npz")
    refused("no such file", load_embeddings, tmp_path / "none.npy")


def naive_hashing(texts: list[str], dim: int) -> np.ndarray:
    bags = []
    for text in texts:
        found = re.findall(r"\w+", text.lower())
        bags.append(Counter(found) + Counter(f"{a} {b}" for a, b in pairwise(found)))
    rows = []
    for bag in bags:
        row = [0.0] * dim
        for term, times in bag.items():
            bits = int.from_bytes(hashlib.blake2b(term.encode(), digest_size=8).digest(), "little")
            holders = sum(term in other for other in bags)
            weight = math.sqrt(times) * (1 + math.log((1 + len(texts)) / (1 + holders)))
            row[(bits >> 1) % dim] += weight if bits & 1 else -weight
        length = math.sqrt(sum(v * v for v in row))
        rows.append([v / length if length > 1e-9 else 0.0 for v in row])
    return np.array(rows)


@given(texts=st.lists(words, min_size=1, max_size=6), dim=st.integers(1, 9))
def test_hashing_is_the_naive_loop(texts: list[str], dim: int) -> None:
    found = HashingEncoder(dim=dim).encode(texts)
    assert found.dtype == np.float32 and found.shape == (len(texts), dim)
    wanted = naive_hashing(texts, dim)
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_hashing_tells_texts_apart_and_puts_near_ones_near() -> None:
    texts = ["red garden hose", "blue garden hose", "laser printer toner", "", "...", "Red GARDEN hose!"]
    found = HashingEncoder().encode(texts)
    near, far = found[0] @ found[1], found[0] @ found[2]
    assert near > 0.3 > abs(far) and found[0] @ found[5] == pytest.approx(1)
    assert found[3].any() == found[4].any() == np.False_
    assert HashingEncoder().encode(["hose garden"])[0] @ HashingEncoder().encode(["garden hose"])[0] < 1
    refused("dim must be", HashingEncoder, dim=0)


class FakeModel:
    """What sentence-transformers' class is asked for: the length and the vowels of each text."""

    made: list[str]

    def __init__(self, name: str, device: str | None = None) -> None:
        if "broken" in name:
            raise OSError("no such model\non the hub")
        type(self).made.append(name)

    def encode(
        self, texts: list[str], *, batch_size: int, convert_to_numpy: bool, show_progress_bar: bool
    ) -> np.ndarray:
        assert convert_to_numpy and not show_progress_bar and batch_size > 0
        return np.array([[len(text), sum(text.count(v) for v in "aeiou"), 1] for text in texts], dtype=np.float64)


@pytest.fixture
def models(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """The names of models loaded, with a fake package and a cache of its own."""
    package: Any = ModuleType("sentence_transformers")
    package.SentenceTransformer = FakeModel
    FakeModel.made = []
    monkeypatch.setitem(sys.modules, "sentence_transformers", package)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return FakeModel.made


def test_sentences_are_encoded_once_for_the_same_model_and_texts(models: list[str], tmp_path: Path) -> None:
    encoder = SentenceTransformerEncoder("mini")
    first = encoder.encode(["saw", "bolt"])
    assert first.dtype == np.float32 and first.tolist() == [[3, 1, 1], [4, 1, 1]]
    assert np.array_equal(SentenceTransformerEncoder("mini").encode(["saw", "bolt"]), first) and models == ["mini"]
    (kept,) = (tmp_path / "cache" / "latentloop" / "text").iterdir()  # and no half-written file beside it
    encoder.encode(["bolt", "saw"])
    encoder.encode(["saw bolt"])
    SentenceTransformerEncoder("maxi").encode(["saw", "bolt"])
    assert models == ["mini", "mini", "mini", "maxi"]
    kept.write_bytes(kept.read_bytes()[:-3])  # a damaged cache is no cache
    assert np.array_equal(encoder.encode(["saw", "bolt"]), first) and len(models) == 5
    assert np.array_equal(encoder.encode(["saw", "bolt"]), first) and len(models) == 5


def test_a_cache_that_cannot_be_written_is_no_failure(
    models: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    found = SentenceTransformerEncoder("mini", cache=tmp_path / "file").encode(["saw"])
    assert found.shape == (1, 3) and "not kept" in caplog.text


def test_the_cache_ignores_a_relative_xdg_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", "here")
    assert SentenceTransformerEncoder("mini").cache == tmp_path / ".cache" / "latentloop" / "text"


def test_a_missing_package_a_missing_model_and_a_missing_folder(
    models: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    refused(r"'broken' cannot be loaded: no such model on the hub", SentenceTransformerEncoder("broken").encode, ["x"])
    for folder in ("./none", "../none", "/none", "~/none"):
        refused("no such folder", SentenceTransformerEncoder, folder)
    refused("needs a name", SentenceTransformerEncoder, "")
    assert SentenceTransformerEncoder(str(tmp_path)).name == str(tmp_path)
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    refused(r"'mini' needs sentence-transformers: pip install 'latentloop\[text\]'",
            SentenceTransformerEncoder("mini").encode, ["x"])  # fmt: skip


def test_what_was_kept_of_a_name_on_the_hub_stays_valid(models: list[str], tmp_path: Path) -> None:
    """The file's name as releases before folders counted their files wrote it."""
    place = tmp_path / "cache" / "latentloop" / "text"
    place.mkdir(parents=True)
    digest = hashlib.blake2b(b'["group/mini", ["saw"]]', digest_size=20).hexdigest()
    np.save(place / f"{digest}.npy", np.array([[7.0, 8.0]], dtype=np.float32))
    assert SentenceTransformerEncoder("group/mini").encode(["saw"]).tolist() == [[7, 8]] and not models


def test_a_folder_that_changes_in_place_is_encoded_anew(models: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "model"
    weights, pooling = folder / "weights", folder / "1_Pooling" / "config.json"
    pooling.parent.mkdir(parents=True)
    weights.write_bytes(b"one")
    pooling.write_text("{}")

    def later(path: Path) -> None:
        os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))

    def longer() -> None:
        time = weights.stat().st_mtime_ns
        weights.write_bytes(b"two and more")
        os.utime(weights, ns=(time, time))

    encoder = SentenceTransformerEncoder(str(folder))
    changes: list[Callable[[], Any]] = [
        lambda: None, longer, lambda: later(weights), lambda: later(pooling), (folder / "more").touch,
        lambda: (folder / "more").rename(folder / "other"), (folder / "other").unlink,
    ]  # fmt: skip
    for change in changes:
        before = encoder._key(["saw"])
        change()
        encoder.encode(["saw"])
        assert SentenceTransformerEncoder(str(folder)).encode(["saw"]).tolist() == [[3, 1, 1]]  # kept
        assert (encoder._key(["saw"]) != before) == (change is not changes[0])
    assert models == [str(folder)] * (len(changes) - 1)  # without the last file it is what it was two changes before


def test_a_name_is_a_folder_where_there_is_one_or_where_the_hub_has_no_such_names(
    models: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names = ("mine", "models/mine", "models/mine/v2", "./models/mine/v2", "models//mine")
    for name in ("mine", "models/mine", "m" * 300):
        assert SentenceTransformerEncoder(name).name == name  # on the hub
    for name in ("models/mine/v2", "models//mine", "~nobody-of-that-name"):
        refused(f"^{name}: no such folder", SentenceTransformerEncoder, name)
    for folder in ("mine", "models/mine/v2"):
        Path(folder).mkdir(parents=True)
    for name in names:
        assert SentenceTransformerEncoder(name).name == str((tmp_path / name).resolve())
    Path("models/mine/v2/weights").touch()
    SentenceTransformerEncoder("models/mine").encode(["saw"])
    monkeypatch.chdir("models")
    assert SentenceTransformerEncoder("./mine").encode(["saw"]).tolist() == [[3, 1, 1]]
    assert models == [str(tmp_path / "models" / "mine")]  # kept by its place, wherever it is asked for


@pytest.mark.parametrize("size", [0, 2.5, True, "8"])
def test_sizes_of_encoders_are_whole_numbers(size: Any) -> None:
    with unchecked():
        refused("batch_size must be a whole number of at least 1", SentenceTransformerEncoder, "mini", batch_size=size)
        refused("dim must be a whole number of at least 1", HashingEncoder, dim=size)
        assert HashingEncoder(dim=np.int64(3)).encode(["saw"]).shape == (1, 3)


def test_encoders_by_name(models: list[str]) -> None:
    assert isinstance(build_text_encoder("hashing"), HashingEncoder)
    made = build_text_encoder("mini")
    assert isinstance(made, SentenceTransformerEncoder) and made.name == "mini" and isinstance(made, TextEncoder)


class Lengths:
    """An encoder of one's own; it keeps what it was given."""

    def __init__(self, returns: Callable[[int], Any] | None = None) -> None:
        self.given: list[str] = []
        self.returns = returns

    def encode(self, texts: list[str]) -> Any:
        self.given += texts
        return self.returns(len(texts)) if self.returns else np.array([[len(text), 1.0] for text in texts])


def test_blank_and_absent_texts_are_missing_and_other_items_are_not_encoded() -> None:
    encoder = Lengths()
    found = encode_item_text([5, 6, 7, 8], {"6": "six", "5": " ", 9: "nine", 8: "eight!"}, encoder)
    assert encoder.given == ["six", "eight!"]
    assert found.missing.tolist() == [False, True, False, True, False]
    assert found.features.tolist() == [[0, 0], [0, 0], [3, 1], [0, 0], [6, 1]]


def test_texts_of_none_of_the_items_and_encoders_that_go_wrong() -> None:
    refused(r"t.csv: 1 texts \('a', ...\) and none of the 2 items of the data \(5, ...\)", encode_item_text, [5, 6],
            {"a": "x"}, Lengths(), name="t.csv")  # fmt: skip
    refused("every text of an item of the data is blank", encode_item_text, [5], {"5": "  "}, Lengths())
    for wrong in (lambda n: np.ones((n + 1, 2)), np.ones, lambda n: np.ones((n, 2), int)):
        refused(r"Lengths.encode must return \(1, size\)", encode_item_text, [5], {5: "x"}, Lengths(wrong))
    refused("not finite", encode_item_text, [5], {5: "x"}, Lengths(lambda n: np.full((n, 2), np.inf)))
    with pytest.raises(InputTypeError, match="encoder must be an object"):
        encode_item_text([5], {5: "x"}, "hashing")  # type: ignore[arg-type]


def test_features_from_files(tmp_path: Path) -> None:
    text = write(tmp_path / "t.tsv", "x\tone\ny\ttwo words\nz\t\n")
    array = np.arange(6.0).reshape(3, 2)
    np.save(tmp_path / "e.npy", array)
    found = load_text_features(["w", "x", "z"], item_text=text, item_embeddings=tmp_path / "e.npy")
    assert found.features.tolist() == [[0, 0], [0, 0], [0, 1], [4, 5]] and found.missing.tolist() == [0, 1, 0, 0]
    found = load_text_features([1, 3], item_embeddings=tmp_path / "e.npy")
    assert found.features.tolist() == [[0, 0], [0, 1], [4, 5]] and found.num_missing == 0
    found = load_text_features(["w", "y"], item_text=text, text_encoder="hashing")
    # its own words only: weights do not depend on items that the data lack
    np.testing.assert_array_equal(found.features[2].numpy(), HashingEncoder().encode(["two words"])[0])
    assert found.missing.tolist() == [False, True, False]


def test_no_encoder_is_chosen_silently(tmp_path: Path) -> None:
    text = write(tmp_path / "t.tsv", "x\tone\n")
    np.save(tmp_path / "e.npy", np.ones((1, 2)))
    refused("--item-text FILE .* --item-embeddings FILE.npy", load_text_features, ["x"])
    refused("--text-encoder NAME, .* 'hashing'", load_text_features, ["x"], item_text=text)
    refused("encoded already", load_text_features, [1], item_embeddings=tmp_path / "e.npy", text_encoder="hashing")
    refused("name the rows' items by a file", load_text_features, ["x"], item_embeddings=tmp_path / "e.npy")


def test_columns_and_format_of_the_file_are_named(tmp_path: Path) -> None:
    path = write(tmp_path / "meta.dat", "sku,blurb,brand\n2,one two,A\n1,three,B\n")
    about: dict[str, Any] = {"item_text_id": "sku", "item_text_columns": ["brand", "blurb"], "item_text_format": "csv"}
    found = load_text_features([1, 2, 3], item_text=path, text_encoder="hashing", **about)
    assert found.missing.tolist()[1:] == [False, False, True]
    wanted = HashingEncoder().encode(["A. one two", "B. three"])
    np.testing.assert_array_equal(found.features[1:3].numpy(), wanted[::-1])
    np.save(tmp_path / "e.npy", np.array([[2.0], [1.0]]))
    rows = load_text_features([1, 2], item_text=path, item_embeddings=tmp_path / "e.npy", **about)
    assert rows.features.flatten().tolist() == [0.0, 1.0, 2.0]


@pytest.mark.parametrize(
    ("about", "settings"),
    [
        ({}, ("item_text_format",)),
        ({"item_text_format": "csv"}, ("item_text_id",)),
        ({"item_text_format": "csv", "item_text_id": "skus"}, ("item_text_id",)),
        ({"item_text_format": "csv", "item_text_id": "sku"}, ("item_text_columns",)),
        ({"item_text_format": "csv", "item_text_id": "sku", "item_text_columns": "x"}, ("item_text_columns",)),
        ({"item_text_format": "parquet"}, ("item_text_format",)),
    ],
)
def test_a_mistake_names_the_setting_that_mends_it(
    about: dict[str, str], settings: tuple[str, ...], tmp_path: Path
) -> None:
    path = write(tmp_path / "meta.dat", "sku,blurb,brands\n1,three,B\n")
    with pytest.raises(InputError, match="meta.dat") as caught:
        load_text_features([1], item_text=path, text_encoder="hashing", **about)
    assert caught.value.settings == settings


@pytest.mark.parametrize("name", ["item_text_id", "item_text_columns", "item_text_format"])
def test_columns_of_no_file_are_refused(name: str, tmp_path: Path) -> None:
    np.save(tmp_path / "e.npy", np.ones((1, 2)))
    refused(f"{name} .* --item-text", load_text_features, [1], item_embeddings=tmp_path / "e.npy", **{name: "csv"})


@pytest.mark.realdata
@pytest.mark.parametrize("name", ["ml-1m", "amazon2018-scientific", "amazon2018-game"])
def test_real_texts_and_embeddings(name: str, real_data: Path) -> None:
    paths = real_data / f"{name}.items.tsv.gz", real_data / f"{name}.text.npy"
    if not all(path.exists() for path in paths):
        pytest.skip(f"no texts of {name} in {real_data}")
    texts, array = load_item_text(paths[0]), load_embeddings(paths[1])
    catalog = list(range(1, len(array) + 1))
    assert list(texts) == [str(item) for item in catalog] and all(texts.values())
    by_number = load_text_features(catalog, item_embeddings=paths[1])
    by_text = load_text_features(catalog, item_text=paths[0], item_embeddings=paths[1])
    assert by_number.num_missing == by_text.num_missing == 0
    assert by_number.features.equal(by_text.features)
    np.testing.assert_array_equal(by_number.features[1:].numpy(), array.astype(np.float32))
    hashed = load_text_features(catalog[::-1], item_text=paths[0], text_encoder="hashing")
    assert hashed.num_missing == 0 and hashed.features.shape == (len(catalog) + 1, 384)


def test_spaces_after_the_separator_are_no_part_of_ids(tmp_path: Path) -> None:
    path = tmp_path / "texts.csv"
    path.write_text("title, item\nFoo, a\nBar,b \n")
    assert load_item_text(path) == {"a": "Foo", "b": "Bar"}
    path.write_text("title,item\nFoo, a\n")
    assert load_item_text(path) == {" a": "Foo"}
