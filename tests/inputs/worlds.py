"""A place to put malformed inputs in, tiny runs to give them to, and what a refused command leaves behind."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jaxtyping
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

USERS, ITEMS = 14, 9

MODEL = ["--dim", "8", "--heads", "1", "--inner", "8", "--pre-layers", "1", "--core-layers", "1", "--mean-depth", "1"]
BUDGET = ["--epochs", "1", "--rpt-epochs", "1", "--batch-size", "64", "--rollouts", "2", "--device", "cpu"]
TINY = ["--k-core", "0", *MODEL, *BUDGET]

Harm = Callable[[bytes], bytes]

LOG = "user,item,timestamp\n" + "".join(
    f"u{user},i{(user + step * (1 + user % 3)) % ITEMS},{10 * user + step}\n"
    for user in range(USERS)
    for step in range(3 + user % 4)
)

NUMBERED = "user,item,timestamp\n" + "".join(
    f"{user[1:]},{int(item[1:]) + 1},{time}\n" for user, item, time in (row.split(",") for row in LOG.split()[1:])
)
"""The same log in numbers from 1 on, as embeddings by number need them."""


@dataclass(frozen=True)
class Trained:
    """A tiny run.

    Args:
        path: its directory.
        command: what it was trained with, but for --out.
    """

    path: Path
    command: list[str]


@dataclass(frozen=True)
class World:
    """What a row of a table makes its input from.

    Args:
        here: an empty folder, which is the working directory too.
        plain: a trained run, for reading.
        texts: one that read item texts.
    """

    here: Path
    plain: Trained
    texts: Trained

    @property
    def copied(self) -> Path:
        """Where `copy` puts a run."""
        return self.here / "copy"

    def file(self, name: str, content: str | bytes) -> str:
        """A file of this content."""
        path = self.here / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return str(path)

    def parquet(self, name: str, **columns: Any) -> str:
        """A Parquet file of these columns."""
        pq.write_table(pa.table(columns), self.here / name)
        return str(self.here / name)

    def embeddings(self, array: Any, name: str = "items.npy") -> str:
        """An array as numpy writes it."""
        with (self.here / name).open("wb") as file:
            np.save(file, array)
        return str(self.here / name)

    def copy(self, run: Trained | None = None) -> Path:
        """A run of one's own to damage."""
        shutil.copytree((run or self.plain).path, self.copied, symlinks=True)
        return self.copied

    def train(self, source: str, *options: str) -> list[str]:
        """Train on a file."""
        return ["train", source, "--out", str(self.here / "out"), *TINY, *options]

    def text(self, *options: str) -> list[str]:
        """Train TedRec on a sound log."""
        return self.train(self.file("log.csv", NUMBERED), "--backbone", "tedrec", *options)

    def hashed(self, name: str, content: str | bytes) -> list[str]:
        """Train TedRec on these texts."""
        return self.text("--item-text", self.file(name, content), "--text-encoder", "hashing")

    def ask(self, name: str, content: str | bytes, *options: str) -> list[str]:
        """Recommend to the rows of a file."""
        asked = self.file(name, content)
        return ["recommend", str(self.plain.path), "--input", asked, "--out", str(self.here / "answer.csv"), "--k", "3",
                "--device", "cpu", *options]  # fmt: skip

    def edited(self, place: str, *keys: Any, value: Any) -> list[str]:
        """Evaluate a run in one of whose JSON files a value is another."""
        edit_json(self.copy() / place, *keys, value=value)
        return self.evaluate(place)

    def damaged(self, place: str, harm: Harm) -> list[str]:
        """Evaluate a run of which one file is damaged."""
        rewrite(self.copy() / place, harm)
        return self.evaluate(place)

    def resumed(self, place: str, harm: Harm, run: Trained | None = None) -> list[str]:
        """Resume a run of which one file is damaged."""
        run = run or self.plain
        rewrite(self.copy(run) / place, harm)
        return self.resume(run)

    def evaluate(self, place: str = "") -> list[str]:
        """Evaluate the copy: the model that a file belongs to, or the best."""
        stage = ["--stage", "rpt"] if place.startswith("rpt/") else []
        return ["evaluate", str(self.copied), "--device", "cpu", *stage]

    def resume(self, run: Trained | None = None) -> list[str]:
        """Resume the copy."""
        return [*(run or self.plain).command, "--out", str(self.copied), "--resume"]


def rewrite(path: Path, harm: Harm) -> None:
    """Replace a file by something that is made of it."""
    path.write_bytes(harm(path.read_bytes()))


def edit_json(path: Path, *keys: Any, value: Any) -> None:
    """Put another value where `keys` lead in a JSON file."""
    whole = inner = json.loads(path.read_text())
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = value
    path.write_text(json.dumps(whole))


def cut(share: float) -> Harm:
    """The first part of a file."""
    return lambda content: content[: int(share * len(content))]


def flipped(place: float) -> Harm:
    """A file with one bit turned over."""

    def flip(content: bytes) -> bytes:
        at = int(place * (len(content) - 1))
        return content[:at] + bytes([content[at] ^ 16]) + content[at + 1 :]

    return flip


def tree(folder: Path) -> dict[str, Any]:
    """Everything below a folder: kinds, link targets and contents."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        kind = "folder" if path.is_dir() else path.read_bytes() if path.is_file() else "a pipe"
        found[name] = path.readlink() if path.is_symlink() else kind
    return found


@contextmanager
def unchecked() -> Iterator[None]:
    """As for a user, who has no beartype: wrong values meet the library's own checks."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", before)
