"""Nothing that is loaded runs: not as a pickle, not by a name in a configuration, not by a path or a link."""

from __future__ import annotations

import ast
import gzip
import io
import json
import os
import pickle
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from latentloop.cli import main
from latentloop.data.sentence_encoder import SentenceTransformerEncoder
from latentloop.errors import InputError
from latentloop.recommender import Recommender
from latentloop.runs.directory import _OURS
from tests.conftest import ROOT
from tests.inputs.worlds import ITEMS, LOG, World, tree, unchecked

UNSAFE_MODULES = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve", "yaml", "runpy"}
UNSAFE_NAMES = {"eval", "exec", "compile", "__import__"}
UNSAFE_CALLS = {"torch.load", "torch.hub.load", "torch.jit.load", "datasets.load_dataset", "pd.read_pickle"}
IMPORTS_BY_NAME = {"latentloop/commands/own_blocks.py", "latentloop/lazily.py"}
"""What a person's --encoder names, and the modules of a package from its own table."""


def unsafe(source: str) -> Iterator[str]:
    """What in a module could run what it reads."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            yield from (name for name in names if name.partition(".")[0] in UNSAFE_MODULES)
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if called in UNSAFE_NAMES | UNSAFE_CALLS or called.endswith("import_module"):
                yield called
            given = {word.arg: ast.unparse(word.value) for word in node.keywords}
            if called.endswith(("np.load", "numpy.load")) and given.get("allow_pickle") != "False":
                yield called
            if given.get("trust_remote_code", "False") != "False":
                yield "trust_remote_code"


@pytest.mark.parametrize(
    "source",
    ["import pickle", "from yaml import load", "torch.load(p)", "np.load(p)", "np.load(p, allow_pickle=True)",
     "eval(s)", "exec(s)", "importlib.import_module(n)", "import os, dill.source", "f(trust_remote_code=True)"],
)  # fmt: skip
def test_the_search_finds_what_it_is_for(source: str) -> None:
    assert list(unsafe(source))


def test_no_module_can_run_what_it_reads() -> None:
    modules = [path for folder in ("latentloop", "backbones") for path in sorted((ROOT / folder).rglob("*.py"))]
    assert len(modules) > 80
    found = {(str(path.relative_to(ROOT)), what) for path in modules for what in unsafe(path.read_text("utf-8"))}
    assert {what for place, what in found if place in IMPORTS_BY_NAME} <= {"import_module", "importlib.import_module"}
    assert {place for place, _ in found} == IMPORTS_BY_NAME


class Bomb:
    """Unpickled, it makes a folder."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.mkdir, (str(self.mark),)


def as_pickle(mark: Path) -> bytes:
    return pickle.dumps(Bomb(mark), protocol=4)


def as_text_pickle(mark: Path) -> bytes:
    return pickle.dumps(Bomb(mark), protocol=0)


def as_checkpoint(mark: Path) -> bytes:
    file = io.BytesIO()
    torch.save({"model": Bomb(mark)}, file)
    return file.getvalue()


def as_array(mark: Path) -> bytes:
    file = io.BytesIO()
    np.save(file, np.array([[Bomb(mark)]], dtype=object), allow_pickle=True)
    return file.getvalue()


def as_gzip(mark: Path) -> bytes:
    return gzip.compress(as_pickle(mark))


def as_parquet(mark: Path) -> bytes:
    """An extension type whose parameters are a pickle, as arrow once read them."""
    extension = {"ARROW:extension:name": "arrow.py_extension_type", "ARROW:extension:metadata": as_pickle(mark)}
    fields = [pa.field(name, pa.int64(), metadata=extension) for name in ("user", "item", "id")]
    schema = pa.schema(fields, metadata={"pandas": as_text_pickle(mark)})
    file = io.BytesIO()
    pq.write_table(pa.Table.from_arrays([pa.array([1])] * 3, schema=schema), file)
    return file.getvalue()


FORMS = (as_pickle, as_text_pickle, as_checkpoint, as_array, as_gzip, as_parquet)

