"""Read row groups through Petastorm.

Its batch reader with two parts changed, both by the worker class that `petastorm.reader.Reader` takes:

- What a row group becomes. Petastorm turns lists into an array for each row and stacks those; here they are reshaped.
- Where reading ends. A Petastorm reader with an end may miss the last row group before it, and one without an end
  reads on into row groups that nobody asked for. So the reader is given a second pass, whose row groups its worker
  leaves alone, and is stopped after the first.

Petastorm's own shuffling is off: the files come in the order in which they are given, and who asked for them shuffles
(`recsys_spark.feed.reader`). In one reader thread they stay in that order.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from recsys_spark.feed.check import damaged, footer
from recsys_spark.feed.columns import Columns, as_numpy

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from petastorm.arrow_reader_worker import ArrowReaderWorker
    from petastorm.fs_utils import get_filesystem_and_path_or_paths
    from petastorm.reader import Reader
    from petastorm.workers_pool.thread_pool import ThreadPool, WorkerTerminationRequested

# Petastorm calls pyarrow by its older names, on threads of its own: a filter that is taken back would not reach them
warnings.filterwarnings("ignore", category=FutureWarning, module=r"petastorm\.")

_QUEUE = 1  # messages; a row group is followed by one that says it is done, so one row group is decoded ahead


def read(files: Sequence[Path], columns: Sequence[str]) -> Generator[Columns, None, None]:
    """Yield the columns of each file's one row group, in the order of the files.

    Raises:
        DataError: a file cannot be read. Names it.
    """
    # Petastorm takes the path behind the scheme as it stands: a quoted one, with %3D for =, is not found
    filesystem, paths = get_filesystem_and_path_or_paths([f"file://{file}" for file in files])
    try:
        opened = Reader(
            filesystem,
            paths,
            schema_fields=[f"{re.escape(name)}$" for name in columns],
            worker_class=_Worker,
            reader_pool=ThreadPool(1, _QUEUE),
            is_batched_reader=True,
            shuffle_row_groups=False,
            num_epochs=2,
        )
    except (pa.ArrowException, OSError):
        for file in files:
            footer(file)  # raises what names the file
        raise
    with opened as reader:
        for _ in files:
            yield next(reader)


class _Results:
    """What Petastorm asks for the next row group."""

    batched_output = True

    def read_next(self, workers_pool: Any, schema: Any, ngram: Any) -> Columns:
        return workers_pool.get_results()


class _Worker(ArrowReaderWorker):
    """Petastorm's worker: reads each row group once, whatever the passes, and says which file it could not read."""

    done = 0

    @staticmethod
    def new_results_queue_reader() -> _Results:
        return _Results()

    def process(self, piece_index: int, *args: Any, **kwargs: Any) -> None:
        pieces = self._split_pieces
        if self.done == len(pieces):
            return
        self.done += 1
        try:
            super().process(piece_index, *args, **kwargs)
        except WorkerTerminationRequested:
            raise
        except Exception as error:
            # the pool raises what is published; what is raised here it prints, and can wait forever to hand on
            of_file = isinstance(error, (pa.ArrowException, OSError, ValueError))
            self.publish_func(damaged(Path(pieces[piece_index].path), error) if of_file else error)

    def _load_rows(self, *args: Any, **kwargs: Any) -> Columns:
        return as_numpy(super()._load_rows(*args, **kwargs))
