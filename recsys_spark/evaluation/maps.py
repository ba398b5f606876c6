"""Named numbers per user as Spark's `map<string,double>`, written and read without a loop over users."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike, NDArray


def map_array(values: Mapping[str, ArrayLike], leave_out_nan: bool = False) -> pa.MapArray:
    """Turn M columns of `[B]` numbers into B maps of name to number.

    Args:
        leave_out_nan: a user has no entry for a number that is NaN.

    >>> map_array({"a": [1.0, 2.0], "b": [3.0, float("nan")]}, leave_out_nan=True).to_pylist()
    [[('a', 1.0), ('b', 3.0)], [('a', 2.0)]]
    """
    names = list(values)
    matrix = np.stack([np.asarray(column, np.float64) for column in values.values()], axis=1)  # [B, M]
    kept = ~np.isnan(matrix) if leave_out_nan else np.ones(matrix.shape, bool)
    offsets = np.zeros(len(matrix) + 1, np.int32)
    np.cumsum(kept.sum(axis=1), out=offsets[1:])
    keys = pa.array(names, pa.string()).take(pa.array(np.nonzero(kept)[1]))
    return pa.MapArray.from_arrays(pa.array(offsets), keys, pa.array(matrix[kept]))


def map_columns(maps: pa.MapArray) -> dict[str, NDArray[np.float64]]:
    """Undo `map_array`: by name a column `[B]`, NaN where a user's map lacks it. No map at all is an empty one.

    >>> map_columns(map_array({"a": [1.0, 2.0]}))["a"].tolist()
    [1.0, 2.0]
    """
    maps = pa.concat_arrays([maps])  # a slice's offsets would point into the whole
    offsets = maps.offsets.to_numpy()
    lo, hi = int(offsets[0]), int(offsets[-1])
    keys = maps.keys[lo:hi].dictionary_encode()
    row = np.repeat(np.arange(len(maps)), np.diff(offsets))
    matrix = np.full((len(keys.dictionary), len(maps)), np.nan)
    matrix[keys.indices.to_numpy(), row] = maps.items[lo:hi].to_numpy(zero_copy_only=False)
    return dict(zip(keys.dictionary.to_pylist(), matrix, strict=True))
