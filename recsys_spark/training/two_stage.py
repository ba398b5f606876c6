"""Put the night's retriever and ranker together: the model `two_stage`, a version like any other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from recsys_spark import models
from recsys_spark.config import Config
from recsys_spark.dataset.build import Dataset
from recsys_spark.errors import DataError
from recsys_spark.models.two_stage import put_together
from recsys_spark.warehouse import Version, Warehouse, fingerprint

_CODE = ("models/two_stage.py", "models/moment.py", "models/torch_ranker.py", "training/two_stage.py")


def join_stages(warehouse: Warehouse, config: Config, dataset: Dataset) -> tuple[Version, bool] | None:
    """Return the version of `two_stage` and whether it was made now; None where no ranker is trained.

    Raises:
        ConfigError: one of the two models is none of the night's.
        DataError: one of them was not trained on this data set.
    """
    settings = models.stages_of(config)
    if settings is None:
        return None
    day = dataset.name[:10]
    parts = {}
    for name in (settings.retriever, settings.ranker):
        found = warehouse.slot(f"models/{name}", date=day).current()
        if found is None or found.manifest["dataset"] != dataset.name:
            raise DataError(f"two_stage is made of {name}, which was not trained on {dataset.name}; train it first")
        parts[name] = found

    def build(path: Path) -> dict[str, Any]:
        put_together(parts[settings.retriever].path, parts[settings.ranker].path, settings.candidates, path)
        return {
            "model": models.TWO_STAGE, "config": settings.model_dump(), "dataset": dataset.name,
            "inputs": {name: version.name for name, version in parts.items()}, "seconds": 0.0,
        }  # fmt: skip

    made_of = ([v.name for v in parts.values()], settings.candidates)
    return warehouse.slot(f"models/{models.TWO_STAGE}", date=day).materialize(
        f"{day}-{fingerprint(_CODE, *made_of)}", build
    )
