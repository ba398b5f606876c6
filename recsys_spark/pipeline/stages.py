"""The stages of a night, each composed of what its station offers; `nightly` runs them in this order."""

from __future__ import annotations

import datetime as dt
import functools
import sys
from collections.abc import Callable
from pathlib import Path

from recsys_spark.dataset.build import build_dataset as build
from recsys_spark.dataset.build import current_dataset
from recsys_spark.errors import ConfigError
from recsys_spark.log.catalogue import ingest_items
from recsys_spark.log.generate import generate_log as generate
from recsys_spark.log.ingest import ingest as ingest_events
from recsys_spark.models import RANKERS, TWO_STAGE
from recsys_spark.pipeline import decision as deciding
from recsys_spark.pipeline import log_checks, measurement, night, off_policy, reconciliation
from recsys_spark.pipeline.context import Context, StageResult
from recsys_spark.pipeline.report import report
from recsys_spark.recommendation.publish import publish
from recsys_spark.tracking import promotion
from recsys_spark.tracking.report import markdown
from recsys_spark.training.baselines import train_baseline as fit_baseline
from recsys_spark.training.launch import is_rank_zero, under_horovodrun
from recsys_spark.training.launch import train_deep as fit_deep
from recsys_spark.training.two_stage import join_stages

Stage = Callable[[Context], StageResult]


def generate_log(context: Context) -> StageResult:
    """Write the embedded log, unless it stands."""
    config = context.config
    if config.log.generate is None:
        raise ConfigError("log.generate is not set: this configuration reads a log of its own and needs no other")
    path = Path(config.log.resolve()).parent
    counts = generate(context.spark, config.log.generate, path, config.seed)
    return StageResult(outputs={"log": str(path)}, counts=counts)


def ingest(context: Context) -> StageResult:
    """Bring `events`, `quarantine` and `items` up to date with the log."""
    config = context.config
    done = ingest_events(context.spark, context.warehouse, config.log, context.night)
    items = ingest_items(context.spark, context.warehouse, config.log)
    last = max(done.events)
    if context.night is None:
        context.night = night.last_day(last, done.events[last])
    for change in done.changes.get(last, []):
        print(f"warning: {last}: the log's columns changed: {change}", file=sys.stderr)
    return StageResult(
        inputs={"log": str(config.log.resolve()), "batches": len(done.events)},
        outputs={"events": done.events[last].name, "items": items.name, "built": done.built, "changes": done.changes},
        counts=done.counts,
    )


def check_log(context: Context) -> StageResult:
    """Hold the run date against the days before it; a day past a `stop` of `log.gates` ends the night."""
    events = night.live_events(context)
    judged = log_checks.judge(context, events)
    with night.stage_run(context, "check_log") as run:
        log_checks.track(context, run, judged)
        log_checks.act(judged)
    profile = judged.profile
    return StageResult(
        inputs={"events": events[profile.batch].name, "trailing": [p.batch for p in judged.trailing]},
        outputs={"warned": [r.gate for r in judged.of("warn")]},
        counts={"events": profile.events, "late": profile.late, "gates": len(judged.of("pass", "warn"))},
        metrics={r.gate: r.value for r in judged.results},
    )


def build_dataset(context: Context) -> StageResult:
    """Build dictionaries, interactions, histories and the training feed of the run date."""
    events = night.live_events(context)
    made = build(context.spark, context.warehouse, context.config, context.day, events, night.items(context))
    rows = reconciliation.rows_table(events, made)
    context.night_run.table(rows, "rows.json")
    context.night_run.describe(reconciliation.markdown(rows))
    counts = {
        "interactions": made.interactions.manifest["rows"],
        **made.interactions.manifest["parts"],
        "feed_rows": made.feed.manifest["rows"],
        "users": made.feed.manifest["n_users"] - 1,
        "items": made.feed.manifest["n_items"] - 1,
        **{f"{p}_users": n for p, n in made.histories.manifest["users_with_held_out"].items()},
    }
    return StageResult(
        inputs={"events": {batch: version.name for batch, version in events.items()}},
        outputs={"dataset": made.name, "feed": str(made.feed.path)},
        counts=counts,
    )


def train_baseline(context: Context) -> StageResult:
    """Fit every model of `train.baselines` on Spark."""
    dataset = current_dataset(context.warehouse, context.day)
    result = StageResult(inputs={"dataset": dataset.name})
    for name in context.config.train.baselines:
        with night.model_run(context, name, dataset) as run:
            log = functools.partial(night.log_step, run)
            version, made = fit_baseline(context.spark, context.warehouse, context.config, dataset, name, log)
            night.finish_model(context, run, name, version, dataset)
        result.outputs[name] = version.name
        result.metrics[name] = {"seconds": version.manifest["seconds"], "reused": not made}
    return result


