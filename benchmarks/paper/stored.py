"""The lines of finished cells: where they lie, and what is read from one."""

from __future__ import annotations

import base64
import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["CELLS", "Line", "finished", "gains", "unpack_ranks"]

CELLS = Path("benchmarks/results/cells")

Line = dict[str, Any]


def finished(folder: Path = CELLS) -> dict[str, Line]:
    """Lines of the finished cells by key."""
    lines: dict[str, Line] = {}
    for path in sorted(folder.glob("*.jsonl")):
        for line in path.read_text().splitlines():
            entry = json.loads(line)
            lines[entry["key"]] = entry
    return lines


def unpack_ranks(text: str) -> np.ndarray:
    """The test ranks of a line: 0 is the best, and 255 stands for all beyond 254."""
    return np.frombuffer(zlib.decompress(base64.b85decode(text)), dtype=np.uint8)


def gains(line: Line) -> np.ndarray:
    """Each test user's NDCG@10: of the rank, or, where scores tied, its expectation as it was stored."""
    if "gains" in line:
        return np.frombuffer(zlib.decompress(base64.b85decode(line["gains"])), dtype=np.float32).astype(np.float64)
    ranks = unpack_ranks(line["ranks"]).astype(np.float64)
    found: np.ndarray = np.where(ranks < 10, 1 / np.log2(ranks + 2), 0.0)
    return found
