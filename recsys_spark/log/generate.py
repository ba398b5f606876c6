"""The embedded log: a seeded raw log of any size, with its catalogue, its dirt and its truth.

    <path>/events/date=YYYY-MM-DD/part-*.jsonl   one event a line, in the folder of the day it arrived
    <path>/items.jsonl                           item_id, title, description, categories, price
    <path>/kg.jsonl                              head, relation, tail
    <path>/truth/items, <path>/truth/users       the hidden vectors (Parquet), for `hidden_world.affinity`
    <path>/_generator.json                       what it was made from, and the counts

The same config and seed give the same lines however Spark splits the work: blocks of users are simulated
by `hidden_world` and `hidden_acts`, and Spark only formats, gathers by day and writes. Dirt, by kind:

| kind | what is wrong with the line |
|---|---|
| duplicates | the same line once more, 30 % of them a day later |
| late | whole, but 1 to 5 days after its own day (never after the log's end) |
| bad_timestamp | no time at all, the year 1970, or the year 2999 |
| unknown_type | an event type that nobody has announced |
| truncated | JSON that breaks off |
| nulls | `"user_id":null` or `"item_id":null` |
| bots | views of one user at a fixed interval: whole lines, marked only in the truth |
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pyspark.sql import Column, DataFrame, Observation, SparkSession
from pyspark.sql import functions as F

from recsys_spark.config import GeneratorConfig
from recsys_spark.errors import ConfigError
from recsys_spark.log import hidden_acts as acts
from recsys_spark.log import hidden_world as world
from recsys_spark.log.item_texts import write_catalogue
from recsys_spark.warehouse import exclusive

MARK = "_generator.json"
FORMAT = 2
"""Raised when the same config and seed give another log than before, so that old ones are replaced."""
DIRT = ("bad_timestamp", "unknown_type", "truncated", "nulls", "late", "duplicates")
SPOILT = DIRT[:4]
"""The kinds that leave no valid event."""
UNKNOWN_TYPES = ("hover", "wishlist_add", "debug_ping")
BAD_TIMES = ("not-a-time", "1970-01-01T00:00:00.000Z", "2999-12-31T23:59:59.999Z")

_CLEAN, _COPY, _BOT = 0, len(DIRT) + 1, len(DIRT) + 2
"""Line kinds beside 1 + the index in `DIRT`; a duplicate's first line is kind `duplicates`, its second `_COPY`."""
_DIRT_STREAM = 100
_LINES_PER_FILE = 1_000_000
_COLUMNS = (
    "number long, user long, item long, type int, time string, rating int, position int, session long, "
    "device int, country int, kind int, arrival int, luck double"
)


def generate_log(spark: SparkSession, config: GeneratorConfig, path: Path, seed: int) -> dict[str, int]:
    """Write the log below `path`, unless the same log stands there already.

    Args:
        spark: the session; it decides how fast, never what.
        config: how much of it, and how dirty. Shares of dirt are of all human events; `bots` adds to them.
        path: folder of the log, on a disk that driver and executors share.
        seed: not negative.

    Returns:
        Counts: `lines` in all; `events`, the distinct valid human ones (late ones included) and
        `interactions`, those of them that are no impressions; one count for each kind of dirt, `bots`
        counting events and `bot_users` users; `users`, `items` and `days`.

    Raises:
        ConfigError: `path` holds something that this generator did not write, or the dirt adds up to
            more than the events.
        RunError: another run is writing `path`.
    """
    _check(config)
    path = path.resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    with exclusive(path.with_name(f".{path.name}.lock")):
        made_from = {"format": FORMAT, "seed": seed, "config": config.model_dump(mode="json")}
        standing = _standing(path)
        if standing is not None and {k: standing.get(k) for k in made_from} == made_from:
            return dict(standing["counts"])
        aside, old = path.with_name(f".{path.name}.new"), path.with_name(f".{path.name}.old")
        for leftover in (aside, old):  # of a run that was killed: the lock is ours
            shutil.rmtree(leftover, ignore_errors=True)
        try:
            aside.mkdir()
            counts = _write(spark, config, aside, seed)
            (aside / MARK).write_text(json.dumps({**made_from, "counts": counts}, indent=1), encoding="utf-8")
            if path.exists():
                os.rename(path, old)
            os.rename(aside, path)
        finally:
            if old.exists() and not path.exists():
                os.rename(old, path)  # the new one could not take its place
            shutil.rmtree(aside, ignore_errors=True)
            shutil.rmtree(old, ignore_errors=True)
    return counts


def _check(config: GeneratorConfig) -> None:
    total = sum(getattr(config.dirt, kind) for kind in DIRT)
    if total > 0.9:
        raise ConfigError(f"log.generate.dirt: the shares add up to {total:.2f}; keep them at 0.9 or less in all")


