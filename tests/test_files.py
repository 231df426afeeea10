"""Files are whole or absent, and as open to others as the user's umask lets new files be."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import nn

from latentloop.errors import InputError
from latentloop.files import folder_for, is_leftover, remove_leftovers, write_atomically, write_together, writing
from latentloop.saving.weights import WEIGHTS, checksum, saved_checksum, saved_shape, saved_size, write_weights


@pytest.fixture(params=[0o022, 0o002, 0o077])
def mask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def test_a_file_has_the_permissions_of_any_new_file(mask: int, tmp_path: Path) -> None:
    plain, tensors = tmp_path / "plain", tmp_path / "tensors"
    plain.touch()
    with write_atomically(tensors) as temporary:
        save_file({"x": torch.ones(2)}, str(temporary))
        temporary.chmod(0o600)  # as some releases of safetensors leave it
    assert tensors.stat().st_mode == plain.stat().st_mode
    assert os.umask(mask) == mask  # looking must not change it


@pytest.mark.skipif(not Path("/proc/self/comm").exists(), reason="only Linux has names of processes there")
def test_a_process_may_have_any_name(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib\n"
        "from latentloop.files import write_json\n"
        "pathlib.Path('/proc/self/comm').write_bytes(b'f\\xc3\\nUmask: x')\n"
        "write_json(pathlib.Path(sys.argv[1]), {})\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "x.json")], check=True, env=environment, timeout=120)
    assert (tmp_path / "x.json").read_text() == "{}\n"


def test_threads_write_one_file_without_taking_each_others_drafts(tmp_path: Path) -> None:
    path, together = tmp_path / "file", Barrier(2, timeout=30)

    def write(text: str) -> None:
        with write_atomically(path) as temporary:
            temporary.write_text(text)
            together.wait()
            assert temporary.read_text() == text
            together.wait()

    with ThreadPoolExecutor(2) as threads:
        for done in [threads.submit(write, text) for text in ("one", "other")]:
            done.result()
    assert path.read_text() in ("one", "other") and [found.name for found in tmp_path.iterdir()] == ["file"]


def test_a_failure_leaves_the_old_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(RuntimeError, match="half"), write_atomically(path) as temporary:
        temporary.write_text("ne")
        raise RuntimeError("half")
    assert [found.read_text() for found in tmp_path.iterdir()] == ["old"]


def test_files_that_are_written_together_change_together(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_text("old")
    before: list[str] = []

    def full(path: Path) -> None:
        path.write_text("ne")
        raise OSError(28, "whatever", "elsewhere")

    def write(path: Path) -> None:
        path.write_text("new")

    def look() -> None:
        before.extend((tmp_path / name).read_text() for name in ("a", "b"))

    with pytest.raises(OSError, match=rf"^\[Errno 28\] No space left on device: '{tmp_path}/b'$"):
        write_together(tmp_path, {"a": write, "b": full}, before=look)
    assert not before and [path.read_text() for path in tmp_path.iterdir()] == ["old", "old"]
    write_together(tmp_path, {"a": write, "b": write}, before=look)
    assert before == ["old", "old"] and [path.read_text() for path in tmp_path.iterdir()] == ["new", "new"]


def test_folders_made_for_a_file_go_where_it_fails(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    with pytest.raises(ZeroDivisionError), folder_for(tmp_path / "there" / "new" / "er" / "file"):
        assert (tmp_path / "there" / "new" / "er").is_dir()
        raise ZeroDivisionError
    assert [path.name for path in tmp_path.rglob("*")] == ["there"]
    with pytest.raises(ZeroDivisionError), folder_for(tmp_path / "new" / "er" / "file"):
        (tmp_path / "new" / "another").write_text("of somebody else")
        raise ZeroDivisionError
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["another", "new", "there"]


def test_what_a_killed_process_left_is_known_and_removed(tmp_path: Path) -> None:
    left = [".config.json.77.tmp", ".state.77.tmp", ".tmpAb3_9z", ".data-x1_3abcd", ".data-old-x1_3abcd"]
    kept = [
        "config.json",
        ".bashrc",
        ".config.json.tmp",
        "x.77.tmp",
        ".tmp",
        ".metadata-1",
        ".data-2024",
        ".data-backup-of-mine",
    ]
    for name in left + kept:
        (tmp_path / name).write_text(name)
    (tmp_path / ".data-folder01").mkdir()
    (tmp_path / ".data-folder01" / "card.json").write_text("{}")
    assert is_leftover(Path(".config.json.77.tmp"), ("config.json",))
    assert not is_leftover(Path(".config.json.77.tmp"), ("data",))
    remove_leftovers(tmp_path, ("config.json",))
    assert not (tmp_path / ".config.json.77.tmp").exists() and (tmp_path / ".data-folder01").is_dir()
    remove_leftovers(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(kept)


def test_what_weights_hold_is_counted_without_loading_them(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(3, 5), nn.LayerNorm(5, bias=False))
    write_weights(model, tmp_path / WEIGHTS)
    assert saved_size(tmp_path) == (3, 3 * 5 + 5 + 5)
    assert saved_shape(tmp_path, "0.weight") == (5, 3) and saved_shape(tmp_path, "0.other") is None
    assert saved_checksum(tmp_path) == checksum(model) != checksum(nn.Linear(3, 5))


def test_of_damaged_weights_nothing_is_read(tmp_path: Path) -> None:
    assert saved_checksum(tmp_path) is None
    with pytest.raises(InputError, match=r"model\.safetensors is missing: the directory is not a whole model"):
        saved_size(tmp_path)
    (tmp_path / WEIGHTS).write_bytes(b"\xff" * 20)
    assert saved_checksum(tmp_path) is None
    for read in (saved_size, lambda folder: saved_shape(folder, "0.weight")):
        with pytest.raises(InputError, match=r"model\.safetensors cannot be read as this model's weights: "):
            read(tmp_path)


def test_a_failed_write_names_the_file_and_the_systems_number(tmp_path: Path) -> None:
    for error, number, said in (
        (SafetensorError("Error while serializing: I/O error: No space (os error 28)"), 28, "No space left on device"),
        (OSError(28, "No space left on device", "elsewhere"), 28, "No space left on device"),
        (SafetensorError("Error while serializing:\n  no tensor"), None, "cannot be written: Error .* no tensor$"),
        (OSError("gone"), None, "^gone$"),
    ):
        with pytest.raises(OSError, match=said) as caught, writing(tmp_path / "a"):
            raise error
        assert caught.value.errno == number and "elsewhere" not in str(caught.value)
        assert str(tmp_path / "a") in str(caught.value) or said == "^gone$"
