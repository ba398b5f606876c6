"""What every stage is given: configuration, session, warehouse, tracking, and the run date."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from pyspark.sql import SparkSession

from recsys_spark.config import Config
from recsys_spark.errors import DataError
from recsys_spark.session import get_session
from recsys_spark.tracking.runs import TrackedRun, find_night
from recsys_spark.tracking.store import Store, open_store
from recsys_spark.warehouse import Warehouse


@dataclass
class Context:
    """One job's surroundings. Session and store are opened when a stage first asks for them."""

    config: Config
    stage: str
    night: dt.date | None = None
    """The run date; None until a stage knows the log's last day."""
    parent: TrackedRun | None = None
    """The night's run, where this job runs as part of one."""

    @cached_property
    def spark(self) -> SparkSession:
        spark = get_session(self.config.spark, f"recsys {self.stage} {self.config.name}")
        spark.sparkContext.setCheckpointDir(str(Path(self.config.root).absolute() / ".spark-checkpoints"))
        return spark

    @cached_property
    def warehouse(self) -> Warehouse:
        return Warehouse(Path(self.config.root))

    @cached_property
    def store(self) -> Store:
        return open_store(self.config)

    @property
    def day(self) -> dt.date:
        """The run date; that of the newest data set where none was given."""
        if self.night is None:
            days = self.warehouse.keys("interactions", "date")
            if not days:
                raise DataError(f"{self.config.root}: no data set yet; run jobs/build_dataset.py first")
            self.night = dt.date.fromisoformat(days[-1])
        return self.night

    @property
    def night_run(self) -> TrackedRun:
        """The MLflow run that this stage's runs are children of."""
        if self.parent is None:
            self.parent = find_night(self.store, self.day)
        return self.parent


@dataclass
class StageResult:
    """What a stage did: becomes the last line of its job."""

    inputs: dict[str, Any] = field(default_factory=dict)
    outputs: dict[str, Any] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    stages: dict[str, tuple[StageResult, float]] = field(default_factory=dict)
    """Of a job of several stages: what each did, and in how many seconds. Not on the last line."""
