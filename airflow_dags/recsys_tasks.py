"""What the DAGs beside this file are made of: jobs as tasks, assets and pools.

Set in the environment of the scheduler and the workers:

    RECSYS_HOME             the checkout, with its .venv made by `make setup`; default: the one this file lies in
    RECSYS_CONFIG           the configuration, below RECSYS_HOME or absolute; default: conf/embedded.yaml. Relative
                            paths in it start at the working directory of the worker: name absolute ones.
    RECSYS_OPERATOR         spark: SparkSubmitOperator; bash: scripts/submit.sh, which takes master and memory from
                            the configuration; default: spark
    RECSYS_CONNECTION       Airflow's connection to Spark, whose host is the master, such as local[*]; where there is
                            no such connection, Airflow assumes YARN; default: spark_default
    RECSYS_DRIVER_MEMORY    heap of the driver; default: 4g
    RECSYS_MLFLOW_URL       where people look at the runs; default: http://127.0.0.1:5000
    RECSYS_RETRY_MINUTES    pause before a task is tried again, growing from try to try; default: 5
    RECSYS_STATUS_DIR       where jobs leave how they ended; default: recsys-status in the folder for temporary files

The variables of those who hear of a failure are in `recsys_alerts.py`.
"""

from __future__ import annotations

import os
import shlex
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from airflow.sdk import Asset
from recsys_alerts import failed
from recsys_operators import MLFLOW_URL, BashJob, SparkJob

HOME = Path(os.environ.get("RECSYS_HOME", Path(__file__).resolve().parents[1]))
CONFIG = HOME / os.environ.get("RECSYS_CONFIG", "conf/embedded.yaml")
START = datetime(2026, 1, 1, tzinfo=UTC)
POOLS = {"recsys_spark": 1, "recsys_training": 1}
"""Pools and their slots: as many Spark applications at a time, and trainings of deep models among them."""
TRAINING = ("train_deep", "tune")
YESTERDAY = "{{ params.run_date or macros.ds_add((dag_run.logical_date or dag_run.run_after) | ds, -1) }}"
"""The run date: asked for, or the day before the one on which the DAG runs; the log of that day is whole by then."""
TABLES = {
    "ingest": ("events", "items"),
    "build_dataset": ("interactions", "histories"),
    "evaluate": ("user_metrics",),
    "recommend": ("recommendations",),
    "export": ("exports",),
}
"""The tables that each job publishes, as assets for other teams' DAGs to wait for."""

_BIN = HOME / ".venv/bin"
_STATUS = Path(os.environ.get("RECSYS_STATUS_DIR", Path(tempfile.gettempdir()) / "recsys-status"))
_ENVIRONMENT = {
    "PATH": f"{_BIN}:{os.environ['PATH']}",
    # what scripts/with_env.sh has: a Spark that the worker has elsewhere would win, and nothing leaves it unasked
    "SPARK_HOME": f"{HOME}/.venv/lib/python3.11/site-packages/pyspark",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "PYTHONPATH": str(HOME),  # the checkout's code, whatever Airflow itself was started with
    "PYSPARK_PYTHON": f"{_BIN}/python",
    "PYSPARK_DRIVER_PYTHON": f"{_BIN}/python",
    "RECSYS_RUN_ID": "{{ run_id }}",
    "RECSYS_STATUS": f"{_STATUS}/" + "{{ dag.dag_id }}/{{ run_id }}/{{ task.task_id }}-{{ ti.try_number }}.json",
}
_WAIT_SECONDS = 7_200


def asset(table: str) -> Asset:
    """Return the asset of a published table; its events say which version and run date."""
    return Asset(name=f"recsys_{table}", uri=f"x-recsys://warehouse/{table}")


def job(name: str, *arguments: str, date: str | None = YESTERDAY, waits: bool = True) -> SparkJob | BashJob:
    """Return the task of a job.

    Args:
        name: of the job, and of the task.
        arguments: beside configuration and date.
        date: its run date, a template; None = the job is given none.
        waits: the job has a lease; a try waits for one before it that is still alive.
    """
    given = ["--config", str(CONFIG), *(["--date", date] if date else []), *arguments]
    given += ["--wait", str(_WAIT_SECONDS)] if waits else []
    common: dict[str, Any] = {
        "task_id": name,
        "pool": "recsys_training" if name in TRAINING else "recsys_spark",
        "outlets": [asset(table) for table in TABLES.get(name, ())],
        "doc_md": _docs(name),
    }
    if os.environ.get("RECSYS_OPERATOR", "spark") == "bash":
        # The shell sees the names of variables alone: what a template is filled with may hold quotes and semicolons.
        variables = {f"ARG_{number}": argument for number, argument in enumerate(given)}
        words = [shlex.quote(f"{HOME}/scripts/submit.sh"), name, *(f'"${variable}"' for variable in variables)]
        environment = {**_ENVIRONMENT, **variables}
        return BashJob(bash_command=" ".join(words), env=environment, append_env=True, cwd=str(HOME), **common)
    return SparkJob(
        name=f"recsys {name}",
        application=f"{HOME}/jobs/{name}.py",
        application_args=given,
        conn_id=os.environ.get("RECSYS_CONNECTION", "spark_default"),
        deploy_mode="client",
        driver_memory=os.environ.get("RECSYS_DRIVER_MEMORY", "4g"),
        env_vars=_ENVIRONMENT,
        **common,
    )


def defaults(hours: float = 3) -> dict[str, Any]:
    """Return the `default_args` of every DAG: tries with growing pauses, and a word when the last one has failed."""
    return {
        "retries": 3,
        "retry_delay": timedelta(minutes=float(os.environ.get("RECSYS_RETRY_MINUTES", "5"))),
        "retry_exponential_backoff": True,
        "max_retry_delay": timedelta(hours=1),
        # past it, Airflow stops spark-submit before it tries again
        "execution_timeout": timedelta(hours=hours),
        "on_failure_callback": failed,
    }


def _docs(name: str) -> str:
    text = (HOME / "jobs" / f"{name}.py").read_text(encoding="utf-8")
    about = text.split('"""')[1].strip()
    return (
        f"{about}\n\n`jobs/{name}.py` with `{CONFIG.name}`. *MLflow run*, above, opens the run of the night; "
        f"[all runs]({MLFLOW_URL}) are there too. What to do when it fails: `docs/runbook.md`."
    )
