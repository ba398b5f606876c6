"""Whether a day may go on: its profile against fixed limits and against the days before it.

Every gate is one figure and a `Limit`. The figures become a one-row table, and the limits a pandera schema that
reports all that fails at once. The schema is held against the profile and not against the events, because
pandera's PySpark backend runs a Spark job for every check and another for its count: 25 gates would scan the day
fifty times. What pandera lacks is computed here: medians of trailing days, shares of new keys, and PSI.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import functools
import operator
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import pandas as pd

from recsys_spark.config import GatesConfig, Limit
from recsys_spark.log.drift import Drift, drift
from recsys_spark.log.profile import Profile

Status = Literal["pass", "warn", "stop", "not judged"]
_WHOLE = "a whole log has no days to hold it against"
_REMEDIES = {
    "volume_drop": "deliver the day again",
    "volume_rise": "look for a file delivered twice, or for robots",
    "bad_share": "look at the reasons in the quarantine table",
    "null_share": "ask the producer of the log for the column",
    "unknown_share": "deliver the item catalogue of the day",
    "users_drop": "deliver the day again",
    "items_drop": "deliver the day again",
    "new_users": "look whether the producer has changed its user ids",
    "new_items": "look whether the producer has changed its item ids",
    "bot_share": "look at the users of the bots table",
    "mix": "look whether the producer has lost or renamed an event type",
    "stale_hours": "look whether the day was delivered before it was over",
    "drift": "look whether the producer has changed the column",
}


@dataclass(frozen=True)
class GateResult:
    """What a gate found."""

    gate: str
    """The gate, and the column of one that has several: `volume_drop`, `drift.device`."""
    value: float | None
    warn: float | None
    stop: float | None
    status: Status
    text: str
    """One line: the cause, and where a limit is passed the limit and the remedy."""

    @property
    def kind(self) -> str:
        """The gate without its column."""
        return self.gate.split(".")[0]

    @property
    def key(self) -> str:
        """Where the gate's limits stand in the configuration."""
        return f"log.gates.{self.gate if self.kind == 'null_share' else self.kind}"


@dataclass(frozen=True)
class _Figure:
    gate: str
    limit: Limit
    value: float | None
    cause: str
    detail: str = ""


def judge_day(
    profile: Profile,
    trailing: Sequence[Profile],
    reference: Profile | None,
    config: GatesConfig,
    unknown_share: float | None = None,
) -> list[GateResult]:
    """Judge a day.

    Args:
        profile: of the day, or of a whole log: then what needs other days is not judged.
        trailing: of the days before it, those of the last `trailing_days` that there are.
        reference: of the day that drift is measured against; None = not judged.
        unknown_share: events of items that the catalogue lacks / events; None = not judged.
    """
    figures = list(_figures(profile, trailing, reference, config, unknown_share))
    failed = exceeded({f.gate: f.value for f in figures}, {f.gate: f.limit for f in figures})
    return [_result(profile.batch, figure, failed.get(figure.gate)) for figure in figures]


def exceeded(values: dict[str, float | None], limits: dict[str, Limit]) -> dict[str, Status]:
    """Return, of the values that are above a limit, the strictest limit that they are above."""
    # Here, and not above: it takes a third of a second, which the other jobs do not have to pay; and once it is
    # imported, pyarrow 14 reads a Python time with an offset as if it had none (seen with pandera 0.35).
    import pandera.pandas as pa

    columns = {
        gate: pa.Column(
            float,
            [
                pa.Check.le(bound, error=name)
                for name, bound in (("warn", limit.warn), ("stop", limit.stop))
                if bound is not None
            ],
            nullable=True,
        )
        for gate, limit in limits.items()
    }
    frame = pd.DataFrame({gate: pd.Series([value], dtype=float) for gate, value in values.items()})
    try:
        pa.DataFrameSchema(columns, strict=True).validate(frame, lazy=True)
    except pa.errors.SchemaErrors as error:
        failed: dict[str, Status] = {}
        for case in error.failure_cases.itertuples():
            if failed.get(case.column) != "stop":
                failed[case.column] = case.check
        return failed
    return {}


def _result(batch: str, figure: _Figure, failed: Status | None) -> GateResult:
    limit, value = figure.limit, figure.value
    status: Status = "not judged" if value is None else failed or "pass"
    result = GateResult(figure.gate, value, limit.warn, limit.stop, status, "")
    details, remedy = [figure.detail] if figure.detail else [], ""
    if status in ("warn", "stop"):
        bound = shown(result.kind, limit.stop if status == "stop" else limit.warn)
        details.append(f"{result.key}.{status} is {bound}")
        remedy = f"; {_REMEDIES[result.kind]}, or raise the limit for this night"
    cause = f"{figure.cause} ({'; '.join(details)})" if details else figure.cause
    return dataclasses.replace(result, text=f"{batch}: {cause}{remedy}")


def shown(kind: str, value: float | None) -> str:
    """Return a gate's value or limit as people read it.

    >>> shown("volume_drop", 0.5), shown("mix", 0.25), shown("stale_hours", 6.0)
    ('50%', '0.25', '6 h')
    """
    if value is None:
        return ""
    if kind in ("mix", "drift"):
        return f"{value:.3g}"
    return f"{value:.3g} h" if kind == "stale_hours" else f"{100 * value:.3g}%"


