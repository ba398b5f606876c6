"""The gates of a night: which days are compared, what is logged of it, and when the night ends here."""

from __future__ import annotations

import datetime as dt
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from recsys_spark.config import LogConfig
from recsys_spark.errors import ConfigError, DataError
from recsys_spark.log.gates import GateResult, judge_day
from recsys_spark.log.profile import OF_PEOPLE, Profile, known_columns, profile_batches, standing_profile
from recsys_spark.log.raw import WHOLE
from recsys_spark.log.unknown_items import unknown_events
from recsys_spark.pipeline.context import Context
from recsys_spark.schemas import ITEMS
from recsys_spark.tracking.gates_report import gates_markdown, gates_plot, gates_table, summary
from recsys_spark.tracking.runs import TrackedRun
from recsys_spark.warehouse import Version

GATES = "recsys.gates"
"""The tag of a night, and of its stage, that says what the gates found."""


@dataclass(frozen=True)
class Judged:
    """A day, the days it was held against, and what the gates found."""

    profile: Profile
    trailing: list[Profile]
    results: list[GateResult]

    def of(self, *statuses: str) -> list[GateResult]:
        """The results with one of the statuses."""
        return [r for r in self.results if r.status in statuses]


def judge(context: Context, events: Mapping[str, Version]) -> Judged:
    """Profile the run date and the days it is held against, where they are not yet, and judge it.

    Raises:
        ConfigError: a gate names a column that `events` has not, or one whose values nobody may keep.
        DataError: `log.gates.reference_day` has no events.
    """
    log, spark, warehouse = context.config.log, context.spark, context.warehouse
    _check_columns(log)
    batch = str(context.day) if str(context.day) in events else WHOLE
    before = _days_before(context.day, log.gates.trailing_days, events) if batch != WHOLE else []
    wanted = log.gates.reference_day
    since = str(wanted) if wanted else next(iter(before), None)
    needed = [b for b in dict.fromkeys((since, *before, batch)) if b is not None and b in events]
    chosen = {b: events[b] for b in needed}
    profiles = profile_batches(spark, warehouse, chosen, log.gates.drift_columns, list(log.gates.null_share))
    reference = profiles.get(since) or standing_profile(warehouse, since) if since else None
    if reference is None and wanted and batch != WHOLE:
        raise DataError(f"log.gates.reference_day: {wanted} has no events; ingest that day, or name another")
    profile, trailing = profiles[batch], [profiles[b] for b in before]
    share = None
    items = warehouse.slot(ITEMS.name).current()
    if log.items is not None and items is not None and profile.events:
        share = unknown_events(spark, batch, events[batch], items) / profile.events
    return Judged(profile, trailing, judge_day(profile, trailing, reference, log.gates, share))


def _days_before(day: dt.date, days: int, events: Mapping[str, Version]) -> list[str]:
    first = str(day - dt.timedelta(days=days))
    return sorted(b for b in events if b != WHOLE and first <= b < str(day))


def _known(log: LogConfig) -> list[str]:
    return known_columns(log.attributes)


def _check_columns(log: LogConfig) -> None:
    for key, columns in (("drift_columns", log.gates.drift_columns), ("null_share", list(log.gates.null_share))):
        for column in columns:
            if column not in _known(log) or (key, column) == ("null_share", "hour"):
                raise ConfigError(
                    f"log.gates.{key}: no column {column!r} in the events; they have {', '.join(_known(log))}"
                )
    attributes = {log.columns.get(name) for name in OF_PEOPLE} & {*log.attributes}
    for column in log.gates.drift_columns:
        if column in (*OF_PEOPLE, *attributes):
            raise ConfigError(
                f"log.gates.drift_columns: {column!r} names people, and a profile would keep it; leave it out"
            )


def track(context: Context, run: TrackedRun, judged: Judged) -> None:
    """Log the figures, the table and the picture to the stage's run, and the summary to the night's."""
    with tempfile.TemporaryDirectory() as folder:
        picture = Path(folder) / "gates.png"
        gates_plot(judged.results, judged.profile, judged.trailing, context.config.log.gates, picture)
        run.artifact(picture, "gates")
    run.table(gates_table(judged.results), "gates/gates.json")
    run.metrics({f"gate/{r.gate}": r.value for r in judged.results if r.value is not None})
    run.describe(gates_markdown(judged.results))
    named = {f"{GATES}.{s}": ", ".join(r.gate for r in judged.of(s)) for s in ("warn", "stop") if judged.of(s)}
    run.tags({GATES: summary(judged.results), **named})
    context.night_run.tags({GATES: summary(judged.results)})


def act(judged: Judged) -> None:
    """Print a line for every warning.

    Raises:
        DataError: a figure is above its gate's `stop`.
    """
    for result in judged.of("warn"):
        print(f"warning: {result.text}", file=sys.stderr, flush=True)
    stops = judged.of("stop")
    if stops:
        others = f"; stopped as well by {', '.join(r.gate for r in stops[1:])}" if stops[1:] else ""
        raise DataError(stops[0].text + others)
