"""What MLflow knows of a night: the decision, the gates, and how the models learnt."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from mlflow.entities import Run

from recsys_spark.log.gates import GateResult
from recsys_spark.models import RANKERS
from recsys_spark.reporting.night import Tracked
from recsys_spark.tracking.runs import TrackedRun
from recsys_spark.tracking.store import Store

_CURVES = ("epoch/loss", "epoch/valid_ndcg_at_10", "epoch/valid_gauc", "iteration/")
"""Figures that are drawn, or how their names begin."""


def tracked(night: TrackedRun) -> Tracked:
    """Read what the stages of a night have logged; a stage that was never run leaves its part empty."""
    store = night.store
    stages, models = newest(store, night.run_id)
    promote, gates, recommend = (stages.get(name) for name in ("promote", "check_log", "recommend"))
    rows = artifact(store, store.client.get_run(night.run_id), "rows.json")
    return Tracked(
        why=promote.data.tags.get("recsys.decision", "") if promote else "",
        record=artifact(store, promote, "decision/decision.json"),
        gates=_gates(artifact(store, gates, "gates/gates.json")),
        rows=records(rows),
        curves={name: curves for name, run in models.items() if (curves := _curves(store, run))},
        rankers={name: run.data.tags["recsys.version"] for name, run in models.items()
                 if name in RANKERS and "recsys.version" in run.data.tags},
        published=recommend.data.params.get("model") if recommend else None,
    )  # fmt: skip


def newest(store: Store, parent: str) -> tuple[dict[str, Run], dict[str, Run]]:
    """Return the newest finished runs of a night's stages and models, by name."""
    query = f"tags.`mlflow.parentRunId` = '{parent}' and attributes.status = 'FINISHED'"
    stages: dict[str, Run] = {}
    models: dict[str, Run] = {}
    for run in store.client.search_runs([store.experiment_id], query):  # the newest first
        tags = run.data.tags
        if tags.get("recsys.kind") == "model" and "recsys.model" in tags:
            models.setdefault(tags["recsys.model"], run)
        else:
            stages.setdefault(tags["mlflow.runName"], run)
    return stages, models


def artifact(store: Store, run: Run | None, path: str) -> Any:
    """Read an artifact; None where there is no such run or artifact."""
    if run is None:
        return None
    folder = path.rpartition("/")[0] or None
    if path not in [file.path for file in store.client.list_artifacts(run.info.run_id, folder)]:
        return None
    with tempfile.TemporaryDirectory() as here:
        return json.loads(Path(store.client.download_artifacts(run.info.run_id, path, here)).read_text("utf-8"))


def records(logged: Any) -> list[dict[str, Any]]:
    """Turn a table as MLflow logs it into rows."""
    return [dict(zip(logged["columns"], row, strict=True)) for row in logged["data"]] if logged else []


def _gates(logged: Any) -> list[GateResult]:
    return [GateResult(r["gate"], r["value"], r["warn"], r["stop"], r["status"], r["text"]) for r in records(logged)]


def _curves(store: Store, run: Run) -> dict[str, list[tuple[float, float]]]:
    names = sorted(name for name in run.data.metrics if name.startswith(_CURVES))
    found = {}
    for name in names:
        history = store.client.get_metric_history(run.info.run_id, name)
        found[name] = sorted({float(m.step): float(m.value) for m in history}.items())
    return found
