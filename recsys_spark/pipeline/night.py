"""Between the stations and MLflow: what a stage reads of a night, and what it registers."""

from __future__ import annotations

import contextlib
import datetime as dt
import functools
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pyspark.sql import functions as F

from recsys_spark.dataset.build import Dataset
from recsys_spark.dataset.feeds.impressions import MOMENTS
from recsys_spark.errors import ConfigError, DataError
from recsys_spark.log.raw import WHOLE
from recsys_spark.models import TWO_STAGE
from recsys_spark.models.base import read_card
from recsys_spark.pipeline.context import Context
from recsys_spark.schemas import EVENTS, ITEM_IDS, ITEMS, USER_IDS
from recsys_spark.tracking import registry
from recsys_spark.tracking.runs import TrackedRun, child_run
from recsys_spark.training.job import Epoch, read_epochs
from recsys_spark.warehouse import MANIFEST, Version, fingerprint
from recsys_spark.warehouse.contents import require_intact


def live_events(context: Context) -> dict[str, Version]:
    """Return the live events of every batch up to the run date."""
    warehouse, table = context.warehouse, EVENTS.name
    batches = warehouse.keys(table, "batch")
    if not batches:
        raise DataError(f"{context.config.root}: no events yet; run jobs/ingest.py first")
    remedy = "run jobs/ingest.py first"
    if context.night is None:
        last = warehouse.slot(table, batch=batches[-1]).require(remedy)
        context.night = last_day(batches[-1], last)
    chosen = [b for b in batches if b == WHOLE or b <= context.night.isoformat()]
    if WHOLE not in chosen and context.night.isoformat() not in chosen:
        raise DataError(
            f"the events of {context.night} are not ingested; run jobs/ingest.py --date {context.night} first"
        )
    return {b: warehouse.slot(table, batch=b).require(remedy) for b in chosen}


def items(context: Context) -> Version:
    """Return the live item catalogue."""
    return context.warehouse.slot(ITEMS.name).require("run jobs/ingest.py first")


def last_day(batch: str, version: Version) -> dt.date:
    """Return the day of a daily batch, or of the last event of a whole log."""
    return dt.date.fromisoformat(version.manifest["last_day"] if batch == WHOLE else batch)


@contextlib.contextmanager
def stage_run(context: Context, name: str) -> Iterator[TrackedRun]:
    """Open the MLflow run of a stage, under the night's."""
    with child_run(context.night_run, name, "stage", context.day) as run:
        yield run


@contextlib.contextmanager
def model_run(context: Context, name: str, dataset: Dataset) -> Iterator[TrackedRun]:
    """Open the MLflow run of a model, with what it is trained on."""
    with child_run(context.night_run, f"train {name}", "model", context.day) as run:
        run.tags({"recsys.model": name, "recsys.dataset": dataset.name})
        run.artifact(dataset.feed.path / MANIFEST, "feed")
        yield run


def epoch_logger(run: TrackedRun) -> Callable[[Epoch], None]:
    """Return what logs an epoch's figures while training goes on."""

    def log(done: Epoch) -> None:
        figures = {f"epoch/{k}": v for k, v in vars(done).items() if k != "epoch" and v is not None}
        run.metrics(figures, step=done.epoch)

    return log


def log_step(run: TrackedRun, step: int, figures: dict[str, float]) -> None:
    """Log the figures of an iteration of a baseline."""
    run.metrics({f"iteration/{name}": value for name, value in figures.items()}, step=step)


def epochs_of(version: Version) -> list[Epoch]:
    """Return the epochs of a deep model's version."""
    return read_epochs(version.path)


def finish_ranker(context: Context, run: TrackedRun, name: str, version: Version) -> None:
    """Log a ranker's parameters and what it is on the test part's impressions; alone it is no recommender."""
    run.params({"model": name, **version.manifest["config"], "seed": context.config.seed})
    run.metrics({"train_seconds": version.manifest["seconds"], **version.manifest["measured"]})
    run.tags({"recsys.version": version.name})


def moments(dataset: Dataset, *paths: Path) -> Path | None:
    """Return the folder of users' and items' features by moment, by which some of the saved models may rank.

    Raises:
        ConfigError: one of them does, and the data set was built without.
    """
    feed = dataset.feeds.get("impressions")
    if feed is not None:
        return feed.path / MOMENTS
    if any(read_card(path)["model"] == TWO_STAGE for path in paths):
        raise ConfigError(
            "two_stage ranks by features of users and items, which the data set lacks; add impressions to dataset.feeds"
        )
    return None