def _standing(path: Path) -> dict[str, Any] | None:
    """Return what stands at `path` as its mark says, None for nothing, or refuse to touch it."""
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return None
    try:
        mark = json.loads((path / MARK).read_text(encoding="utf-8"))
        if {"format", "seed", "config", "counts"} <= mark.keys():
            return mark
    except (OSError, ValueError, AttributeError):
        pass
    raise ConfigError(f"{path}: holds something that is not an embedded log; move it away or choose another log.path")


def _write(spark: SparkSession, config: GeneratorConfig, folder: Path, seed: int) -> dict[str, int]:
    items = world.draw_items(config, seed)
    write_catalogue(config, items, folder, seed)
    blocks, parallelism = world.block_count(config), spark.sparkContext.defaultParallelism
    # A few blocks to a task on a cluster, one each on a laptop.
    tasks = spark.range(0, blocks, 1, min(blocks, max(parallelism, blocks // 8)))
    shared = spark.sparkContext.broadcast((config, items, _sessions_per_block(config, items, seed), seed))

    def simulate(batches: Iterable[pd.DataFrame]) -> Iterator[pd.DataFrame]:
        config, items, sessions, seed = shared.value
        for batch in batches:
            for block in batch["id"]:
                yield _block_lines(config, items, seed, block, sessions[block])

    def truth(batches: Iterable[pd.DataFrame]) -> Iterator[pd.DataFrame]:
        config, items, _, seed = shared.value
        for batch in batches:
            for block in batch["id"]:
                yield _block_truth(world.draw_users(config, items, seed, block))

    counts = _write_events(tasks.mapInPandas(simulate, _COLUMNS), config, folder / "events", seed)
    users = tasks.mapInPandas(
        truth, "user_id string, start array<float>, end array<float>, first_day int, is_bot boolean"
    )
    users.coalesce(max(1, config.users // 1_000_000)).write.parquet(str(folder / "truth" / "users"))
    shared.unpersist()
    sizes = {"users": config.users, "items": config.items, "days": config.days}
    return {**counts, "bot_users": len(world.bot_ids(config, seed)), **sizes}


def _write_events(lines: DataFrame, config: GeneratorConfig, folder: Path, seed: int) -> dict[str, int]:
    """Format and write the lines by day of arrival, and count them in the same pass."""
    kinds = {name: 1 + i for i, name in enumerate(DIRT)}
    date = F.date_add(F.lit(config.start), F.col("arrival"))
    files_per_day = 1 + config.events // config.days // _LINES_PER_FILE
    text = _with_text(lines, seed).select("kind", "type", date.alias("date"), "value")
    gathered = text.repartition("date", F.pmod(F.xxhash64("value"), F.lit(files_per_day)))
    valid = F.col("kind").isin(_CLEAN, kinds["late"], kinds["duplicates"])
    # Counted behind the shuffle, in the stage that writes: a retried task is counted once.
    seen = Observation()
    counted = gathered.observe(
        seen,
        F.count(F.lit(1)).alias("lines"),
        F.count_if(valid).alias("events"),
        F.count_if(valid & (F.col("type") != acts.EVENT_TYPES.index("impression"))).alias("interactions"),
        F.count_if(F.col("kind") == _BOT).alias("bots"),
        *(F.count_if(F.col("kind") == kind).alias(name) for name, kind in kinds.items()),
    )
    counted.select("date", "value").write.partitionBy("date").text(str(folder))
    for file in sorted(folder.rglob("*")):
        if file.name.endswith(".crc") or file.name == "_SUCCESS":
            file.unlink()  # the writer's own; a checksum would not survive the renaming
        elif file.suffix == ".txt":
            file.rename(file.with_name("-".join(file.name.split("-")[:2]) + ".jsonl"))
    return {name: int(count) for name, count in seen.get.items()}


def _with_text(lines: DataFrame, seed: int) -> DataFrame:
    """Add `value`, the raw line, to `_COLUMNS`. Absent fields are left out, as real producers do."""

    def is_kind(name: str) -> Column:
        return F.col("kind") == 1 + DIRT.index(name)

    def pick(names: tuple[str, ...], index: Column) -> Column:
        return F.element_at(F.array(*map(F.lit, names)), (index + 1).cast("int"))

    no_user = is_kind("nulls") & (F.col("number") % 2 == 0)
    no_item = is_kind("nulls") & (F.col("number") % 2 == 1)
    third, known = F.col("number") % 3, pick(acts.EVENT_TYPES, F.col("type"))
    session = F.concat_ws("-", F.lit(f"session-{seed}"), "user", "session")
    fields = {
        "event_id": F.substring(F.md5(F.concat_ws("-", F.lit(f"event-{seed}"), "number")), 1, 20),
        "user_id": F.when(~no_user, F.format_string("u%07d", "user")),
        "item_id": F.when(~no_item, F.format_string("i%07d", "item")),
        "event_type": F.when(is_kind("unknown_type"), pick(UNKNOWN_TYPES, third)).otherwise(known),
        "timestamp": F.when(is_kind("bad_timestamp"), pick(BAD_TIMES, third)).otherwise(F.col("time")),
        "rating": F.when(F.col("rating") > 0, F.col("rating")),
        "position": F.when(F.col("position") > 0, F.col("position")),
        "session_id": F.substring(F.md5(session), 1, 16),
        "device": pick(world.DEVICES, F.col("device")),
        "country": pick(world.COUNTRIES, F.col("country")),
    }
    opening = F.when(no_user, '{"user_id":null,').when(no_item, '{"item_id":null,').otherwise("{")
    json_line = F.to_json(F.struct(*(column.alias(name) for name, column in fields.items())))
    cut = ((0.1 + 0.85 * F.col("luck")) * F.length("value")).cast("int")
    return lines.withColumn("value", F.concat(opening, F.substring(json_line, 2, 1_000))).withColumn(
        "value", F.when(is_kind("truncated"), F.substring("value", F.lit(1), cut)).otherwise(F.col("value"))
    )


def _block_lines(config: GeneratorConfig, items: world.Items, seed: int, block: int, sessions: int) -> pd.DataFrame:
    """Return a block's lines in `_COLUMNS`: its events, spoilt or not, the copies, and the bots'."""
    users = world.draw_users(config, items, seed, block)
    human = acts.simulate(config, items, users, seed, block, sessions)
    bots = acts.simulate_bots(config, items, users, seed, block)
    n, size = len(human["user"]), len(human["user"]) + len(bots["user"])
    rng = np.random.default_rng([seed, _DIRT_STREAM, block])
    edges = np.cumsum([getattr(config.dirt, kind) for kind in DIRT])
    kind = 1 + np.searchsorted(edges, rng.random(n), side="right")
    kind[kind > len(DIRT)] = _CLEAN
    frame = pd.DataFrame({name: np.concatenate([human[name], bots[name]]) for name in human})
    frame["kind"] = np.concatenate([kind, np.full(size - n, _BOT)])
    frame["number"] = (np.int64(block) << 32) + np.arange(size)
    frame["luck"] = rng.random(size)
    last, day = config.days - 1, frame["ms"].to_numpy() // acts.DAY_MS
    is_late = frame["kind"] == 1 + DIRT.index("late")
    frame.loc[is_late & (day == last), "kind"] = _CLEAN  # what comes after the log's end is not in it
    delay = rng.integers(1, 6, size=size)
    frame["arrival"] = np.where(is_late, np.minimum(day + delay, last), day)
    moment = np.datetime64(config.start.isoformat(), "ms") + frame.pop("ms").to_numpy().astype("timedelta64[ms]")
    frame["time"] = np.datetime_as_string(moment, timezone="UTC")
    copies = frame[frame["kind"] == 1 + DIRT.index("duplicates")].assign(kind=_COPY)
    copies["arrival"] = np.minimum(copies["arrival"] + (copies["luck"] < 0.3), last)
    return pd.concat([frame, copies], ignore_index=True)[[part.split()[0] for part in _COLUMNS.split(", ")]]


def _block_truth(users: world.Users) -> pd.DataFrame:
    """Return a block's rows of `truth/users`."""
    return pd.DataFrame({
        "user_id": [f"u{users.first + i:07d}" for i in range(len(users.is_bot))],
        "start": list(users.start.astype(np.float32)),
        "end": list(users.end.astype(np.float32)),
        "first_day": users.first_day.astype(np.int32),
        "is_bot": users.is_bot,
    })  # fmt: skip


def _sessions_per_block(config: GeneratorConfig, items: world.Items, seed: int) -> list[int]:
    """Return the sessions of every block, such that the valid events come out close to `config.events`.

    How many events a session has depends on tastes, and on how much each user already knows. So a pilot
    of a few blocks (of all of them, if they are few) is simulated here, on the driver, until it fits.
    """
    blocks = world.block_count(config)
    pilot = {b: world.draw_users(config, items, seed, b) for b in sorted({blocks * i // 16 for i in range(16)})}
    weight = np.array([
        acts.expected_activity(config, world.draw_users(config, items, seed, block)).sum() for block in range(blocks)
    ])  # fmt: skip
    reached = np.concatenate([[0.0], np.cumsum(weight)]) / weight.sum()
    target = config.events / (1 - sum(getattr(config.dirt, kind) for kind in SPOILT))
    target *= weight[list(pilot)].sum() / weight.sum()
    best, smallest, total = [0] * blocks, np.inf, max(1.0, config.events / 20)
    for _ in range(6):
        sessions = np.diff(np.rint(reached * total).astype(int)).tolist()
        events = sum(
            len(acts.simulate(config, items, users, seed, block, sessions[block])["user"])
            for block, users in pilot.items()
        )
        miss = abs(events / target - 1)
        if miss < smallest:
            best, smallest = sessions, miss
        if miss < 0.005:
            break
        total = max(1.0, total * target / max(events, 1))
    return best
