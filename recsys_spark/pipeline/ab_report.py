"""Read out an A/B test: what the job `ab_report` is asked, and what it answers."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from recsys_spark.config import AssignmentsConfig
from recsys_spark.dataset.events import read_events
from recsys_spark.errors import ConfigError, DataError
from recsys_spark.evaluation.ab.plan import Plan, as_if_assigned, plan
from recsys_spark.evaluation.ab.read_out import ReadOut, arm_shares, read_out
from recsys_spark.evaluation.ab.users import Assignments, moments_of_looks, read_assignments, user_days
from recsys_spark.log.privacy import as_pseudonyms, current_key_id
from recsys_spark.pipeline import night
from recsys_spark.pipeline.context import Context, StageResult
from recsys_spark.tracking.experiment_report import experiment_markdown, experiment_plot, plan_markdown
from recsys_spark.tracking.runs import own_run
from recsys_spark.warehouse import Version, fingerprint

FLAGS = {"--plan": "before an experiment: how many users it needs, by the log's last experiment.days; no assignments"}
TABLE = "experiments"
_CODE = ("evaluation", "tracking/experiment_report.py", "log/privacy.py")
_REPORT, _FIGURES, _PICTURE = "report.md", "report.json", "report.png"


def ab_report(context: Context, arguments: argparse.Namespace) -> StageResult:
    """Read out the experiment at the end of the run date, or plan one."""
    return _plan(context) if arguments.plan else _report(context)


def _report(context: Context) -> StageResult:
    experiment = context.config.experiment
    if experiment.assignments is None:
        raise ConfigError("experiment.assignments is not set: name the table of who was given which arm, or ask --plan")
    events = night.live_events(context)
    versions = {batch: version.name for batch, version in events.items()}
    items = night.items(context)
    made_from = (
        experiment.model_dump(), current_key_id(context.config.log.privacy), versions, items.name,
        _state(experiment.assignments),
    )  # fmt: skip
    name = f"{context.day}-{fingerprint(_CODE, *made_from)}"

    def build(path: Path) -> dict[str, Any]:
        found = _read_out(context, _once(context, events))
        (path / _REPORT).write_text(experiment_markdown(found), encoding="utf-8")
        figures = json.loads(json.dumps(found.to_json()), parse_constant=lambda _: None)  # JSON has no NaN
        (path / _FIGURES).write_text(json.dumps(figures, indent=1), encoding="utf-8")
        experiment_plot(found, path / _PICTURE)
        return {"table": TABLE, "run_date": str(context.day), **figures}

    version, made = context.warehouse.slot(TABLE, date=context.day).materialize(name, build)
    _track(context, version)
    text = (version.path / _REPORT).read_text(encoding="utf-8")
    print(text)
    known = version.manifest
    return StageResult(
        inputs={"assignments": str(experiment.assignments.resolve()), "events": versions},
        outputs={
            "report": str(version.path / _REPORT), "figures": str(version.path / _FIGURES),
            "picture": str(version.path / _PICTURE), "reused": not made,
        },
        counts={**{f"users_{arm}": n for arm, n in known["mismatch"]["users"].items()}, "crossed": known["crossed"]},
        metrics={
            "mismatch_p": known["mismatch"]["p_value"],
            "verdicts": {arm: v["call"] for arm, v in known["verdicts"].items()},
            "why": {arm: v["text"] for arm, v in known["verdicts"].items()},
            "lift": {arm: {m: e["always"] for m, e in of.items()} for arm, of in known["effects"].items()},
        },
    )  # fmt: skip


def _read_out(context: Context, events: DataFrame) -> ReadOut:
    experiment, spark, day = context.config.experiment, context.spark, context.day
    assert experiment.assignments is not None
    given = _assigned(context, experiment.assignments)
    until = given.rows.where(F.to_date("assigned_at") <= F.lit(day)).persist()
    users = {row.arm: row["count"] for row in until.groupBy("arm").count().collect()}
    if not users:
        raise DataError(f"{experiment.assignments.resolve()}: nobody was given an arm by {day}; choose a later --date")
    arm_shares(users, experiment)  # before the events are read
    first = until.agg(F.min(F.to_date("assigned_at"))).first()[0]
    items = spark.read.parquet(night.items(context).data)
    days = user_days(until, events, items, experiment, day)
    looks = moments_of_looks(days, first, day, experiment.retention_days)
    until.unpersist()
    return read_out(users, given.crossed, looks, experiment)


def _assigned(context: Context, config: AssignmentsConfig) -> Assignments:
    given = read_assignments(context.spark, config)
    if given.crossed:
        print(f"warning: {given.crossed} users were given more than one arm; they are left out", file=sys.stderr)
    return Assignments(as_pseudonyms(given.rows, context.config.log.privacy), given.crossed)


def _once(context: Context, events: dict[str, Version]) -> DataFrame:
    """Each event once, however many batches delivered it."""
    rows = read_events(context.spark, events, context.day)
    return rows if len(events) == 1 else rows.dropDuplicates(["event_id", "user_id", "item_id"])


def _state(config: AssignmentsConfig) -> list[tuple[str, int, int]]:
    path = config.resolve()
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    return [(f.name, f.stat().st_size, f.stat().st_mtime_ns) for f in files]


def _track(context: Context, version: Version) -> None:
    with own_run(context.store, f"experiment {context.day}", "ab_report", context.day) as run:
        text = (version.path / _REPORT).read_text(encoding="utf-8")
        run.describe(text)
        for name in (_REPORT, _FIGURES, _PICTURE):
            run.artifact(version.path / name)
        run.params(context.config.experiment.model_dump(mode="json"))
        for arm, effects in version.manifest["effects"].items():
            for metric, effect in effects.items():
                lift = {"": effect["lift"]["value"], "_low": effect["always"]["low"], "_high": effect["always"]["high"]}
                run.metrics({f"{arm}_{metric}_lift{end}": x for end, x in lift.items() if x is not None})


def _plan(context: Context) -> StageResult:
    experiment = context.config.experiment
    events = _once(context, night.live_events(context))
    everyone = as_if_assigned(events, context.day, experiment.days)
    items = context.spark.read.parquet(night.items(context).data)
    days = user_days(everyone, events, items, experiment, context.day)
    looks = moments_of_looks(days, context.day, context.day, experiment.retention_days)
    plans: dict[str, Plan] = plan(looks, context.day, experiment)
    print(plan_markdown(plans, experiment.days))
    return StageResult(
        inputs={"days": experiment.days},
        counts={f"users_{name}": p.users for name, p in plans.items()},
        metrics={name: asdict(p) for name, p in plans.items()},
    )
