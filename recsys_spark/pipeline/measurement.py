"""The night's measurement: its models and the champion on the same users, and where the figures are shown."""

from __future__ import annotations

import datetime as dt
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pyspark.sql import DataFrame

from recsys_spark.config import SLICES
from recsys_spark.dataset.build import Dataset, training_segments
from recsys_spark.errors import DataError
from recsys_spark.evaluation.cost import Cost
from recsys_spark.evaluation.evaluate import KNOWN_BEFORE, Candidate, Results, from_json, to_json
from recsys_spark.evaluation.evaluate import evaluate as evaluate_candidates
from recsys_spark.evaluation.gaps import user_gaps
from recsys_spark.evaluation.groups import exposures, kind_groups, popularity_groups
from recsys_spark.evaluation.groups import to_json as groups_to_json
from recsys_spark.evaluation.item_facts import ItemFacts, item_facts
from recsys_spark.evaluation.results import slice_results
from recsys_spark.evaluation.slices import ItemCounts, user_labels
from recsys_spark.models import TWO_STAGE
from recsys_spark.pipeline.context import Context
from recsys_spark.pipeline.night import champion_path, items, model_version, moments, resolve_champion
from recsys_spark.schemas import ITEM_IDS, USER_METRICS
from recsys_spark.tracking import promotion
from recsys_spark.tracking.report import comparison, markdown, plot
from recsys_spark.tracking.runs import TrackedRun
from recsys_spark.tracking.slices_report import slice_table, slices_markdown, worst_slices
from recsys_spark.warehouse import Version, fingerprint

_CODE = ("evaluation", "recommendation/select.py", "models/base.py")


def measure(context: Context, dataset: Dataset, with_champion: bool = True) -> tuple[Version, Results]:
    """Measure the night's models and the champion; return the version of `user_metrics` and its summary.

    Without the champion it is no night's evaluation, and no version of it goes live.
    """
    config = context.config
    names = (*config.train.baselines, *config.train.deep, *([TWO_STAGE] if config.train.rankers else []))
    versions = {name: model_version(context, name, dataset) for name in names}
    candidates = [Candidate(name, v.name, v.path) for name, v in versions.items()]
    champion = resolve_champion(context, dataset) if with_champion else None
    if champion is not None and champion.version not in {c.version for c in candidates}:
        candidates.append(Candidate("champion", champion.version, champion_path(context, champion)))
    features = moments(dataset, *(c.path for c in candidates))
    used = {c.name: c.version for c in candidates}
    settings = (
        config.evaluation.model_dump(exclude={"folds", "fold_days", "off_policy"}),
        config.publish.block_users,
        config.seed,
    )
    name = f"{context.day}-{fingerprint(_CODE, dataset.name, items(context).name, used, settings)}"

    def build(path: Path) -> dict[str, Any]:
        catalogue, counts = _item_counts(context, dataset)
        facts = _item_facts(context, dataset)
        results, costs = evaluate_candidates(
            context.spark, candidates, Path(dataset.histories.data), catalogue, path,
            config.evaluation, config.publish.block_users, config.seed, _user_labels(context, dataset), counts,
            features, facts,
        )  # fmt: skip
        measured = context.spark.read.parquet(str(path / "data"))
        sliced = slice_results(measured, config.evaluation, config.seed)
        groups = {"popularity": popularity_groups(counts.users)}
        if facts.names:
            groups["category"] = kind_groups(facts)
        users = {
            s: max((m[s][promotion.METRIC].n for m in results.values() if s in m), default=0) for s in KNOWN_BEFORE
        }
        if not users["test"]:
            raise DataError(f"no user has anything held out on {context.day}; choose another --date, or dataset.split")
        parents = context.warehouse.parents(dataset.histories, *(c.path for c in candidates))
        return {
            "table": USER_METRICS.name, "candidates": used, "results": to_json(results), "slices": to_json(sliced),
            "costs": {name: cost.to_json() for name, cost in costs.items()},
            "groups": groups_to_json(exposures(measured, groups), groups, counts.users),
            "users": users["test"], **parents,
        }  # fmt: skip

    slot = context.warehouse.slot(USER_METRICS.name, date=context.day)
    version, _ = slot.materialize(name, build, flip=with_champion)
    return version, from_json(version.manifest["results"])


