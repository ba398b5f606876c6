"""Models over nights, as MLflow has them: for notebooks and people."""

from __future__ import annotations

import datetime as dt

import pandas as pd

from recsys_spark.reporting.html import Fragment
from recsys_spark.reporting.plots import Dot, dots
from recsys_spark.reporting.tracked import artifact, newest, records
from recsys_spark.tracking.runs import find_night
from recsys_spark.tracking.store import Store

_METRIC = "test_ndcg_at_10"
_NAME = "ndcg@10"


def models_by_night(store: Store) -> pd.DataFrame:
    """Return one row per night and model that was measured on test: NDCG@10 with its interval, and other figures."""
    runs = store.client.search_runs(
        [store.experiment_id], "tags.`recsys.kind` = 'model' and attributes.status = 'FINISHED'"
    )
    rows: dict[tuple[str, str], dict[str, object]] = {}
    for run in runs:  # the newest first
        tags, found = run.data.tags, run.data.metrics
        if _METRIC not in found or "recsys.night" not in tags:
            continue
        key = tags["recsys.night"], tags["recsys.model"]
        rows.setdefault(key, {
            "night": key[0], "model": key[1], _NAME: found[_METRIC],
            "low": found.get(f"{_METRIC}_low"), "high": found.get(f"{_METRIC}_high"),
            **{m: found.get(f"test_{m}_at_10") for m in ("recall", "coverage", "novelty", "diversity")},
            "train seconds": found.get("train_seconds"),
        })  # fmt: skip
    table = pd.DataFrame(rows.values())
    return table.sort_values(["night", _NAME], ascending=[True, False], ignore_index=True) if len(table) else table


def slices_of(store: Store, night: dt.date) -> pd.DataFrame:
    """Return NDCG@10 by model and slice of a night, as its evaluation logged it; no rows where it did not."""
    stages, _ = newest(store, find_night(store, night).run_id)
    return pd.DataFrame(records(artifact(store, stages.get("evaluate"), "slices.json")))


def drawn(table: pd.DataFrame, by: str, title: str) -> Fragment:
    """Draw NDCG@10 with its interval, a line per row of a table of `models_by_night` or `slices_of`.

    Args:
        by: the column that names the rows.
    """
    rows = [Dot(str(r[by]), r[_NAME], r["low"], r["high"], n) for n, r in enumerate(table.to_dict("records"))]
    return dots(rows, title, f"{_NAME} with its interval:")
