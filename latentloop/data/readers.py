"""Being written: readers of files."""

from __future__ import annotations


def load_interactions(source):  # type: ignore
    raise NotImplementedError
