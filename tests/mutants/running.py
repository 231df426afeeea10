"""Tests against mutants, forked from a process that has imported and collected everything once.

A mutant inside a function takes that function's place in the child, by its code object, so that every name that was
imported before means the mutant. One outside of functions needs a child that has not imported the package yet.
"""

from __future__ import annotations

import functools
import gc
import importlib
import importlib.machinery
import json
import os
import resource
import select
import signal
import sys
import time
import types
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.mutants.making import Mutant

__all__ = ["judge"]

OPTIONS = ["-q", "-x", "--tb=no", "--assert=plain", "--capture=no"]
OPTIONS += [f"-pno:{plugin}" for plugin in ("cacheprovider", "xdist", "benchmark", "random_order")]
STATM = Path("/proc/self/statm")
MEMORY = 4 * 2**30
"""Bytes that a mutant may take beyond what its parent has."""


def judge(module: str, mutants: Sequence[Mutant], tests: Sequence[str], log: int) -> Iterator[tuple[Mutant, str]]:
    """Each mutant with what killed it, "" where it survives.

    Args:
        module: the mutated module's name; neither it nor anything of its package may be imported here.
        mutants: of its source.
        tests: what pytest is given.
        log: a file descriptor for what the tests write.

    Raises:
        RuntimeError: where the tests fail without a mutant.
    """
    inner = [mutant for mutant in mutants if mutant.function]
    outer = [mutant for mutant in mutants if not mutant.function]
    server = _Server(module, inner)
    order: list[str] = []
    seconds = 0.0
    for told in _answers(functools.partial(_collected, server, tests), log, 3600):
        if "failed" in told:
            raise RuntimeError(f"without a mutant, {module}'s tests fail: {told['failed']}")
        if "imported" in told:
            order, seconds = told["order"], told["seconds"]
            _import(told["imported"])
        else:
            yield inner[told["mutant"]], told["by"]
    if not order:
        raise RuntimeError(f"without a mutant, {module}'s tests do not run")
    for mutant in outer:
        fresh = functools.partial(_collected, _Judge(order), tests, instead=(module, mutant.source))
        yield mutant, _verdict(fresh, log, 30 + 3 * seconds)


class _Judge:
    """Runs tests in a given order until one fails, and tells which."""

    def __init__(self, order: Sequence[str]) -> None:
        self.order = list(order)
        self.tell: Callable[[dict[str, Any]], None] = print
        self.failed = ""
        self.seconds: Counter[str] = Counter()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Remember a failure, and how long tests take."""
        self.seconds[report.nodeid] += report.duration
        if report.failed:
            self.failed = report.nodeid

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """What cannot even be imported is killed."""
        if report.failed:
            self.failed = "import"

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """In place of pytest's own loop."""
        places = {name: place for place, name in enumerate(self.order)}
        self.run(sorted(session.items, key=lambda item: places.get(item.nodeid, len(places))))
        return True

    def pytest_sessionfinish(self) -> None:
        """Also where nothing could be collected."""
        self.tell({"by": self.failed})

    def run(self, items: Sequence[pytest.Item]) -> str:
        """The first of these tests to fail, or ""."""
        for item, following in zip(items, [*items[1:], None], strict=True):
            item.ihook.pytest_runtest_protocol(item=item, nextitem=following)
            if self.failed:
                break
        return self.failed


class _Server(_Judge):
    """Runs all tests once, and then a child for each mutant, the likeliest tests first."""

    def __init__(self, module: str, mutants: Sequence[Mutant]) -> None:
        super().__init__([])
        self.module, self.mutants = module, mutants

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """The tests without a mutant, then with each."""
        if self.failed or self.run(session.items):
            self.tell({"failed": self.failed})
            return True
        seconds = dict(self.seconds)
        total = sum(seconds.values())
        imported = [name for name in sys.modules if name.split(".")[0] not in ("latentloop", "tests", "__main__")]
        self.tell({"imported": imported, "seconds": total, "order": sorted(seconds, key=lambda name: seconds[name])})
        gc.collect()
        gc.freeze()
        kills: Counter[str] = Counter()
        near: Counter[tuple[str, str]] = Counter()
        for number, mutant in enumerate(self.mutants):

            def worth(item: pytest.Item, function: str = mutant.function) -> float:
                name = item.nodeid
                return (0.1 + kills[name] + 10 * near[function, name]) / (0.05 + seconds[name])

            items = sorted(session.items, key=worth, reverse=True)
            by = _verdict(functools.partial(self._child, mutant, items), None, 5 + 3 * total)
            kills[by] += 1
            near[mutant.function, by] += 1
            self.tell({"mutant": number, "by": by})
        return True

    def pytest_sessionfinish(self) -> None:
        """All is told by then."""

    def _child(self, mutant: Mutant, items: Sequence[pytest.Item], tell: Callable[[dict[str, Any]], None]) -> None:
        try:
            _take_place(self.module, mutant)
        except Exception as error:
            tell({"by": f"import: {error!r}"[:200]})
            return
        tell({"by": self.run(items)})


