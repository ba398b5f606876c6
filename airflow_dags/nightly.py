"""The night as Airflow sees it: which jobs, in which order, for which day, and how often each is tried again.

Needs Airflow 3 and its Spark provider, in an environment of their own. Set in the environment of the workers:

    RECSYS_HOME           the checkout, with its .venv made by `make setup` (default: the one this file lies in)
    RECSYS_CONFIG         the configuration, below RECSYS_HOME or absolute (default: conf/embedded.yaml)
    RECSYS_CONNECTION     Airflow's connection to Spark (default: spark_default)
    RECSYS_DRIVER_MEMORY  heap of the driver (default: 4g)

The connection's host is the Spark master, such as local[*] or spark://HOST:7077; where there is no such connection,
Airflow assumes YARN. Relative paths in the configuration start at the worker's working directory: name absolute ones.
The embedded log is a job of its own, jobs/generate_log.py, to be run once by hand.
"""

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

from airflow.providers.apache.spark.operators.spark_submit import SparkSubmitOperator
from airflow.sdk import DAG, Param, chain

HOME = Path(os.environ.get("RECSYS_HOME", Path(__file__).resolve().parents[1]))
CONFIG = HOME / os.environ.get("RECSYS_CONFIG", "conf/embedded.yaml")
BIN = HOME / ".venv/bin"
ENVIRONMENT = {"PATH": f"{BIN}:{os.environ['PATH']}", "PYSPARK_PYTHON": f"{BIN}/python"}
JOBS = ("ingest", "check_log", "build_dataset", "train_baseline", "train_deep", "evaluate", "promote", "recommend")

with DAG(
    "recsys_nightly",
    description="Raw log to published recommendations",
    schedule="0 3 * * *",
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    catchup=False,
    max_active_runs=1,
    params={"run_date": Param(None, type=["null", "string"], format="date", description="another day than yesterday")},
    default_args={
        "retries": 2,
        "retry_delay": timedelta(minutes=10),
        # Past it, Airflow stops spark-submit before it tries again: no two jobs of a night side by side.
        "execution_timeout": timedelta(hours=3),
    },
    doc_md=__doc__,
):
    # A plain cron schedule has the moment it fires as its logical date; the log of the day before is whole by then.
    day = "{{ params.run_date or macros.ds_add(ds, -1) }}"
    tasks = [
        SparkSubmitOperator(
            task_id=job,
            name=f"recsys {job} {day}",
            application=f"{HOME}/jobs/{job}.py",
            application_args=["--config", str(CONFIG), "--date", day],
            conn_id=os.environ.get("RECSYS_CONNECTION", "spark_default"),
            deploy_mode="client",
            driver_memory=os.environ.get("RECSYS_DRIVER_MEMORY", "4g"),
            env_vars=ENVIRONMENT,
        )
        for job in JOBS
    ]
    chain(*tasks)
