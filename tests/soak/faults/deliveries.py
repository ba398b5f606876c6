"""A day of the log that is not delivered as it should be."""

from __future__ import annotations

import datetime as dt
import shutil

from soak import invariants
from soak.faults import fault
from soak.night import Night
from soak.run import Broken


@fault(delivers=True)
def missing(night: Night) -> str:
    """The day's log is missing.

    Remedy: deliver it, the same command again.
    """
    line = night.refused(night.start(), 3, f"has no day {night.day}")
    night.house.deliver(night.day)
    night.run()
    return line


@fault(delivers=True)
def doubled(night: Night) -> str:
    """The day's log was delivered twice over.

    Remedy: none; every event counts once.
    """
    house = night.house
    house.deliver(night.day)
    for file in house.raw(night.day):
        shutil.copy(file, house.delivered(night.day) / f"again-{file.name}")
    counts = night.run().last_line["counts"]
    *_, batch = invariants.batches(house.root, "events", night.day)
    copies = invariants.read(batch)["copies"].to_pylist()
    if min(copies) < 2:
        raise Broken("an event of the day was counted less than twice")
    return f"{sum(copies):,} rows of the day are {len(copies):,} events; {counts['duplicates']:,} duplicates in all"


@fault(delivers=True)
def halved(night: Night) -> str:
    """Half of the day's log.

    Remedy: deliver it whole, the same command again.
    """
    house = night.house
    house.deliver(night.day)
    for file in sorted(house.delivered(night.day).glob("*.jsonl")):
        lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
        file.write_text("".join(lines[: len(lines) // 2]), encoding="utf-8")
    line = night.refused(night.start(), 3, "fewer events than the median", "deliver the day again")
    house.deliver(night.day)
    night.run()
    return line


@fault(delivers=True, nights=2)
def two_days_late(night: Night) -> str:
    """The day's log comes two days late, and the night after it runs without.

    Remedy: deliver it, run its night; what is published stays the later night's.
    """
    line = night.refused(night.start(), 3, f"has no day {night.day}")
    night.later[night.day + dt.timedelta(days=2)] = night.day
    return line


def catch_up(night: Night) -> str:
    """Deliver a day that is late, and run its night: the lists of the later night stay published."""
    night.house.deliver(night.day)
    night.run()
    night.unchanged()
    return f"{night.day} delivered and run; {night.before.version[:10]} stays published"
