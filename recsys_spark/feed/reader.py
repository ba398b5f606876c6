"""Parquet -> batches of tensors through Petastorm, the same number of steps on every rank.

Every epoch opens its reader with a seed of its own: row groups are dealt to the ranks anew, rows are
shuffled within them, and the order depends on (seed, epoch) alone, so training resumed at an epoch sees
what it would have seen. One reader thread keeps that order; more are faster and give it up.
"""

from __future__ import annotations

import itertools
import json
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from recsys_spark.errors import ConfigError
from recsys_spark.warehouse import MANIFEST

_RESULTS_QUEUE = 8


@dataclass(frozen=True)
class Feed:
    """One rank's view of a training feed.

    Args:
        path: a version of a training feed, of any kind.
        columns: the feed's columns to read; nothing else leaves the disk.
        batch_size: rows per step and rank.
    """

    path: Path
    columns: tuple[str, ...]
    batch_size: int
    rank: int
    size: int
    seed: int
    workers: int = 1

    def __post_init__(self) -> None:
        check_row_groups(self.manifest, self.size)
        missing = set(self.columns) - {name for name, _ in self.manifest["schema"]}
        if missing:
            raise ConfigError(f"{self.path}: the feed has no column {sorted(missing)[0]!r}; a model asks for it")

    @cached_property
    def manifest(self) -> dict[str, Any]:
        return json.loads((self.path / MANIFEST).read_text(encoding="utf-8"))

    @property
    def steps(self) -> int:
        """Steps per epoch: enough for all ranks together to see about every row once."""
        return -(-self.manifest["rows"] // (self.batch_size * self.size))

    def epoch(self, epoch: int) -> Iterator[dict[str, torch.Tensor]]:
        """Yield exactly `steps` batches: int32, int64 or float32 tensors [B] and, for lists of L, [B, L]."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Petastorm calls pyarrow by its older names
            from petastorm.pytorch import BatchedDataLoader

            with BatchedDataLoader(_Passes(self, epoch), batch_size=self.batch_size) as loader:
                batches = iter(loader)
                for _ in range(self.steps):
                    batch = next(batches)
                    if set(batch) != set(self.columns):
                        raise AssertionError(f"Petastorm delivered {sorted(batch)}, not {sorted(self.columns)}")
                    yield batch

    def files(self, epoch: int) -> list[str]:
        """Return the URLs of this rank's files in an epoch, one row group each.

        Dealt here, because Petastorm gives a shard the same row groups in every epoch.
        """
        files = sorted(f["file"] for f in self.manifest["files"])
        dealt = np.random.default_rng([self.seed, epoch]).permutation(files)[self.rank :: self.size]
        # Petastorm takes the path behind the scheme as it stands: a quoted one, with %3D for =, is not found
        return [f"file://{self.path / 'data' / file}" for file in sorted(dealt)]


class _Passes:
    """One pass over a rank's files after the other, for Petastorm's loader: ranks with fewer rows read some twice.

    A reader of its own for each pass, because one reader shuffles the row groups of its second pass as often as it
    found its queue full: https://github.com/uber/petastorm/issues/798.
    """

    batched_output = True

    def __init__(self, feed: Feed, epoch: int) -> None:
        self.feed, self.epoch = feed, epoch
        self.files = feed.files(epoch)
        of = {f["file"]: f["rows"] for f in feed.manifest["files"]}
        self.rows = sum(of[url.rsplit("/", 1)[1]] for url in self.files)
        self.reader: Any = None

    def __iter__(self) -> Iterator[Any]:
        from petastorm import make_batch_reader

        for number in itertools.count():
            seeds = np.random.SeedSequence([self.feed.seed, self.epoch, number])
            self.reader = make_batch_reader(
                self.files,
                schema_fields=list(self.feed.columns),
                reader_pool_type="thread",
                workers_count=self.feed.workers,
                results_queue_size=_RESULTS_QUEUE,
                shuffle_row_groups=True,
                shuffle_rows=True,
                num_epochs=None,  # a reader that has an end may miss the last row group before it
                seed=int(seeds.generate_state(1)[0] >> 1) + 1,  # 0 would be no seed
            )
            rows = 0
            for columns in itertools.islice(self.reader, len(self.files)):  # a row group each
                rows += len(columns[0])
                yield columns
            if rows != self.rows:
                raise AssertionError(f"Petastorm delivered {rows} rows of {self.rows}")
            self.stop()
            self.join()

    def stop(self) -> None:
        if self.reader is not None:
            self.reader.stop()

    def join(self) -> None:
        if self.reader is not None:
            self.reader.join()


def check_row_groups(manifest: dict[str, Any], ranks: int) -> None:
    """Raise a `ConfigError` if there is not at least one row group for every rank."""
    groups = manifest["row_groups"]
    if groups < ranks:
        raise ConfigError(
            f"the training feed has {groups} row groups for {ranks} ranks; "
            f"set dataset.feed_files to {ranks} or more, or train.ranks to {groups} or less"
        )
