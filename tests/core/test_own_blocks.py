"""Blocks named as package.module:function, and every way that a name can be wrong."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from latentloop.commands.own_blocks import load_blocks
from latentloop.errors import InputError, InputTypeError
from latentloop.recurrence import RecurrentDepth
from latentloop.stacked import Stacked

MODULE = """
from torch import nn

one_number = 3

def make_blocks(dim):
    return nn.GRU(dim, dim, batch_first=True), nn.Linear(dim, dim)

def only_one(dim):
    return nn.Linear(dim, dim)

def three(dim):
    return [nn.Linear(dim, dim)] * 3

def shared(dim):
    return [nn.Linear(dim, dim)] * 2

def copied(dim):
    return nn.Linear(dim, dim), "copy"

def a_copy_first(dim):
    return "copy", nn.Linear(dim, dim)

def another_word(dim):
    return nn.Linear(dim, dim), "same"

def told_the_length(dim, max_length):
    return nn.Linear(dim, max_length), nn.Linear(max_length, dim)

def told_by_name(dim, *, max_length=3):
    return told_the_length(dim, max_length)

def told_nothing(dim, length=3, **anything):
    return nn.Linear(dim, length), nn.Linear(dim, len(anything) + 1)

class Blocks(tuple):
    def __new__(cls, dim, max_length):
        return tuple.__new__(cls, told_the_length(dim, max_length))
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
    pre, core = load_blocks("my_blocks_of_a_test:make_blocks", 6, 4)
    assert isinstance(pre, nn.GRU) and isinstance(core, nn.Linear)
    assert pre.hidden_size == core.out_features == 6


@pytest.mark.usefixtures("working_directory")
@pytest.mark.parametrize(
    ("function", "sizes"),
    [
        ("told_the_length", (6, 4, 4, 6)),
        ("told_by_name", (6, 4, 4, 6)),
        ("told_nothing", (6, 3, 6, 1)),
        ("Blocks", (6, 4, 4, 6)),
    ],
)
def test_max_length_goes_to_a_parameter_of_that_name_only(function: str, sizes: tuple[int, ...]) -> None:
    pre, core = load_blocks(f"my_blocks_of_a_test:{function}", 6, 4)
    assert isinstance(pre, nn.Linear) and isinstance(core, nn.Linear)
    assert (pre.in_features, pre.out_features, core.in_features, core.out_features) == sizes


@pytest.mark.usefixtures("working_directory")
@pytest.mark.parametrize("encoder", [RecurrentDepth, Stacked])
def test_one_module_for_both_shares_its_weights(encoder: type[RecurrentDepth | Stacked]) -> None:
    made = encoder(*load_blocks("my_blocks_of_a_test:shared", 6, 4))
    assert made.pre_block.module is made.core_block.module
    assert sum(p.numel() for p in made.parameters()) == 6 * 6 + 6


@pytest.mark.usefixtures("working_directory")
@pytest.mark.parametrize("encoder", [RecurrentDepth, Stacked])
def test_a_copy_starts_with_the_same_weights_of_its_own(encoder: type[RecurrentDepth | Stacked]) -> None:
    made = encoder(*load_blocks("my_blocks_of_a_test:copied", 6, 4))
    assert sum(p.numel() for p in made.parameters()) == 2 * (6 * 6 + 6)
    for one, other in zip(made.pre_block.parameters(), made.core_block.parameters(), strict=True):
        assert one is not other and torch.equal(one, other)


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
        ("builtins:dict", InputError, "builtins:dict fails: TypeError: 'int' object is not iterable"),
        ("my_blocks_of_a_test:only_one", InputTypeError, "must return .*two nn.Modules.*got Linear$"),
        ("my_blocks_of_a_test:three", InputTypeError, r"\(block, block\).*got \(Linear, Linear, Linear\)$"),
        ("my_blocks_of_a_test:a_copy_first", InputTypeError, r"\(block, \"copy\"\).*got \('copy', Linear\)$"),
        ("my_blocks_of_a_test:another_word", InputTypeError, r"\(block, \"copy\"\).*got \(Linear, 'same'\)$"),
    ],
)
def test_refused_in_one_line(name: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message) as found:
        load_blocks(name, 6, 4)
    assert "\n" not in str(found.value)
