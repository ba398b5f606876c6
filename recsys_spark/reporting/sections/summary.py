"""What the night came to, in one look."""

from __future__ import annotations

from recsys_spark.reporting.html import Fragment, number, percent, signed, text, together
from recsys_spark.reporting.night import Night
from recsys_spark.tracking.promotion import METRIC

TITLE = "Summary"


def summary(night: Night) -> Fragment:
    """Return the decision and the figures that are asked for first."""
    best = night.measured.models[0]
    found = night.measured.results[best]["test"][METRIC]
    tiles = [("best on test", best, f"{METRIC} {number(found.mean)} on {number(found.n)} users")]
    published = night.published
    if published is not None:
        model = published.model or "an unknown model"
        tiles.append(
            (
                "published",
                f"{published.users:,} users",
                f"by {model}; {percent(published.coverage)} of the items appear",
            )
        )
        if published.churn is not None:
            tiles.append(("changed", percent(published.churn), "of the published lists, against those before"))
    if night.before is not None and best in night.before.results:
        was = night.before.results[best]["test"][METRIC].mean
        tiles.append(("since last night", signed(found.mean - was), f"{METRIC} of {best} against {night.before.day}"))
    judged = [g.status for g in night.tracked.gates]
    if judged:
        tiles.append(
            (
                "data gates",
                f"{judged.count('warn')} warn, {judged.count('stop')} stop",
                f"{judged.count('pass')} passed",
            )
        )
    boxes = [
        Fragment('<div class="tile"><div class="what">{}</div><div class="big">{}</div><div>{}</div></div>').format(
            *tile
        )
        for tile in tiles
    ]
    why = text(Fragment("<strong>{}</strong>").format(night.tracked.why)) if night.tracked.why else Fragment("")
    return together(why, Fragment('<div class="facts">{}</div>').format(Fragment("\n").join(boxes)), _rows(night))


def _rows(night: Night) -> Fragment:
    """Return one line: where the rows of the log went."""
    log = {row["what"]: row["rows"] for row in night.tracked.rows}
    if not log:
        return Fragment("")
    parts = ", ".join(f"{rows:,} {what.lstrip('=+ ')}" for what, rows in log.items() if what not in ("rows in",))
    return Fragment("<details><summary>{} rows in</summary><p>{}</p></details>").format(
        f"{log.get('rows in', 0):,}", parts
    )
