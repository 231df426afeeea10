"""One source and one trained run for all tests of commands."""

from __future__ import annotations

import gzip
import shutil
from pathlib import Path

import pytest

from latentloop.cli import main
from latentloop.data.synthetic import synthetic_log
from tests.cli.worlds import QUICK


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CSV of interactions with text ids."""
    log = synthetic_log(num_users=150, num_items=60, seed=3)
    path = tmp_path_factory.mktemp("source") / "log.csv.gz"
    rows = ["who,what,timestamp"]
    for place, (user, item) in enumerate(zip(log.user.tolist(), log.item.tolist(), strict=True)):
        rows.append(f"u{user},item-{item},{place}")
    path.write_bytes(gzip.compress("\n".join(rows).encode()))
    return path


@pytest.fixture(scope="session")
def run(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained run whose source is gone."""
    folder = tmp_path_factory.mktemp("run")
    moved = folder / "copy.csv.gz"
    shutil.copy(source, moved)
    out = folder / "run"
    columns = ["--user", "who", "--item", "what"]
    assert main(["train", str(moved), "--out", str(out), "--with-base", *columns, *QUICK]) == 0
    moved.unlink()
    return out
