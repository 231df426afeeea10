"""Two tiny runs for all tests of inputs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from latentloop.cli import main
from tests.inputs.worlds import ITEMS, LOG, NUMBERED, TINY, Trained, World


@pytest.fixture(scope="session")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A run on ids that are text, with all three models."""
    folder = tmp_path_factory.mktemp("plain")
    (folder / "log.csv").write_text(LOG)
    return _trained(folder, ["train", str(folder / "log.csv"), *TINY, "--with-base"])


@pytest.fixture(scope="session")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A run of TedRec on ids that are numbers."""
    folder = tmp_path_factory.mktemp("texts")
    (folder / "log.csv").write_text(NUMBERED)
    np.save(folder / "items.npy", np.random.default_rng(0).normal(size=(ITEMS, 4)).astype(np.float32))
    options = ["--backbone", "tedrec", "--item-embeddings", str(folder / "items.npy"), "--experts", "2"]
    return _trained(folder, ["train", str(folder / "log.csv"), *TINY, *options])


@pytest.fixture
def world(plain: Trained, texts: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """An empty working directory, from which nothing reaches the network or the user's own cache."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return World(tmp_path / "here", plain, texts)


def _trained(folder: Path, command: list[str]) -> Trained:
    assert main([*command, "--out", str(folder / "run")]) == 0
    return Trained(folder / "run", command)
