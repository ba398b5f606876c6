"""Erase people from a warehouse and from the registered models: all versions of all tables, not only live ones.

The order makes it one that can be killed anywhere and run again: first the digests of who goes, so that no night
brings them back; then whatever is found by dense ids; then a second look at every file, which has to find nothing;
last the dictionary that gives these ids, and the proof.
"""

from __future__ import annotations

import datetime as dt
import json
import secrets
import shutil
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq
from pyspark.sql import SparkSession

from recsys_spark import models
from recsys_spark.config import LogConfig
from recsys_spark.erasure.alone import alone
from recsys_spark.erasure.artifacts import Registry, erase_from_artifacts, find_registry, trained_models
from recsys_spark.erasure.manifests import update_manifests
from recsys_spark.erasure.people import TOMBSTONE, People
from recsys_spark.erasure.profiles import FIGURES, SAMPLE, erase_from_figures, erase_from_sample, hashes_of
from recsys_spark.erasure.quarantined import RowText
from recsys_spark.erasure.rows import ASIDE, FileResult, Task, blank_names, dense_ids, erase_rows
from recsys_spark.erasure.weights import erase_from_model
from recsys_spark.errors import RunError
from recsys_spark.log.profile import PROFILES
from recsys_spark.log.suppression import FINISHED, SALT, TABLE, erased_count
from recsys_spark.tracking.store import Store
from recsys_spark.warehouse import Version, Warehouse

PROOF = "proof.json"
_DICTIONARY = "user_ids"
_SCRATCH = ("champions", ".spark-checkpoints")
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
        salt = _salt(warehouse)
        people = People.of(given, config.privacy, salt)
        _remember(warehouse, people, salt, None)
        _clear(spark, root)
        task = Task(people, _dense_ids(spark, root, people), RowText.of(config))
        known = _erase_models(spark, root, registry, task)
        profiles = _erase_profiles(spark, root, people)
        found = _sweep(spark, root, task)
        update_manifests(root, found)
        left = _sweep(spark, root, task)
        update_manifests(root, left)
        if any(result.removed for result in left):  # while the dictionary still says by which ids to find more
            raise RunError(
                "rows were written while they were erased; wait for the other run to end, and run this again"
            )
        names = _blank_dictionary(spark, root, people, task.ids)
        models.load.cache_clear()
        tables = _tables(root, [*found, *names], left)
        proof = {
            "erased_at": dt.datetime.now(dt.UTC).isoformat(),
            "people": people.references,
            "tables": tables,
            "profiles": profiles,
            "models": known,
            "unreachable": list(registry.unreachable),
            "retrain_by": str(day + dt.timedelta(days=config.privacy.retrain_days)),
            "trained_before": [*trained_models(warehouse), *registry.versions],
        }
        return Erased(_remember(warehouse, people, salt, proof), proof)


def _salt(warehouse: Warehouse) -> str:
    current = warehouse.slot(TABLE).current()
    return current.manifest[SALT] if current else secrets.token_hex(16)


def _remember(warehouse: Warehouse, people: People, salt: str, proof: dict[str, Any] | None) -> Version:
    """Write the next version of `erasures`: all who were erased so far, and the proof once there is one."""
    slot = warehouse.slot(TABLE)
    current = slot.current()
    before = pq.read_table(current.data).to_pylist() if current else []
    entries = sorted({(e["under"], e["digest"]) for e in before} | set(people.entries))
    if current is not None and proof is None and len(entries) == len(before):
        return current

    def build(path: Path) -> dict[str, Any]:
        (path / "data").mkdir()
        under, digest = zip(*entries, strict=True)
        table = pa.table({"under": pa.array(under, pa.string()), "digest": pa.array(digest, pa.string())})
        pq.write_table(table, path / "data" / "part-00000.parquet", compression="zstd")
        if proof is not None:
            (path / PROOF).write_text(json.dumps(proof, indent=1), encoding="utf-8")
        counted = {u: under.count(u) for u in sorted(set(under))}
        finished = len(entries) if proof is not None else erased_count(warehouse)
        return {"table": TABLE, "rows": len(entries), FINISHED: finished, "under": counted, SALT: salt}

    number = max((int(v.name[1:]) for v in slot.versions()), default=0) + 1
    return slot.materialize(f"v{number:06d}", build)[0]


