"""Servers that die: MLflow's in the middle of a night, PostgreSQL in the middle of an export."""

from __future__ import annotations

import contextlib
import time

import psycopg

from soak import invariants
from soak.faults import fault
from soak.night import Night
from soak.run import Broken


@fault()
def mlflow_server(night: Night) -> str:
    """`kill -9` of the MLflow server.

    Remedy: start it, the same command again.
    """
    stage = night.draw.choice(("build_dataset", "train_baseline", "train_deep", "evaluate", "recommend"))
    run = night.start().stage(stage)
    night.house.mlflow.kill()
    line = night.refused(run, 1, night.house.mlflow.address, "start it")
    night.house.mlflow.start()
    night.run()
    return f"killed in {stage}; {line}"


@fault(afterwards=True)
def postgres(night: Night) -> str:
    """`kill -9` of PostgreSQL in the middle of an export.

    Remedy: start it, `export` again.
    """
    house = night.house
    *_, earlier, _ = invariants.by_age(house.root / "recommendations")
    night.well(house.job("export", "--version", earlier, "export.keep=1"))
    before = exported(house.postgres.address)
    with psycopg.connect(house.postgres.address) as reading:
        reading.execute("SELECT 1 FROM recommendations LIMIT 1")  # holds the export up, before it switches
        run = house.job("export")
        with psycopg.connect(house.postgres.address, autocommit=True) as looking:
            waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
            while not looking.execute(waits).fetchone()[0]:  # type: ignore[index]
                if run.process.poll() is not None:
                    raise Broken(f"the export did not wait: {run.error or run.text[-300:]}")
                time.sleep(0.05)
            house.postgres.kill()
        with contextlib.suppress(psycopg.Error):
            reading.rollback()
    run.wait()
    if run.process.returncode != 1 or "export.postgres" not in run.error or run.trace:
        raise Broken(f"exit code {run.process.returncode}: {run.error}")
    house.postgres.start()
    if exported(house.postgres.address) != before:
        raise Broken("the lists in PostgreSQL are not those of before")
    night.well(house.job("export"))
    if exported(house.postgres.address) != invariants.rows(house.root):
        raise Broken("the lists in PostgreSQL are not those that are published")
    return f"exit 1: {run.error}"


def exported(address: str) -> list[tuple]:
    """Read the lists that PostgreSQL has, in order."""
    with psycopg.connect(address) as connection:
        return sorted(connection.execute("SELECT user_id, rank, item_id FROM recommendations").fetchall())
