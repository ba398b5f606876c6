"""How much of the exposure groups of items get in each model's lists, beside what they have of catalogue and log."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyspark.sql import DataFrame

from recsys_spark.evaluation.item_facts import ItemFacts
from recsys_spark.evaluation.lists import ranked_matrix
from recsys_spark.evaluation.metrics.fairness import exposure_ratio, group_exposure
from recsys_spark.evaluation.slices import ITEM_CLASSES, item_classes

K = 10
_MOST_GROUPS = 12


@dataclass(frozen=True, eq=False)
class ItemGroups:
    """One way to put items into groups."""

    names: tuple[str, ...]
    of_item: NDArray[np.int64]
    """Group of each id, `[n_items]`; -1 is none."""


def popularity_groups(users: NDArray[np.int64]) -> ItemGroups:
    """Put items into head and tail, and those that nobody has into none: they cannot be due anything.

    Args:
        users: training users who have each item, `[n_items]`.
    """
    classes = item_classes(users).astype(np.int64)  # 0 is cold
    return ItemGroups(tuple(ITEM_CLASSES[1:]), classes - 1)


def kind_groups(facts: ItemFacts) -> ItemGroups:
    """Put each item into the most frequent of its categories, of the catalogue's twelve; the rest into none."""
    first = facts.kinds[:, :_MOST_GROUPS].toarray()
    group = np.where(first.any(axis=1), first.argmax(axis=1), -1)
    return ItemGroups(facts.names[:_MOST_GROUPS], group.astype(np.int64))


def exposures(users: DataFrame, groups: Mapping[str, ItemGroups], split: str = "test") -> dict[str, dict[str, Any]]:
    """Add up the exposure of each group in the first ten ranks: by kind and model, `[G]`.

    Args:
        users: rows of `USER_METRICS`.
    """
    rows = users.where(f"split = '{split}'").select("model", "items")
    add = partial(_add, groups=groups)
    found: dict[str, dict[str, Any]] = {}
    for row in rows.mapInArrow(add, "model string, kind string, exposure array<double>").collect():
        of = found.setdefault(row["kind"], {})
        of[row["model"]] = of.get(row["model"], 0) + np.asarray(row["exposure"])
    return found


def _add(batches: Iterator[pa.RecordBatch], groups: Mapping[str, ItemGroups]) -> Iterator[pa.RecordBatch]:
    for rows in batches:
        names = rows["model"].dictionary_encode()
        ranked, of = ranked_matrix(rows["items"], K), names.indices.to_numpy()
        out: dict[str, list[Any]] = {"model": [], "kind": [], "exposure": []}
        for kind, group in groups.items():
            most = max(len(group.of_item), int(ranked.max(initial=0)) + 1)
            padded = np.pad(group.of_item, (0, most - len(group.of_item)), constant_values=-1)
            for n, model in enumerate(names.dictionary.to_pylist()):
                out["model"].append(model)
                out["kind"].append(kind)
                out["exposure"].append(group_exposure(ranked[of == n], padded, len(group.names), K).tolist())
        yield pa.RecordBatch.from_pydict(out, schema=_SCHEMA)


_SCHEMA = pa.schema([("model", pa.string()), ("kind", pa.string()), ("exposure", pa.list_(pa.float64()))])


def to_json(
    found: Mapping[str, Mapping[str, Any]], groups: Mapping[str, ItemGroups], users: NDArray[np.int64]
) -> dict[str, Any]:
    """Return by kind and group its share of the items and interactions, and by model its share of the exposure.

    `ratio` is the share of the exposure over that of the interactions (`metrics.fairness.exposure_ratio`).
    """
    told: dict[str, Any] = {}
    for kind, group in groups.items():
        n, there = len(group.names), group.of_item >= 0
        items = np.bincount(group.of_item[there], minlength=n)
        due = np.bincount(group.of_item[there], users[there], n)
        ratios = {model: exposure_ratio(of, due) for model, of in found.get(kind, {}).items()}
        shares = {model: of / of.sum() if of.sum() else of for model, of in found.get(kind, {}).items()}
        told[kind] = {
            name: {
                "items": float(items[g] / max(items.sum(), 1)), "interactions": float(due[g] / max(due.sum(), 1)),
                "exposure": {model: float(of[g]) for model, of in shares.items()},
                "ratio": {model: float(of[g]) for model, of in ratios.items() if of[g] == of[g]},
            }
            for g, name in enumerate(group.names)
            if items[g]
        }  # fmt: skip
    return told
