"""Where registered models lie, and the people in them: each carries users with histories, and weights.

A registered model has a dictionary of its own (`users/`: id and the log's id), and by that alone people are
found in it: another warehouse may have numbered its users otherwise.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from recsys_spark.erasure.rows import Task, dense_ids, erase_rows
from recsys_spark.erasure.weights import erase_from_model
from recsys_spark.tracking.store import Store
from recsys_spark.warehouse import Warehouse
from recsys_spark.warehouse.contents import settle


@dataclass(frozen=True)
class Registry:
    """The models of the registry: folders on this disk, versions that lie elsewhere, and what is said of each."""

    folders: tuple[Path, ...]
    places: tuple[Path, ...]
    """Where runs and models keep what was logged, on this disk."""
    unreachable: tuple[str, ...]
    versions: tuple[dict[str, Any], ...]


def find_registry(store: Store) -> Registry:
    """Look up where the store keeps the models of this data set, registered or not."""
    client = store.client
    of_runs = client.get_experiment(store.experiment_id).artifact_location
    places = {of_runs}
    versions, unreachable = [], []
    if urlsplit(of_runs).scheme not in ("", "file"):
        unreachable.append(f"pages of nights below {of_runs}")
    registered = client.search_model_versions(f"name = '{store.model_name}'")
    # a search leaves the aliases of what it finds out
    aliases = client.get_registered_model(store.model_name).aliases if registered else {}
    for version in registered:
        source = version.source or ""
        if source.startswith("models:/m-"):
            source = client.get_logged_model(source.removeprefix("models:/")).artifact_location
        places.add(source)
        name = f"{store.model_name}/{version.version}"
        trained = dt.datetime.fromtimestamp(version.creation_timestamp / 1000, dt.UTC).isoformat()
        versions.append(
            {
                "where": "registry", "name": name, "model": version.tags.get("recsys.model"),
                "version": version.tags.get("recsys.version"), "trained_at": trained,
                "aliases": sorted(alias for alias, number in aliases.items() if str(number) == str(version.version)),
            }
        )  # fmt: skip
        if _local(source) is None:
            unreachable.append(f"registered model {name}")
    paths = [path for place in places if (path := _local(place)) is not None]
    models = {card.parent.parent for path in paths for card in path.glob("**/artifacts/*/model.json")}
    return Registry(tuple(sorted(models)), tuple(sorted(paths)), tuple(unreachable), tuple(versions))


def _local(place: str) -> Path | None:
    parts = urlsplit(place)
    path = Path(unquote(parts.path)) if parts.scheme == "file" else Path(place)
    return path if parts.scheme in ("", "file") and path.is_dir() else None


def erase_from_artifacts(folder: Path, task: Task) -> dict[str, int]:
    """Take people out of a logged model's folder of artifacts: first out of the weights, then out of `users`.

    Returns:
        `rows` removed, and `known`: of how many people models held anything.
    """
    done = {"rows": 0, "known": 0}
    files = sorted((folder / "users").glob("*.parquet"))
    ids = sorted({i for file in files for i in dense_ids(file, task.people)})
    for card in sorted(folder.glob("*/model.json")):
        done["known"] += erase_from_model(card.parent, ids)
        settle(card.parent)  # it came with its manifest
    # what was known of users when the model was asked; it has their ids alone, those of the dictionary beside it
    own = replace(task, ids=tuple(ids))
    for file in sorted((folder / "moment").glob("**/*.parquet")):
        done["rows"] += erase_rows(file, "serving", own).removed
    for file in files:
        done["rows"] += erase_rows(file, "serving", task).removed
    return done


def trained_models(warehouse: Warehouse) -> list[dict[str, Any]]:
    """Return every version of every model in the warehouse, and when it was trained."""
    found = []
    root = warehouse.root.absolute()
    for folder in sorted((root / "models").glob("*/date=*")):
        slot = warehouse.slot(str(folder.parent.relative_to(root)), date=folder.name.removeprefix("date="))
        found += [
            {
                "where": "warehouse", "name": f"{folder.parent.name}/{v.name}", "model": folder.parent.name,
                "version": v.name, "trained_at": v.manifest["created_at"],
            }
            for v in slot.versions()
        ]  # fmt: skip
    return found