Placed = Callable[[World, bytes], list[str]]


def in_run(place: str) -> Placed:
    return lambda w, bomb: w.damaged(place, lambda _: bomb)


def resumed(place: str) -> Placed:
    return lambda w, bomb: w.resumed(place, lambda _: bomb, w.texts if place.startswith("item_text") else w.plain)


def source(name: str) -> Placed:
    return lambda w, bomb: w.train(w.file(name, bomb))


def item_text(name: str) -> Placed:
    return lambda w, bomb: w.hashed(name, bomb)


def request(name: str) -> Placed:
    return lambda w, bomb: w.ask(name, bomb)


PLACES: dict[str, Placed] = {
    **{place: in_run(place) for place in (
        "config.json", "metrics.jsonl", "data/card.json", "data/interactions.parquet", "data/users.parquet",
        "data/items.parquet", "rpt/config.json", "rpt/items.json", "rpt/model.safetensors",
    )},
    **{f"{place}, resumed": resumed(place) for place in (
        "config.json", "metrics.jsonl", "data/card.json", "state/base.safetensors", "state/spt.safetensors",
        "state/rpt.safetensors", "item_text.safetensors",
    )},
    **{name: source(name) for name in (
        "a.csv", "a.tsv", "a.inter", "a.parquet", "a.jsonl", "a.txt", "a.csv.gz", "a.jsonl.gz", "a.txt.gz",
        "a.parquet.gz", "a.pkl",
    )},
    **{f"texts {name}": item_text(name) for name in ("t.csv", "t.tsv", "t.jsonl", "t.parquet")},
    "embeddings": lambda w, bomb: w.text("--item-embeddings", w.file("e.npy", bomb)),
    **{f"requests {name}": request(name) for name in ("q.csv", "q.jsonl", "q.parquet")},
    "a list": lambda w, bomb: w.ask("q.csv", "user\nu1\n", "--allow", w.file("allow.txt", bomb)),
}  # fmt: skip


