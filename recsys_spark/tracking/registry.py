"""The model registry: register once per version, aliases, and the way back from an alias to files."""

from __future__ import annotations

import contextlib
import io
import re
import warnings
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, DataType, Schema
from mlflow.types.schema import Array

import recsys_spark
from recsys_spark.errors import DataError, RunError
from recsys_spark.models import DEEP, TWO_STAGE
from recsys_spark.tracking import served
from recsys_spark.tracking.pyfunc import DEFAULT_K
from recsys_spark.tracking.runs import TrackedRun
from recsys_spark.tracking.store import Store

_ROLLED_BACK = "recsys.rolled_back"
_DECISION = "recsys.decision"
_ABSENT = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")  # the codes of no such model, no such alias
CHAMPION, CHALLENGER, PREVIOUS = "champion", "challenger", "previous"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
"""What the names of models, versions and dates are made of: none leads to another folder."""

_SCORING = ("numpy", "scipy", "numba", "pandas", "pyarrow", "pydantic", "PyYAML", "mlflow")
"""What a registered model needs to answer; deep ones need torch as well."""
_SIGNATURE = ModelSignature(
    inputs=Schema([ColSpec(DataType.string, "user_id"), ColSpec(DataType.long, "k", required=False)]),
    outputs=Schema([ColSpec(Array(DataType.string), "items"), ColSpec(Array(DataType.double), "scores")]),
)


@dataclass(frozen=True)
class Registered:
    """A version in the registry."""

    number: str
    model: str
    """Name of the model, such as als."""
    version: str
    """Name of the warehouse version it was registered from."""
    run_date: str
    id_space: str | None = None
    """Of the dictionaries that its ids are from; see `recsys_spark.dataset.ids`."""
    rolled_back: bool = False
    """A person has taken it from the champion's place: it is not promoted again."""


def register(
    run: TrackedRun, name: str, version: Path, serving: Path, popularity: Path, run_date: str, id_space: str
) -> Registered:
    """Register a saved model as a pyfunc, unless this very version is registered already.

    Args:
        name: the model's name.
        version: its folder in the warehouse; the folder's name identifies it.
        serving: a version of the `serving` table: dictionaries and histories, and features for a model of two stages.
        popularity: the saved model that serves unknown users.
        id_space: of the dictionaries that its ids are from.
    """
    store = run.store
    found = find(store, version.name)
    if found is not None:
        return found
    requirements = [f"{package}=={metadata.version(package)}" for package in _SCORING]
    if name in (*DEEP, TWO_STAGE):
        requirements.append(f"torch=={metadata.version('torch').split('+')[0]}")
    # both talk to the terminal about what is meant to be so; what fails raises
    with store.active(), warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        with mlflow.start_run(run_id=run.run_id):
            logged = mlflow.pyfunc.log_model(
                name="model",
                python_model=str(Path(served.__file__)),
                artifacts={
                    "model": str(version), "popularity": str(popularity),
                    "users": str(serving / "users"), "items": str(serving / "items"),
                    **({"moment": str(serving / "moment")} if name == TWO_STAGE else {}),
                },
                code_paths=[str(Path(recsys_spark.__file__).parent)],
                pip_requirements=requirements,
                signature=_SIGNATURE,
                input_example=pd.DataFrame({"user_id": ["1"], "k": [DEFAULT_K]}),
            )  # fmt: skip
        _create_model(store)
        tags = {
            "recsys.model": name, "recsys.version": version.name, "recsys.night": run_date, "recsys.id_space": id_space
        }  # fmt: skip
        made = mlflow.register_model(logged.model_uri, store.model_name, tags=tags)
        # start_run on a run that is open elsewhere closes it; the caller goes on logging to it
        store.client.update_run(run.run_id, status="RUNNING")
    return _registered(made, tags)


def find(store: Store, version: str) -> Registered | None:
    """Return the registered version that was made from a warehouse version, or None."""
    query = f"name = '{store.model_name}' and tags.`recsys.version` = '{version}'"
    found = store.client.search_model_versions(query)
    return _registered(found[0], found[0].tags) if found else None


def resolve(store: Store, alias: str) -> Registered | None:
    """Resolve an alias once; None where nothing bears it."""
    try:
        version = store.client.get_model_version_by_alias(store.model_name, alias)
    except MlflowException as error:
        if error.error_code in _ABSENT:
            return None
        # a server that is away for a moment must not look like a registry without a champion
        raise RunError(f"{store.uri}: alias {alias!r} cannot be read: {str(error).splitlines()[0]}") from error
    return _registered(version, version.tags)


def set_alias(store: Store, alias: str, registered: Registered) -> None:
    """Point an alias at a version."""
    store.client.set_registered_model_alias(store.model_name, alias, registered.number)


def mark_rolled_back(store: Store, registered: Registered) -> None:
    """Remember that a version was taken from the champion's place."""
    store.client.set_model_version_tag(store.model_name, registered.number, _ROLLED_BACK, "true")


def describe_decision(store: Store, registered: Registered, page: str, why: str, run_id: str) -> None:
    """Write onto a version's page what was decided about it, and in which run the whole record lies."""
    store.client.update_model_version(store.model_name, registered.number, page)
    for tag, value in ((_DECISION, why), (f"{_DECISION}_run", run_id)):
        store.client.set_model_version_tag(store.model_name, registered.number, tag, value)


def fetch(store: Store, registered: Registered, folder: Path) -> Path:
    """Return the saved model of a registered version, downloaded below `folder` once."""
    target = folder / f"v{registered.number}-{registered.version}"
    if not (target / "model.json").exists():
        target.mkdir(parents=True, exist_ok=True)
        with store.active():
            uri = f"models:/{store.model_name}/{registered.number}"
            mlflow.artifacts.download_artifacts(f"{uri}/artifacts/{registered.version}", dst_path=str(target / ".part"))
        part = next((target / ".part").rglob("model.json")).parent
        for file in sorted(part.iterdir(), key=lambda f: f.name == "model.json"):  # the card comes last
            file.rename(target / file.name)
    return target


def _create_model(store: Store) -> None:
    try:
        store.client.get_registered_model(store.model_name)
    except MlflowException:
        try:
            store.client.create_registered_model(store.model_name)
        except MlflowException:  # by another job in between, or for a reason that the next line names
            store.client.get_registered_model(store.model_name)


def _registered(version: ModelVersion, tags: dict[str, Any]) -> Registered:
    """Read a version's tags, which whoever may write to the server has written, and which become names of folders.

    Raises:
        DataError: they are missing, or no names.
    """
    for tag in ("recsys.model", "recsys.version", "recsys.night"):
        if not _NAME.fullmatch(tags.get(tag, "")):
            raise DataError(
                f"{version.name} version {version.version}: its tag {tag} is {tags.get(tag)!r}, which no night has "
                "written; take its alias away, or delete it"
            )
    back = tags.get(_ROLLED_BACK) == "true"
    return Registered(
        str(version.version), tags["recsys.model"], tags["recsys.version"], tags["recsys.night"],
        tags.get("recsys.id_space"), back,
    )  # fmt: skip
