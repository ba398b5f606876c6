"""From `user_metrics` to figures with intervals: of every model, its slices, and two models against each other."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from recsys_spark.config import EvaluationConfig
from recsys_spark.evaluation.beyond import OF_HISTORY
from recsys_spark.evaluation.bootstrap import BootstrapSums, Interval, ratio_interval
from recsys_spark.evaluation.bootstrap_rows import bootstrap_rows, paired_sums
from recsys_spark.evaluation.exposure import exposure_intervals

Results = dict[str, dict[str, dict[str, Interval]]]
"""Model -> split -> metric (or slice) -> interval."""

_ERRORS = ("squared_error", "absolute_error", "rated")


def summarise(users: DataFrame, catalogue: int, config: EvaluationConfig, seed: int) -> Results:
    """Average the per-user metrics with bootstrap intervals; add the figures of all lists, and errors where rated.

    The popularity lift is a ratio of two means over the same users, so that its interval is that of their ratio.

    Args:
        users: rows of `USER_METRICS`, of any models and parts.
        catalogue: items that could have been recommended.
    """
    errors = F.create_map(*(part for c in _ERRORS for part in (F.lit(c), F.col(c).cast("double"))))
    everything = F.map_concat("metrics", errors)
    results: Results = {}
    sums: dict[tuple[str, str], dict[str, BootstrapSums]] = {}
    for (model, split, metric), found in bootstrap_rows(users, everything, config.replicates, seed).items():
        sums.setdefault((model, split), {})[metric] = found
        if metric not in (*_ERRORS, OF_HISTORY):
            results.setdefault(model, {}).setdefault(split, {})[metric] = found.interval(config.confidence)
    for (model, split, name), interval in exposure_intervals(users, catalogue, config.ks, config.confidence).items():
        results[model][split][name] = interval
    for (model, split), of in sums.items():
        if OF_HISTORY in of:
            for k in config.ks:
                ratio = ratio_interval(of[f"popularity@{k}"], of[OF_HISTORY], config.confidence)
                lift = Interval(ratio.mean - 1, ratio.low - 1, ratio.high - 1, of[OF_HISTORY].n)
                results[model][split][f"popularity_lift@{k}"] = lift
        if of["rated"].total:
            squared, absolute, rated = (of[name] for name in _ERRORS)
            results[model][split]["rmse"] = ratio_interval(squared, rated, config.confidence, root=True)
            results[model][split]["mae"] = ratio_interval(absolute, rated, config.confidence)
    return results


def slice_results(users: DataFrame, config: EvaluationConfig, seed: int) -> Results:
    """Average NDCG@10 in every slice with bootstrap intervals; slices are named as `activity=5-19`."""
    results: Results = {}
    for (model, split, name), found in bootstrap_rows(users, F.col("slices"), config.replicates, seed).items():
        results.setdefault(model, {}).setdefault(split, {})[name] = found.interval(config.confidence)
    return results


def compare(users: DataFrame, a: str, b: str, metric: str, config: EvaluationConfig, seed: int) -> Interval:
    """Bootstrap the mean of metric(a) - metric(b) over the test users that both were measured on."""
    sums = paired_sums(users, a, b, "metrics", config.replicates, seed)
    return sums.get(metric, BootstrapSums.empty(config.replicates)).interval(config.confidence)


def to_json(results: Results) -> dict[str, Any]:
    """Turn intervals into plain mappings, for a manifest."""
    return {m: {s: {k: asdict(i) for k, i in ks.items()} for s, ks in ss.items()} for m, ss in results.items()}


def from_json(values: dict[str, Any]) -> Results:
    """Undo `to_json`."""
    return {m: {s: {k: Interval(**i) for k, i in ks.items()} for s, ks in ss.items()} for m, ss in values.items()}
