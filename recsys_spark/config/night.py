"""The sections of training, its search for parameters, evaluation, publishing and tracking."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from recsys_spark.config.section import Section

ReaderName = Literal["petastorm", "arrow"]
Precision = Literal["float32", "bfloat16", "float16"]
Compression = Literal["none", "fp16"]


SLICES = ("activity", "tenure", "user", "item")
"""What users and items can be sliced by without a column of the log."""


class SparkConfig(Section):
    """How the one Spark session is built. Flags of `spark-submit` win; `scripts/submit.sh` sets them from these."""

    master: str = "local[*]"
    """Spark master URL."""
    driver_memory: str = "4g"
    """Heap of the driver's JVM."""
    shuffle_partitions: int = Field(8, ge=1)
    """Partitions after a shuffle; about twice the cores on one machine, more on a cluster."""
    event_log: str | None = None
    """Folder of event logs, which the history server shows (`make history`); made where it is missing, unless it is an
    address such as `hdfs://…`. null = none are written."""
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
    """Most users measured after each epoch, and for the weight of `models.two_stage` (a seeded sample)."""
    feed_workers: int = Field(1, ge=1)
    """Threads per rank that read the feed ahead; the order of rows is the same for any number."""
    reader: ReaderName = "petastorm"
    """What reads the feed: Petastorm, or plain pyarrow."""
    scale_learning_rate: bool = False
    """Multiply a model's `learning_rate` by the ranks, reached over its `warmup_steps` or, without, five epochs."""
    precision: Precision = "float32"
    """What losses are computed in: lower ones are for GPUs. Weights stay in float32; float16 gets a loss scale."""
    compression: Compression = "none"
    """What the gradients of layers are sent as between ranks; those of tables by rows always go as they are."""
    deterministic: bool = False
    """The same weights to the bit from run to run on GPUs too: slower; an operation that cannot is an error."""

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


class OffPolicyConfig(Section):
    """What the models of a night would have earned, from lists that were drawn and published before (`exposures`)."""

    rewards: list[str] = Field(["click"], min_length=1)
    """Types of the events that reward an item of a list."""
    days: int = Field(1, ge=1)
    """Days after the run date in which an event rewards it, as long as no newer lists are published."""
    ranks: int = Field(5, ge=1)
    """First ranks that count. A weight is a product down the ranks: with every further one it varies more."""
    cap: float = Field(10.0, gt=0)
    """Largest weight of the clipped estimate."""


class EvaluationConfig(Section):
    """What is measured, and how sure we want to be."""

    ks: list[int] = [10, 20]
    """Cut-offs of every metric; 10 has to be among them, because NDCG@10 decides about promotion."""
    confidence: float = Field(0.95, gt=0, lt=1)
    replicates: int = Field(1_000, ge=100)
    """Bootstrap replicates of every interval."""
    slices: list[str] = ["activity", "tenure", "user", "item"]
    """What users and items are sliced by: these, and device, country, or one of `log.attributes`, which read the
    events once more."""
    fresh_days: int = Field(7, ge=1)
    """An item counts as fresh up to so many days after its first interaction."""
    folds: int = Field(3, ge=2)
    """Nights of a cross-validation (`jobs/cross_validate.py`)."""
    fold_days: int = Field(1, ge=1)
    """Days between them."""
    off_policy: OffPolicyConfig = OffPolicyConfig()


class PromotionConfig(Section):
    """When a challenger replaces the champion."""

    margin: float = Field(0.0, ge=0)
    """The lower bound of the difference in NDCG@10 has to be above this."""
    max_slice_loss: float | None = Field(None, ge=0)
    """NDCG@10 that no slice of `evaluation.slices` may surely lose more than; null = slices decide nothing."""
    min_slice_users: int = Field(100, ge=2)
    """Slices of fewer users are not judged."""
    min_coverage_ratio: float | None = Field(None, ge=0)
    """Least coverage@10 as a share of the opponent's; null = any."""
    max_gain: float | None = Field(None, gt=1)
    """An NDCG@10 of more than so many times the opponent's is taken for a leak, and waits for a person; null = any."""
    max_score_ms: float | None = Field(None, gt=0)
    """Most milliseconds to score a user against the catalogue, as the evaluation's tasks took them; null = any."""
    max_model_mb: float | None = Field(None, gt=0)
    """Most megabytes (10^6 bytes) of the saved model; null = any."""


class ExplorationConfig(Section):
    """How far the published lists leave a model's own order, so that what it would not show is learnt about, too."""

    policy: Literal["none", "epsilon", "plackett_luce"] = "none"
    """`epsilon`: each rank is, with the chance `epsilon`, any candidate, else the best that is left. `plackett_luce`:
    each rank is drawn from the candidates that are left, in proportion to exp(score / (temperature x the standard
    deviation of the candidates' scores))."""
    share: float = Field(1.0, gt=0, le=1)
    """Share of the users whose lists explore, drawn anew every night; the others get the model's own order."""
    epsilon: float = Field(0.1, gt=0, le=1)
    temperature: float = Field(0.3, gt=0)
    """Towards 0 the lists are the model's own, at 1 and above they are hardly in its order."""
    candidates: int = Field(100, ge=1)
    """Best items of a user that are drawn from; at least `publish.k`."""


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
    exploration: ExplorationConfig = ExplorationConfig()

    @model_validator(mode="after")
    def _has_candidates(self) -> PublishConfig:
        if self.exploration.policy != "none" and self.exploration.candidates < self.k:
            raise ValueError(
                f"publish.exploration.candidates {self.exploration.candidates} is below publish.k {self.k}: a list "
                "would not be filled; raise it"
            )
        return self


class TrackingConfig(Section):
    """Where MLflow keeps runs and models."""

    uri: str | None = None
    """Tracking and registry URI; null = SQLite and local artifacts under `<root>/../../mlflow`."""
    artifacts: str | None = None
    """Artifact location of a new experiment; null = beside the SQLite store, or the server's choice."""
