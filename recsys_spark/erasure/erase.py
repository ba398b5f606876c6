"""Erase people from a warehouse and from the registered models: all versions of all tables, not only live ones.

The order makes it one that can be killed anywhere and run again: first the digests of who goes, so that no night
brings them back; then whatever is found by dense ids; then a second look at every file, which has to find nothing;
last the dictionary that gives these ids, and the proof.
"""

from __future__ import annotations

import datetime as dt
import secrets
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pyspark.sql import SparkSession

from recsys_spark import models
from recsys_spark.config import LogConfig
from recsys_spark.erasure.alone import alone
from recsys_spark.erasure.artifacts import Registry, erase_from_artifacts, find_registry, trained_models
from recsys_spark.erasure.manifests import update_manifests
from recsys_spark.erasure.pages import erase_from_pages, erase_logged
from recsys_spark.erasure.people import TOMBSTONE, People, out_of_sight
from recsys_spark.erasure.profiles import FIGURES, SAMPLE, erase_from_figures, erase_from_sample, hashes_of
from recsys_spark.erasure.quarantined import RowText, recorded_columns
from recsys_spark.erasure.record import by_table, remember, salt_of
from recsys_spark.erasure.rows import ASIDE, FileResult, Task, blank_names, dense_ids, erase_rows
from recsys_spark.erasure.weights import erase_from_model
from recsys_spark.errors import RunError
from recsys_spark.log.profile import PROFILES
from recsys_spark.tracking.store import Store
from recsys_spark.warehouse import Version, Warehouse
from recsys_spark.warehouse.contents import settle

_DICTIONARY = "user_ids"
_SCRATCH = ("champions", ".spark-checkpoints")
_FILES_OF_A_TASK = 8
_T = TypeVar("_T")
_R = TypeVar("_R")


@dataclass(frozen=True)
class Erased:
    """The version of `erasures` that an erasure wrote, and its proof."""

    version: Version
    proof: dict[str, Any]


def erase(
    spark: SparkSession, warehouse: Warehouse, config: LogConfig, given: Iterable[str], store: Store, day: dt.date
) -> Erased:
    """Erase people, all of them or, killed half way, the rest of them the next time.

    Args:
        given: user ids as the log has them.
        store: knows where registered models lie; those that lie elsewhere are named in the proof.
        day: the day from which `log.privacy.retrain_days` are counted.

    Raises:
        RunError: another run is writing the warehouse; or rows of them are left, because one began meanwhile.
    """
    root = warehouse.root.absolute()
    if not any(root.glob("[!.]*")):  # a job that was given a wrong root has left no more there than its lock
        raise RunError(f"{root}: there is no such warehouse; mend root in the configuration")
    with alone(root):
        registry = find_registry(store)
        salt = salt_of(warehouse)
        people = People.of(given, config.privacy, salt)
        remember(warehouse, people, salt, None)
        _clear(spark, root, registry)
        task = Task(people, _dense_ids(spark, root, people), RowText.of(config, recorded_columns(root)))
        found = _remove(spark, root, registry, task)
        left = _remove(spark, root, registry, task)  # while the dictionary still says by which ids to look
        _refuse(left)
        names = _blank_dictionary(spark, root, task)
        still = _blank_dictionary(spark, root, task)
        settle(root)
        _refuse(Removed(still, {}))
        models.load.cache_clear()
        proof = {
            "erased_at": dt.datetime.now(dt.UTC).isoformat(),
            "people": people.references,
            "tables": by_table(root, [*found.files, *names], [*left.files, *still]),
            "others": {name: {"before": n, "after": left.others[name]} for name, n in found.others.items()},
            "unreachable": [*registry.unreachable, *out_of_sight(root, config.privacy)],
            "report_again": sorted(set(found.pages)),
            "retrain_by": str(day + dt.timedelta(days=config.privacy.retrain_days)),
            "trained_before": [*trained_models(warehouse), *registry.versions],
        }
        return Erased(remember(warehouse, people, salt, proof), proof)


@dataclass(frozen=True)
class Removed:
    """What one look at everything has found and removed."""

    files: list[FileResult]
    """Of tables."""
    others: dict[str, int]
    """Of profiles, models, pages and the registry: how many of the people, or of them, were in them."""
    pages: tuple[str, ...] = ()
    """Run dates of the pages that named somebody and are gone."""


