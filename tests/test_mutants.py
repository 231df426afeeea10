"""The mutants of `make mutants`: what is changed and what is not, how they take a function's place, and the list."""

from __future__ import annotations

import functools
import sys
import types

import pytest

pytest.importorskip("mutmut")

from tests.mutants.__main__ import TESTS, command, listed_survivors, source_of
from tests.mutants.making import Mutant, mutants

SOURCE = '''"""A module."""

__all__ = ["Circle"]

SIDES = 4


class Circle:
    """Text stays."""

    @property
    def area(self) -> float:
        return 3 * self.radius

    def grow(self, by: int = 1) -> int:
        if by < 0:
            raise ValueError("words stay", by)
        return add(by, device="cpu").to(self.device)
'''


def test_the_command_takes_modules_or_none() -> None:
    for named in ([], ["depth", "measures.metrics"]):
        assert command().parse_args(named).modules == named
    with pytest.raises(SystemExit, match="2"):
        command().parse_args(["training"])


def test_every_place_is_changed_but_for_texts_annotations_and_devices() -> None:
    made = mutants(SOURCE)
    assert {mutant.function for mutant in made} == {"", "Circle.area", "Circle.grow"}
    found = {(mutant.was, mutant.becomes) for mutant in made}
    assert found == {
        ("SIDES = 4", "SIDES = 5"),
        ("SIDES = 4", "SIDES = None"),
        ("return 3 * self.radius", "return 4 * self.radius"),
        ("return 3 * self.radius", "return 3 / self.radius"),
        ("def grow(self, by: int = 1) -> int:", "def grow(self, by: int = 2) -> int:"),
        ("if by < 0:", "if by <= 0:"),
        ("if by < 0:", "if by < 1:"),
        ('raise ValueError("words stay", by)', "raise ValueError(None, by)"),
        ('raise ValueError("words stay", by)', 'raise ValueError("words stay", None)'),
        ('raise ValueError("words stay", by)', "raise ValueError(by)"),
        ('raise ValueError("words stay", by)', 'raise ValueError("words stay", )'),
        ('return add(by, device="cpu").to(self.device)', 'return add(None, device="cpu").to(self.device)'),
        ('return add(by, device="cpu").to(self.device)', 'return add(device="cpu").to(self.device)'),
    }
    assert len(made) == len({mutant.source for mutant in made}) == len(found)


DECORATED = """
import functools

def doubled(function):
    @functools.wraps(function)
    def twice(*args):
        return 2 * function(*args)
    return twice

class Box:
    def __init__(self):
        self.size = 3

    @functools.cached_property
    def volume(self):
        return self.size ** 3

@doubled
def area(side, by=1):
    return side * side * by
"""


def test_a_mutant_takes_the_place_of_what_was_imported_before(monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.mutants.running import _take_place

    class Loader:
        source_to_code = staticmethod(functools.partial(compile, mode="exec"))

    module = types.ModuleType("module_of_a_test")
    module.__dict__.update(__file__="module_of_a_test.py", __package__="", __loader__=Loader(), __spec__=None)
    exec(DECORATED, module.__dict__)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    area, box = module.area, module.Box()
    for function, was, becomes in (("area", "by=1", "by=2"), ("Box.volume", "** 3", "** 2")):
        _take_place(module.__name__, Mutant(function, was, becomes, DECORATED.replace(was, becomes)))
    assert sys.modules[module.__name__] is module
    assert (area(3), box.volume) == (36, 9)


@pytest.mark.parametrize("module", sorted(TESTS))
def test_every_listed_survivor_is_a_mutant_of_what_the_module_is_now(module: str) -> None:
    listed = listed_survivors().get(module, {})
    assert all(len(why) > 20 for why in listed.values())
    assert set(listed) <= {mutant.name for mutant in mutants(source_of(module))}


def test_only_modules_that_are_run_have_survivors() -> None:
    assert set(listed_survivors()) <= set(TESTS)
