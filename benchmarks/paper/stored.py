"""The lines of finished cells: where they lie, and what is read from one."""

from __future__ import annotations

import base64
import json
import logging
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

__all__ = ["CELLS", "Line", "finished", "gains", "keep", "unpack_ranks"]

CELLS = Path("benchmarks/results/cells")

Line = dict[str, Any]


def finished(folder: Path = CELLS) -> dict[str, Line]:
    """Lines of the finished cells by key.

    A file's last line may have no end yet: it is being written, or was cut off, and is passed over.

    Raises:
        SystemExit: for a line that is no finished cell, or data or texts that other cells of their name did not have.
    """
    lines: dict[str, Line] = {}
    seen: dict[tuple[str, str], tuple[str, str]] = {}
    for path in sorted(folder.glob("*.jsonl")):
        *whole, rest = path.read_text().split("\n")
        if _is_whole(rest):
            whole.append(rest)
        elif rest:
            logging.warning("%s: the last line has no end and is passed over", path)
        for number, text in enumerate(whole, 1):
            place = f"{path}, line {number}"
            try:
                entry = json.loads(text)
                lines[entry["key"]] = entry
                data = entry["cell"]["data"]
            except (ValueError, KeyError, TypeError):
                raise SystemExit(f"{place}: this is no finished cell; remove the line") from None
            for name in ("data_hash", "text_hash"):
                own = entry.get(name)
                known, first = seen.setdefault((data, name), (own, place)) if own else (own, place)
                if own != known:
                    raise SystemExit(
                        f"{place}: {data} is not what it was in {first}: keep the cells of one of them only"
                    )
    return lines


def keep(experiment: str, line: Line, folder: Path = CELLS) -> None:
    """Add a finished cell's line to the experiment's file, whole or not at all; commands take turns.

    Raises:
        OSError: where it cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".lock"), (folder / f"{experiment}.jsonl").open("a+b", buffering=0) as file:
        file.seek(0)
        before = file.read()
        end = before.rfind(b"\n") + 1  # beyond it lies what a killed process began
        left = json.dumps(line).encode() + b"\n"
        if _is_whole(before[end:]):  # or a line of which an editor took the end
            end, left = len(before), b"\n" + left
        file.truncate(end)
        try:
            while left:
                left = left[file.write(left) :]
        except OSError:
            file.truncate(end)
            raise


def _is_whole(text: str | bytes) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except ValueError:
        return False


def unpack_ranks(text: str) -> np.ndarray:
    """The test ranks of a line: 0 is the best, and 255 stands for all beyond 254."""
    return np.frombuffer(zlib.decompress(base64.b85decode(text)), dtype=np.uint8)


def gains(line: Line) -> np.ndarray:
    """Each test user's NDCG@10: of the rank, or, where scores tied, its expectation as it was stored."""
    if "gains" in line:
        return np.frombuffer(zlib.decompress(base64.b85decode(line["gains"])), dtype=np.float32).astype(np.float64)
    ranks = unpack_ranks(line["ranks"]).astype(np.float64)
    found: np.ndarray = np.where(ranks < 10, 1 / np.log2(ranks + 2), 0.0)
    return found.astype(np.float32).astype(np.float64)  # or a model would differ, and surely, from its own stored gains
