"""The sections of training, its search for parameters, evaluation, publishing and tracking."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from recsys_spark.config.section import Section

ReaderName = Literal["petastorm", "arrow"]


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
    rankers: list[str] = []
    """Models that rank impressions, trained as the deep ones; one of them and a retriever are `models.two_stage`."""
    ranks: int = Field(2, ge=1)
    """Horovod processes when the job starts them itself; `horovodrun -np` decides otherwise."""
    threads: int = Field(1, ge=1)
    """torch threads per rank."""
    patience: int = Field(5, ge=1)
    """Epochs without a better validation NDCG@10, or GAUC of a ranker, before training stops."""
    valid_users: int = Field(20_000, ge=1)
    """Most users measured after each epoch (a seeded sample)."""
    feed_workers: int = Field(1, ge=1)
    """Threads per rank that read the feed ahead; the order of rows is the same for any number."""
    reader: ReaderName = "petastorm"
    """What reads the feed: Petastorm, or plain pyarrow."""

    @model_validator(mode="after")
    def _has_popularity(self) -> TrainConfig:
        if "popularity" not in self.baselines:
            raise ValueError("train.baselines needs 'popularity': cold users are served by it")
        return self


class SpaceConfig(Section):
    """By parameter of the model, what a search may choose for it: a list of values, or a range with both ends in it."""

    values: list[Any] | None = None
    """Values without an order; `[8, 16]` is short for `{values: [8, 16]}`."""
    low: float | None = None
    """Least value of a range."""
    high: float | None = None
    """Greatest value of a range."""
    log: bool = False
    """Draw evenly over the logarithm, not for a grid."""
    step: float | None = Field(None, gt=0)
    """Distance between the values of a range; a grid needs it, unless the parameter is an integer: then it is 1."""

    @model_validator(mode="before")
    @classmethod
    def _short(cls, given: Any) -> Any:
        return {"values": given} if isinstance(given, list) else given

    def fault(self) -> str | None:
        """Say what is wrong with it, if anything is."""
        if (self.values is None) == (self.low is None and self.high is None):
            return "needs a list of values, or low and high"
        if self.values is not None:
            return "is empty; list some values" if not self.values else None
        if self.low is None or self.high is None:
            return "needs both low and high"
        if self.low > self.high:
            return f"has a low of {self.low:g} above its high of {self.high:g}"
        if self.log and (self.low <= 0 or self.step is not None):
            return "is drawn over the logarithm, which needs a low above 0 and no step"
        return None


class TuneConfig(Section):
    """The search for a model's parameters (`jobs/tune.py`): trials judged by NDCG@10 on the valid part."""

    model: str = "als"
    """The model; what `models.NAME` says of the parameters that are not searched stays as it is."""
    sampler: Literal["grid", "random", "tpe"] = "tpe"
    """Every point of a grid, points drawn at random, or Bayesian search by a tree-structured Parzen estimator."""
    trials: int | None = Field(None, ge=1)
    """Most trials; null = every point of a grid, 20 of the others."""
    parallel: int = Field(1, ge=1)
    """Trials at a time, on threads of one Spark session; a deep model's come one by one, on `train.ranks` processes."""
    prune_after: int | None = Field(5, ge=1)
    """Finished trials after which one that does worse than their median at the same epoch is ended; null = never."""
    space: dict[str, SpaceConfig] = {}
    """By parameter of the model: `[8, 16]`, or `{low: 0.001, high: 0.1, log: true}`, or with a `step`."""

    @model_validator(mode="after")
    def _is_a_space(self) -> TuneConfig:
        for name, space in self.space.items():
            fault = space.fault()
            if fault is not None:
                raise ValueError(f"tune.space.{name} {fault}")
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
    index: Literal["exact", "ivf"] = "exact"
    """Compare every item, or those that an index of item vectors (faiss) finds; for models whose scores are dot
    products, and worth it from about a million items on."""
    min_recall: float = Field(0.95, gt=0, le=1)
    """Least share of the k best items that the index finds, measured on a thousand users; else all are compared."""
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
