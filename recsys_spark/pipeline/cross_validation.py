"""Rolling-origin cross-validation: the night of several dates, each measured on days that it has not seen."""

from __future__ import annotations

import dataclasses
import datetime as dt
import sys

import pandas as pd
from rich.console import Console
from rich.table import Table as Grid

from recsys_spark.dataset.build import build_dataset
from recsys_spark.dataset.splits import rolling_origins
from recsys_spark.errors import ConfigError
from recsys_spark.evaluation.evaluate import Results
from recsys_spark.log.raw import WHOLE
from recsys_spark.pipeline import measurement, night
from recsys_spark.pipeline.context import Context, StageResult
from recsys_spark.tracking.promotion import METRIC
from recsys_spark.tracking.runs import own_run
from recsys_spark.training.baselines import train_baseline
from recsys_spark.training.launch import train_deep
from recsys_spark.training.two_stage import join_stages


def cross_validate(context: Context) -> StageResult:
    """Train and measure every configured model on each fold; register, promote and publish nothing.

    The folds end `evaluation.fold_days` apart, the last with the run date. The champion takes no part: it may have
    learnt from the days on which an earlier fold is measured.

    Raises:
        ConfigError: the split is not by time, so there is no origin that could roll.
    """
    config = context.config
    if config.dataset.split != "time":
        raise ConfigError(f"dataset.split is {config.dataset.split!r}: folds are days; set it to time")
    events = night.live_events(context)
    days = rolling_origins(context.day, config.evaluation.folds, config.evaluation.fold_days)
    folds: dict[dt.date, Results] = {}
    with own_run(context.store, f"cross-validation {context.day}", "cross_validation", context.day) as run:
        for number, day in enumerate(days, start=1):
            print(f"[fold {number}/{len(days)}] {day} …", file=sys.stderr, flush=True)
            fold = dataclasses.replace(context, night=day, parent=run)
            known = {b: v for b, v in events.items() if b == WHOLE or b <= day.isoformat()}
            dataset = build_dataset(fold.spark, fold.warehouse, config, day, known, night.items(context))
            for name in config.train.baselines:
                train_baseline(fold.spark, fold.warehouse, config, dataset, name)
            for name in (*config.train.deep, *config.train.rankers):
                train_deep(fold.warehouse, config, dataset, name)
            join_stages(fold.spark, fold.warehouse, config, dataset)
            _, folds[day] = measurement.measure(fold, dataset, with_champion=False)
        table = by_fold(folds)
        totals = summary(table)
        run.table(table, "folds.json")
        run.table(totals, "summary.json")
        for row in totals.to_dict("records"):
            run.metrics({f"{row['model']}_{METRIC}_{column}": float(row[column]) for column in ("mean", "std")})
        run.describe(_markdown(totals, days))
    _show(totals, days)
    return StageResult(
        inputs={"folds": [str(day) for day in days]},
        metrics={str(r.model): {"mean": r.mean, "std": r.std, "folds": r.folds} for r in totals.itertuples()},
    )


def by_fold(folds: dict[dt.date, Results]) -> pd.DataFrame:
    """Return one row per fold and model: day, model, NDCG@10 on test with its interval, users."""
    rows = []
    for day, results in folds.items():
        for model, splits in results.items():
            found = splits["test"][METRIC]
            rows.append((str(day), model, found.mean, found.low, found.high, found.n))
    return pd.DataFrame(rows, columns=["day", "model", METRIC, "low", "high", "users"])


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """Return mean and standard deviation (n - 1) of each model's NDCG@10 over the folds, best first.

    >>> rows = [("1st", "als", 0.1), ("1st", "popularity", 0.2), ("2nd", "als", 0.5), ("2nd", "popularity", 0.2)]
    >>> summary(pd.DataFrame(rows, columns=["day", "model", "ndcg@10"])).round(3).values.tolist()
    [['als', 0.3, 0.283, 2], ['popularity', 0.2, 0.0, 2]]
    """
    totals = table.groupby("model")[METRIC].agg(["mean", "std", "count"]).reset_index()
    totals = totals.rename(columns={"count": "folds"})
    return totals.sort_values(["mean", "model"], ascending=[False, True], ignore_index=True)


def _markdown(totals: pd.DataFrame, days: list[dt.date]) -> str:
    lines = ["| model | mean | standard deviation |", "|---|---|---|"]
    lines += [f"| {r.model} | {r.mean:.4f} | {r.std:.4f} |" for r in totals.itertuples()]
    return "\n".join(lines) + f"\n\n{METRIC} on test, full catalogue, folds {', '.join(map(str, days))}.\n"


def _show(totals: pd.DataFrame, days: list[dt.date]) -> None:
    grid = Grid(title=f"{METRIC} over {len(days)} folds, {days[0]} to {days[-1]}", title_justify="left")
    for name in ("model", "mean", "standard deviation"):
        grid.add_column(name, justify="left" if name == "model" else "right")
    for r in totals.itertuples():
        grid.add_row(str(r.model), f"{r.mean:.4f}", f"{r.std:.4f}")
    Console(width=None if sys.stdout.isatty() else 120, highlight=False).print(grid)
