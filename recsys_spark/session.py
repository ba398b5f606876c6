"""The one SparkSession builder."""

from __future__ import annotations

import gc
import os
import shutil
import sys
import zipimport
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from pyspark import RDD, SparkConf, SparkContext
from pyspark.sql import SparkSession

from recsys_spark.config import SparkConfig
from recsys_spark.errors import RunError

_T = TypeVar("_T")

JAVA_OPTIONS = "-XX:+UseParallelGC"
"""A batch job wants throughput, not short pauses: the data set was built a tenth faster than with the default."""

_DEFAULTS = {
    # Every time in the tables is UTC; a session in local time would move events across days.
    "spark.sql.session.timeZone": "UTC",
    "spark.sql.execution.arrow.pyspark.enabled": "true",
    "spark.sql.parquet.compression.codec": "zstd",
    "spark.hadoop.parquet.compression.codec.zstd.level": "1",
    "spark.ui.enabled": "false",
    # A bar for a person at a terminal; in a log file it would be noise.
    "spark.ui.showConsoleProgress": str(sys.stderr.isatty()).lower(),
    # MLlib's ALS and iterative k-core are unions of many small stages; broadcasts stay small.
    "spark.sql.autoBroadcastJoinThreshold": str(64 << 20),
    "spark.driver.maxResultSize": "2g",
    # A second, smaller hash map in front of the first pays where groups are few; ours are users, items and pairs.
    "spark.sql.codegen.aggregate.map.twolevel.enabled": "false",
}


def get_session(config: SparkConfig, name: str) -> SparkSession:
    """Return the running session, or build it.

    Settings given to `spark-submit` win, then `config`, then the house's defaults: a job started on a
    cluster needs no change to its YAML.
    """
    if SparkContext._active_spark_context is None:
        if "PYSPARK_GATEWAY_PORT" in os.environ:
            # What spark-submit was given is in its JVM, and a SparkConf knows of it from here on only.
            SparkContext._ensure_initialized()
        else:
            _require_java()
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    os.environ.setdefault("PYSPARK_DRIVER_PYTHON", sys.executable)
    # Loopback is right for local[*]; a cluster's driver has to be reachable from the executors.
    conf = SparkConf()
    if conf.get("spark.master", config.master).startswith("local"):
        os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
    log4j = Path(__file__).with_name("log4j2.properties")
    wanted = {
        # Hadoop goes by a mask of its own, which lets everybody read what the process' mask would not.
        "spark.hadoop.fs.permissions.umask-mode": f"{_umask():03o}",
        **_event_log(config.event_log),
        "spark.master": config.master,
        "spark.driver.memory": config.driver_memory,
        "spark.sql.shuffle.partitions": str(config.shuffle_partitions),
        "spark.driver.extraJavaOptions": f"-Dlog4j2.configurationFile={log4j.as_uri()} {JAVA_OPTIONS}",
        "spark.executor.extraJavaOptions": JAVA_OPTIONS,
        **config.conf,
    }
    for key, value in {**_DEFAULTS, **wanted}.items():
        conf.setIfMissing(key, value)
    if conf.get("spark.app.name", ".py").endswith(".py"):  # spark-submit's own idea of a name: the file's
        conf.set("spark.app.name", name)
    spark = SparkSession.builder.config(conf=conf).getOrCreate()
    spark.sparkContext.setLogLevel("ERROR")
    return spark


def _umask() -> int:
    """Return the process' mask for the permissions of new files, which can only be read by setting it."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _event_log(folder: str | None) -> dict[str, str]:
    """Return what writes event logs: packed, and in parts, so that a long night's history is readable meanwhile."""
    if folder is None:
        return {}
    if "://" not in folder:
        path = Path(folder).absolute()
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(f"{path}: cannot be made ({error.strerror}); set spark.event_log") from None
        folder = path.as_uri()
    return {
        "spark.eventLog.enabled": "true",
        "spark.eventLog.dir": folder,
        "spark.eventLog.compress": "true",
        "spark.eventLog.rolling.enabled": "true",
        "spark.eventLog.rolling.maxFileSize": "64m",
    }


def together(*actions: Callable[[], _T]) -> list[_T]:
    """Run Spark actions at the same time and return their results in order.

    Where one waits for its last task, or for the driver, the other has the cores.
    """
    with ThreadPoolExecutor(len(actions)) as pool:
        return list(pool.map(lambda action: action(), actions))


def deal(context: SparkContext, work: Sequence[_T]) -> RDD[_T]:
    """Deal pieces of work of about one size to as many tasks as there are slots.

    Not a task for each: a task in Python costs most of a tenth of a second before it begins.
    """
    dealt = context.parallelize(work, max(1, min(len(work), context.defaultParallelism)))
    return dealt.mapPartitions(_prepared)


def _prepared(pieces: Iterable[_T]) -> Iterable[_T]:
    """Halve what the worker's next tasks cost before they begin.

    Ahead of a task PySpark has every finder forget what it has seen, and Python's for zip archives reads its archive
    anew at that, pyspark.zip and a jar of Spark's among them: 80 ms, for files that do not change. Behind a task it
    collects garbage, and looks through every module for it: 20 ms and more.
    """
    zipimport.zipimporter.invalidate_caches = lambda self: None  # type: ignore[method-assign]
    if not gc.get_freeze_count():
        gc.collect()
        gc.freeze()
    return pieces


def task_threads(context: SparkContext) -> int:
    """Return how many threads a task may use."""
    return int(context.getConf().get("spark.task.cpus", "1"))


def _require_java() -> None:
    """Say in one line what Spark would say in forty."""
    home = os.environ.get("JAVA_HOME")
    if shutil.which("java", path=f"{home}/bin" if home else None) is None:
        where = f"in JAVA_HOME={home}" if home else "on PATH"
        raise RunError(f"no Java {where}; run `make setup`, or install Java 17 and set JAVA_HOME")
