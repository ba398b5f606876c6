"""Put the night's retriever and ranker together: the model `two_stage`, a version like any other.

What each one's score counts is chosen here, on the validation users: by features and histories of the moment before the
validation part, and with the lists that would be served. Either stage alone is among what is tried, so that on
validation `two_stage` is no worse than both. The weight has then seen that part, as epochs chosen on it have.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from pyspark.sql import SparkSession
from threadpoolctl import threadpool_limits

from recsys_spark import models
from recsys_spark.config import Config
from recsys_spark.dataset.build import Dataset
from recsys_spark.dataset.feeds.impressions import MOMENTS
from recsys_spark.errors import DataError
from recsys_spark.evaluation.metrics import evaluate_lists
from recsys_spark.models import moment as moments
from recsys_spark.models.base import UserBlock
from recsys_spark.models.two_stage import TwoStage, put_together, weigh
from recsys_spark.recommendation.select import best_candidates, retrieve
from recsys_spark.session import deal, task_threads
from recsys_spark.training.launch import feed_of
from recsys_spark.training.validate import K, Validation
from recsys_spark.warehouse import Version, Warehouse, fingerprint

WEIGHTS = np.arange(21) / 20
"""Of the retriever, which are tried: in steps of .05 from the ranker alone to the retriever alone."""
_KNOWN = "known=train"
"""The moment before the validation part."""
_BLOCK_USERS = 64
_CODE = (
    "models/two_stage.py", "models/hybrid.py", "models/moment.py", "models/torch_ranker.py", "recommendation/select.py",
    "training/two_stage.py", "training/validate.py",
)  # fmt: skip
Log = Callable[[int, dict[str, float]], None]
"""Takes the number of a step and its figures."""


def join_stages(
    spark: SparkSession, warehouse: Warehouse, config: Config, dataset: Dataset, log: Log | None = None
) -> tuple[Version, bool] | None:
    """Return the version of `two_stage` and whether it was made now; None where no ranker is trained.

    Args:
        log: hears what was tried and chosen.

    Raises:
        ConfigError: one of the two models is none of the night's.
        DataError: one of them was not trained on this data set, or there is nobody to choose the weight by.
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
    retriever, ranker = parts[settings.retriever].path, parts[settings.ranker].path

    def build(path: Path) -> dict[str, Any]:
        start, weight = time.perf_counter(), settings.weight
        figures: dict[str, float] = {}
        if weight == "auto":
            valid = Validation(Path(dataset.histories.data), 0, 1, config.train.valid_users, config.seed)
            at = feed_of(settings.ranker, dataset).path / MOMENTS / _KNOWN
            weight, figures = choose_weight(spark, valid, retriever, ranker, settings.candidates, at)
        put_together(retriever, ranker, settings.candidates, weight, path)
        return {
            "model": models.TWO_STAGE, "config": settings.model_dump(), "dataset": dataset.name,
            "inputs": {name: version.name for name, version in parts.items()},
            "steps": [(1, {"weight": weight, **figures})], "seconds": time.perf_counter() - start,
        }  # fmt: skip

    made_of = ([v.name for v in parts.values()], settings.candidates, settings.weight)
    sample = (config.train.valid_users, config.seed) if settings.weight == "auto" else None
    slot = warehouse.slot(f"models/{models.TWO_STAGE}", date=day)
    version, made = slot.materialize(f"{day}-{fingerprint(_CODE, *made_of, sample)}", build)
    if log is not None:
        for step, figures in version.manifest["steps"]:
            log(step, figures)
    return version, made


def choose_weight(
    spark: SparkSession, valid: Validation, retriever: Path, ranker: Path, candidates: int, moment: Path
) -> tuple[float, dict[str, float]]:
    """Return the retriever's weight that does best on validation, the smallest of equals, and the figures it won by.

    Args:
        valid: the validation users, with what was known of them before.
        retriever, ranker: saved models, on a disk that the executors share.
        moment: folder of the features as of then.

    Raises:
        DataError: nobody has both a history and something held out after it.
    """
    if not len(valid.users):
        raise DataError(
            "no user has both a training history and a held-out item, by which two_stage weighs its stages; set "
            "models.two_stage.weight to a number, or choose another --date"
        )
    # blocks of users that no number of tasks changes, so that neither do the figures
    ends = [(s, min(s + _BLOCK_USERS, len(valid.users))) for s in range(0, len(valid.users), _BLOCK_USERS)]
    blocks = [(valid.users.take(s, e), valid.truth[s:e]) for s, e in ends]
    threads = task_threads(spark.sparkContext)

    def measure(blocks: Iterator[tuple[UserBlock, list[Any]]]) -> Iterator[np.ndarray]:
        from recsys_spark.models import torch_ranker

        model = TwoStage(models.load(retriever), torch_ranker.load(ranker), candidates, moments.load(moment))
        with threadpool_limits(threads):
            for users, truth in blocks:
                yield try_weights(model, users, truth)

    tried = np.concatenate(deal(spark.sparkContext, blocks).mapPartitions(measure).collect())
    found = np.nanmean(tried, axis=0)
    best = int(np.argmax(found))  # the first of equals: the ranker counts as much as it can
    name = f"valid_ndcg_{K}"
    figures = {name: found[best], f"{name}_ranker": found[0], f"{name}_retriever": found[-1]}
    return float(WEIGHTS[best]), {key: float(value) for key, value in figures.items()}


def try_weights(model: TwoStage, users: UserBlock, truth: list[Any]) -> np.ndarray:
    """Return NDCG@10 of every user and weight, [B, weights]; NaN for a user of whom nothing is held out."""
    items, found, offered = retrieve(model, users, K)
    ranked = model.ranked(users, items)
    scores = (weigh(ranked, found, offered, weight) for weight in WEIGHTS)
    lists = [best_candidates(s, items, users, K)[0] for s in scores]
    return np.stack([evaluate_lists(some, truth, [K])[f"ndcg@{K}"] for some in lists], axis=1)
