"""The command line in several processes: code 3 where one had no thread of gloo's before it left, or has one after."""

from __future__ import annotations

import contextlib
import gc
import sys
from pathlib import Path

from latentloop import cli

part, before = cli._part, list[bool]()


def gloo() -> bool:
    """Whether a thread of gloo's is there."""
    names = []
    for path in Path("/proc/self/task").glob("*/comm"):
        with contextlib.suppress(OSError):  # it has ended by now
            names.append(path.read_text())
    return any("gloo" in name for name in names)


def leave() -> None:
    """`_part`, whose threads are looked at before."""
    before.append(gloo())
    part()


if __name__ == "__main__":
    gc.disable()  # what would be collected by luck
    cli._part = leave
    code = cli.main()
    sys.stderr.write(f"threads of gloo before: {before}, after: {gloo()}\n")
    sys.exit(code if before == [True] and not gloo() else 3)
