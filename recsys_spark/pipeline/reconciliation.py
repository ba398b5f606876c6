"""Where every row of the log went: one table from raw rows to training rows, whose sums were asserted."""

from __future__ import annotations

import pandas as pd

from recsys_spark.dataset.build import Dataset
from recsys_spark.log.ingest import REASONS
from recsys_spark.warehouse import Version

_SET_APART = ("bots", "erased")


def rows_table(events: dict[str, Version], dataset: Dataset) -> pd.DataFrame:
    """Return `station`, `what` and `rows`; a sign before `what` says how it adds up to the line it belongs to.

    Raises:
        AssertionError: the counts of ingest and of the data set do not meet.
    """
    log: dict[str, int] = {}
    for version in events.values():
        for name, n in version.manifest["counts"].items():
            log[name] = log.get(name, 0) + n
    made = dataset.interactions.manifest
    data, parts = made["counts"], made["parts"]
    lines = [("ingest", "rows in", log["rows_in"]), ("ingest", "= events", log["events"])]
    lines += [("ingest", "+ duplicates", log["duplicates"])]
    lines += [("ingest", f"+ {name}", log[name]) for name in _SET_APART if name in log]
    lines += [("ingest", f"+ quarantined: {reason}", log[reason]) for reason in REASONS if log.get(reason)]
    if log["rows_in"] != sum(n for _, _, n in lines[1:]):
        raise AssertionError(f"{log['rows_in']} rows in are not the sum of {lines[1:]}")
    if data["events"] > log["events"] + log.get("erased", 0):  # some may have been erased since
        raise AssertionError(f"the data set read {data['events']} events, ingest wrote {log['events']}")
    lines += [
        ("data set", "events up to the run date", data["events"]),
        ("data set", "= of types without a weight", data["weightless"]),
        ("data set", "+ delivered again by a later batch", data["delivered_again"]),
        ("data set", "+ summed up into interactions", data["summed"]),
        *(("interactions", f"{part} part", rows) for part, rows in parts.items()),
        ("interactions", "train part, in the core", made["core"]),
    ]
    for part, marks in made["cold"].items():
        lines += [("interactions", f"{part} part, {mark.replace('_', ' ')}", rows) for mark, rows in marks.items()]
    lines += [("feed", kind, feed.manifest["rows"]) for kind, feed in dataset.feeds.items()]
    return pd.DataFrame(lines, columns=["station", "what", "rows"])


def markdown(table: pd.DataFrame) -> str:
    """Return the table for the description of a run."""
    lines = ["| station | what | rows |", "|---|---|--:|"]
    # the page sets the cells of a table without any space between them
    lines += [f"| {r['station']}&ensp; | {r['what']}&ensp; | {r['rows']:,} |" for r in table.to_dict("records")]
    return "\n".join(lines) + "\n"
