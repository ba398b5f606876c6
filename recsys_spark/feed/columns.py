"""The columns of a row group as numpy arrays, for every reader."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

Columns = dict[str, np.ndarray]
"""By name, a row group's scalars [rows] or lists [rows, length], as int32, int64 or float32; may be read-only."""


def as_numpy(table: pa.Table) -> Columns:
    """Turn a row group into arrays, lists by one reshape of their flat values.

    Petastorm's own way makes an array for every list and stacks them (`np.vstack`), which is what its readers of
    sequences spend most of their time on.

    Raises:
        ValueError: a column holds nulls or lists of different lengths. Names the column.
    """
    return {name: _as_numpy(name, table.column(name).combine_chunks()) for name in table.column_names}


def _as_numpy(name: str, column: pa.Array) -> np.ndarray:
    values = column.flatten() if pa.types.is_list(column.type) else column
    if column.null_count or values.null_count:
        raise ValueError(f"column {name!r} holds nulls, where the manifest promises none")
    if values is column:
        return column.to_numpy()
    ends = column.offsets.to_numpy()
    length = int(ends[1] - ends[0]) if len(column) else 0
    if not np.array_equal(ends[1:], np.arange(1, len(ends), dtype=ends.dtype) * length + ends[0]):
        raise ValueError(f"column {name!r} holds lists of different lengths, where the manifest promises one")
    return values.to_numpy().reshape(len(column), length)
