"""The published table: the champion's top-K for every active user, popularity for the cold ones."""

from __future__ import annotations

import datetime as dt
import shutil
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from recsys_spark import models
from recsys_spark.config import PublishConfig
from recsys_spark.errors import DataError
from recsys_spark.recommendation.checks import check_lists
from recsys_spark.recommendation.exploration import GREEDY, policy_name
from recsys_spark.recommendation.index import Measured, build
from recsys_spark.recommendation.topk import Exploring, sample_users, top_k
from recsys_spark.schemas import EXPOSURES, ITEM_IDS, RECOMMENDATIONS, USER_IDS
from recsys_spark.warehouse import Slot, Version, Warehouse, fingerprint

_INDEX = "items.ivf"
_RECALL_USERS = 1_000
_CODE = ("recommendation", "models", "schemas.py", "hashing.py")


def publish(
    spark: SparkSession, warehouse: Warehouse, config: PublishConfig, until: dt.date,
    histories: Version, model: Path, model_version: str, popularity: Path, moments: Path | None = None,
) -> tuple[Version, bool]:  # fmt: skip
    """Write the lists of a run date as a version, check them, and make them the live ones.

    What is published is logged in `exposures` first, with its propensities, under the same name; its pointer follows
    that of the lists. A night that is run again for an earlier day than the published one writes its versions and
    leaves the pointers where they are: nobody was shown these lists.

    Args:
        model, popularity: saved models; the second serves whom the first knows nothing of.
        moments: features of users and items by moment, for a model that ranks by them.

    Returns:
        The version, and whether it was made now.

    Raises:
        DataError: the lists fail a check; what was published stays published.
    """
    slot, log = warehouse.slot(RECOMMENDATIONS.name), warehouse.slot(EXPOSURES.name, date=until)
    live = slot.current()
    users_of = Path(histories.data) / "known=test"
    name = f"{until}-{fingerprint(_CODE, config.model_dump(), histories.name, model_version, popularity.name)}"

    def expose(path: Path) -> dict[str, Any]:
        scratch = _scratch(slot, name)
        index = _index(model, users_of, config, scratch) if config.index != "exact" else None
        moment = moments / users_of.name if moments else None
        lists = _lists(spark, warehouse, users_of, model, popularity, config, until, scratch, index is not None, moment)
        EXPOSURES.conform(lists).write.parquet(str(path / "data"))
        shutil.rmtree(scratch)
        return {
            "table": EXPOSURES.name, "run_date": str(until), "model": model_version,
            "rows": spark.read.parquet(str(path / "data")).count(),
            "policy": policy_name(config.exploration), "index": asdict(index) if index else None,
            **warehouse.parents(histories, model, popularity),
        }  # fmt: skip

    def build(path: Path) -> dict[str, Any]:
        users = _active(spark.read.parquet(histories.data), until, config.active_days).persist()
        count = users.count()
        if not count:
            raise DataError(f"no user was active up to {until}; raise publish.active_days")
        exposed, _ = log.materialize(name, expose, flip=False)
        lists = spark.read.parquet(exposed.data).repartition("user_id").sortWithinPartitions("user_id", "rank")
        RECOMMENDATIONS.conform(lists).write.parquet(str(path / "data"))
        last = slot_before(warehouse, name)
        try:
            checked = check_lists(
                spark.read.parquet(str(path / "data")), _seen(spark, warehouse, users), count,
                _trained(popularity), spark.read.parquet(last.data) if last else None, config,
            )  # fmt: skip
        except DataError:
            shutil.rmtree(exposed.path)  # never shown to anyone
            raise
        users.unpersist()
        ids = [warehouse.slot(table.name).current() for table in (USER_IDS, ITEM_IDS)]
        return {
            "table": RECOMMENDATIONS.name, "run_date": str(until), "model": model_version,
            "histories": histories.name, "index": exposed.manifest["index"], **asdict(checked),
            **warehouse.parents(exposed, histories, model, popularity, *ids),
        }  # fmt: skip

    older = live is not None and live.manifest["run_date"] > str(until)
    version, made = slot.materialize(name, build, flip=not older)
    exposed = log.version(name)
    if not older and exposed is not None:
        log.flip(exposed)
    return version, made


