"""Between the stations and MLflow: what a stage measures, decides and registers, and where that is kept."""

from __future__ import annotations

import contextlib
import datetime as dt
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from recsys_spark.config import SLICES
from recsys_spark.dataset.build import Dataset, training_segments
from recsys_spark.errors import DataError
from recsys_spark.evaluation.evaluate import KNOWN_BEFORE, Candidate, Results, from_json, to_json
from recsys_spark.evaluation.evaluate import evaluate as evaluate_candidates
from recsys_spark.evaluation.results import slice_results
from recsys_spark.evaluation.slices import ItemCounts, user_labels
from recsys_spark.log.raw import WHOLE
from recsys_spark.pipeline.context import Context
from recsys_spark.schemas import EVENTS, ITEM_IDS, ITEMS, USER_IDS, USER_METRICS
from recsys_spark.tracking import promotion, registry
from recsys_spark.tracking.report import comparison, markdown, plot
from recsys_spark.tracking.runs import TrackedRun, child_run
from recsys_spark.tracking.slices_report import slice_table, slices_markdown, worst_slices
from recsys_spark.training.job import Epoch, read_epochs
from recsys_spark.warehouse import MANIFEST, Version, fingerprint

_METRICS_CODE = ("evaluation", "recommendation/select.py", "models/base.py")


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
    return lambda done: run.metrics({f"epoch/{k}": v for k, v in vars(done).items() if k != "epoch"}, step=done.epoch)


def log_step(run: TrackedRun, step: int, figures: dict[str, float]) -> None:
    """Log the figures of an iteration of a baseline."""
    run.metrics({f"iteration/{name}": value for name, value in figures.items()}, step=step)


def epochs_of(version: Version) -> list[Epoch]:
    """Return the epochs of a deep model's version."""
    return read_epochs(version.path)


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
        dataset.interactions.manifest["lineage"],
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
    return version


def serving(context: Context, dataset: Dataset) -> Version:
    """Return the night's dictionaries and histories in the form that a registered model carries."""
    spark, warehouse = context.spark, context.warehouse

    def build(path: Path) -> dict[str, Any]:
        users, items = (spark.read.parquet(warehouse.slot(t.name).require("").data) for t in (USER_IDS, ITEM_IDS))
        known = spark.read.parquet(dataset.histories.data).where("known = 'test'")
        columns = [F.col("user_id").alias("id"), "items", "weights", "ratings"]
        rows = known.select(columns).join(users, "id").sort("id")
        rows.coalesce(1).write.parquet(str(path / "users"))
        items.sort("id").coalesce(1).write.parquet(str(path / "items"))
        return {"table": "serving", "histories": dataset.histories.name}

    name = f"{dataset.name}-{fingerprint(('pipeline/night.py',))}"
    return warehouse.slot("serving", date=context.day).materialize(name, build)[0]


def resolve_champion(context: Context, dataset: Dataset) -> registry.Registered | None:
    """Return the champion, or None where there is none whose ids are this warehouse's."""
    champion = registry.resolve(context.store, registry.CHAMPION)
    if champion is None or champion.lineage == dataset.interactions.manifest["lineage"]:
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
        return standing.path
    return registry.fetch(context.store, champion, context.warehouse.root.absolute() / "champions")


def measure(context: Context, dataset: Dataset, with_champion: bool = True) -> tuple[Version, Results]:
    """Measure the night's models and the champion; return the version of `user_metrics` and its summary.

    Without the champion it is no night's evaluation, and no version of it goes live.
    """
    config = context.config
    names = (*config.train.baselines, *config.train.deep)
    versions = {name: model_version(context, name, dataset) for name in names}
    candidates = [Candidate(name, v.name, v.path) for name, v in versions.items()]
    champion = resolve_champion(context, dataset) if with_champion else None
    if champion is not None and champion.version not in {c.version for c in candidates}:
        candidates.append(Candidate("champion", champion.version, champion_path(context, champion)))
    used = {c.name: c.version for c in candidates}
    settings = (config.evaluation.model_dump(exclude={"folds", "fold_days"}), config.publish.block_users, config.seed)
    name = f"{context.day}-{fingerprint(_METRICS_CODE, dataset.name, used, settings)}"

    def build(path: Path) -> dict[str, Any]:
        catalogue, counts = _item_counts(context, dataset)
        results = evaluate_candidates(
            context.spark, candidates, Path(dataset.histories.data), catalogue, path,
            config.evaluation, config.publish.block_users, config.seed, _user_labels(context, dataset), counts,
        )  # fmt: skip
        sliced = slice_results(context.spark.read.parquet(str(path / "data")), config.evaluation, config.seed)
        users = {
            s: max((m[s][promotion.METRIC].n for m in results.values() if s in m), default=0) for s in KNOWN_BEFORE
        }
        if not users["test"]:
            raise DataError(f"no user has anything held out on {context.day}; choose another --date, or dataset.split")
        return {
            "table": USER_METRICS.name, "candidates": used, "results": to_json(results), "slices": to_json(sliced),
            "users": users["test"],
        }  # fmt: skip

    slot = context.warehouse.slot(USER_METRICS.name, date=context.day)
    version, _ = slot.materialize(name, build, flip=with_champion)
    return version, from_json(version.manifest["results"])


