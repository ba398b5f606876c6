"""Run by spark-submit on a cluster: fit ALS twice, and kill -9 an executor in the middle of the second fit."""

from __future__ import annotations

import json
import sys
import tempfile
import threading
from pathlib import Path

import numpy as np
import pandas as pd
import psutil

from recsys_spark.config import SparkConfig
from recsys_spark.models import als
from recsys_spark.models.base import TrainingData
from recsys_spark.session import get_session

ENTRIES, USERS, ITEMS = 400_000, 20_000, 4_000


def executors() -> dict[int, psutil.Process]:
    """Return the executors of this application, which its master's workers started."""
    driver = f":{spark.sparkContext.getConf().get('spark.driver.port')}"
    found = {}
    for process in psutil.process_iter():
        try:
            command = " ".join(process.cmdline())
            if "CoarseGrainedExecutorBackend" in command and f"{driver} " in command:
                found[process.pid] = process
        except psutil.Error:  # gone meanwhile
            continue
    return found


def fit(kill: bool) -> tuple[np.ndarray, bool]:
    """Return the factors, and whether an executor was lost while an iteration ran."""
    running, struck = threading.Event(), threading.Event()

    def strike() -> None:
        running.wait(120)
        victim = next(iter(executors().values()))
        victim.kill()
        victim.wait(30)
        struck.set()

    def log(step: int, figures: dict[str, float]) -> None:
        if kill and step == 3:
            # the tasks of the fourth iteration begin while this thread looks for its victim
            threading.Thread(target=strike, daemon=True).start()
            running.set()

    config = als.Config(rank=32, iterations=8, blocks=8)
    with tempfile.TemporaryDirectory(dir=sys.argv[1]) as scratch:
        model = als.fit(TrainingData(rows, 1, Path(scratch), log=log), config)
    return model.factors, struck.is_set()


if __name__ == "__main__":
    spark = get_session(SparkConfig(shuffle_partitions=4), "kill an executor")
    drawn = np.random.default_rng(1)
    frame = {
        "user_id": drawn.integers(1, USERS, ENTRIES, np.int32),
        "item_id": drawn.integers(1, ITEMS, ENTRIES, np.int32),
    }
    path = str(Path(sys.argv[1]) / "interactions")
    pd.DataFrame(frame).drop_duplicates().to_parquet(f"{path}.parquet", index=False)
    rows = spark.read.parquet(f"{path}.parquet").selectExpr("*", "1.0f weight").repartition(4)
    before = executors()
    whole, _ = fit(kill=False)
    after, lost = fit(kill=True)
    print(json.dumps({"executors": len(before), "lost_before_the_end": lost, "same": bool((whole == after).all())}))
