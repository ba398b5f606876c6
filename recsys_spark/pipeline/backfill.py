"""The nights of a range of days, in their order, in one process."""

from __future__ import annotations

import argparse
import datetime as dt
import sys

from recsys_spark.config import parse_date
from recsys_spark.errors import ConfigError
from recsys_spark.pipeline.context import Context, StageResult
from recsys_spark.pipeline.nightly import nightly

OPTIONS = {"--first": "first day of the range", "--last": "last day of the range"}


def backfill(context: Context, arguments: argparse.Namespace) -> StageResult:
    """Run a night for every day of a range; the first that fails ends it, because the next builds on it.

    Raises:
        ConfigError: no range, or one that ends before it begins.
    """
    if not arguments.first or not arguments.last or arguments.date:
        raise ConfigError("backfill needs --first and --last, days as YYYY-MM-DD, and no --date")
    first, last = parse_date(arguments.first[-1]), parse_date(arguments.last[-1])
    if last < first:
        raise ConfigError(f"--last {last} is before --first {first}; swap them")
    days = [first + dt.timedelta(days=n) for n in range((last - first).days + 1)]
    nights: dict[str, StageResult] = {}
    for number, day in enumerate(days, start=1):
        print(f"[night {number}/{len(days)}] {day}", file=sys.stderr, flush=True)
        nights[str(day)] = nightly(Context(context.config, context.stage, day))
    return StageResult(
        inputs={"first": first, "last": last},
        outputs={day: done.outputs for day, done in nights.items()},
        counts={"nights": len(nights)},
        metrics={day: done.metrics for day, done in nights.items()},
    )
