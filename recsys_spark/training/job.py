"""What one training run of a deep model is: everything a rank needs, as plain values that pickle."""

from __future__ import annotations

import dataclasses
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recsys_spark.config.night import Compression, Precision, ReaderName


@dataclass(frozen=True)
class TrainingJob:
    """One deep model on one data version."""

    model: str
    config: dict[str, Any]
    """The model's own parameters, checked."""
    feed: Path
    """A version of the feed that the model's network names."""
    pairs: Path
    """The feed of pairs of the same data set: who and what is trained."""
    histories: Path
    """The rows of the `histories` table; `known = train` is validated on."""
    folder: Path
    """Checkpoints and the epochs' log; on a disk that every rank shares."""
    seed: int
    patience: int
    threads: int
    valid_users: int
    feed_workers: int
    reader: ReaderName
    """What reads the feed."""
    scale_learning_rate: bool = False
    precision: Precision = "float32"
    compression: Compression = "none"
    deterministic: bool = False


@dataclass(frozen=True)
class Epoch:
    """What is measured of one epoch, over all ranks."""

    epoch: int
    loss: float
    valid_ndcg_at_10: float | None
    """Of a model that scores the catalogue; None of a ranker."""
    samples_per_second: float
    feed_wait_share: float
    """Share of the training time that rank 0 waited for its feed."""
    rss_mb: float
    """Resident memory of rank 0 at the epoch's end, MiB."""
    seconds: float
    valid_gauc: float | None = None
    """Of a ranker: the AUC within each user's impressions, weighed by how many they are."""
    valid_log_loss: float | None = None
    """Of a ranker, in nats per impression."""

    @property
    def measured(self) -> tuple[str, float]:
        """What decides which epoch is the best, larger is better: its name, and its value."""
        if self.valid_ndcg_at_10 is not None:
            return "NDCG@10", self.valid_ndcg_at_10
        assert self.valid_gauc is not None
        return "GAUC", self.valid_gauc


EPOCHS = "epochs.jsonl"
STOP = "stop"
"""A file of this name in the job's folder asks the ranks for no further epoch."""


def write_epochs(folder: Path, epochs: list[Epoch]) -> None:
    """Write the epochs so far as JSON lines, in one step: a reader never sees half a line."""
    aside = folder / f".{EPOCHS}.{os.getpid()}"
    aside.write_text("".join(json.dumps(dataclasses.asdict(e)) + "\n" for e in epochs), encoding="utf-8")
    os.replace(aside, folder / EPOCHS)


def read_epochs(folder: Path) -> list[Epoch]:
    """Read what `write_epochs` wrote; none before the first epoch."""
    path = folder / EPOCHS
    return (
        [Epoch(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []
    )
