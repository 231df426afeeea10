"""Texts as hashed bags of words and word pairs: offline, deterministic, no model."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from latentloop.checks import at_least

__all__ = ["HashingEncoder"]

_WORD = re.compile(r"\w+")
_NOTHING = 1e-9  # what rounding leaves of terms that cancel


class HashingEncoder:
    """Signed feature hashing of words and pairs of neighbouring words.

    A term counts sqrt(times in the text) * idf, idf = 1 + log((1 + n) / (1 + texts with it)) over the texts encoded
    together; it is added, with the sign its hash gives, at the place its hash gives. Rows are then scaled to unit
    length; a text without a word stays zero. Words are what letters, digits and underscores make, in lower case.

    Args:
        dim: c, the number of places.

    Raises:
        InputError: for a `dim` below 1.
    """

    def __init__(self, *, dim: int = 384) -> None:
        self.dim = at_least("dim", dim, 1)

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """(n, c) float32, row i for text i."""
        number: dict[str, int] = {}
        rows, terms, times = [], [], []
        for row, text in enumerate(texts):
            for term, count in _terms(text).items():
                rows.append(row)
                terms.append(number.setdefault(term, len(number)))
                times.append(count)
        which = np.array(terms, dtype=np.int64)
        idf = 1 + np.log((1 + len(texts)) / (1 + np.bincount(which, minlength=len(number))))
        places, signs = self._hashed(list(number))
        cells = np.array(rows, dtype=np.int64) * self.dim + places[which]
        weights = signs[which] * np.sqrt(np.array(times, dtype=np.float64)) * idf[which]
        table = np.bincount(cells, weights, minlength=len(texts) * self.dim).astype(np.float64)  # of nothing: integers
        table = table.reshape(len(texts), self.dim)
        lengths = np.linalg.norm(table, axis=1, keepdims=True)
        unit: np.ndarray = np.divide(table, lengths, out=np.zeros_like(table), where=lengths > _NOTHING)
        return unit.astype(np.float32)

    def _hashed(self, terms: list[str]) -> tuple[np.ndarray, np.ndarray]:
        # a keyed hash of Python's own would differ from process to process
        digests = b"".join(hashlib.blake2b(term.encode(), digest_size=8).digest() for term in terms)
        bits = np.frombuffer(digests, dtype="<u8")
        return (bits >> np.uint64(1)).astype(np.int64) % self.dim, np.where(bits & np.uint64(1), 1.0, -1.0)


def _terms(text: str) -> Counter[str]:
    words = _WORD.findall(text.lower())
    return Counter([*words, *(f"{one} {other}" for one, other in pairwise(words))])
