"""Fit a baseline on Spark and write it as a version, under the same roof as the deep models."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from pyspark.sql import SparkSession

from recsys_spark import models
from recsys_spark.config import Config
from recsys_spark.dataset.build import Dataset
from recsys_spark.warehouse import Version, Warehouse, fingerprint


def train_baseline(
    spark: SparkSession, warehouse: Warehouse, config: Config, dataset: Dataset, name: str
) -> tuple[Version, bool]:
    """Return the version of a baseline fitted on the training part's core, and whether it was made now."""
    settings = models.model_config(name, config)
    code = ("models/base.py", f"models/{name}.py")
    day = dataset.name[:10]
    version = f"{day}-{fingerprint(code, dataset.name, settings.model_dump(), config.seed)}"

    def build(path: Path) -> dict[str, Any]:
        start = time.perf_counter()
        rows = spark.read.parquet(dataset.interactions.data).where("split = 'train' and in_core")
        model = models.module_of(name).fit(rows, settings, config.seed)
        model.save(path)
        seconds = time.perf_counter() - start
        return {"model": name, "config": settings.model_dump(), "dataset": dataset.name, "seconds": seconds}

    return warehouse.slot(f"models/{name}", date=day).materialize(version, build)
