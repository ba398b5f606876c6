"""Strict YAML configuration: what is not known, not of its type or in conflict stops before Spark starts.

One file configures the whole nightly run. `extends:` names a file whose values are taken first;
overrides of the form `key.sub=value` (the value is read as YAML) come last. Model parameters live in
`models:` and are checked against the typed config beside each model (see `recsys_spark.models`).
"""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from recsys_spark.errors import ConfigError


class Section(BaseModel):
    """A frozen section of the configuration that refuses unknown keys and wrong types."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


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


class DirtConfig(Section):
    """Shares of the embedded log's events that are spoilt, each as a fraction of all events."""

    duplicates: float = Field(0.01, ge=0, le=0.5)
    late: float = Field(0.005, ge=0, le=0.5)
    bad_timestamp: float = Field(0.002, ge=0, le=0.5)
    unknown_type: float = Field(0.002, ge=0, le=0.5)
    truncated: float = Field(0.002, ge=0, le=0.5)
    nulls: float = Field(0.002, ge=0, le=0.5)
    bots: float = Field(0.01, ge=0, le=0.5)


class GeneratorConfig(Section):
    """The embedded log: how much of it, and how dirty."""

    users: int = Field(2_000, ge=2)
    items: int = Field(1_000, ge=10)
    days: int = Field(14, ge=2)
    events: int = Field(200_000, ge=100)
    """Clean events over all days, impressions included; the log comes within a few per cent of it."""
    start: dt.date = dt.date(2026, 1, 1)
    categories: int = Field(12, ge=2)
    new_user_share: float = Field(0.2, ge=0, le=1)
    """Share of the users who first appear after day one, evenly over the days."""
    new_item_share: float = Field(0.1, ge=0, le=1)
    """Share of the items that are launched after day one, evenly over the days."""
    drift: float = Field(0.3, ge=0, le=1)
    """How far a user's taste moves over the whole log: 0 = fixed, 1 = to another taste altogether."""
    dirt: DirtConfig = DirtConfig()


class FileConfig(Section):
    """Where a table of text or Parquet lies and how to read it."""

    path: str | list[str]
    """A file or folder; of a list, the first that exists. Relative to the working directory."""
    format: Literal["jsonl", "csv", "parquet"] = "jsonl"
    delimiter: str = ","
    header: bool = True
    encoding: str = "UTF-8"
    columns: dict[str, str] = {}
    """Our column name -> the file's (`_c0`, `_c1`, … where it has no header); empty = the same names."""

    def resolve(self) -> Path:
        """Return the first of the paths that exists, else the first: the caller words the error."""
        paths = [self.path] if isinstance(self.path, str) else self.path
        return next((Path(p) for p in paths if Path(p).exists()), Path(paths[0]))


class ItemsConfig(FileConfig):
    """The item catalogue: `item_id`, and where known `title`, `description`, `categories`."""

    categories_separator: str = "|"
    """Between the categories of an item, in a text file."""


class LogConfig(FileConfig):
    """The raw interaction log. Daily partitions are folders named `date=YYYY-MM-DD`."""

    generate: GeneratorConfig | None = None
    """Set for the embedded log: `generate_log` writes it to `path`."""
    timestamps: Literal["iso", "seconds", "milliseconds"] = "iso"
    """ISO 8601 text (UTC unless it names an offset), or a number since 1970-01-01 UTC."""
    event_types: dict[str, float] = {"rating": 1.0}
    """Known event types and the weight of each as an interaction; 0 = an event, not an interaction."""
    default_type: str | None = None
    """Type of every event, for a log without a type column."""
    max_bad_share: float = Field(0.1, ge=0, le=1)
    """Quarantined rows / rows in, above which a run stops before anything downstream."""
    late_days: int = Field(3, ge=0)
    """How many days after its own day an event may arrive in a daily partition."""
    items: ItemsConfig | None = None

    @model_validator(mode="after")
    def _has_a_type(self) -> LogConfig:
        if self.default_type is not None and self.default_type not in self.event_types:
            raise ValueError(f"log.default_type {self.default_type!r} is not among log.event_types")
        if not any(w > 0 for w in self.event_types.values()):
            raise ValueError("log.event_types gives every type the weight 0: no interactions; set one above 0")
        return self


class DatasetConfig(Section):
    """From events to training data."""

    k_core: int = Field(5, ge=0)
    """Least interactions of every user and item in the training part, to a fixed point; 0 = off."""
    split: Literal["time", "leave_one_out", "column"] = "time"
    valid_days: int = Field(1, ge=1)
    """Days before the test days that choose epochs and parameters (`time` only)."""
    test_days: int = Field(1, ge=1)
    """Last days, which are only ever measured on (`time` only)."""
    history_length: int = Field(50, ge=1)
    """Length of the padded histories in the training feed."""
    feed_files: int = Field(8, ge=1)
    """Least number of files (= row groups) of the feed; needs one per rank."""
    feed_rows_per_file: int = Field(1_000_000, ge=1)
    """Most rows of one file of the feed."""


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


