"""Where runs and models are kept: a SQLite file beside the warehouse, or any MLflow server."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import mlflow
import requests
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from recsys_spark.config import Config
from recsys_spark.errors import RunError

_CONNECT_SECONDS = 5.0
_GONE = ("INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE", "RESOURCE_EXHAUSTED")
"""MLflow's words for a server that cannot be reached, or that its own store has left."""
_KIND = {"mlflow.experimentKind": "custom_model_development"}  # else the UI opens on pages for language models


@dataclass(frozen=True)
class Store:
    """A reachable tracking server and registry, with this data set's experiment and model in it."""

    uri: str
    experiment_id: str
    model_name: str
    """Registered model; its versions are the models of this data set, whatever their kind."""

    @property
    def client(self) -> MlflowClient:
        return MlflowClient(tracking_uri=self.uri, registry_uri=self.uri)

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        """Point MLflow's process-wide settings here for a while: some of its calls read nothing else."""
        before = mlflow.get_tracking_uri(), mlflow.get_registry_uri()
        mlflow.set_tracking_uri(self.uri)
        mlflow.set_registry_uri(self.uri)
        try:
            yield
        finally:
            mlflow.set_tracking_uri(before[0])
            mlflow.set_registry_uri(before[1])


def default_folder(root: str | Path) -> Path:
    """Return the folder of the SQLite store and its artifacts: `mlflow`, beside the warehouses' folder."""
    return Path(root).absolute().parent.parent / "mlflow"


def open_store(config: Config) -> Store:
    """Connect, and create the experiment where there is none.

    Raises:
        RunError: the tracking server does not answer.
    """
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
    tracking = config.tracking
    if tracking.uri is None:
        folder = default_folder(config.root)
        folder.mkdir(parents=True, exist_ok=True)
        uri, artifacts = f"sqlite:///{folder / 'mlflow.db'}", tracking.artifacts or (folder / "artifacts").as_uri()
    else:
        uri, artifacts = tracking.uri, tracking.artifacts  # type: ignore[assignment]
        _knock(uri)
    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    try:
        experiment = _experiment(client, config.name, f"{artifacts.rstrip('/')}/{config.name}" if artifacts else None)
    except Exception as error:
        raise RunError(
            f"{uri}: the MLflow store cannot be used: {str(error).splitlines()[0]}; check tracking.uri"
        ) from error
    return Store(uri, experiment, f"recsys-{config.name}")


def _experiment(client: MlflowClient, name: str, location: str | None) -> str:
    """Return the id of an experiment, which another job may be about to create as well."""
    found = client.get_experiment_by_name(name)
    if found is not None:
        return str(found.experiment_id)
    try:
        return str(client.create_experiment(name, location, _KIND))
    except MlflowException:
        found = client.get_experiment_by_name(name)
        if found is None:
            raise
        return str(found.experiment_id)


def has_gone(error: BaseException) -> bool:
    """Tell whether an error is a tracking server's that went away, or that cannot use its own store any more."""
    if isinstance(error, MlflowException):
        return "API request to" in str(error) and error.error_code in _GONE
    return isinstance(error, requests.ConnectionError | requests.Timeout)


def _knock(uri: str) -> None:
    """Fail within seconds where a server is down; MLflow's own retries would take minutes."""
    parts = urlsplit(uri)
    if parts.scheme not in ("http", "https"):
        return
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        socket.create_connection((parts.hostname or "", port), _CONNECT_SECONDS).close()
    except OSError as error:
        raise RunError(f"{uri}: no tracking server answers ({error}); start it, or set tracking.uri") from None
