"""Events -> interactions beside DuckDB: filter, deduplicate, sum up with weights, 5-core, dense ids, write.

Both sides read the same Parquet files and have to agree on the core. Growth is measured on 1, 3, 10 and 30 million
events, skew with one user and one item that have a twentieth of all events each. Starting Spark is not counted;
both sides are warmed up on a tenth of the events: in a night, ingest has run in the same JVM before. The first run of
the main size is printed as well: it still compiles.
"""

from __future__ import annotations

import datetime as dt
import gc
import shutil
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import duckdb
import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
from _report import Row, finish, parser
from matplotlib import pyplot as plt
from pyspark.sql import SparkSession
from pyspark.sql import functions as F
from tqdm import tqdm

from recsys_spark.config import Config, SparkConfig
from recsys_spark.dataset.events import number, read_events
from recsys_spark.dataset.ids import extend_dictionary
from recsys_spark.dataset.interactions import mark_core, write_summed
from recsys_spark.schemas import ITEM_IDS, USER_IDS
from recsys_spark.session import get_session, together
from recsys_spark.warehouse import Slot, Version

BAR_RATIO, BAR_SLOPE, BAR_SKEW = 4.0, 1.05, 1.2
MAIN = 10_000_000
DAYS, K = 10, 5
REPEATS = 5
START = dt.date(2026, 1, 1)
TYPES = {"impression": 0.0, "view": 1.0, "click": 1.0, "purchase": 3.0, "rating": 1.0}
_SHARES = (0.10, 0.52, 0.25, 0.07, 0.06)
_PER_FILE = 1_000_000


@dataclass
class Run:
    """What one run took."""

    events: int
    seconds: float
    steps: dict[str, float] = field(default_factory=dict)
    core: tuple[int, int] = (0, 0)
    """Rows and summed weight of the core."""
    counters: dict[str, tuple[int, str]] = field(default_factory=dict)
    """Spark's own, each with the unit of a million of them."""


