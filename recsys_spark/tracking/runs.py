"""Runs: one parent per night, a child per stage and model, with what they were made from."""

from __future__ import annotations

import contextlib
import datetime as dt
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from mlflow.entities import Metric, Param, Run, RunTag
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID, MLFLOW_RUN_NAME, MLFLOW_RUN_NOTE

from recsys_spark import __version__
from recsys_spark.tracking.store import Store, has_gone

_NIGHT, _KIND = "recsys.night", "recsys.kind"
_LONGEST = 500  # characters of a parameter; MLflow's own limits differ by store


@dataclass(frozen=True)
class TrackedRun:
    """One open MLflow run; batches what it is told."""

    store: Store
    run_id: str

    def params(self, values: dict[str, Any]) -> None:
        flat = [Param(k, str(v)[:_LONGEST]) for k, v in flatten(values).items()]
        self.store.client.log_batch(self.run_id, params=flat[:100])

    def metrics(self, values: dict[str, float], step: int = 0) -> None:
        """Log numbers; NaN is left out, and `@`, which MLflow refuses, becomes `_at_`."""
        now = int(time.time() * 1000)
        logged = [Metric(k.replace("@", "_at_"), float(v), now, step) for k, v in values.items() if v == v]
        self.store.client.log_batch(self.run_id, metrics=logged)

    def tags(self, values: dict[str, Any]) -> None:
        self.store.client.log_batch(self.run_id, tags=[RunTag(k, str(v)) for k, v in values.items()])

    def tag(self, name: str) -> str | None:
        """Return a tag's value, or None."""
        found = self.store.client.get_run(self.run_id).data.tags.get(name)
        return None if found is None else str(found)

    def name_night(self, night: dt.date) -> None:
        """Say which night this is, once a run that was started without a date knows it."""
        self.tags({_NIGHT: night, MLFLOW_RUN_NAME: f"nightly {night}"})

    def describe(self, text: str) -> None:
        """Set the description on the run's page, in Markdown."""
        self.tags({MLFLOW_RUN_NOTE: text})

    def artifact(self, path: Path, folder: str | None = None) -> None:
        self.store.client.log_artifact(self.run_id, str(path), folder)

    def table(self, table: pd.DataFrame, name: str) -> None:
        """Log a table that the MLflow UI shows as one."""
        self.store.client.log_table(self.run_id, table, name)


def start_night(store: Store, night: dt.date | None) -> TrackedRun:
    """Open the parent run of a night; one that a killed night left open is closed as killed."""
    client = store.client
    query = f"tags.`{_KIND}` = 'nightly' and attributes.status = 'RUNNING'"
    if night is not None:
        query += f" and tags.`{_NIGHT}` = '{night}'"
    for run in client.search_runs([store.experiment_id], query):
        children = f"tags.`{MLFLOW_PARENT_RUN_ID}` = '{run.info.run_id}' and attributes.status = 'RUNNING'"
        for child in [*client.search_runs([store.experiment_id], children), run]:
            client.set_terminated(child.info.run_id, "KILLED")
    return _create(store, f"nightly {night or ''}".strip(), "nightly", night, None)


def find_night(store: Store, night: dt.date) -> TrackedRun:
    """Return the newest parent run of a night, for a job that runs by itself; open one if there is none."""
    query = f"tags.`{_KIND}` = 'nightly' and tags.`{_NIGHT}` = '{night}'"
    found = store.client.search_runs([store.experiment_id], query, max_results=1)
    if found:
        return TrackedRun(store, found[0].info.run_id)
    parent = _create(store, f"nightly {night}", "nightly", night, None)
    store.client.set_terminated(parent.run_id)  # the jobs come and go by themselves: nobody closes it later
    return parent


@contextlib.contextmanager
def child_run(parent: TrackedRun, name: str, kind: str, night: dt.date | None) -> Iterator[TrackedRun]:
    """Open a child run; an exception marks it failed, and goes on."""
    run = _create(parent.store, name, kind, night, parent.run_id)
    with closing(run):
        yield run


@contextlib.contextmanager
def own_run(store: Store, name: str, kind: str, night: dt.date) -> Iterator[TrackedRun]:
    """Open a run that belongs to no night."""
    with closing(_create(store, name, kind, night, None)) as run:
        yield run


@contextlib.contextmanager
def closing(run: TrackedRun) -> Iterator[TrackedRun]:
    """Close a run at the end: finished, or failed if an exception passes, which a store that is gone does not hide."""
    try:
        yield run
    except BaseException as error:
        with contextlib.suppress(Exception):  # the next run of the night closes it, see `start_night`
            if not has_gone(error):
                run.store.client.set_terminated(run.run_id, "FAILED")
        raise
    run.store.client.set_terminated(run.run_id, "FINISHED")


def _create(store: Store, name: str, kind: str, night: dt.date | None, parent: str | None) -> TrackedRun:
    tags = {MLFLOW_RUN_NAME: name, _KIND: kind, "recsys.version": __version__, **git_revision()}
    if night is not None:
        tags[_NIGHT] = str(night)
    if parent is not None:
        tags[MLFLOW_PARENT_RUN_ID] = parent
    run: Run = store.client.create_run(store.experiment_id, tags=tags, run_name=name)
    return TrackedRun(store, run.info.run_id)


def git_revision() -> dict[str, str]:
    """Return MLflow's tag for the source revision, with `-dirty` for local changes; nothing outside git."""
    here = Path(__file__).parent
    try:
        said = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            cwd=here, capture_output=True, text=True, timeout=10, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return {}
    return {"mlflow.source.git.commit": said.stdout.strip()}


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested mappings.

    >>> flatten({"a": {"b": 1}, "c": 2})
    {'a.b': 1, 'c': 2}
    """
    flat: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        flat |= flatten(value, f"{name}.") if isinstance(value, dict) and value else {name: value}
    return flat
