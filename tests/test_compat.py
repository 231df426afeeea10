"""What `make compat` would install, without installing it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests import compat


def test_the_oldest_are_the_lower_bounds_of_all_that_is_required() -> None:
    lines = (compat.ROOT / "pyproject.toml").read_text().split("dependencies = [")[1].split("]")[0].splitlines()
    bounds = [line.strip().strip('",') for line in lines if line.strip()]
    assert "torch>=2.6" in bounds
    pins = compat.constraints("oldest")
    assert [line.replace(">=", "==") for line in bounds] == pins[: len(bounds)]
    assert all(line.count("==") == 1 and ">" not in line for line in pins)
    assert any(line.startswith("tensorboard==") for line in pins)


def test_given_pins_stand_in_for_a_combination_s_own() -> None:
    pins = compat.constraints("oldest", ["torch==2.13.0"])
    assert [line for line in pins if line.startswith("torch")] == ["torch==2.13.0"]
    assert len(pins) == len(compat.constraints("oldest"))
    assert compat.constraints("newest", ["numpy==2.0"]) == ["numpy==2.0"] and compat.constraints("newest") == []
    assert "torch==2.13.0" in compat.constraints("pinned")


def test_each_python_gets_the_pins_and_the_ends_get_the_rest() -> None:
    pythons = {"3.9": "a", "3.13": "c", "3.10": "b"}
    found = [(each.name, each.python) for each in compat.combinations(pythons, compat.KINDS)]
    pinned = [("pinned-3.9", "a"), ("pinned-3.10", "b"), ("pinned-3.13", "c")]
    assert found == [*pinned, ("oldest-3.9", "a"), ("newest-3.13", "c")]
    assert [each.kind for each in compat.combinations(pythons, ["newest"])] == ["newest"]


def test_an_interpreter_that_does_not_run_is_none(tmp_path: Path) -> None:
    assert compat.version_of(sys.executable) == f"{sys.version_info.major}.{sys.version_info.minor}"
    assert compat.version_of("python3.99") is None
    shim = tmp_path / "python3.12"  # such as pyenv's, of a version that is not chosen
    shim.write_text("#!/bin/sh\nexit 127\n")
    shim.chmod(0o755)
    assert compat.version_of(str(shim)) is None


def test_pyenv_s_newest_stands_in_for_a_name_that_does_not_run(tmp_path: Path) -> None:
    for version in ("3.99.2", "3.99.10", "3.98.1"):
        place = tmp_path / version / "bin" / f"python{version.rpartition('.')[0]}"
        place.parent.mkdir(parents=True)
        place.symlink_to(sys.executable)
    assert compat.runs("python3.99", tmp_path) == str(tmp_path / "3.99.10" / "bin" / "python3.99")
    assert compat.runs("python3.97", tmp_path) is None
    assert compat.runs(sys.executable, tmp_path) == sys.executable


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(compat, "PLACE", tmp_path)
    monkeypatch.setattr(compat, "ROOT", tmp_path)
    (tmp_path / "constraints.txt").write_text("# pins\nnumpy==2.0\n")
    monkeypatch.setattr(compat, "wanted", list)
    return tmp_path


def test_what_cannot_be_installed_is_told_and_the_rest_goes_on(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A real environment; nothing is asked for, so that pip refuses."""
    code = compat.main(["--only", "pinned", "--python", sys.executable, "python3.99"])
    told = capsys.readouterr().out
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    assert code == 1
    assert f"pinned-{version}" in told and "cannot be installed: ERROR:" in told
    assert "not on this machine: python3.99" in told
    assert (place / f"pinned-{version}.txt").read_text() == "numpy==2.0\n"
    assert compat.main(["--python", "python3.99"]) == 1
    assert "none of python3.99 runs here" in capsys.readouterr().out
