"""The ranked comparison of a night's models: a table and a picture, where people look first."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from recsys_spark.evaluation.evaluate import Results
from recsys_spark.tracking.promotion import METRIC


def comparison(results: Results, split: str = "test") -> pd.DataFrame:
    """Return one row per model, best NDCG@10 first: every metric, its interval's ends, and the users."""
    rows = []
    for model, splits in results.items():
        row: dict[str, object] = {"model": model}
        for metric, interval in splits.get(split, {}).items():
            row[metric] = interval.mean
            if interval.low == interval.low:  # coverage and rating errors have no interval
                row[f"{metric} low"], row[f"{metric} high"] = interval.low, interval.high
                row["users"] = interval.n
        rows.append(row)
    table = pd.DataFrame(rows)
    return (
        table.sort_values([METRIC, "model"], ascending=[False, True], ignore_index=True) if METRIC in table else table
    )


def plot(results: Results, path: Path, split: str = "test") -> None:
    """Draw every model's NDCG@10 with its interval, best on top."""
    from matplotlib.figure import Figure

    table = comparison(results, split).iloc[::-1]
    figure = Figure(figsize=(7, 0.6 * len(table) + 1.4), layout="constrained")
    axes = figure.subplots()
    middle = table[METRIC]
    spread = [middle - table[f"{METRIC} low"], table[f"{METRIC} high"] - middle]
    axes.barh(table["model"], middle, xerr=spread, color="#4c78a8", ecolor="#333333", capsize=4, height=0.6)
    for y, value in enumerate(middle):
        axes.text(0, y, f" {value:.4f}", va="center", color="white", fontweight="bold")
    axes.set_xlabel(f"{METRIC.upper()} on {split}, with its confidence interval")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)
