"""Strict YAML configuration: what is not known, not of its type or in conflict stops before Spark starts.

One file configures the whole nightly run. `extends:` names a file, or several, whose values are taken first;
overrides of the form `key.sub=value` (the value is read as YAML) come last. Model parameters live in
`models:` and are checked against the typed config beside each model (see `recsys_spark.models`).
"""

from recsys_spark.config.dataset import DatasetConfig
from recsys_spark.config.experiment import AssignmentsConfig, ExperimentConfig
from recsys_spark.config.file import first_error, load_config, parse_date
from recsys_spark.config.generator import DirtConfig, GeneratorConfig
from recsys_spark.config.log import (
    BotsConfig,
    EventTypeConfig,
    FileConfig,
    GatesConfig,
    ItemsConfig,
    Limit,
    LogConfig,
    PersonalColumn,
    PrivacyConfig,
)
from recsys_spark.config.night import (
    SLICES,
    EvaluationConfig,
    ExplorationConfig,
    OffPolicyConfig,
    PromotionConfig,
    PublishConfig,
    SpaceConfig,
    SparkConfig,
    TrackingConfig,
    TrainConfig,
    TuneConfig,
)
from recsys_spark.config.operations import ExpiryConfig, ExportConfig, ObservabilityConfig
from recsys_spark.config.root import Config
from recsys_spark.config.section import Section

__all__ = [
    "SLICES",
    "AssignmentsConfig",
    "BotsConfig",
    "Config",
    "DatasetConfig",
    "DirtConfig",
    "EvaluationConfig",
    "EventTypeConfig",
    "ExperimentConfig",
    "ExpiryConfig",
    "ExplorationConfig",
    "ExportConfig",
    "FileConfig",
    "GatesConfig",
    "GeneratorConfig",
    "ItemsConfig",
    "Limit",
    "LogConfig",
    "ObservabilityConfig",
    "OffPolicyConfig",
    "PersonalColumn",
    "PrivacyConfig",
    "PromotionConfig",
    "PublishConfig",
    "Section",
    "SpaceConfig",
    "SparkConfig",
    "TrackingConfig",
    "TrainConfig",
    "TuneConfig",
    "first_error",
    "load_config",
    "parse_date",
]