def _figures(
    profile: Profile,
    trailing: Sequence[Profile],
    reference: Profile | None,
    config: GatesConfig,
    unknown_share: float | None,
) -> Iterator[_Figure]:
    """Compute every gate's figure, in the order of the configuration."""
    day = profile.day
    too_few = None
    if len(trailing) < config.least_days:
        too_few = f"{len(trailing)} trailing days, and log.gates.least_days is {config.least_days}"
    if day is None:
        trailing, reference, too_few = [], None, _WHOLE

    def beside(name: str, limit: Limit, what: str, of: Callable[[Profile], float], sign: int) -> _Figure:
        """A figure of the day against the trailing median."""
        if too_few is not None:
            return _Figure(name, limit, None, f"not judged: {too_few}")
        usual, value = statistics.median(of(p) for p in trailing), of(profile)
        if not usual:
            return _Figure(name, limit, None, f"not judged: the trailing days have no {what}")
        share = sign * (value / usual - 1)
        fewer = "fewer" if sign * share < 0 else "more"
        found = f"{shown(name, abs(share))} {fewer} {what} than the median of {len(trailing)} days"
        return _Figure(name, limit, share, found, f"{value:,.0f} against {usual:,.0f}")

    def new(name: str, what: str, limit: Limit) -> _Figure:
        mine, before = getattr(profile, what), [getattr(p, what) for p in trailing]
        if too_few is not None:
            return _Figure(name, limit, None, f"not judged: {too_few}")
        share = mine.new_share([s for s in before if s is not None]) if mine is not None else None
        found = f"{shown(name, share)} of the {what} are on none of the {len(trailing)} days before"
        return _Figure(name, limit, share, found if share is not None else f"not judged: no {what}")

    def plain(name: str, limit: Limit, share: float | None, cause: str, why_not: str) -> _Figure:
        return _Figure(
            name,
            limit,
            share,
            f"{shown(name.split('.')[0], share)} {cause}" if share is not None else f"not judged: {why_not}",
        )

    yield beside("volume_drop", config.volume_drop, "events", lambda p: p.events, -1)
    yield beside("volume_rise", config.volume_rise, "events", lambda p: p.events, 1)
    share = profile.bad_share if profile.rows_in else None
    yield plain("bad_share", config.bad_share, share, f"of {profile.rows_in:,} rows are quarantined", "no rows")
    for column, limit in config.null_share.items():
        share = profile.nulls[column] / profile.events if profile.events else None
        yield plain(f"null_share.{column}", limit, share, f"of the events have no {column}", "no events")
    yield plain(
        "unknown_share",
        config.unknown_share,
        unknown_share,
        "of the events are of items that the catalogue lacks",
        "no catalogue",
    )
    yield beside("users_drop", config.users_drop, "users", lambda p: p.users.distinct if p.users else 0, -1)
    yield beside("items_drop", config.items_drop, "items", lambda p: p.items.distinct if p.items else 0, -1)
    yield new("new_users", "users", config.new_users)
    yield new("new_items", "items", config.new_items)
    yield plain("bot_share", config.bot_share, profile.bot_share, "of the events are of bots", "")
    types = "between the event types and those of the trailing days"
    yield _drift("mix", config.mix, "event_type", trailing, profile, too_few, types)
    yield plain(
        "stale_hours",
        config.stale_hours,
        _stale_hours(profile, day),
        "from the last event to the end of the day",
        _WHOLE,
    )
    missing = None if reference is not None else _WHOLE if day is None else "no reference day before it"
    for column in config.drift_columns:
        values = f"between the values of {column} and those of {reference.batch}" if reference is not None else ""
        old = [reference] if reference is not None else []
        yield _drift(f"drift.{column}", config.drift, column, old, profile, missing, values)


def _drift(
    gate: str,
    limit: Limit,
    column: str,
    reference: Sequence[Profile],
    profile: Profile,
    why_not: str | None,
    between: str,
) -> _Figure:
    """The PSI of a column against all the reference days together."""
    found = None if why_not is not None else _drift_of(column, reference, profile)
    strictest = min((b for b in (limit.warn, limit.stop) if b is not None), default=None)
    if why_not is None and found is None:
        why_not = "no events"
    if found is not None and strictest is not None and found.noise > strictest / 2:
        why_not = f"so few users differ by PSI {found.noise:.2g} by chance alone"
    if why_not is not None or found is None:
        return _Figure(gate, limit, None, f"not judged: {why_not}")
    return _Figure(gate, limit, found.psi, f"PSI {found.psi:.3g} {between}")


def _drift_of(column: str, reference: Sequence[Profile], profile: Profile) -> Drift | None:
    days = [p for p in reference if column in p.histograms]
    if not days or column not in profile.histograms:
        return None
    known = functools.reduce(operator.add, (p.histograms[column] for p in days))
    users = [sum(p.users.distinct for p in ps if p.users is not None) for ps in (days, [profile])]
    return drift(known, profile.histograms[column], (users[0], users[1]))


def _stale_hours(profile: Profile, day: dt.date | None) -> float | None:
    """Hours from the last event to the end of the day: all of them, of a day without an event."""
    if day is None:
        return None
    end = dt.datetime.combine(day, dt.time(), dt.UTC) + dt.timedelta(days=1)
    return (end - profile.last).total_seconds() / 3600 if profile.last is not None else 24.0