def _item_counts(context: Context, dataset: Dataset) -> tuple[int, ItemCounts]:
    """Return how many items the feed has, and how many users have each."""
    items = context.spark.read.parquet(str(dataset.feed.path / "items")).select("item_id", "count").toArrow()
    users = np.zeros(dataset.feed.manifest["n_items"], np.int64)
    users[items["item_id"].to_numpy()] = items["count"].to_numpy()
    return len(items), ItemCounts(users, context.spark.read.parquet(str(dataset.feed.path / "users")).count())


def _user_labels(context: Context, dataset: Dataset) -> DataFrame | None:
    """Return the slices that users are in, but for what their history says; None where none is asked for."""
    wanted = context.config.evaluation.slices
    spark, interactions = context.spark, dataset.interactions
    attributes = {n: training_segments(spark, context.warehouse, interactions, n) for n in wanted if n not in SLICES}
    if not attributes and not {"tenure", "user"} & set(wanted):
        return None
    trained = spark.read.parquet(str(dataset.feed.path / "users"))
    return user_labels(spark.read.parquet(interactions.data), trained, attributes, wanted, context.day)


def worst(context: Context, measured: Version) -> dict[str, list[dict[str, Any]]]:
    """Name the worst slices of every model that was measured."""
    found, slices = (from_json(measured.manifest[name]) for name in ("results", "slices"))
    return worst_slices(slices, found, context.config.promotion.min_slice_users)


def report(context: Context, run: TrackedRun, measured: Version) -> None:
    """Log the figures to the models' runs, and the ranked comparison to this run and the night's; slices to this."""
    results = from_json(measured.manifest["results"])
    table = comparison(results)
    with tempfile.TemporaryDirectory() as folder:
        csv, picture = Path(folder) / "comparison.csv", Path(folder) / "comparison.png"
        table.to_csv(csv, index=False)
        plot(results, picture)
        for target in (run, context.night_run):
            target.artifact(csv, "comparison")
            target.artifact(picture, "comparison")
            target.table(table, "comparison/comparison.json")
            target.describe(markdown(results))
    named = worst(context, measured)
    run.table(slice_table(from_json(measured.manifest["slices"])), "slices.json")
    run.describe(markdown(results) + "\n" + slices_markdown(named))
    lowest = {name: rows[0] for name, rows in named.items() if rows}
    run.metrics({f"{name}_worst_slice_{promotion.METRIC}": row[promotion.METRIC] for name, row in lowest.items()})
    run.tags({f"recsys.worst_slice.{name}": row["slice"] for name, row in lowest.items()})
    for name, splits in results.items():
        figures = {f"{split}_{metric}": i.mean for split, ms in splits.items() for metric, i in ms.items()}
        bounds = splits["test"][promotion.METRIC]
        figures |= {f"test_{promotion.METRIC}_low": bounds.low, f"test_{promotion.METRIC}_high": bounds.high}
        for model in _model_runs(context, name):
            model.metrics(figures)
        run.metrics({f"{name}_{metric}": i.mean for metric, i in splits["test"].items()})


def _model_runs(context: Context, name: str) -> list[TrackedRun]:
    """Find the night's runs of a model: one, unless its job ran twice under the same night."""
    parent = context.night_run.run_id
    query = f"tags.`mlflow.parentRunId` = '{parent}' and tags.`recsys.model` = '{name}'"
    found = context.store.client.search_runs([context.store.experiment_id], query)
    return [TrackedRun(context.store, r.info.run_id) for r in found]


def results(context: Context) -> Results:
    """Return what the night's evaluation found."""
    slot = context.warehouse.slot(USER_METRICS.name, date=context.day)
    return from_json(slot.require(f"run jobs/evaluate.py --date {context.day} first").manifest["results"])
