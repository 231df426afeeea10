"""Embeddings of item texts that were made elsewhere: an array of rows, and which item each row is."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from latentloop.errors import InputError, one_line
from latentloop.items.ids import ItemId, ItemIds
from latentloop.items.text_features import TextFeatures

__all__ = ["align_embeddings", "load_embeddings", "numbered_rows"]

_ROW = re.compile(r"[1-9][0-9]{0,17}")


def load_embeddings(path: str | Path) -> np.ndarray:
    """Read an (n, c) array of numbers from a `.npy` file; nothing is unpickled.

    Raises:
        InputError: a missing or damaged file, or an array of another shape or kind.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file; give a .npy file with a row of numbers for each item")
    try:
        array = np.load(path, allow_pickle=False)
    except Exception as error:  # a header decides what numpy tries, and so what fails: BadZipFile, MemoryError, ...
        raise InputError(f"{path}: cannot be read as .npy without unpickling ({one_line(error)})") from None
    if not isinstance(array, np.ndarray):
        raise InputError(f"{path}: an archive of several arrays, expected one .npy array")
    if array.ndim != 2 or array.dtype.kind not in "fiu" or not array.size:
        raise InputError(f"{path}: {array.dtype} {array.shape}, expected numbers of shape (items, size)")
    return array


def numbered_rows(count: int, item_ids: Sequence[ItemId], *, name: str = "embeddings") -> list[ItemId]:
    """The ids of `count` rows where nothing names them: row i is item i + 1, the items being whole numbers.

    Args:
        count: number of rows.
        item_ids: the catalog's original ids; it need not hold every row's item.
        name: what errors call the rows.

    Raises:
        InputError: for an item of the catalog that is no row.
    """
    for original in item_ids:
        number = str(original)  # "01" is another id than 1, and would find no row
        if not _ROW.fullmatch(number) or int(number) > count:
            raise InputError(
                f"{name}: {count} rows, of which row i is item i + 1, and item {original!r} is none of 1..{count} "
                f"({len(item_ids)} items in the data); name the rows' items by a file of ids and texts in their order"
            )
    return list(range(1, count + 1))


def align_embeddings(
    array: np.ndarray, ids: Sequence[ItemId], item_ids: Sequence[ItemId], *, name: str = "embeddings"
) -> TextFeatures:
    """Bring rows into the catalog's order.

    Rows of other items are left out; items of the catalog that no row is of are marked as missing.

    Args:
        array: (n, c) numbers.
        ids: the n items that the rows are of; "7" and 7 are the same.
        item_ids: original ids of items 1..N.
        name: what errors call the rows.

    Raises:
        InputError: another number of rows than ids, an id that occurs twice, a row that is not finite, or rows that
            are of none of the items.
    """
    if len(array) != len(ids):
        more = f"the first id without a row is {ids[len(array)]!r}" if len(ids) > len(array) else "rows are left over"
        raise InputError(f"{name}: {len(array)} rows for {len(ids)} ids, expected as many: {more}")
    catalog = ItemIds(item_ids)
    numbers = np.array([catalog.number(original) or 0 for original in ids], dtype=np.int64)
    if not numbers.any():
        raise InputError(
            f"{name}: none of the {len(ids)} ids ({ids[0]!r}, ...) is one of the {len(catalog)} items of the data "
            f"({catalog.original(1)!r}, ...)"
        )
    rows = np.flatnonzero(numbers)
    seen, first = np.unique(numbers[rows], return_index=True)
    if len(seen) < len(rows):
        again = rows[np.setdiff1d(np.arange(len(rows)), first)[0]]
        raise InputError(f"{name}: item {ids[again]!r} has two rows, the second is row {again + 1}; keep one of them")
    with np.errstate(over="ignore"):  # what no float32 holds becomes infinite, and is named below
        chosen = array[rows].astype(np.float32)
    wrong = np.flatnonzero(~np.isfinite(chosen).all(1))
    if len(wrong):
        row = rows[wrong[0]]
        raise InputError(f"{name}: row {row + 1}, item {ids[row]!r}, holds a number that is not finite")
    features = np.zeros((len(catalog) + 1, array.shape[1]), dtype=np.float32)
    features[numbers[rows]] = chosen
    missing = np.ones(len(catalog) + 1, dtype=bool)
    missing[0] = False
    missing[numbers[rows]] = False
    return TextFeatures(torch.from_numpy(features), torch.from_numpy(missing))
