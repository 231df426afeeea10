"""A full disk and a read-only directory: one line, exit code 2, and what was there before stays as it was."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.crash.test_killed import KILLED, assert_same
from tests.crash.worlds import OPTIONS, Driver, epochs_done, whole_run


@pytest.fixture
def stopped(driver: Driver, log: Path, tmp_path: Path) -> Path:
    """A run that was killed in its second epoch."""
    run = tmp_path / "run"
    assert driver.run("train", log, "--out", run, *OPTIONS, at="step", nth=6) == KILLED
    return run


def test_a_write_that_fails_half_way(driver: Driver, log: Path, whole: Path, stopped: Path) -> None:
    before = whole_run(stopped)
    largest = len((stopped / "state" / "spt.safetensors").read_bytes()) // 2
    command = ["train", str(log), "--out", str(stopped), *OPTIONS, "--resume"]
    assert driver.run(*command, largest=largest) == 2, driver.output()
    assert "state/spt.safetensors" in driver.complaint() and "File too large" in driver.complaint()
    assert whole_run(stopped) == before
    assert driver.run("evaluate", stopped, "--device", "cpu") == 0
    assert driver.run(*command) == 0
    assert_same(stopped, whole)


def test_a_directory_that_must_not_be_written(driver: Driver, log: Path, whole: Path, stopped: Path) -> None:
    before = whole_run(stopped)
    folders = [stopped, *(path for path in stopped.rglob("*") if path.is_dir())]
    for folder in folders:
        folder.chmod(0o555)
    command = ["train", str(log), "--out", str(stopped), *OPTIONS, "--resume"]
    try:
        assert driver.run(*command, obey=True) == 2, driver.output()
        assert "state/spt.safetensors" in driver.complaint() and "Permission denied" in driver.complaint()
        assert whole_run(stopped) == before
        new = stopped / "new"
        assert driver.run("train", log, "--out", new, *OPTIONS, obey=True) == 2
        assert str(new) in driver.complaint() and not new.exists()
    finally:
        for folder in folders:
            folder.chmod(0o755)
    assert driver.run(*command) == 0
    assert_same(stopped, whole)


@pytest.fixture(scope="module")
def mounting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Driver, Path]]:
    """A driver with a small file system of its own, and where that is."""
    inside = ["unshare", "--map-root-user", "--mount"]
    if shutil.which("unshare") is None or subprocess.run([*inside, "true"], check=False).returncode:
        pytest.skip("no namespace to mount a file system in")
    folder = tmp_path_factory.mktemp("mount")
    driver = Driver(folder / "log.txt", inside)
    place = folder / "small"
    place.mkdir()
    if driver.shell(f"mount -t tmpfs -o size=1m none {place}"):
        pytest.skip("no file system can be mounted")
    yield driver, place
    driver.close()


@pytest.mark.slow
def test_a_disk_that_is_full(mounting: tuple[Driver, Path], log: Path, whole: Path) -> None:
    driver, place = mounting
    command = ["train", str(log), "--out", str(place / "run"), *OPTIONS]
    seen = driver.root / place.relative_to("/")
    stopped = set()
    for pages in range(1, 60, 3):
        assert driver.shell(f"rm -rf {place}/*; mount -o remount,size={4 * pages}k {place}") == 0
        code = driver.run(*command)
        stopped.add(epochs_done(seen / "run"))
        if code == 0:
            break
        assert code == 2, driver.output()
        assert "No space left on device" in driver.complaint()
        assert not list((seen / "run").rglob("*.tmp"))
        assert driver.shell(f"mount -o remount,size=1m {place}") == 0
        assert driver.run(*command, "--resume") == 0, driver.output()
        assert_same(seen / "run", whole)
    assert code == 0 and len(stopped) >= 4


@pytest.mark.slow
def test_a_file_system_that_is_read_only(mounting: tuple[Driver, Path], log: Path) -> None:
    driver, place = mounting
    assert driver.shell(f"rm -rf {place}/*; mount -o remount,size=1m {place}") == 0
    command = ["train", str(log), "--out", str(place / "run"), *OPTIONS]
    assert driver.run(*command, at="step", nth=6) == KILLED
    before = whole_run(driver.root / place.relative_to("/") / "run")
    assert driver.shell(f"mount -o remount,ro {place}") == 0
    assert driver.run(*command, "--resume") == 2
    assert "Read-only file system" in driver.complaint()
    assert whole_run(driver.root / place.relative_to("/") / "run") == before
    assert driver.shell(f"mount -o remount,rw {place}") == 0
