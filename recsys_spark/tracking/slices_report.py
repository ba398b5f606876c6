"""Slices for people: all of them as a table, the worst by name."""

from __future__ import annotations

from typing import Any

import pandas as pd

from recsys_spark.evaluation.evaluate import Results
from recsys_spark.tracking.guardrails import METRIC

_SHOWN = 3


def slice_table(slices: Results, split: str = "test") -> pd.DataFrame:
    """Return one row per model and slice: NDCG@10, the interval's ends, and the users.

    >>> from recsys_spark.evaluation.bootstrap import Interval
    >>> slice_table({"als": {"test": {"item=tail": Interval(0.1, 0.0, 0.2, 40)}}}).values.tolist()
    [['als', 'item=tail', 0.1, 0.0, 0.2, 40]]
    """
    rows = [
        (model, name, found.mean, found.low, found.high, found.n)
        for model, splits in slices.items()
        for name, found in sorted(splits.get(split, {}).items())
    ]
    return pd.DataFrame(rows, columns=["model", "slice", METRIC, "low", "high", "users"])


def worst_slices(
    slices: Results, results: Results, min_users: int, split: str = "test"
) -> dict[str, list[dict[str, Any]]]:
    """Name each model's slices of at least `min_users` that are surely below its mean, worst first, three at most.

    Surely: the slice's whole interval is below the mean of all users.

    >>> from recsys_spark.evaluation.bootstrap import Interval
    >>> every = {"als": {"test": {"ndcg@10": Interval(0.5, 0.4, 0.6, 900)}}}
    >>> head, tail = Interval(0.6, 0.5, 0.7, 500), Interval(0.1, 0.0, 0.2, 400)
    >>> worst_slices({"als": {"test": {"item=tail": tail, "item=head": head}}}, every, min_users=100)
    {'als': [{'slice': 'item=tail', 'ndcg@10': 0.1, 'users': 400}]}
    """
    found: dict[str, list[dict[str, Any]]] = {}
    for model, splits in slices.items():
        if split not in splits:
            continue
        mean = results[model][split][METRIC].mean
        below = [(i.mean, name, i.n) for name, i in splits[split].items() if i.n >= min_users and i.high < mean]
        found[model] = [{"slice": name, METRIC: value, "users": n} for value, name, n in sorted(below)[:_SHOWN]]
    return found


def slices_markdown(worst: dict[str, list[dict[str, Any]]]) -> str:
    """Return one line per model with its worst slices, for the description of a run."""
    lines = []
    for model, rows in worst.items():
        named = ", ".join(f"{r['slice']} {r[METRIC]:.4f} ({r['users']} users)" for r in rows)
        lines.append(f"- {model}: {named or 'none is surely below its mean'}")
    return f"Worst slices by {METRIC}:\n\n" + "\n".join(lines) + "\n" if lines else ""
