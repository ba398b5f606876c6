"""The ranked comparison of a night's models: a table and a picture, where people look first."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from recsys_spark.evaluation.evaluate import Results
from recsys_spark.tracking.promotion import METRIC

_GAP = "&ensp;"


def comparison(results: Results, split: str = "test") -> pd.DataFrame:
    """Return one row per model, best NDCG@10 first: every metric, its interval's ends, and the users."""
    rows = []
    for model, splits in results.items():
        row: dict[str, object] = {"model": model}
        for metric, interval in splits.get(split, {}).items():
            row[metric] = interval.mean
            if interval.low == interval.low:  # too few users for one
                row[f"{metric} low"], row[f"{metric} high"] = interval.low, interval.high
        row["users"] = splits[split][METRIC].n if METRIC in splits.get(split, {}) else 0
        rows.append(row)
    table = pd.DataFrame(rows).sort_values([METRIC, "model"], ascending=[False, True], ignore_index=True)
    first = ["model", METRIC, f"{METRIC} low", f"{METRIC} high", "users"]
    return table[[*first, *(c for c in table if c not in first)]]


def markdown(results: Results, why: str | None = None) -> str:
    """Return the ranked comparison as Markdown, for the description on a run's page."""
    table = comparison(results)
    shown = [METRIC, *(m for m in ("recall@10", "mrr@10", "coverage@10", "rmse") if m in table)]
    # the page sets the cells of a table without any space between them
    lines = [f"| model | {METRIC} | interval | {' | '.join(f'{_GAP}{m}' for m in shown[1:])} |"]
    lines += ["|---" * (len(shown) + 2) + "|"]
    for row in table.to_dict("records"):
        figures = [f"{row[m]:.4f}" if row[m] == row[m] else "" for m in shown]
        interval = f"{row[f'{METRIC} low']:.4f} – {row[f'{METRIC} high']:.4f}"
        lines.append(f"| {row['model']}{_GAP} | {f' | {_GAP}'.join([figures[0], interval, *figures[1:]])} |")
    decided = f"**{why}**\n\n" if why else ""
    return decided + "\n".join(lines) + f"\n\nTest part, full catalogue, {table['users'].max():.0f} users.\n"


def plot(results: Results, path: Path, split: str = "test") -> None:
    """Draw every model's NDCG@10 with its interval, best on top."""
    from matplotlib.figure import Figure

    table = comparison(results, split).iloc[::-1]
    figure = Figure(figsize=(8, 0.5 * len(table) + 1.0), layout="constrained")
    axes = figure.subplots()
    middle = table[METRIC]
    spread = [middle - table[f"{METRIC} low"], table[f"{METRIC} high"] - middle]
    axes.barh(table["model"], middle, xerr=spread, color="#4c78a8", ecolor="#333333", capsize=4, height=0.6)
    for y, value in enumerate(middle):
        axes.text(0, y, f" {value:.4f}", va="center", color="white", fontweight="bold")
    axes.set_xlabel(f"{METRIC.upper()} on {split}, with its confidence interval")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)
