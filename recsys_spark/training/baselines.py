"""Fit a baseline on Spark and write it as a version, under the same roof as the deep models."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pyspark.sql import SparkSession

from recsys_spark import models
from recsys_spark.config import Config
from recsys_spark.dataset.build import Dataset, numbered_items, training_segments
from recsys_spark.errors import ConfigError
from recsys_spark.log.suppression import erased_count
from recsys_spark.models.base import TrainingData
from recsys_spark.schemas import ITEMS
from recsys_spark.training.sound import check_scores
from recsys_spark.warehouse import Version, Warehouse, fingerprint

_SEGMENTS = "segments/"
Log = Callable[[int, dict[str, float]], None]
"""Takes the number of a step, such as an iteration, and its figures."""


def train_baseline(
    spark: SparkSession,
    warehouse: Warehouse,
    config: Config,
    dataset: Dataset,
    name: str,
    log: Log | None = None,
    *,
    live: bool = True,
) -> tuple[Version, bool]:
    """Return the version of a baseline fitted on the training part's core, and whether it was made now.

    Args:
        live: make it the night's version of the model; a trial of a search must not.

    Raises:
        ConfigError: it builds on a model that `train.baselines` does not name before it.
    """
    settings = models.model_config(name, config)
    version_name, used = baseline_version(warehouse, config, dataset, name)
    inputs = _names(used)

    def build(path: Path) -> dict[str, Any]:
        start = time.perf_counter()
        steps: list[tuple[int, dict[str, float]]] = []
        scratch = path / "scratch"
        scratch.mkdir()
        items, previous = used.get("items"), used.get("previous")
        segment = next((need.removeprefix(_SEGMENTS) for need in used if need.startswith(_SEGMENTS)), None)
        data = TrainingData(
            interactions=spark.read.parquet(dataset.interactions.data).where("split = 'train' and in_core"),
            seed=config.seed,
            scratch=scratch,
            items=numbered_items(spark, warehouse, items, dataset.interactions) if items else None,
            histories=spark.read.parquet(dataset.histories.data) if "histories" in used else None,
            segments=training_segments(spark, warehouse, dataset.interactions, segment) if segment else None,
            models={n.removeprefix("models/"): v.path for n, v in used.items() if v and n.startswith("models/")},
            previous=previous.path if previous else None,
            log=lambda step, figures: steps.append((step, figures)),
        )
        model = models.module_of(name).fit(data, settings)
        check_scores(model, name, Path(dataset.histories.data) / "known=train")
        model.save(path)
        shutil.rmtree(scratch)
        return {
            "model": name, "config": settings.model_dump(), "dataset": dataset.name, "inputs": inputs,
            **warehouse.parents(dataset.interactions, *used.values()),
            "id_space": dataset.interactions.manifest["id_space"],
            "steps": steps, "seconds": time.perf_counter() - start,
        }  # fmt: skip

    slot = warehouse.slot(f"models/{name}", date=dataset.name[:10])
    version, made = slot.materialize(version_name, build, flip=live, beside=not live)
    if log is not None:
        for step, figures in version.manifest["steps"]:
            log(step, figures)
    return version, made


def baseline_version(
    warehouse: Warehouse, config: Config, dataset: Dataset, name: str
) -> tuple[str, dict[str, Version | None]]:
    """Name the version that `train_baseline` makes, and return what it is made from beside the interactions."""
    settings = models.model_config(name, config)
    used = {need: _input(warehouse, dataset, name, need) for need in models.needs_of(name, settings)}
    code = ("models/base.py", "models/blocks.py", "native.py", *models.code_of(name))
    parts = (dataset.name, settings.model_dump(), config.seed, _names(used), erased_count(warehouse))
    return f"{dataset.name[:10]}-{fingerprint(code, *parts)}", used


def _names(used: dict[str, Version | None]) -> dict[str, str | None]:
    return {need: version.name if version else None for need, version in used.items()}


def _input(warehouse: Warehouse, dataset: Dataset, name: str, need: str) -> Version | None:
    """Return the version that a model's `need` stands for; see `TrainingData`."""
    day = dataset.name[:10]
    if need == "histories":
        return dataset.histories
    if need.startswith(_SEGMENTS):
        return dataset.interactions  # which names the events that they are read from
    if need == "items":
        return warehouse.slot(ITEMS.name).require("run jobs/ingest.py first")
    if need == "previous":
        return _previous(warehouse, dataset, name)
    part = warehouse.slot(need, date=day).current()
    if part is None or part.manifest["dataset"] != dataset.name:
        raise ConfigError(f"{name} builds on {need.removeprefix('models/')}: name it before {name} in train.baselines")
    return part


def _previous(warehouse: Warehouse, dataset: Dataset, name: str) -> Version | None:
    """Return the model of the newest earlier night, unless its ids are of other dictionaries."""
    earlier = [day for day in warehouse.keys(f"models/{name}", "date") if day < dataset.name[:10]]
    found = warehouse.slot(f"models/{name}", date=earlier[-1]).current() if earlier else None
    same = found is not None and found.manifest.get("id_space") == dataset.interactions.manifest["id_space"]
    return found if same else None
