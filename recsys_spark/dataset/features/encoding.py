"""From features to what a network reads: numbers of mean 0 and spread 1, and ids for text.

An encoding is fitted on training rows alone, kept beside the feed, and applied to every part alike.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import reduce
from pathlib import Path

import pyarrow as pa
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

FILE = "encoding.json"
MAX_VALUES = 10_000
"""Most values of a vocabulary, the most frequent; the others are the unknown."""
_LEAST_SPREAD = 1e-6
_DECIMAL = "decimal(24,9)"


@dataclass(frozen=True)
class Encoding:
    """How features are normalised and numbered.

    Args:
        scales: mean and standard deviation of each number, over the training rows that have it.
        vocabularies: values of each text; the first has id 1, and 0 is null or a value not among them.
    """

    scales: dict[str, tuple[float, float]]
    vocabularies: dict[str, tuple[str, ...]]

    def sizes(self) -> dict[str, int]:
        """Return the number of ids of each text, with the unknown."""
        return {name: len(values) + 1 for name, values in self.vocabularies.items()}

    def apply(self, rows: DataFrame) -> DataFrame:
        """Replace numbers x by float32 (x - mean) / deviation, 0 where null, and text by its int32 id."""
        scaled = {name: _scale(name, *scale) for name, scale in self.scales.items()}
        return reduce(_number, self.vocabularies.items(), rows.withColumns(scaled))

    def save(self, path: Path) -> None:
        """Write it as JSON."""
        path.write_text(json.dumps(asdict(self), indent=1), encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> Encoding:
        """Read what `save` wrote."""
        read = json.loads(path.read_text(encoding="utf-8"))
        return cls(
            {name: (mean, spread) for name, (mean, spread) in read["scales"].items()},
            {name: tuple(values) for name, values in read["vocabularies"].items()},
        )


def fit_encoding(train: DataFrame, floats: Sequence[str], texts: Sequence[str]) -> Encoding:
    """Fit the numbers' scales and the texts' vocabularies on training rows.

    Sums are of decimals, which add up to the same in any order; a number has to be below 10^7 in size, which
    features are. The deviation is the population's; a constant has 1, so that it becomes 0. Values are numbered
    by falling count, then by value.
    """
    sums = []
    for name in floats:
        value = F.col(name).cast("double")
        sums += [F.count(value), F.sum(value.cast(_DECIMAL)), F.sum((value * value).cast(_DECIMAL))]
    row = train.agg(F.count("*"), *sums).first()
    scales = {}
    for i, name in enumerate(floats):
        count, total, squares = row[1 + 3 * i : 4 + 3 * i]
        mean = total / count if count else 0
        variance = squares / count - mean * mean if count else 0
        spread = math.sqrt(max(float(variance), 0.0))
        scales[name] = (float(mean), spread if spread > _LEAST_SPREAD else 1.0)
    return Encoding(scales, _vocabularies(train, texts))


def _vocabularies(train: DataFrame, texts: Sequence[str]) -> dict[str, tuple[str, ...]]:
    if not texts:
        return {}
    pair = F.explode(F.array(*(F.struct(F.lit(t).alias("text"), F.col(t).alias("value")) for t in texts)))
    counts = train.select(pair.alias("p")).where("p.value is not null").groupBy("p.text", "p.value").count()
    found = defaultdict(list)
    for text, value, count in counts.collect():
        found[text].append((-count, value))
    return {text: tuple(value for _, value in sorted(found[text])[:MAX_VALUES]) for text in texts}


def _scale(name: str, mean: float, spread: float) -> Column:
    scaled = (F.col(name).cast("double") - F.lit(mean)) / F.lit(spread)
    return F.coalesce(scaled, F.lit(0.0)).cast("float")


def _number(rows: DataFrame, vocabulary: tuple[str, tuple[str, ...]]) -> DataFrame:
    name, values = vocabulary
    if not values:
        return rows.withColumn(name, F.lit(0))
    ids = pa.table({name: list(values), "_id": pa.array(range(1, len(values) + 1), pa.int32())})
    table = F.broadcast(rows.sparkSession.createDataFrame(ids))
    return rows.join(table, name, "left").drop(name).withColumnRenamed("_id", name).fillna(0, [name])
