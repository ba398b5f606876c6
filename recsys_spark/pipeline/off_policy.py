"""What the night's models would have earned with the lists that were published before its test days."""

from __future__ import annotations

import datetime as dt
import json
from typing import Any

import pandas as pd

from recsys_spark.dataset.build import Dataset
from recsys_spark.dataset.events import number, read_events
from recsys_spark.evaluation.evaluate import KNOWN_BEFORE, Candidate
from recsys_spark.evaluation.feedback import by_user, estimate, rewarded
from recsys_spark.evaluation.off_policy import OffPolicy
from recsys_spark.pipeline import night
from recsys_spark.pipeline.context import Context
from recsys_spark.recommendation.exploration import GREEDY
from recsys_spark.schemas import EXPOSURES, ITEM_IDS, USER_IDS
from recsys_spark.tracking.runs import TrackedRun
from recsys_spark.warehouse import Version

_TAG = "recsys.off_policy."
ESTIMATES = ("logging", "ips", "snips", "clipped", "doubly_robust", "gain")


def measure(context: Context, dataset: Dataset) -> dict[str, OffPolicy]:
    """Estimate every model of the night; nothing where no list was drawn by chance.

    The lists are those of the day before the test days: what is known of a user then is the history by which the test
    part is measured, and none of the night's models has learnt from what came of them.
    """
    config, spark = context.config, context.spark
    shown = _shown(context)
    if shown is None:
        return {}
    day, exposed = shown
    last = _last_day(context, day)
    events = read_events(spark, night.live_events(context), last)
    rows = rewarded(spark.read.parquet(exposed.data), events, config.evaluation.off_policy, last)
    users, items = (context.warehouse.slot(t.name).require("run jobs/build_dataset.py") for t in (USER_IDS, ITEM_IDS))
    known = spark.read.parquet(dataset.histories.data).where(f"known = '{KNOWN_BEFORE['test']}'")
    lists = by_user(number(spark, rows, users, items), known).persist()
    fallback = night.model_version(context, "popularity", dataset).path
    found = {}
    if not lists.isEmpty():
        for name in (*config.train.baselines, *config.train.deep):
            version = night.model_version(context, name, dataset)
            found[name] = estimate(
                lists, Candidate(name, version.name, version.path), fallback, config.publish.exploration,
                config.evaluation.off_policy, config.publish.block_users, config.evaluation.confidence,
            )  # fmt: skip
    lists.unpersist()
    return found


def _shown(context: Context) -> tuple[dt.date, Version] | None:
    """Return the lists that were drawn by chance and published for the day before the test days."""
    config = context.config.dataset
    if config.split != "time":
        return None
    day = context.day - dt.timedelta(days=config.test_days)
    exposed = context.warehouse.slot(EXPOSURES.name, date=day).current()
    return None if exposed is None or exposed.manifest["policy"] == GREEDY else (day, exposed)


def _last_day(context: Context, day: dt.date) -> dt.date:
    """Return the last day on which these lists were shown, and of which we are told."""
    days = [dt.date.fromisoformat(d) for d in context.warehouse.keys(EXPOSURES.name, "date")]
    window = day + dt.timedelta(days=context.config.evaluation.off_policy.days)
    return min([window, context.day, *(d for d in days if d > day)])


def told(context: Context, model: str) -> dict[str, Any] | None:
    """Return what the night's evaluation estimated for a model, as `OffPolicy.to_json` has it; None if nothing."""
    text = context.night_run.tag(_TAG + model)
    return None if text is None else json.loads(text)


def report(context: Context, run: TrackedRun, found: dict[str, OffPolicy]) -> None:
    """Log the estimates: a table, figures for comparing nights, and on the night what its decision will be told."""
    if not found:
        return
    rows = []
    for name, of in found.items():
        context.night_run.tags({_TAG + name: json.dumps(of.to_json())})
        run.metrics({f"off_policy_{name}_{e}": getattr(of, e).mean for e in ESTIMATES})
        run.metrics({f"off_policy_{name}_effective": of.effective, f"off_policy_{name}_mean_weight": of.mean_weight})
        for e in ESTIMATES:
            interval = getattr(of, e)
            rows.append((name, e, interval.mean, interval.low, interval.high, interval.n, of.rounds, of.effective))
    columns = ["model", "estimate", "value", "low", "high", "users", "rounds", "effective"]
    run.table(pd.DataFrame(rows, columns=columns), "off_policy.json")
