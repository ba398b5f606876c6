"""Read row groups with plain pyarrow: the yardstick for Petastorm, and what is left should Petastorm break."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from recsys_spark.feed.check import damaged
from recsys_spark.feed.columns import Columns, as_numpy


def read(files: Sequence[Path], columns: Sequence[str]) -> Generator[Columns, None, None]:
    """Yield the columns of each file's one row group, in the order of the files.

    Raises:
        DataError: a file cannot be read. Names it.
    """
    for file in files:
        try:
            with pq.ParquetFile(file) as opened:
                group = as_numpy(opened.read(columns=list(columns)))
        except (pa.ArrowException, OSError, ValueError) as error:
            raise damaged(file, error) from error
        yield group
