"""Airflow's operators for jobs: what a job said of its end becomes the task's, its link and its assets' events."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from airflow.providers.apache.spark.operators.spark_submit import SparkSubmitOperator
from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import BaseOperatorLink
from airflow.sdk.exceptions import AirflowException, AirflowFailException

MLFLOW_URL = os.environ.get("RECSYS_MLFLOW_URL", "http://127.0.0.1:5000")
_OF_NO_USE_AGAIN = (2, 3)  # exit codes of bad configuration and bad data: the same command ends the same way


class MLflowRun(BaseOperatorLink):
    """The button beside a task that opens the night's MLflow run."""

    name = "MLflow run"

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        """Return the run's page, or the list of runs where the job had none."""
        return getattr(operator, "mlflow_run", None) or MLFLOW_URL


def run_job(task: Any, status: str, execute: Callable[[Any], Any], context: Any) -> dict[str, Any] | None:
    """Run a job's operator and return the job's last line.

    Args:
        status: the file in which the job says how it ended.

    Raises:
        AirflowFailException: bad configuration or bad data, with the job's own line; trying again is of no use.
        AirflowException: anything else; the job is tried again. Where an earlier try lives on, the next one waits for
            it: the lease in the warehouse knows, Airflow need not.
    """
    path = Path(status)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    try:
        execute(context)
    except AirflowException:
        ended = _ended(path)
        if ended is None:  # it was killed before it could say anything
            raise
        kind = AirflowFailException if ended["exit_code"] in _OF_NO_USE_AGAIN else AirflowException
        raise kind(ended["error"]) from None
    ended = _ended(path) or {}
    run = ended.get("mlflow")
    if run:
        task.mlflow_run = f"{MLFLOW_URL}/#/experiments/{run['experiment']}/runs/{run['run']}"
    line = ended.get("last_line") or {}
    for outlet in task.outlets:
        extra = {"run_date": line.get("run_date"), "outputs": line.get("outputs", {})}
        context["outlet_events"][outlet].extra.update(extra)
    return line or None


class SparkJob(SparkSubmitOperator):
    """A job under spark-submit, through Airflow's own operator."""

    operator_extra_links = (MLflowRun(),)

    def execute(self, context: Any) -> dict[str, Any] | None:
        """Run the job."""
        return run_job(self, self.env_vars["RECSYS_STATUS"], super().execute, context)


class BashJob(BashOperator):
    """A job under `scripts/submit.sh`, where the workers have no connection to Spark."""

    operator_extra_links = (MLflowRun(),)

    def execute(self, context: Any) -> dict[str, Any] | None:
        """Run the job."""
        return run_job(self, self.env["RECSYS_STATUS"], super().execute, context)


def _ended(path: Path) -> dict[str, Any] | None:
    try:
        ended: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return ended
    except (FileNotFoundError, json.JSONDecodeError):
        return None
