"""One driver, one log and one uninterrupted run for all tests of killed runs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from latentloop.data.synthetic import synthetic_log
from tests.crash.worlds import OPTIONS, Driver


@pytest.fixture(scope="session")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Driver]:
    made = Driver(tmp_path_factory.mktemp("driver") / "log.txt")
    yield made
    made.close()


@pytest.fixture(scope="session")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CSV of interactions."""
    made = synthetic_log(num_users=60, num_items=40, seed=5)
    path = tmp_path_factory.mktemp("log") / "log.csv"
    rows = zip(made.user.tolist(), made.item.tolist(), strict=True)
    path.write_text("user,item\n" + "".join(f"u{user},i{item}\n" for user, item in rows))
    return path


@pytest.fixture(scope="session")
def whole(driver: Driver, log: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nobody interrupted."""
    run = tmp_path_factory.mktemp("whole") / "run"
    assert driver.run("train", log, "--out", run, *OPTIONS) == 0, driver.output()
    return run
