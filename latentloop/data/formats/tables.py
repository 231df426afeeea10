"""Tables that are in memory already: pandas, arrow, Hugging Face datasets."""

from __future__ import annotations

import sys
from typing import Any

import pyarrow as pa

from latentloop.data.formats.log import Log, counted_rows
from latentloop.data.formats.names import Wanted
from latentloop.errors import InputError, InputTypeError

__all__ = ["read_table"]


def read_table(source: Any, wanted: Wanted) -> Log:
    """Read a pandas DataFrame, a `datasets.Dataset` or a `pyarrow.Table`.

    Args:
        source: the table.
        wanted: column names given by the user.

    Raises:
        InputTypeError: anything else.
        InputError: no rows, unknown columns, a column of mixed types.
    """
    # An instance of a library's class can only exist once that library is imported: nothing is imported here.
    pandas, datasets = sys.modules.get("pandas"), sys.modules.get("datasets")
    if pandas is not None and isinstance(source, pandas.DataFrame):
        return _frame(source, wanted)
    if datasets is not None and isinstance(source, (datasets.DatasetDict, datasets.IterableDatasetDict)):
        raise InputTypeError(f"source: a DatasetDict, expected one Dataset; choose one of {sorted(source)}")
    if datasets is not None and isinstance(source, datasets.Dataset):
        places = wanted.find_and_tell(source.column_names, "Dataset")
        names = [source.column_names[place] for place in places if place is not None]
        return _arrow(source.select_columns(names).with_format("arrow")[:], "Dataset", wanted)
    if isinstance(source, pa.Table):
        return _arrow(source, "Table", wanted)
    raise InputTypeError(
        f"source: {type(source).__name__}, expected a path, `amazon-2023:<Category>`, a pandas "
        "DataFrame, a datasets.Dataset or a pyarrow.Table"
    )


def _frame(frame: Any, wanted: Wanted) -> Log:
    columns = [str(column) for column in frame.columns]
    places = wanted.find_and_tell(columns, "DataFrame")
    if not len(frame):
        raise InputError("DataFrame: no rows, expected at least one interaction")
    arrays: list[pa.ChunkedArray | None] = []
    for place in places:
        if place is None:
            arrays.append(None)
            continue
        try:
            array = pa.array(frame.iloc[:, place], from_pandas=True)
        except (pa.ArrowException, OverflowError) as error:
            raise InputError(
                f"DataFrame: column {columns[place]!r} mixes types or holds no plain values "
                f"({str(error).splitlines()[0]}); convert it to one type first"
            ) from error
        arrays.append(array if isinstance(array, pa.ChunkedArray) else pa.chunked_array([array]))
    user, item, time = arrays
    names = ["" if place is None else columns[place] for place in places]
    return Log("DataFrame", user, item, time, (names[0], names[1], names[2]), True, counted_rows)


def _arrow(table: pa.Table, name: str, wanted: Wanted) -> Log:
    user, item, time = wanted.find_and_tell(table.column_names, name)
    if not len(table):
        raise InputError(f"{name}: no rows, expected at least one interaction")
    names = (table.column_names[user], table.column_names[item], "" if time is None else table.column_names[time])
    return Log(
        name,
        table.column(user),
        table.column(item),
        None if time is None else table.column(time),
        names,
        True,
        counted_rows,
    )