def train_deep(context: Context) -> StageResult:
    """Train every model of `train.deep` and `train.rankers` with Horovod, and join the two stages."""
    dataset = current_dataset(context.warehouse, context.day)
    result = StageResult(inputs={"dataset": dataset.name})
    for name in (*context.config.train.deep, *context.config.train.rankers):
        if not is_rank_zero():  # another process writes, tracks and reports
            fit_deep(context.warehouse, context.config, dataset, name)
            continue
        if not under_horovodrun():
            _ = context.spark
        with night.model_run(context, name, dataset) as run:
            log_epoch = night.epoch_logger(run)
            trained = fit_deep(context.warehouse, context.config, dataset, name, log_epoch)
            assert trained is not None
            version, made = trained
            for epoch in [] if made else night.epochs_of(version):
                log_epoch(epoch)
            if name in RANKERS:
                night.finish_ranker(context, run, name, version)
            else:
                night.finish_model(context, run, name, version, dataset)
        result.outputs[name] = version.name
        epochs = night.epochs_of(version)
        result.metrics[name] = {
            "seconds": version.manifest["seconds"],
            "reused": not made,
            "epochs": len(epochs),
            "samples_per_second": sorted(e.samples_per_second for e in epochs)[len(epochs) // 2],
            "feed_wait_share": sorted(e.feed_wait_share for e in epochs)[len(epochs) // 2],
            **version.manifest.get("measured", {}),
        }
    if is_rank_zero() and context.config.train.rankers:
        with night.model_run(context, TWO_STAGE, dataset) as run:
            log = functools.partial(night.log_step, run)
            joined = join_stages(context.spark, context.warehouse, context.config, dataset, log)
            assert joined is not None
            night.finish_model(context, run, TWO_STAGE, joined[0], dataset)
        result.outputs[TWO_STAGE] = joined[0].name
        chosen = joined[0].manifest["steps"][0][1]
        result.metrics[TWO_STAGE] = {"seconds": joined[0].manifest["seconds"], "reused": not joined[1], **chosen}
    return result


def evaluate(context: Context) -> StageResult:
    """Measure the night's models and the champion on the same held-out users, over the full catalogue."""
    dataset = current_dataset(context.warehouse, context.day)
    with night.stage_run(context, "evaluate") as run:
        version, _ = measurement.measure(context, dataset)
        measurement.report(context, run, version)
        earned = off_policy.measure(context, dataset)
        off_policy.report(context, run, earned)
    return StageResult(
        inputs={"dataset": dataset.name, "models": version.manifest["candidates"]},
        outputs={
            "user_metrics": version.name,
            "worst_slices": measurement.worst(context, version),
            "off_policy": {name: found.to_json() for name, found in earned.items()},
        },
        counts={"users": version.manifest["users"]},
        metrics=version.manifest["results"],
    )


def promote(context: Context) -> StageResult:
    """Let the best challenger take the champion's place, if it is surely better."""
    dataset = current_dataset(context.warehouse, context.day)
    with night.stage_run(context, "promote") as run:
        decision, champion = deciding.decide(context, dataset, run)
        run.tags({"recsys.decision": decision.why})
        run.metrics({"promoted": float(decision.promoted)})
        rows = reconciliation.rows_table(night.live_events(context), dataset)
        context.night_run.describe(
            markdown(measurement.results(context), decision.why) + "\n" + reconciliation.markdown(rows)
        )
    serving = {"model": champion.model, "version": champion.version, "number": champion.number} if champion else None
    return StageResult(
        inputs={"dataset": dataset.name},
        outputs={"champion": serving},
        metrics={
            "promoted": decision.promoted,
            "why": decision.why,
            "failed_checks": [check.name for check in decision.checks if not check.passed],
        },
    )


def rollback(context: Context) -> StageResult:
    """Give the champion's place back to the one before."""
    left, serves = promotion.rollback(context.store)
    return StageResult(
        outputs={"champion": {"model": serves.model, "version": serves.version, "number": serves.number}},
        metrics={"why": f"rolled back from version {left.number} ({left.model})"},
    )


def recommend(context: Context) -> StageResult:
    """Publish the champion's lists for every active user."""
    dataset = current_dataset(context.warehouse, context.day)
    popularity = night.model_version(context, "popularity", dataset)
    champion = night.resolve_champion(context, dataset)
    with night.stage_run(context, "recommend") as run:
        trained = context.day
        if champion is None:  # nothing has beaten popularity yet
            path, model_version, name = popularity.path, popularity.name, "popularity"
        else:
            path, model_version, name = night.champion_path(context, champion), champion.version, champion.model
            trained = dt.date.fromisoformat(champion.run_date)
        version, made = publish(
            context.spark, context.warehouse, context.config.publish, context.day,
            dataset.histories, path, model_version, popularity.path, night.moments(dataset, path),
        )  # fmt: skip
        figures = {k: version.manifest[k] for k in ("users", "rows", "coverage", "churn")}
        index = version.manifest["index"] or {}
        run.metrics({k: v for k, v in figures.items() if v is not None})
        run.metrics({f"index_{k}": v for k, v in index.items()})
        run.params({"model": name, "model_version": model_version, "table": version.name})
    return StageResult(
        inputs={"histories": dataset.histories.name, "model": model_version},
        outputs={
            "recommendations": version.data,
            "version": version.name,
            "exposures": context.warehouse.slot("exposures", date=context.day).path.as_posix(),
            "reused": not made,
            "live": context.warehouse.slot("recommendations").current() == version,
        },
        counts={"users": figures["users"], "rows": figures["rows"]},
        metrics={
            "model": name, "coverage": figures["coverage"], "churn": figures["churn"],
            "model_age_days": (context.day - trained).days,
        },
    )  # fmt: skip


STAGES: dict[str, Stage] = {
    "generate_log": generate_log,
    "ingest": ingest,
    "check_log": check_log,
    "build_dataset": build_dataset,
    "train_baseline": train_baseline,
    "train_deep": train_deep,
    "evaluate": evaluate,
    "promote": promote,
    "recommend": recommend,
    "report": report,
}
"""Every stage by the name of its job, in the order of the night."""
