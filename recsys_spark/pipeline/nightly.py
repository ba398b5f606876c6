"""The whole night in one process, and the table at its end."""

from __future__ import annotations

import sys
import time
from typing import Any

from pyspark.sql import functions as F
from rich.console import Console
from rich.table import Table as Grid

from recsys_spark.evaluation.evaluate import Results, from_json
from recsys_spark.log.judge import REASONS
from recsys_spark.pipeline.context import Context, StageResult
from recsys_spark.pipeline.redaction import redacted
from recsys_spark.pipeline.stages import STAGES
from recsys_spark.schemas import ITEMS, RECOMMENDATIONS
from recsys_spark.tracking.promotion import METRIC
from recsys_spark.tracking.report import comparison
from recsys_spark.tracking.runs import closing, start_night
from recsys_spark.warehouse import exclusive

_SHOWN_USERS, _SHOWN_ITEMS = 5, 5


def nightly(context: Context) -> StageResult:
    """Run every stage in order; each finds done what an earlier, interrupted run of the night has done."""
    with exclusive(context.warehouse.root.absolute() / ".night"):  # one night at a time, and no erasure meanwhile
        return _nightly(context)


def _nightly(context: Context) -> StageResult:
    stages = {n: s for n, s in STAGES.items() if n != "generate_log" or context.config.log.generate is not None}
    done: dict[str, StageResult] = {}
    seconds: dict[str, float] = {}
    context.parent = start_night(context.store, context.night)
    with closing(context.parent) as run:
        run.params(redacted(context.config.model_dump(mode="json", exclude={"models", "spark", "tune"})))
        for number, (name, stage) in enumerate(stages.items(), start=1):
            _say(f"[{number}/{len(stages)}] {name} …")
            start = time.perf_counter()
            done[name] = stage(context)
            seconds[name] = time.perf_counter() - start
            _say(f"[{number}/{len(stages)}] {name} done in {seconds[name]:.1f} s")
            if name == "ingest":
                run.name_night(context.day)
        run.metrics({f"seconds_{name}": value for name, value in seconds.items()})
        run.metrics({f"ingest_{k}": v for k, v in done["ingest"].counts.items()})
        run.tags(
            {"recsys.dataset": done["build_dataset"].outputs["dataset"], "recsys.why": done["promote"].metrics["why"]}
        )
    _show(context, done, seconds)
    return StageResult(
        inputs=done["ingest"].inputs,
        outputs=done["recommend"].outputs
        | {"champion": done["promote"].outputs["champion"], "report": done["report"].outputs["report"]},
        counts=done["ingest"].counts | done["build_dataset"].counts,
        metrics={
            "why": done["promote"].metrics["why"],
            METRIC: {model: splits["test"][METRIC]["mean"] for model, splits in done["evaluate"].metrics.items()},
            "seconds": {name: round(value, 3) for name, value in seconds.items()},
        },
        stages={name: (result, seconds[name]) for name, result in done.items()},
    )


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _show(context: Context, done: dict[str, StageResult], seconds: dict[str, float]) -> None:
    """Print what a person wants to know in the morning."""
    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False, soft_wrap=True)
    console.print(f"\n[bold]Night of {context.day}, {context.config.name}[/bold], {sum(seconds.values()):.0f} s")
    _show_counts(console, done["ingest"].counts, done["build_dataset"].counts)
    console.print(_model_grid(from_json(done["evaluate"].metrics), context.config.evaluation.ks), soft_wrap=False)
    champion = done["promote"].outputs["champion"]
    serving = (
        f"{champion['model']} (registry version {champion['number']})" if champion else "popularity, no champion yet"
    )
    console.print(f"champion         {serving}: {done['promote'].metrics['why']}")
    console.print(f"recommendations  {done['recommend'].outputs['recommendations']}")
    users = done["recommend"].counts["users"]
    console.print(f"                 {users:,} users, {done['recommend'].metrics['coverage']:.0%} of the items appear")
    console.print(_list_grid(context), soft_wrap=False)
    console.print(f"the page         {done['report'].outputs['report']}")
    where = "make ui" if context.config.tracking.uri is None else context.config.tracking.uri
    console.print(f"look at the runs: {where}, experiment {context.config.name!r}")


def _show_counts(console: Console, log: dict[str, int], data: dict[str, int]) -> None:
    why = ", ".join(f"{log[r]:,} {r}" for r in REASONS if log[r])
    gone = f"{log['erased']:,} of the erased + " if log["erased"] else ""
    console.print(
        f"rows in          {log['rows_in']:,} = {log['events']:,} events + {log['duplicates']:,} duplicates + "
        f"{log['bots']:,} of bots + {gone}{log['quarantined']:,} quarantined{f' ({why})' if why else ''}"
    )
    console.print(
        f"interactions     {data['train']:,} train, {data['valid']:,} valid, {data['test']:,} test; "
        f"{data['feed_rows']:,} in the training feed"
    )


def _model_grid(results: Results, ks: list[int]) -> Grid:
    """One row per model: NDCG@10 with its interval, then the other figures."""
    k = 10 if 10 in ks else ks[0]
    columns = {f"{m}@{k}": f"{m}@{k}" for m in ("recall", "mrr", "map", "coverage")} | {f"hit_rate@{k}": f"hit@{k}"}
    table = comparison(results)
    columns |= {c: c for c in ("rmse", "mae") if c in table}
    grid = Grid(title="test, full catalogue", title_justify="left")
    for name in ("model", f"{METRIC} [interval]", *columns.values()):
        grid.add_column(name, justify="left" if name == "model" else "right", no_wrap=True)
    for row in table.to_dict("records"):
        interval = f"{row[METRIC]:.4f} [{row[f'{METRIC} low']:.4f}, {row[f'{METRIC} high']:.4f}]"
        grid.add_row(str(row["model"]), interval, *(_figure(row.get(c)) for c in columns))
    return grid


def _figure(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) and value == value else "-"


def _list_grid(context: Context) -> Grid:
    """Five users' lists with titles, for a person's eyes."""
    spark, warehouse = context.spark, context.warehouse
    lists = spark.read.parquet(warehouse.slot(RECOMMENDATIONS.name).require("").data)
    titles = spark.read.parquet(warehouse.slot(ITEMS.name).require("").data).select("item_id", "title")
    few = lists.select("user_id").distinct().orderBy(F.xxhash64("user_id")).limit(_SHOWN_USERS)
    rows = lists.join(few, "user_id").where(F.col("rank") <= _SHOWN_ITEMS).join(titles, "item_id", "left")
    named = rows.select("user_id", "model", "rank", F.coalesce("title", "item_id").alias("title"))
    grid = Grid("user", "by", f"first {_SHOWN_ITEMS} of the list", title="five users", title_justify="left")
    by_user: dict[tuple[str, str], list[str]] = {}
    for row in named.orderBy("user_id", "rank").collect():
        by_user.setdefault((row.user_id, row.model), []).append(row.title)
    for (user, model), names in by_user.items():
        grid.add_row(user, model, " · ".join(names))
    return grid