def test_the_bombs_go_off(tmp_path: Path) -> None:
    """Where they are unpickled; else the tests below could not fail."""
    for number, make in enumerate(FORMS[:2]):
        pickle.loads(make(tmp_path / str(number)))
    torch.load(io.BytesIO(as_checkpoint(tmp_path / "2")), weights_only=False)
    np.load(io.BytesIO(as_array(tmp_path / "3")), allow_pickle=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0", "1", "2", "3"]


@pytest.mark.parametrize("place", PLACES)
def test_a_pickle_in_any_place_never_runs(place: str, world: World, capsys: pytest.CaptureFixture[str]) -> None:
    mark = world.here / "ran"
    for form in FORMS:
        for left in world.here.iterdir():
            shutil.rmtree(left) if left.is_dir() else left.unlink()
        command = PLACES[place](world, form(mark))
        before = tree(world.here)
        capsys.readouterr()
        with unchecked():
            code = main(command)
        err = capsys.readouterr().err
        assert not mark.exists(), form.__name__
        assert code == 2 or sound(place, form), f"{form.__name__} in {place} was taken"
        if code == 2:
            assert err.splitlines()[-1].startswith("latentloop: error: ") and "Traceback" not in err
            assert tree(world.here) == before


def sound(place: str, form: Callable[[Path], bytes]) -> bool:
    """Plain text of any words is a list of users and items, and a Parquet file is one."""
    return form is as_parquet or (form is as_text_pickle and place.endswith((".txt", "list", ".gz")))


def test_a_pickle_among_kept_embeddings_never_runs(world: World) -> None:
    Path("model").mkdir()  # of no use, but no name that the hub would be asked for
    encoder = SentenceTransformerEncoder("./model", cache=world.here)
    key = encoder._key(["a text"])
    for form in FORMS:
        Path(f"{key}.npy").write_bytes(form(world.here / "ran"))
        with pytest.raises(InputError, match="sentence-transformers|cannot be loaded"):
            encoder.encode(["a text"])
    assert not Path("ran").exists()


def leaves(value: Any, *path: Any) -> Iterator[tuple[Any, ...]]:
    """Where in a JSON value a text or nothing stands, and where an object does."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from leaves(inner, *path, key)
    elif value is None or isinstance(value, str):
        yield path


@pytest.mark.parametrize("place", ["config.json", "rpt/config.json"])
@pytest.mark.parametrize("name", ["evil", "evil:make", "evil.make", "../evil.py", "{here}/evil.py"])
def test_a_configuration_names_neither_code_nor_paths(place: str, name: str, world: World) -> None:
    """Every text in it, one after the other, is a module's name or a path, and all of its values are once more."""
    world.file("evil.py", "import os\nos.mkdir('ran')\ndef make(*_, **__): os.mkdir('ran')\n")
    original = (world.copy() / place).read_text()
    sys.path.insert(0, str(world.here))
    try:
        for path in leaves(json.loads(original)):
            whole = inner = json.loads(original)
            for key in path[:-1]:
                inner = inner[key]
            inner[path[-1]] = name.format(here=world.here)
            (world.copied / place).write_text(json.dumps(whole))
            before = tree(world.here)
            with unchecked():
                assert main(world.evaluate(place)) in (0, 2)
            assert "evil" not in sys.modules and tree(world.here) == before, path
    finally:
        sys.path.remove(str(world.here))


OWN = [name for name in _OURS if name not in ("tensorboard", "validation.png", "item_text.safetensors")]
INNER = ["data/card.json", "spt/model.safetensors", "spt/README.md", "rpt/config.json", "state/rpt.safetensors"]


@pytest.mark.parametrize("place", [*OWN, *INNER, "item_text.safetensors", "tensorboard", "spt/gone"])
def test_nothing_of_a_run_leads_out_of_it(place: str, world: World, capsys: pytest.CaptureFixture[str]) -> None:
    """A link where a file is read, or written: metrics.jsonl could be somebody's .profile."""
    inside, outside = world.copy() / place, world.here / "outside"
    if inside.exists():
        inside.rename(outside)
    inside.symlink_to(outside)
    asked = world.ask("asked.csv", "user\nu1\n")
    before = tree(world.here)
    for command in (world.evaluate(), world.resume(), [asked[0], str(world.copied), *asked[2:]]):
        assert main(command) == 2
        line = capsys.readouterr().err.splitlines()[-1]
        assert line.startswith(f"latentloop: error: {inside} is a link")
        assert tree(world.here) == before


@pytest.mark.parametrize("option", ["--resume", "--overwrite"])
def test_nothing_outside_a_run_is_swept_away(option: str, world: World) -> None:
    """A folder that is not ours, and what a link leads to, may hold files that look as if we had left them."""
    (world.copy() / "mine").mkdir()
    for place in ("outside", "copy/mine"):
        for name in (".tmpabc123", ".data-abcdefgh/kept", ".notes.txt.77.tmp"):
            world.file(f"{place}/{name}", "kept")
    (world.copied / "notes").symlink_to(world.here / "outside")
    before = [tree(world.here / place) for place in ("outside", "copy/mine")]
    assert main([*world.plain.command, "--out", str(world.copied), option]) == 0
    assert [tree(world.here / place) for place in ("outside", "copy/mine")] == before


def test_overwriting_a_run_of_links_removes_the_links(world: World) -> None:
    kept = world.file("kept/card.json", "mine")
    (world.copy() / "tensorboard").symlink_to(world.here / "kept")
    command = [*world.train(world.file("log.csv", LOG)), "--out", str(world.copied), "--overwrite"]
    assert main(command) == 2 and Path(kept).read_text() == "mine"


def test_a_model_directory_of_links_loads(world: World) -> None:
    """So the hub's cache keeps them; a model directory is only read."""
    Path("model").mkdir()
    for path in (world.plain.path / "spt").iterdir():
        (Path("model") / path.name).symlink_to(path)
    assert Recommender.from_pretrained("model").num_items == ITEMS