def slot_before(warehouse: Warehouse, name: str) -> Version | None:
    """Return what is published now, unless that is version `name` itself."""
    live = warehouse.slot(RECOMMENDATIONS.name).current()
    return None if live is None or live.name == name else live


def _active(histories: DataFrame, until: dt.date, days: int | None) -> DataFrame:
    users = histories.where("known = 'test'")
    return users if days is None else users.where(F.col("last_day") > F.lit(until - dt.timedelta(days=days)))


def _lists(
    spark: SparkSession, warehouse: Warehouse, histories: Path, model: Path, popularity: Path,
    config: PublishConfig, until: dt.date, scratch: Path, indexed: bool, moment: Path | None,
) -> DataFrame:  # fmt: skip
    since = until - dt.timedelta(days=config.active_days - 1) if config.active_days else None
    explores = config.exploration.policy != "none"
    rows = top_k(
        spark, histories, model, config.k, config.block_users, scratch,
        index=scratch / _INDEX if indexed else None, fallback=popularity, since=since, moment=moment,
        exploring=Exploring(config.exploration, until) if explores else None,
    )  # fmt: skip
    policy = F.col("policy") if explores else F.lit(GREEDY)
    chance = F.col("pair.propensities") if explores else F.lit(1.0)
    pairs = F.posexplode(F.arrays_zip("items", "scores", *(["propensities"] if explores else [])))
    return (
        rows.select("user_id", "model", policy.alias("policy"), pairs.alias("position", "pair"))
        .select(
            F.col("user_id").alias("id"), "model", (F.col("position") + 1).alias("rank"),
            F.col("pair.items").alias("item"), F.col("pair.scores").alias("score"),
            F.lit(until).alias("run_date"), "policy", chance.alias("propensity"),
        )
        .join(_raw(spark, warehouse, USER_IDS.name, "id", "user_id"), "id", "left")
        .join(_raw(spark, warehouse, ITEM_IDS.name, "item", "item_id"), "item", "left")
    )  # fmt: skip


def _index(model: Path, histories: Path, config: PublishConfig, scratch: Path) -> Measured | None:
    """Make the index of a model's items beside its lists, unless scanning them is as good."""
    loaded = models.load(model)
    if not loaded.dot_product:
        print(f"publish.index: {loaded.name} has no item vectors; every item is compared", file=sys.stderr)
        return None
    scratch.mkdir(parents=True, exist_ok=True)
    sample = sample_users(histories, _RECALL_USERS)
    measured = build(loaded, sample, config.k, config.min_recall, scratch / _INDEX)
    if measured is None:
        print(
            f"publish.index: the few lists that would be faster do not hold {config.min_recall:.0%} of the best items; "
            "every item is compared",
            file=sys.stderr,
        )
    else:
        print(
            f"publish.index: {measured.probes} of {measured.lists} lists hold {measured.recall:.1%} of the best items",
            file=sys.stderr,
        )
    return measured


def _scratch(slot: Slot, name: str) -> Path:
    """Return the folder of a version's lists in the making, which outlives a run that is killed; drop all others."""
    mine = slot.path / f".topk-{name}"
    for other in slot.path.glob(".topk-*"):
        if other != mine:
            shutil.rmtree(other, ignore_errors=True)
    return mine


def _raw(spark: SparkSession, warehouse: Warehouse, table: str, id_as: str, raw_as: str) -> DataFrame:
    dictionary = spark.read.parquet(warehouse.slot(table).require("run jobs/build_dataset.py first").data)
    return dictionary.select(F.col("id").alias(id_as), F.col("raw_id").alias(raw_as))


def _seen(spark: SparkSession, warehouse: Warehouse, users: DataFrame) -> DataFrame:
    pairs = users.select(F.col("user_id").alias("id"), F.explode("items").alias("item"))
    pairs = pairs.join(_raw(spark, warehouse, USER_IDS.name, "id", "user_id"), "id")
    return pairs.join(_raw(spark, warehouse, ITEM_IDS.name, "item", "item_id"), "item").select("user_id", "item_id")


def _trained(popularity: Path) -> int:
    """How many items the night's popularity, and so every model of the night, can recommend."""
    from recsys_spark.models.popularity import Popularity

    return int(Popularity.load(popularity).known.sum())
