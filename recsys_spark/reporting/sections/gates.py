"""What the day had to pass before anything was made of it."""

from __future__ import annotations

from recsys_spark.log.gates import shown
from recsys_spark.reporting.html import NOTHING, Fragment, empty, table
from recsys_spark.reporting.night import Night

TITLE = "Data gates"
_ORDER = ("stop", "warn", "pass", "not judged")


def gates(night: Night) -> Fragment:
    """Return every gate with its figure and limits, the worst first."""
    if not night.tracked.gates:
        return empty("No gates of this night are known: check_log was not run under it.")
    rows = [
        [
            g.gate, Fragment('<span class="status {}">{}</span>').format(g.status.replace(" ", "-"), g.status),
            *(shown(g.kind, x) or NOTHING for x in (g.value, g.warn, g.stop)), g.text,
        ]
        for g in sorted(night.tracked.gates, key=lambda g: _ORDER.index(g.status))
    ]  # fmt: skip
    return table(["gate", "", "found", "warn", "stop", "in words"], rows, "the gates of the day", left=2)