def _collected(
    judge: _Judge,
    tests: Sequence[str],
    tell: Callable[[dict[str, Any]], None],
    *,
    instead: tuple[str, str] | None = None,
) -> None:
    """pytest over these tests with a plugin, a module's source replaced."""
    judge.tell = tell
    if instead is not None:
        _replace_source(*instead)
    pytest.main([*OPTIONS, *tests], plugins=[judge])


def _take_place(name: str, mutant: Mutant) -> None:
    """Give the mutant's function to the imported module."""
    module = sys.modules[name]
    path = str(module.__file__)
    loader: Any = module.__loader__  # that which adds the checks of annotations
    fresh = types.ModuleType(name)
    fresh.__dict__.update({key: module.__dict__[key] for key in ("__file__", "__package__", "__loader__", "__spec__")})
    sys.modules[name] = fresh  # where dataclasses look
    exec(loader.source_to_code(mutant.source.encode(), path), fresh.__dict__)
    sys.modules[name] = module
    ours, theirs = (_function(each, mutant.function) for each in (module, fresh))
    ours.__code__, ours.__defaults__, ours.__kwdefaults__ = theirs.__code__, theirs.__defaults__, theirs.__kwdefaults__


def _function(module: types.ModuleType, name: str) -> types.FunctionType:
    """A function of a module without what decorators have put around it."""
    found: Any = module
    for part in name.split("."):
        found = vars(found)[part]
    inside = {property: "fget", functools.cached_property: "func", classmethod: "__func__", staticmethod: "__func__"}
    while True:
        if type(found) in inside:
            found = getattr(found, inside[type(found)])
        elif hasattr(found, "__wrapped__"):
            found = found.__wrapped__
        elif isinstance(found, types.FunctionType):
            return found
        else:
            raise TypeError(f"{name} is no function but {found!r}")


def _replace_source(name: str, source: str) -> None:
    """Have a module that is not yet imported come from this source."""
    original = importlib.machinery.SourceFileLoader.get_code

    def get_code(self: importlib.machinery.SourceFileLoader, fullname: str) -> types.CodeType | None:
        if fullname != name:
            return original(self, fullname)
        code: types.CodeType = self.source_to_code(source.encode(), self.get_filename(fullname))
        return code

    importlib.machinery.SourceFileLoader.get_code = get_code  # type: ignore[method-assign]


def _verdict(work: Callable[[Callable[[dict[str, Any]], None]], None], log: int | None, limit: float) -> str:
    """What killed a mutant: a test's name, "time" for waiting, "crash" (of time of its own used up, too); "" for none."""
    by = "crash"
    for told in _answers(work, log, limit):
        by = told["by"]
    return by


def _answers(
    work: Callable[[Callable[[dict[str, Any]], None]], None], log: int | None, limit: float
) -> Iterator[dict[str, Any]]:
    """What a child tells while it works, for `limit` seconds of its own and ten times that without a word.

    Others may keep the machine busy, so the clock on the wall only ends what waits for nothing.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        _be_the_child(work, log, limit, writing)
    os.close(writing)
    with os.fdopen(reading, "rb") as answers:
        os.set_blocking(reading, False)
        buffer, heard = b"", time.monotonic()
        while True:
            ready = select.select([reading], [], [], max(0.0, heard + 10 * limit - time.monotonic()))[0]
            if not ready:
                os.kill(child, signal.SIGKILL)
                yield {"by": "time"}
                break
            data = answers.read()
            if not data:
                break
            heard = time.monotonic()
            *lines, buffer = (buffer + data).split(b"\n")
            yield from map(json.loads, lines)
    os.waitpid(child, 0)


def _be_the_child(
    work: Callable[[Callable[[dict[str, Any]], None]], None], log: int | None, limit: float, writing: int
) -> None:
    def tell(answer: dict[str, Any]) -> None:
        os.write(writing, json.dumps(answer).encode() + b"\n")

    try:
        if log is not None:
            os.dup2(log, 1)
            os.dup2(log, 2)
        elif STATM.exists():  # a mutant, not the server of them
            size = int(STATM.read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, size + MEMORY))
        used = resource.getrusage(resource.RUSAGE_SELF)
        most = int(used.ru_utime + used.ru_stime + limit) + 1
        resource.setrlimit(resource.RLIMIT_CPU, (most, most))
        work(tell)
    finally:
        os._exit(0)


def _import(names: Sequence[str]) -> None:
    """So that later children need not."""
    for name in names:
        if name not in sys.modules:
            try:
                importlib.import_module(name)
            except Exception:  # such as a module that only its package imports
                continue
