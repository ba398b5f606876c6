"""The sections of training, evaluation, publishing and tracking."""

from __future__ import annotations

from pydantic import Field, model_validator

from recsys_spark.config.section import Section


class SparkConfig(Section):
    """How the one Spark session is built. Flags of `spark-submit` win; `scripts/submit.sh` sets them from these."""

    master: str = "local[*]"
    """Spark master URL."""
    driver_memory: str = "4g"
    """Heap of the driver's JVM."""
    shuffle_partitions: int = Field(8, ge=1)
    """Partitions after a shuffle; about twice the cores on one machine, more on a cluster."""
    conf: dict[str, str] = {}
    """Any further Spark settings."""


class TrainConfig(Section):
    """Which models a night trains, and how the deep ones run. Their own parameters are in `models`."""

    baselines: list[str] = ["popularity", "als"]
    deep: list[str] = ["neumf"]
    ranks: int = Field(2, ge=1)
    """Horovod processes when the job starts them itself; `horovodrun -np` decides otherwise."""
    threads: int = Field(1, ge=1)
    """torch threads per rank."""
    patience: int = Field(5, ge=1)
    """Epochs without a better validation NDCG@10 before training stops."""
    valid_users: int = Field(20_000, ge=1)
    """Most users measured after each epoch (a seeded sample)."""
    feed_workers: int = Field(1, ge=1)
    """Petastorm reader threads per rank; 1 keeps the row order, and so the model, reproducible."""

    @model_validator(mode="after")
    def _has_popularity(self) -> TrainConfig:
        if "popularity" not in self.baselines:
            raise ValueError("train.baselines needs 'popularity': cold users are served by it")
        return self


class EvaluationConfig(Section):
    """What is measured, and how sure we want to be."""

    ks: list[int] = [10, 20]
    """Cut-offs of every metric; 10 has to be among them, because NDCG@10 decides about promotion."""
    confidence: float = Field(0.95, gt=0, lt=1)
    replicates: int = Field(1_000, ge=100)
    """Bootstrap replicates of every interval."""
    folds: int = Field(3, ge=2)
    """Nights of a cross-validation (`jobs/cross_validate.py`)."""
    fold_days: int = Field(1, ge=1)
    """Days between them."""


class PromotionConfig(Section):
    """When a challenger replaces the champion."""

    margin: float = Field(0.0, ge=0)
    """The lower bound of the difference in NDCG@10 has to be above this."""


class PublishConfig(Section):
    """The published table and the checks before it."""

    k: int = Field(20, ge=1)
    block_users: int = Field(1_024, ge=1)
    """Users scored at a time: bounds the memory of a task to block_users x items floats."""
    active_days: int | None = Field(None, ge=1)
    """Publish users with an event in the last so many days; null = every user."""
    min_coverage: float = Field(0.0, ge=0, le=1)
    """Least share of the trained items that appear in any list."""
    max_churn: float = Field(1.0, ge=0, le=1)
    """Most change against the last published table: mean over users of 1 - overlap/k."""


class TrackingConfig(Section):
    """Where MLflow keeps runs and models."""

    uri: str | None = None
    """Tracking and registry URI; null = SQLite and local artifacts under `<root>/../../mlflow`."""
    artifacts: str | None = None
    """Artifact location of a new experiment; null = beside the SQLite store, or the server's choice."""