class Config(Section):
    """The whole configuration of a nightly run."""

    name: str = Field(pattern=r"^[A-Za-z0-9._-]+$")
    """Name of the data set: the MLflow experiment and registered model are named after it."""
    root: str
    """Folder of the warehouse, on a disk that driver and executors share."""
    seed: int = Field(42, ge=1)
    log: LogConfig
    dataset: DatasetConfig = DatasetConfig()
    train: TrainConfig = TrainConfig()
    models: dict[str, dict[str, Any]] = {}
    """Parameters by model name, checked against the typed config in the model's file."""
    evaluation: EvaluationConfig = EvaluationConfig()
    promotion: PromotionConfig = PromotionConfig()
    publish: PublishConfig = PublishConfig()
    tracking: TrackingConfig = TrackingConfig()
    spark: SparkConfig = SparkConfig()

    @model_validator(mode="after")
    def _agrees(self) -> Config:
        if self.dataset.split == "column" and "split" not in self.log.columns:
            raise ValueError("dataset.split is 'column' but log.columns maps no 'split'; name the log's column")
        if 10 not in self.evaluation.ks or min(self.evaluation.ks) < 1:
            raise ValueError("evaluation.ks needs 10, and nothing below 1: NDCG@10 decides about promotion")
        needed = {"user_id", "item_id", "timestamp"}
        if self.log.columns and not needed <= self.log.columns.keys():
            missing = ", ".join(sorted(needed - self.log.columns.keys()))
            raise ValueError(f"log.columns does not map {missing}; every log needs user, item and time")
        if self.log.columns and "event_type" not in self.log.columns and self.log.default_type is None:
            raise ValueError("log.columns maps no 'event_type'; map it or set log.default_type")
        return self


def load_config(path: str | Path, overrides: list[str] | None = None) -> Config:
    """Read and check a configuration file.

    Args:
        path: a YAML file; its key `extends` may name another, relative to itself, to start from.
        overrides: `key.sub=value` strings, applied last; the value is read as YAML.

    Raises:
        ConfigError: one line that names the file and the key.
    """
    values = _read(Path(path), seen=())
    for override in overrides or []:
        _override(values, override)
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise ConfigError(f"{path}: {first_error(error)}") from None


class _Loader(yaml.SafeLoader):
    """Refuses a key that stands twice in a mapping, where YAML would silently take the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value]
        twice = next((k for k in keys if keys.count(k) > 1), None)
        if twice is not None:
            raise yaml.constructor.ConstructorError(None, None, f"the key {twice!r} stands twice", node.start_mark)
        return super().construct_mapping(node, deep)


def _read(path: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    if path.resolve() in seen:
        raise ConfigError(f"{path}: extends itself; break the circle")
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), _Loader)  # a SafeLoader
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such configuration file; the ready ones are in conf/") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" in line {mark.line + 1}" if mark else ""
        problem = " ".join(str(getattr(error, "problem", error)).split())
        raise ConfigError(f"{path}: is not valid YAML{where}: {problem}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: is not a mapping of keys to values")
    base = values.pop("extends", None)
    if base is None:
        return values
    return _merge(_read(path.parent / str(base), (*seen, path.resolve())), values)


def _merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Merge nested mappings; anything else in `over` replaces what `base` has.

    >>> _merge({"a": {"b": 1, "c": 2}}, {"a": {"b": 3}})
    {'a': {'b': 3, 'c': 2}}
    """
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def _override(values: dict[str, Any], override: str) -> None:
    key, sep, text = override.partition("=")
    if not sep or not key:
        raise ConfigError(f"{override!r}: is not an override; write key.sub=value")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        raise ConfigError(f"{override!r}: the value is not valid YAML; quote it") from None
    *parents, last = key.split(".")
    node = values
    for parent in parents:
        if node.get(parent) is None:
            node[parent] = {}
        node = node[parent]
        if not isinstance(node, dict):
            raise ConfigError(f"{override!r}: {parent} is not a section")
    node[last] = value


def first_error(error: ValidationError) -> str:
    """One line for the first of pydantic's findings, with the key's full path."""
    found = error.errors()[0]
    key = ".".join(str(part) for part in found["loc"])
    if found["type"] == "extra_forbidden":
        return f"{key}: unknown key; see the configuration reference in README.md"
    if found["type"] == "missing":
        return f"{key} is missing"
    message = found["msg"].removeprefix("Value error, ")
    return f"{key}: {message}, got {found['input']!r}" if key and found["type"] != "value_error" else message


def parse_date(text: str) -> dt.date:
    """Parse `YYYY-MM-DD`; a day that the calendar lacks is a `ConfigError`."""
    try:
        return dt.date.fromisoformat(text)
    except ValueError:
        raise ConfigError(f"--date {text!r}: is not a day of the calendar; write YYYY-MM-DD") from None
