"""A database of Airflow's own for the tests, made once, with the pools and the connection that the DAGs need."""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path

DAGS = Path(__file__).parents[1]
HOME = Path(tempfile.mkdtemp(prefix="recsys-airflow-"))
os.environ.update(
    AIRFLOW_HOME=str(HOME),
    AIRFLOW__CORE__DAGS_FOLDER=str(DAGS),
    AIRFLOW__CORE__LOAD_EXAMPLES="False",
    AIRFLOW__CORE__UNIT_TEST_MODE="False",
    AIRFLOW_CONN_SPARK_DEFAULT='{"conn_type": "spark", "host": "local[2]"}',
    RECSYS_STATUS_DIR=str(HOME / "status"),
    SPARK_LOCAL_IP="127.0.0.1",
)


def pytest_sessionstart(session):
    """Before any test module is imported: importing Airflow reads the environment."""
    subprocess.run(["airflow", "db", "migrate"], check=True, capture_output=True)


def pytest_sessionfinish(session):
    import shutil

    shutil.rmtree(HOME, ignore_errors=True)