def _clear(spark: SparkSession, root: Path) -> None:
    """Remove what killed runs left, and what is made again when it is needed; all of it may hold people."""
    own = spark.sparkContext.getCheckpointDir()
    for name in _SCRATCH:
        for path in (root / name).glob("*"):
            if own is None or path.name != Path(own).name:
                shutil.rmtree(path, ignore_errors=True)
    for path in [*root.rglob(".tmp-*"), *(root / ".ingest").glob("[!.]*")]:
        shutil.rmtree(path, ignore_errors=True)
    for path in root.rglob(f"{ASIDE}*"):
        path.unlink(missing_ok=True)


def _spread(spark: SparkSession, of: Iterable[_T], work: Callable[[_T], _R]) -> list[_R]:
    """Do something for each of many files, as tasks of Spark."""
    items = list(of)
    tasks = min(len(items), 8 * spark.sparkContext.defaultParallelism)
    return spark.sparkContext.parallelize(items, tasks).map(work).collect() if items else []


def _files(root: Path, table: str = "*") -> list[Path]:
    return sorted(p for top in root.glob(table) if not top.name.startswith(".") for p in top.rglob("[!.]*.parquet"))


def _dense_ids(spark: SparkSession, root: Path, people: People) -> tuple[int, ...]:
    found = _spread(spark, _files(root, _DICTIONARY), lambda path: dense_ids(path, people))
    return tuple(sorted({i for ids in found for i in ids}))


def _sweep(spark: SparkSession, root: Path, task: Task) -> list[FileResult]:
    files = [(path, path.relative_to(root).parts[0]) for path in _files(root)]
    return _spread(spark, files, lambda file: erase_rows(*file, task))


def _erase_models(spark: SparkSession, root: Path, registry: Registry, task: Task) -> dict[str, int]:
    ids = list(task.ids)
    saved = [card.parent for card in root.glob("models/*/date=*/*/model.json")]
    unfinished = [path for path in root.glob("checkpoints/*/[!.]*") if ids]  # what they learnt is in all their weights
    for path in unfinished:
        shutil.rmtree(path)
    carried = _spread(spark, registry.folders, lambda folder: erase_from_artifacts(folder, task))
    return {
        "warehouse": sum(_spread(spark, saved, lambda folder: erase_from_model(folder, ids))),
        "checkpoints": len(unfinished),
        "registry": sum(done["known"] for done in carried),
        "registry_rows": sum(done["rows"] for done in carried),
    }


def _erase_profiles(spark: SparkSession, root: Path, people: People) -> int:
    samples, figures = (sorted(root.glob(f"{PROFILES}/**/{name}")) for name in (SAMPLE, FIGURES))
    hashes = hashes_of(spark, people)
    found = _spread(spark, samples, lambda path: erase_from_sample(path, hashes))
    return sum(found) + sum(_spread(spark, figures, lambda path: erase_from_figures(path, people)))


def _blank_dictionary(spark: SparkSession, root: Path, people: People, ids: tuple[int, ...]) -> list[FileResult]:
    stones = {i: TOMBSTONE + secrets.token_hex(16) for i in ids}
    return _spread(spark, _files(root, _DICTIONARY), lambda path: blank_names(path, people, stones))


def _tables(root: Path, found: list[FileResult], left: list[FileResult]) -> dict[str, dict[str, int]]:
    """Count by table: files, files written anew, rows of the people before and after, and all rows."""
    tables: dict[str, dict[str, int]] = defaultdict(
        lambda: dict.fromkeys(("files", "rewritten", "before", "after", "rows"), 0)
    )
    for results, count in ((found, "before"), (left, "after")):
        for result in results:
            table = tables[Path(result.path).relative_to(root).parts[0]]
            table[count] += result.removed
            if count == "before":
                table["rewritten"] += result.removed > 0
            else:
                table["files"] += 1
                table["rows"] += result.after
    return {name: tables[name] for name in sorted(tables)}
