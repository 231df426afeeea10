"""Files are whole or absent, and as open to others as the user's umask lets new files be."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from latentloop.files import write_atomically


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


def test_a_failure_leaves_the_old_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(RuntimeError, match="half"), write_atomically(path) as temporary:
        temporary.write_text("ne")
        raise RuntimeError("half")
    assert [found.read_text() for found in tmp_path.iterdir()] == ["old"]
