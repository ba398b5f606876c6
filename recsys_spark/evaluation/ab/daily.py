"""From what users did day by day to the moments of every metric, arm and look.

At each look a user's vector has four sums: numerator and denominator of the metric since the assignment, and the same
from before it, which no arm can have changed and by which CUPED takes spread away.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from recsys_spark.evaluation.user_sums import Floats, Moments

COUNTS = ("impressions", "clicks", "purchases", "revenue", "active", "retained")
"""What is counted of each user and day; `active` is 1, `retained` 1 on a day that makes a user a retained one."""
SIZE = 4
"""Sums of a user's vector: numerator, denominator, and both from before the assignment."""


@dataclass(frozen=True)
class Metric:
    """A ratio of two counts, or a mean over users where there is no denominator."""

    numerator: str
    denominator: str | None
    before: tuple[str, str | None]
    """The same of the time before the assignment."""
    label: str


METRICS = {
    "ctr": Metric("clicks", "impressions", ("clicks", "impressions"), "clicks per impression"),
    "cvr": Metric("purchases", "clicks", ("purchases", "clicks"), "purchases per click"),
    "revenue": Metric("revenue", None, ("revenue", None), "revenue per user"),
    "retention": Metric("retained", None, ("active", None), "share of users retained"),
}


@dataclass(frozen=True)
class Look:
    """One day's look at one metric of one arm."""

    day: int
    """Days since 1970; everything up to the end of it counts."""
    arm: str
    metric: str
    moments: Moments


def looks(rows: pd.DataFrame, days: Iterable[int], retention_days: int) -> Iterator[Look]:
    """Add up the days of some users.

    Args:
        rows: a row per user and day, and at least one per user: `user_id`, `arm`, `assigned` and `day` (days since
            1970), `pre` (whether it is from before the assignment, of whatever day) and `COUNTS`.
        days: the looks, in order.
        retention_days: as `experiment.retention_days`.

    Yields:
        A look for each day, metric and arm that had a user by then.
    """
    user, first = np.unique(rows["user_id"].to_numpy(), return_index=True)
    of = np.searchsorted(user, rows["user_id"].to_numpy())
    arm, assigned = (rows[c].to_numpy()[first] for c in ("arm", "assigned"))
    counts = rows[list(COUNTS)].to_numpy(np.float64)
    pre, day = rows["pre"].to_numpy(bool), rows["day"].to_numpy()
    before, since = np.zeros((2, len(user), len(COUNTS)))
    np.add.at(before, of[pre], counts[pre])
    done = np.full(len(rows), False)
    for look in days:
        now = ~pre & ~done & (day <= look)
        np.add.at(since, of[now], counts[now])
        done |= now
        for name, metric in METRICS.items():
            # retention is known once its time is over; everything else as soon as a user has an arm
            known = assigned + (2 * retention_days - 1 if name == "retention" else 0) <= look
            vectors = _vectors(metric, since, before)
            for a in np.unique(arm[known]):
                yield Look(look, str(a), name, Moments.of(vectors[known & (arm == a)]))


def _vectors(metric: Metric, since: Floats, before: Floats) -> NDArray[np.float64]:
    """[U, 4]; of `retained`, whether there was such a day, not how many."""

    def column(counts: Floats, name: str | None) -> Floats:
        values = counts[:, COUNTS.index(name)] if name else np.ones(len(counts))
        return np.minimum(values, 1.0) if name == "retained" else values

    top, below = metric.before
    return np.stack(
        [
            column(since, metric.numerator),
            column(since, metric.denominator),
            column(before, top),
            column(before, below),
        ],
        axis=1,
    )