def _item_counts(context: Context, dataset: Dataset) -> tuple[int, ItemCounts]:
    """Return how many items the feed has, and how many users have each."""
    rows = context.spark.read.parquet(str(dataset.feed.path / "items")).select("item_id", "count").toArrow()
    users = np.zeros(dataset.feed.manifest["n_items"], np.int64)
    users[rows["item_id"].to_numpy()] = rows["count"].to_numpy()
    return len(rows), ItemCounts(users, context.spark.read.parquet(str(dataset.feed.path / "users")).count())


def _item_facts(context: Context, dataset: Dataset) -> ItemFacts:
    """Return how old items are, and of which kinds."""
    spark, warehouse = context.spark, context.warehouse
    ends = dt.datetime.combine(context.day + dt.timedelta(days=1), dt.time(), dt.UTC)
    catalogue = spark.read.parquet(items(context).data)
    numbers = spark.read.parquet(warehouse.slot(ITEM_IDS.name).require("run jobs/build_dataset.py first").data)
    interactions = spark.read.parquet(dataset.interactions.data)
    return item_facts(interactions, catalogue, numbers, int(ends.timestamp()), dataset.feed.manifest["n_items"])


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
    results, costs = from_json(measured.manifest["results"]), costs_of(measured)
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
    _report_groups(context, run, measured)
    run.table(slice_table(from_json(measured.manifest["slices"])), "slices.json")
    run.describe(markdown(results) + "\n" + slices_markdown(named))
    lowest = {name: rows[0] for name, rows in named.items() if rows}
    run.metrics({f"{name}_worst_slice_{promotion.METRIC}": row[promotion.METRIC] for name, row in lowest.items()})
    run.tags({f"recsys.worst_slice.{name}": row["slice"] for name, row in lowest.items()})
    for name, splits in results.items():
        figures = {f"{split}_{metric}": i.mean for split, ms in splits.items() for metric, i in ms.items()}
        bounds = splits["test"][promotion.METRIC]
        figures |= {f"test_{promotion.METRIC}_low": bounds.low, f"test_{promotion.METRIC}_high": bounds.high}
        figures |= {"score_ms": costs[name].score_ms, "model_mb": costs[name].bytes / 1e6}
        for model in _model_runs(context, name):
            model.metrics(figures)
        run.metrics({f"{name}_{metric}": i.mean for metric, i in splits["test"].items()})


def costs_of(measured: Version) -> dict[str, Cost]:
    """Return what every model that was measured costs.

    Raises:
        DataError: it was measured by code that did not look at that.
    """
    if "costs" not in measured.manifest:
        raise DataError(f"{measured.path}: does not say what the models cost; run jobs/evaluate.py again")
    return {name: Cost.from_json(values) for name, values in measured.manifest["costs"].items()}


def _report_groups(context: Context, run: TrackedRun, measured: Version) -> None:
    """Log which groups of items get how much exposure, and how far apart the groups of users are."""
    groups = measured.manifest["groups"]
    rows = [
        (kind, name, of["items"], of["interactions"], model, of["exposure"][model], of["ratio"].get(model))
        for kind, found in groups.items()
        for name, of in found.items()
        for model in of["exposure"]
    ]
    columns = ["groups by", "group", "of items", "of interactions", "model", "of exposure", "ratio"]
    run.table(pd.DataFrame(rows, columns=columns), "groups.json")
    tail = groups["popularity"].get("tail", {"ratio": {}})
    run.metrics({f"{model}_tail_exposure_ratio": ratio for model, ratio in tail["ratio"].items()})
    gaps = user_gaps(from_json(measured.manifest["slices"]), context.config.promotion.min_slice_users)
    run.metrics({f"{name}_gap_{kind}": gap.gap for name, kinds in gaps.items() for kind, gap in kinds.items()})


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
