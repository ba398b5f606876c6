"""Take people out of profiles, from which days are compared: of samples of hashed keys, and of histograms.

A hash of an id tells whether the person was there to anyone who knows the id. It is replaced by another number
at the same place in the order, because what is read from a sample hangs on how many hashes it has.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from recsys_spark.erasure.people import People
from recsys_spark.erasure.rows import replacing
from recsys_spark.log.profile import OF_PEOPLE

SAMPLE, FIGURES = "users.npy", "profile.json"


def hashes_of(spark: SparkSession, people: People) -> NDArray[np.uint64]:
    """Return the people's hashes as samples hold them: Spark's `xxhash64`, moved to be without a sign."""
    names = spark.createDataFrame(spark.sparkContext.parallelize([(n,) for n in sorted(people.names)], 1), "id string")
    signed = np.array([row.h for row in names.select(F.xxhash64("id").alias("h")).collect()], np.int64)
    return signed.view(np.uint64) ^ np.uint64(1 << 63)


def erase_from_sample(path: Path, hashes: NDArray[np.uint64]) -> int:
    """Replace the people's hashes in an ascending sample; returns how many it had."""
    sample = np.load(path)
    if sample.dtype != np.uint64 or sample.ndim != 1:
        return 0
    found = np.flatnonzero(np.isin(sample, hashes))
    draw = np.random.default_rng()  # unseeded: what stands there now is to say nothing
    for i in found:
        low = int(sample[i - 1]) + 1 if i else 0
        high = int(sample[i + 1]) if i + 1 < len(sample) else 1 << 64
        if high - low > 1:
            fresh = int(sample[i])
            while fresh == int(sample[i]):
                fresh = low + int(draw.integers(high - low, dtype=np.uint64) if high - low < 1 << 64 else 1)
            sample[i] = fresh
    if len(found):
        with replacing(path) as aside, open(aside, "wb") as opened:
            np.save(opened, sample)
    return len(found)


def erase_from_figures(path: Path, people: People) -> int:
    """Count the people's ids in a profile's histograms among the other values; returns how many it had.

    Of columns that name people, such as older profiles may have, no value stays.
    """
    plain = json.loads(path.read_text(encoding="utf-8"))
    found = 0
    for column, histogram in plain.get("histograms", {}).items():
        values = histogram["values"]
        for value in [v for v in values if column in OF_PEOPLE or v in people.names]:
            histogram["other"] += values.pop(value)
            found += 1
    if found:
        with replacing(path) as aside:
            aside.write_text(json.dumps(plain), encoding="utf-8")
    return found