def generate(root: Path, events: int, skew: bool = False) -> dict[str, Version]:
    """Write events by batch: log-normal users, Zipf items, 1 % delivered again a day later. 20 events a user."""
    shutil.rmtree(root, ignore_errors=True)
    rng = np.random.default_rng(7)
    users, items = events // 20, max(100, events // 125)
    by_user = np.cumsum(rng.lognormal(0, 1.6, users))
    by_item = np.cumsum(np.arange(1, items + 1) ** -0.9)
    user_name, item_name = rng.permutation(users), rng.permutation(items)
    versions = {}
    again: pa.Table | None = None
    for day in range(DAYS):
        n = events // DAYS
        user = user_name[np.searchsorted(by_user, rng.random(n) * by_user[-1])]
        item = item_name[np.searchsorted(by_item, rng.random(n) * by_item[-1])]
        if skew:
            draw = rng.random(n)
            user[draw < 0.05], item[draw > 0.95] = user_name[0], item_name[0]
        kind = rng.choice(len(TYPES), n, p=_SHARES)
        time_us = rng.integers(0, 86_400_000_000, n) + day * 86_400_000_000
        table = pa.table({
            "event_id": pa.array(np.char.mod("e%011d", np.arange(n) + day * n)),
            "user_id": pa.array(np.char.mod("u%08d", user)),
            "item_id": pa.array(np.char.mod("i%07d", item)),
            "event_type": pa.array(np.array(list(TYPES))[kind]),
            "timestamp": pa.array(np.datetime64(START, "us") + time_us, pa.timestamp("us", tz="UTC")),
            "date": pa.array(np.full(n, np.datetime64(START + dt.timedelta(days=day)))),
            "rating": pa.array(np.where(kind == 4, rng.integers(1, 6, n), np.nan).astype("f4"), from_pandas=True),
        })  # fmt: skip
        late = table.take(pa.array(rng.choice(n, n // 100, replace=False)))
        table, again = table if again is None else pa.concat_tables([table, again]), late
        batch = str(START + dt.timedelta(days=day))
        version = Version(root / "events" / f"batch={batch}" / "v1", {})
        (version.path / "data").mkdir(parents=True)
        for part, offset in enumerate(range(0, len(table), _PER_FILE)):
            rows = table.slice(offset, _PER_FILE)
            pq.write_table(rows, version.path / "data" / f"part-{part}.parquet", compression="zstd")
        versions[batch] = version
    return versions


def ours(spark: SparkSession, root: Path, versions: dict[str, Version]) -> Run:
    """Run the data set station's own functions and time each."""
    out = root / "spark"
    shutil.rmtree(out, ignore_errors=True)
    (out / "scratch").mkdir(parents=True)
    columns = {c: c for c in ("user_id", "item_id", "timestamp", "event_type")}
    config = Config.model_validate({
        "name": "bench", "root": str(out), "log": {"path": "none", "event_types": TYPES, "columns": columns},
        "dataset": {"k_core": K},
    })  # fmt: skip
    until = START + dt.timedelta(days=DAYS + 1)  # every event is a training event
    before, steps, begin = _counters(spark), {}, time.perf_counter()

    def lap(name: str) -> None:
        steps[name] = time.perf_counter() - begin - sum(steps.values())

    rows = read_events(spark, versions, until)
    users, items = together(
        lambda: extend_dictionary(spark, Slot(out / "user_ids"), USER_IDS, rows.select("user_id")),
        lambda: extend_dictionary(spark, Slot(out / "item_ids"), ITEM_IDS, rows.select("item_id")),
    )
    lap("ids of users and items")
    pairs = write_summed(number(spark, rows, users, items), config, until, True, out / "scratch" / "pairs")
    lap("filter, deduplicate, sum up")
    marked = mark_core(pairs, K, out / "scratch")
    lap("5-core")
    marked.write.parquet(str(out / "interactions"))
    lap("mark and write")
    seconds = sum(steps.values())
    written = spark.read.parquet(str(out / "interactions")).where("in_core")
    core = written.agg(F.count("*"), F.sum(F.col("weight").cast("double"))).first()
    events = sum(pq.read_metadata(f).num_rows for v in versions.values() for f in Path(v.data).glob("*.parquet"))
    units = {"executorRunTime": "ks of tasks"}
    counters = {k: (v - before[k], units.get(k, "MB")) for k, v in _counters(spark).items()}
    return Run(events, seconds, steps, (core[0], round(core[1] or 0)), counters)


def theirs(root: Path) -> Run:
    """The same in DuckDB: string ids, hash aggregation, the k-core by semi-joins to a fixed point."""
    out = root / "duckdb"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    begin = time.perf_counter()
    db = duckdb.connect()
    db.execute("set threads = 2; set preserve_insertion_order = false")
    weight = " ".join(f"when '{name}' then {value}" for name, value in TYPES.items())
    wanted = ", ".join(f"'{name}'" for name, value in TYPES.items() if value)
    db.execute(f"""
        create temp table pairs as
        with once as (
            select event_id, user_id, item_id, any_value(event_type) as kind, min("timestamp") as ts,
                   any_value(rating) as rating
            from read_parquet('{root}/events/*/v1/data/*.parquet') where event_type in ({wanted})
            group by event_id, user_id, item_id)
        select user_id, item_id, sum(case kind {weight} end)::float as weight, arg_max(rating, ts) as rating,
               max(epoch(ts))::bigint as ts
        from once group by user_id, item_id""")
    for side in ("user", "item"):
        db.execute(f"""create temp table {side}s as select {side}_id, row_number() over (order by {side}_id)::int as id
                       from (select distinct {side}_id from pairs)""")
    db.execute("""create temp table core as select users.id as u, items.id as i, weight, rating, ts
                  from pairs join users using (user_id) join items using (item_id)""")
    rows = -1
    while True:
        for side in "ui":
            db.execute(f"""create or replace temp table core as select * from core where {side} in
                           (select {side} from core group by {side} having count(*) >= {K})""")
        left = db.execute("select count(*) from core").fetchone()[0]
        if left == rows:
            break
        rows = left
    for table in ("core", "users", "items"):
        db.execute(f"copy {table} to '{out}/{table}.parquet' (format parquet, compression zstd)")
    seconds = time.perf_counter() - begin
    core = db.execute("select count(*), sum(weight::double) from core").fetchone()
    db.close()
    return Run(0, seconds, core=(core[0], round(core[1] or 0)))


def _counters(spark: SparkSession) -> dict[str, int]:
    """Sum Spark's own counters over the stages so far: bytes, and milliseconds of tasks."""
    jvm = spark._jvm
    stages = (
        spark._jsc.sc()
        .statusStore()
        .stageList(None, False, False, spark.sparkContext._gateway.new_array(jvm.double, 0), jvm.java.util.ArrayList())
    )
    names = (
        "shuffleWriteBytes",
        "memoryBytesSpilled",
        "diskBytesSpilled",
        "inputBytes",
        "outputBytes",
        "executorRunTime",
    )
    found = [stages.apply(i) for i in range(stages.size())]
    return {name: sum(getattr(stage, name)() for stage in found) for name in names}


def _memory_mb(spark: SparkSession) -> tuple[float, float]:
    """Return what the Python driver holds, and what the JVM still holds after a collection."""
    gc.collect()
    spark._jvm.java.lang.System.gc()
    runtime = spark._jvm.java.lang.Runtime.getRuntime()
    return psutil.Process().memory_info().rss / 2**20, (runtime.totalMemory() - runtime.freeMemory()) / 2**20


def plot(runs: list[Run], slope: float, path: Path) -> None:
    """Draw seconds over events, both logarithmic, each run parted into its steps."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    millions = np.array([r.events / 1e6 for r in runs])
    seconds = np.array([r.seconds for r in runs])
    left.loglog(millions, seconds, "o-", label=f"measured, slope {slope:.2f}")
    left.loglog(millions, seconds[0] * millions / millions[0], "--", color="gray", label="slope 1")
    left.set(xlabel="million events", ylabel="seconds", title="growth")
    left.set_xticks(millions, [f"{m:.0f}" for m in millions], minor=False)
    left.minorticks_off()
    left.legend()
    bottom = np.zeros(len(runs))
    for step in runs[0].steps:
        part = np.array([r.steps[step] / r.events * 1e6 for r in runs])
        right.bar([f"{m:.0f}" for m in millions], part, bottom=bottom, label=step)
        bottom += part
    right.set(xlabel="million events", ylabel="seconds per million events", title="share of the steps")
    right.legend(fontsize=8)
    figure.savefig(path, dpi=110)


def main() -> None:
    options = parser(__doc__ or "")
    options.add_argument("--millions", type=float, nargs="+", default=[1, 3, 10, 30], help="sizes of the growth")
    options.add_argument("--memory", default="6g", help="heap of Spark's driver, which is the executor, too")
    options.add_argument("--plot", type=Path, default=Path("build/bench/etl.png"), help="picture of the growth")
    args = options.parse_args()
    begin = time.perf_counter()
    spark = get_session(SparkConfig(master="local[2]", driver_memory=args.memory), "benchmark etl")
    start_up = time.perf_counter() - begin
    rows, runs, memory = [Row("starting Spark (not counted below)", start_up, "s")], [], []
    sizes = [round(m * 1e6) for m in sorted(args.millions)]
    main_size = min(sizes, key=lambda n: abs(n - MAIN))
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "bench"
        versions = generate(root, max(10_000, main_size // 10))
        for _ in range(3):
            ours(spark, root, versions)
            theirs(root)
        for size in tqdm(sizes, desc="sizes", disable=None):
            versions = generate(root, size)
            runs.append(ours(spark, root, versions))
            memory.append(_memory_mb(spark))
            if size != main_size:
                continue
            run, peer = runs[-1], theirs(root)
            work = f"{size / 1e6:g} M events, the first run of this size"
            rows.append(Row(work, run.seconds, "s", "DuckDB", peer.seconds, run.seconds / peer.seconds))
            if run.core != peer.core:
                raise SystemExit(f"the two sides disagree: core rows and weight {run.core} here, {peer.core} in DuckDB")
            repeats = [(ours(spark, root, versions), theirs(root)) for _ in range(REPEATS)]
            run = sorted((r for r, _ in repeats), key=lambda r: r.seconds)[REPEATS // 2]
            mine, other = run.seconds, float(np.median([r.seconds for _, r in repeats]))
            rows += [Row(f"{size / 1e6:g} M events: {step}", s, "s") for step, s in run.steps.items()]
            ratio = mine / other
            bar = f"at most {BAR_RATIO:g}"
            work = f"{size / 1e6:g} M events, median of the next {REPEATS}"
            rows.append(Row(work, mine, "s", "DuckDB, 2 threads", other, ratio, bar, ratio <= BAR_RATIO))
            skewed = ours(spark, root, generate(root, size, skew=True)).seconds
            rows.append(
                Row("the same with 5 % one user's and 5 % one item's", skewed, "s", "without", mine, skewed / mine,
                    f"at most {BAR_SKEW:g}", skewed / mine <= BAR_SKEW)
            )  # fmt: skip
    for done, (python, heap) in zip(runs, memory, strict=True):
        rows.append(Row(f"{done.events / 1e6:.2f} M events", done.seconds, "s"))
        rows += [
            Row(f"{done.events / 1e6:.2f} M events: {name}", n / 1e6, unit) for name, (n, unit) in done.counters.items()
        ]
        rows.append(Row(f"{done.events / 1e6:.2f} M events: driver's Python, resident", python, "MB"))
        rows.append(Row(f"{done.events / 1e6:.2f} M events: heap after a collection", heap, "MB"))
    if len(runs) > 1:
        slope = float(np.polyfit(np.log([r.events for r in runs]), np.log([r.seconds for r in runs]), 1)[0])
        rows.append(
            Row(
                "slope of log seconds over log events",
                slope,
                "",
                bar=f"at most {BAR_SLOPE:g}",
                holds=slope <= BAR_SLOPE,
            )
        )
        args.plot.parent.mkdir(parents=True, exist_ok=True)
        plot(runs, slope, args.plot)
    finish("etl", rows, args.out)


if __name__ == "__main__":
    main()
