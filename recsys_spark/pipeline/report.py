"""The page of a night: what it is made from, where it lies, and what MLflow gets of it."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from recsys_spark.dataset.feeds.impressions import MOMENTS
from recsys_spark.log.profile import Profile, standing_profile
from recsys_spark.log.raw import WHOLE
from recsys_spark.log.suppression import erased_count
from recsys_spark.models import TWO_STAGE
from recsys_spark.models.base import read_card
from recsys_spark.pipeline import night as nights
from recsys_spark.pipeline.context import Context, StageResult
from recsys_spark.reporting.calibration import Reliability, reliability
from recsys_spark.reporting.drift import shares
from recsys_spark.reporting.lists import lists
from recsys_spark.reporting.night import Measured, Night, Published, Tracked
from recsys_spark.reporting.page import FILE, TABLE, render
from recsys_spark.reporting.people import Person, people
from recsys_spark.reporting.tracked import tracked
from recsys_spark.schemas import HISTORIES, ITEM_IDS, RECOMMENDATIONS, USER_IDS, USER_METRICS
from recsys_spark.warehouse import Version, fingerprint

_REMEDY = "move the version's folder away, and run the job again: the page then leaves the model out"
_CODE = ("reporting", "reporting/page.html", "reporting/page.css", "pipeline/report.py")


def report(context: Context) -> StageResult:
    """Make the page of the run date, from what its stages have left.

    Raises:
        DataError: the run date was not measured.
    """
    warehouse, day = context.warehouse, context.day
    slot = warehouse.slot(USER_METRICS.name, date=day)
    measured = slot.require(f"run jobs/evaluate.py --date {day} first")
    before, lists_of = _before(context), _published(context)
    known = tracked(context.night_run)
    made_from = [v.name if v else None for v in (measured, before, lists_of)]
    name = f"{day}-{fingerprint(_CODE, made_from, vars(known), _settings(context), erased_count(warehouse))}"

    def build(path: Path) -> dict[str, Any]:
        night = _night(context, measured, before, lists_of, known)
        (path / FILE).write_text(render(night), encoding="utf-8")
        return {
            "table": TABLE, "run_date": str(day), "churn": dict(night.lists.churn),
            # neither the lists nor the night before: what a page is made from stays as long as the page
            **warehouse.parents(measured),
        }  # fmt: skip

    version, made = warehouse.slot(TABLE, date=day).materialize(name, build)
    page = version.path / FILE
    with nights.stage_run(context, "report") as run:
        run.metrics({f"{model}_churn_at_10": value for model, value in version.manifest["churn"].items()})
        run.tags({"recsys.report": version.name})
        context.night_run.artifact(page, TABLE)
    return StageResult(
        inputs={"user_metrics": measured.name, "recommendations": lists_of.name if lists_of else None},
        outputs={"report": str(page), "reused": not made},
        counts={"bytes": page.stat().st_size},
    )


def _settings(context: Context) -> list[Any]:
    config = context.config
    gates = config.log.gates
    return [
        config.name, config.promotion.min_slice_users, config.train.valid_users, config.seed,
        config.log.privacy.pseudonymise, str(gates.reference_day), gates.trailing_days,
    ]  # fmt: skip


def _before(context: Context) -> Version | None:
    """Return the measurement of the last night before the run date."""
    days = [d for d in context.warehouse.keys(USER_METRICS.name, "date") if d < str(context.day)]
    return context.warehouse.slot(USER_METRICS.name, date=days[-1]).current() if days else None


def _published(context: Context) -> Version | None:
    """Return the newest lists of the run date, whether they are live or not."""
    versions = context.warehouse.slot(RECOMMENDATIONS.name).versions()
    mine = [v for v in versions if v.manifest["run_date"] == str(context.day)]
    return mine[-1] if mine else None


def _night(
    context: Context, measured: Version, before: Version | None, published: Version | None, known: Tracked
) -> Night:
    warehouse, day = context.warehouse, context.day
    histories = warehouse.slot(HISTORIES.name, date=day).current()
    feed = warehouse.slot("feeds/pairs", date=day).current()
    items = feed.path / "items" if feed else None
    earlier = None
    if before is not None:
        earlier = Measured.of(before, dt.date.fromisoformat(before.path.parent.name.removeprefix("date=")))
    reference, now = _profiles(context)
    return Night(
        context.config.name, day, histories.name if histories else measured.name, Measured.of(measured, day), earlier,
        known,
        _lists(published, known) if published else None, context.config.promotion.min_slice_users,
        lists(context.spark, measured, histories, items, before),
        _reliability(context, known),
        shares(reference, now) if reference and now else [], reference.batch if reference else None,
        people_of(context),
        context.config.log.privacy.pseudonymise,
    )  # fmt: skip


def _lists(version: Version, known: Tracked) -> Published:
    of = version.manifest
    return Published(version.name, of["users"], of["rows"], of["coverage"], of["churn"], known.published)


def _reliability(context: Context, known: Tracked) -> list[Reliability]:
    feed = context.warehouse.slot("feeds/impressions", date=context.day).current()
    found: list[Reliability] = []
    for name, version in sorted(known.rankers.items()):
        saved = context.warehouse.slot(f"models/{name}", date=context.day).version(version)
        if saved is not None and feed is not None:
            path = nights.intact(saved.path, _REMEDY)
            found += reliability(name, path, feed.path, context.config.train.valid_users, context.config.seed)
    return found


def _profiles(context: Context) -> tuple[Profile | None, Profile | None]:
    """Return the profile of the day that drift was measured against, and that of the run date."""
    warehouse, gates, day = context.warehouse, context.config.log.gates, str(context.day)
    days = [b for b in warehouse.keys("profiles", "batch") if b != WHOLE]
    first = str(context.day - dt.timedelta(days=gates.trailing_days))
    wanted = str(gates.reference_day) if gates.reference_day else next((d for d in days if first <= d < day), None)
    reference = standing_profile(warehouse, wanted) if wanted else None
    return reference, standing_profile(warehouse, day)


def people_of(context: Context, wanted: Sequence[str] | None = None) -> list[Person]:
    """Return users of the run date with their histories and what every model says: twenty, or those that are named.

    Nobody where the night's lists or histories are no longer in the warehouse.
    """
    published = _published(context)
    histories = context.warehouse.slot(HISTORIES.name, date=context.day).current()
    if published is None or histories is None:
        return []
    spark, warehouse = context.spark, context.warehouse
    slot = warehouse.slot(USER_METRICS.name, date=context.day)
    measured = slot.require(f"run jobs/evaluate.py --date {context.day} first")
    users, items = (spark.read.parquet(warehouse.slot(t.name).require("").data) for t in (USER_IDS, ITEM_IDS))
    feed = warehouse.slot("feeds/impressions", date=context.day).current()
    moment = feed.path / MOMENTS / "known=test" if feed else None
    saved = {}
    for name, version in measured.manifest["candidates"].items():
        found = _saved(context, version)
        if found is not None and (moment is not None or read_card(found)["model"] != TWO_STAGE):
            saved[name] = found
    return people(
        spark, spark.read.parquet(published.data), spark.read.parquet(histories.data), (users, items),
        spark.read.parquet(nights.items(context).data), saved, moment, wanted,
    )  # fmt: skip


def _saved(context: Context, version: str) -> Path | None:
    """Return where a model's version lies in this warehouse, or None."""
    cards = context.warehouse.root.absolute().glob(f"models/*/*/{version}/model.json")
    found = next((card.parent for card in cards), None)
    return None if found is None else nights.intact(found, _REMEDY)
