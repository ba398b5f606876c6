"""The whole configuration, and what has to agree across its sections."""

from __future__ import annotations

from typing import Any

from pydantic import Field, model_validator

from recsys_spark.config.dataset import DatasetConfig
from recsys_spark.config.experiment import ExperimentConfig
from recsys_spark.config.log import LogConfig
from recsys_spark.config.night import (
    SLICES,
    EvaluationConfig,
    PromotionConfig,
    PublishConfig,
    SparkConfig,
    TrackingConfig,
    TrainConfig,
    TuneConfig,
)
from recsys_spark.config.operations import ExpiryConfig, ExportConfig, ObservabilityConfig
from recsys_spark.config.section import Section


class Config(Section):
    """The whole configuration of a nightly run."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=200)
    """Name of the data set: the MLflow experiment and registered model are named after it, and files and keys are."""
    root: str
    """Folder of the warehouse, on a disk that driver and executors share."""
    seed: int = Field(42, ge=1)
    log: LogConfig
    dataset: DatasetConfig = DatasetConfig()
    train: TrainConfig = TrainConfig()
    models: dict[str, dict[str, Any]] = {}
    """Parameters by model name, checked against the typed config in the model's file."""
    tune: TuneConfig = TuneConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    experiment: ExperimentConfig = ExperimentConfig()
    promotion: PromotionConfig = PromotionConfig()
    publish: PublishConfig = PublishConfig()
    tracking: TrackingConfig = TrackingConfig()
    export: ExportConfig = ExportConfig()
    expiry: ExpiryConfig = ExpiryConfig()
    observability: ObservabilityConfig = ObservabilityConfig()
    spark: SparkConfig = SparkConfig()

    @model_validator(mode="after")
    def _agrees(self) -> Config:
        if self.dataset.split == "column" and "split" not in self.log.columns:
            raise ValueError("dataset.split is 'column' but log.columns maps no 'split'; name the log's column")
        if self.dataset.drawn_impressions and "impression" in self.log.weights:
            raise ValueError(
                "dataset.drawn_impressions is for a log without impressions, and log.event_types has 'impression'; set "
                "it to 0"
            )
        paid = self.experiment.revenue_attribute
        if paid is not None and paid not in self.log.attributes:
            raise ValueError(f"experiment.revenue_attribute {paid!r} is not among log.attributes; name it there too")
        if 10 not in self.evaluation.ks or min(self.evaluation.ks) < 1:
            raise ValueError("evaluation.ks needs 10, and nothing below 1: NDCG@10 decides about promotion")
        sliceable = (*SLICES, "device", "country", *self.log.attributes)
        for name in self.evaluation.slices:
            if name not in sliceable:
                raise ValueError(f"evaluation.slices names {name!r}; name some of {', '.join(sliceable)}")
        needed = {"user_id", "item_id", "timestamp"}
        if self.log.columns and not needed <= self.log.columns.keys():
            missing = ", ".join(sorted(needed - self.log.columns.keys()))
            raise ValueError(f"log.columns does not map {missing}; every log needs user, item and time")
        if self.log.columns and "event_type" not in self.log.columns and self.log.default_type is None:
            raise ValueError("log.columns maps no 'event_type'; map it or set log.default_type")
        return self