def _remove(spark: SparkSession, root: Path, registry: Registry, task: Task) -> Removed:
    """Remove whatever is found by ids and dense ids, and bring the manifests in line."""
    pages = erase_from_pages(root, task.people)
    others = {
        "profiles": _erase_profiles(spark, root, task.people),
        **_erase_models(spark, root, registry, task),
        "pages": len(pages),
        "pages_logged": erase_logged(registry.places, task.people),
    }
    files = [(p, table) for p in _files(root) if (table := p.relative_to(root).parts[0]) != _DICTIONARY]
    found = _spread(spark, files, lambda file: erase_rows(*file, task))
    update_manifests(root, found)
    settle(root)
    return Removed(found, others, tuple(pages))


def _refuse(left: Removed) -> None:
    """Raise a `RunError` if a second look has found anything."""
    if any(result.removed for result in left.files) or any(left.others.values()):
        raise RunError("rows were written while they were erased; wait for the other run to end, and run this again")


def _clear(spark: SparkSession, root: Path, registry: Registry) -> None:
    """Remove what killed runs left, and what is made again when it is needed; all of it may hold people."""
    own = spark.sparkContext.getCheckpointDir()
    for name in _SCRATCH:
        for path in (root / name).glob("*"):
            if own is None or path.name != Path(own).name:
                shutil.rmtree(path, ignore_errors=True)
    for path in [*root.rglob(".tmp-*"), *root.rglob(".topk-*"), *(root / ".ingest").glob("[!.]*")]:
        shutil.rmtree(path, ignore_errors=True)
    half_written = root.glob("checkpoints/*/*/.*.pt.*")
    aside = (path for folder in (root, *registry.folders) for path in folder.rglob(f"{ASIDE}*"))
    for path in [*half_written, *aside]:
        path.unlink(missing_ok=True)


def _spread(spark: SparkSession, of: Iterable[_T], work: Callable[[_T], _R]) -> list[_R]:
    """Do something for each of many files, as tasks of Spark."""
    items, slots = list(of), spark.sparkContext.defaultParallelism
    # a task costs as much as some small files, so that more than one for each slot must be worth it
    tasks = min(len(items), max(slots, min(len(items) // _FILES_OF_A_TASK, 8 * slots)))
    return spark.sparkContext.parallelize(items, tasks).map(work).collect() if items else []


def _files(root: Path, table: str = "*") -> list[Path]:
    return sorted(p for top in root.glob(table) if not top.name.startswith(".") for p in top.rglob("[!.]*.parquet"))


def _dense_ids(spark: SparkSession, root: Path, people: People) -> tuple[int, ...]:
    found = _spread(spark, _files(root, _DICTIONARY), lambda path: dense_ids(path, people))
    return tuple(sorted({i for ids in found for i in ids}))


def _erase_models(spark: SparkSession, root: Path, registry: Registry, task: Task) -> dict[str, int]:
    ids = list(task.ids)
    saved = [card.parent for card in root.glob("models/*/date=*/*/model.json")]
    unfinished = [path for path in root.glob("checkpoints/*/[!.]*") if ids]  # what they learnt is in all their weights
    for path in unfinished:
        shutil.rmtree(path)
    # here, and not as tasks of Spark: the registry's folder need not be one that the executors have
    carried = [erase_from_artifacts(folder, task) for folder in registry.folders]
    return {
        "models_warehouse": sum(_spread(spark, saved, lambda folder: erase_from_model(folder, ids))),
        "models_checkpoints": len(unfinished),
        "models_registry": sum(done["known"] for done in carried),
        "models_registry_rows": sum(done["rows"] for done in carried),
    }


def _erase_profiles(spark: SparkSession, root: Path, people: People) -> int:
    samples, figures = (sorted(root.glob(f"{PROFILES}/**/{name}")) for name in (SAMPLE, FIGURES))
    hashes = hashes_of(spark, people)
    found = _spread(spark, samples, lambda path: erase_from_sample(path, hashes))
    return sum(found) + sum(_spread(spark, figures, lambda path: erase_from_figures(path, people)))


def _blank_dictionary(spark: SparkSession, root: Path, task: Task) -> list[FileResult]:
    stones = {i: TOMBSTONE + secrets.token_hex(16) for i in task.ids}
    return _spread(spark, _files(root, _DICTIONARY), lambda path: blank_names(path, task.people, stones))
