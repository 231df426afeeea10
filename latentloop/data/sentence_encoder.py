"""Texts through a model of sentence-transformers, an optional package; what it returned is kept on disk."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from latentloop.checks import at_least
from latentloop.errors import InputError
from latentloop.files import write_atomically

__all__ = ["SentenceTransformerEncoder"]

logger = logging.getLogger(__name__)


class SentenceTransformerEncoder:
    """A model of sentence-transformers by name.

    Embeddings are cached by a hash of the model's name and the texts, so texts are encoded once on a machine and a
    repeated run needs neither the package nor the network. Of a folder the hash has each file's size and time too: a
    model that was trained on in place encodes anew.

    Args:
        name: a model on the hub, such as "all-MiniLM-L6-v2", or a folder, which is what a name is wherever there is a
            folder of that name. With a dot, slash or ~ first, or two slashes, it cannot be a name on the hub.
        cache: where to keep embeddings; None is `latentloop/text` in `$XDG_CACHE_HOME`, or else in `~/.cache`.
        batch_size: texts at a time.
        device: where to encode; None is the best there is.

    Raises:
        InputError: for an empty name, a folder that does not exist, or a batch size below 1.
    """

    def __init__(
        self, name: str, *, cache: str | Path | None = None, batch_size: int = 64, device: str | None = None
    ) -> None:
        if not name:
            raise InputError("the text encoder needs a name, such as all-MiniLM-L6-v2 or hashing")
        self._folder = _folder(name)
        if self._folder is not None:
            name = str(self._folder)
        elif name.startswith((".", "/", "~")) or name.count("/") > 1:  # or the hub would be asked for it
            raise InputError(f"{name}: no such folder; give a model's folder or its name on the hub")
        self.name, self.batch_size, self.device = name, at_least("batch_size", batch_size, 1), device
        self.cache = _cache() if cache is None else Path(cache)

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """(n, c) float32, row i for text i.

        Raises:
            InputError: where the package is not installed or the model cannot be loaded.
        """
        path = self.cache / f"{self._key(texts)}.npy"
        kept = _kept(path, len(texts))
        if kept is not None:
            logger.info("text: embeddings of %s from %s", self.name, path)
            return kept
        array = np.ascontiguousarray(self._encode(texts), dtype=np.float32)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with write_atomically(path) as temporary, temporary.open("wb") as file:
                np.save(file, array, allow_pickle=False)
        except OSError as error:
            logger.warning("text: embeddings are not kept in %s (%s)", self.cache, error.strerror or error)
        return array

    def _encode(self, texts: Sequence[str]) -> np.ndarray:
        try:
            from sentence_transformers import SentenceTransformer
        except ImportError:
            raise InputError(
                f"the text encoder {self.name!r} needs sentence-transformers: pip install 'latentloop[text]', or name "
                "the encoder 'hashing', which needs no model"
            ) from None
        try:
            model = SentenceTransformer(self.name, device=self.device)
        except (OSError, ValueError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise InputError(f"the text encoder {self.name!r} cannot be loaded: {reason}") from None
        logger.info("text: encoding %d texts with %s", len(texts), self.name)
        found: np.ndarray = model.encode(
            list(texts), batch_size=self.batch_size, convert_to_numpy=True, show_progress_bar=False
        )
        return found

    def _key(self, texts: Sequence[str]) -> str:
        parts: list[object] = [self.name, list(texts)]
        if self._folder is not None:
            parts.append(_state(self._folder))
        # JSON, because joined by any mark two lists of texts could look the same
        content = json.dumps(parts, ensure_ascii=True)
        return hashlib.blake2b(content.encode(), digest_size=20).hexdigest()


def _cache() -> Path:
    home = os.environ.get("XDG_CACHE_HOME", "")
    # the standard says that a relative path there is to be ignored
    return (Path(home) if Path(home).is_absolute() else Path.home() / ".cache") / "latentloop" / "text"


def _folder(name: str) -> Path | None:
    """The folder of that name, None where there is none."""
    try:
        folder = Path(name).expanduser()
        return folder.resolve() if folder.is_dir() else None
    except (OSError, RuntimeError):  # a name that no file can have, or the home of nobody
        return None


def _state(folder: Path) -> list[tuple[str, int, int]]:
    """Path, size and time of each file inside: another model in the same place has others."""
    files = ((path.relative_to(folder).as_posix(), path.stat()) for path in folder.rglob("*") if path.is_file())
    return sorted((name, found.st_size, found.st_mtime_ns) for name, found in files)


def _kept(path: Path, count: int) -> np.ndarray | None:
    """What the cache holds, None where that is nothing or damaged."""
    try:
        array = np.load(path, allow_pickle=False)
    except Exception:  # as in `load_embeddings`; texts are encoded again then
        return None
    kept = isinstance(array, np.ndarray) and array.ndim == 2 and len(array) == count and array.dtype == np.float32
    return array if kept else None
