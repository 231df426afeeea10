"""Blocks named as package.module:function, and every way that a name can be wrong."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from torch import nn

from latentloop.errors import InputError, InputTypeError
from latentloop.own_blocks import load_blocks

MODULE = """
from torch import nn

one_number = 3

def make_blocks(dim):
    return nn.GRU(dim, dim, batch_first=True), nn.Linear(dim, dim)

def only_one(dim):
    return nn.Linear(dim, dim)

def three(dim):
    return [nn.Linear(dim, dim)] * 3
"""


@pytest.fixture
def working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with a user's module in it, where nothing on sys.path leads."""
    (tmp_path / "my_blocks_of_a_test.py").write_text(MODULE)
    (tmp_path / "broken_blocks_of_a_test.py").write_text("import no_such_package_anywhere")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    yield tmp_path
    for name in ("my_blocks_of_a_test", "broken_blocks_of_a_test"):
        sys.modules.pop(name, None)


@pytest.mark.usefixtures("working_directory")
def test_found_in_the_working_directory() -> None:
    pre, core = load_blocks("my_blocks_of_a_test:make_blocks", 6)
    assert isinstance(pre, nn.GRU) and isinstance(core, nn.Linear)
    assert pre.hidden_size == core.out_features == 6


@pytest.mark.usefixtures("working_directory")
@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("my_blocks_of_a_test", InputError, "must be written package.module:function"),
        ("my_blocks_of_a_test:", InputError, "must be written package.module:function"),
        ("my_blocks_of_a_test:nothing", InputError, "has no function nothing"),
        ("my_blocks_of_a_test:one_number", InputError, "has no function one_number"),
        ("no_such_module_of_a_test:f", InputError, "no_such_module_of_a_test cannot be imported"),
        ("broken_blocks_of_a_test:f", InputError, "no_such_package_anywhere"),
        ("my_blocks_of_a_test:only_one", InputTypeError, "must return two nn.Modules.*got Linear"),
        ("my_blocks_of_a_test:three", InputTypeError, "got .*Linear.*Linear.*Linear"),
    ],
)
def test_refused_in_one_line(name: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message) as found:
        load_blocks(name, 6)
    assert "\n" not in str(found.value)