def finish_model(context: Context, run: TrackedRun, name: str, version: Version, dataset: Dataset) -> None:
    """Log a trained model's parameters and register it, once per version."""
    run.params({"model": name, **version.manifest["config"], "seed": context.config.seed})
    run.metrics({"train_seconds": version.manifest["seconds"]})
    registered = registry.register(
        run,
        name,
        version.path,
        serving(context, dataset).path,
        model_version(context, "popularity", dataset).path,
        str(context.day),
        dataset.interactions.manifest["id_space"],
    )
    ids = {f"recsys.{table}": dataset.interactions.manifest[table] for table in (USER_IDS.name, ITEM_IDS.name)}
    run.tags(
        {"recsys.version": version.name, **ids, "recsys.registered": f"{context.store.model_name}/{registered.number}"}
    )


def model_version(context: Context, name: str, dataset: Dataset) -> Version:
    """Return the night's version of a model; one that was trained on other data than the night's is none."""
    slot = context.warehouse.slot(f"models/{name}", date=context.day)
    version = slot.require(f"train it first with jobs/train_*.py --date {context.day}")
    if version.manifest["dataset"] != dataset.name:
        trained = version.manifest["dataset"]
        raise DataError(f"{name} was trained on {trained}, the data set is {dataset.name}; train it again")
    intact(version.path, "move the version's folder away and train it again")
    return version


def intact(path: Path, remedy: str) -> Path:
    """Return the folder of a saved model, once every file of it has been held against its manifest.

    Raises:
        DataError: one is not as it was written.
    """
    manifest = path / MANIFEST
    _intact(path, manifest.stat().st_mtime_ns if manifest.exists() else 0, remedy)
    return path


@functools.lru_cache(maxsize=64)
def _intact(path: Path, written: int, remedy: str) -> None:
    """Read every byte once in a process; an erasure, which changes files, writes the manifest anew."""
    require_intact(path, remedy)


def serving(context: Context, dataset: Dataset) -> Version:
    """Return the night's dictionaries and histories in the form that a registered model carries."""
    spark, warehouse = context.spark, context.warehouse

    def build(path: Path) -> dict[str, Any]:
        dictionaries = [warehouse.slot(t.name).require("run jobs/build_dataset.py first") for t in (USER_IDS, ITEM_IDS)]
        users, items = (spark.read.parquet(version.data) for version in dictionaries)
        known = spark.read.parquet(dataset.histories.data).where("known = 'test'")
        columns = [F.col("user_id").alias("id"), "items", "weights", "ratings"]
        rows = known.select(columns).join(users, "id").sort("id")
        rows.coalesce(1).write.parquet(str(path / "users"))
        items.sort("id").coalesce(1).write.parquet(str(path / "items"))
        if "impressions" in dataset.feeds:
            shutil.copytree(dataset.feeds["impressions"].path / MOMENTS / "known=test", path / "moment")
        parents = warehouse.parents(dataset.histories, *dictionaries)
        return {"table": "serving", "histories": dataset.histories.name, **parents}

    name = f"{dataset.name}-{fingerprint(('pipeline/night.py',))}"
    return warehouse.slot("serving", date=context.day).materialize(name, build)[0]


def resolve_champion(context: Context, dataset: Dataset) -> registry.Registered | None:
    """Return the champion, or None where there is none whose ids are this warehouse's."""
    champion = registry.resolve(context.store, registry.CHAMPION)
    if champion is None or champion.id_space == dataset.interactions.manifest["id_space"]:
        return champion
    print(
        f"warning: the champion ({champion.model} of {champion.run_date}) was trained on the ids of another warehouse, "
        "which mean nothing here; the night goes on as if there were none",
        file=sys.stderr,
    )
    return None


def champion_path(context: Context, champion: registry.Registered) -> Path:
    """Return the champion's files: those of this warehouse, else downloaded from the registry."""
    slot = context.warehouse.slot(f"models/{champion.model}", date=champion.run_date)
    standing = slot.version(champion.version)
    if standing is not None:
        return intact(standing.path, "move the version's folder away, and it is fetched from the registry")
    fetched = registry.fetch(context.store, champion, context.warehouse.root.absolute() / "champions")
    return intact(fetched, "move the folder away, and it is fetched again")
