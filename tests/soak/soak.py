"""The nights in their order: which fault comes when, and what is checked after each and at the end."""

from __future__ import annotations

import datetime as dt
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import yaml
from night import REPOSITORY

from soak import invariants, report
from soak.faults import CATALOGUE, Fault
from soak.faults.deliveries import catch_up
from soak.faults.stores import exported
from soak.house import House
from soak.night import Night
from soak.reader import Reader
from soak.run import Broken, Run

_GROWTH = 1.10
"""A server's memory may be so many times what it was in the middle of its nights."""


def deal(nights: int, seed: int, only: list[str] | None = None) -> list[list[Fault]]:
    """Deal the catalogue to the nights: each fault once before any comes again, in an order of the seed.

    A fault that needs further nights comes early enough, and none of its kind before it is over.
    """
    draw = random.Random(seed)
    chosen = [fault for name, fault in CATALOGUE.items() if not only or name in only]
    during, after = ([f for f in chosen if f.afterwards is late] for late in (False, True))
    dealt: list[list[Fault]] = []
    pile: list[Fault] = []
    busy = 0
    for number in range(nights):
        if not pile:
            pile = draw.sample(during, len(during))
        left = nights - number - 1
        fits = [f for f in pile if f.nights <= left and not (busy and f.delivers)]
        # what needs time goes first when it runs short
        urgent = [f for f in fits if f.nights and f.nights + 1 >= left]
        mine = (urgent or fits)[:1]
        for fault in mine:
            pile.remove(fault)
        busy = max(busy - 1, *(f.nights for f in mine), 0)
        dealt.append(mine)
    for fault in draw.sample(after, len(after)):
        free = [d for d in dealt if not any(f.nights for f in d)]
        draw.choice(free).append(fault)
    return dealt


class Soak:
    """Nights with faults, in one house."""

    def __init__(self, house: House, reader: Reader) -> None:
        conf = yaml.safe_load((REPOSITORY / "conf/soak.yaml").read_text(encoding="utf-8"))
        self.house, self.reader, self.policy = house, reader, conf["expiry"]
        self.rows: list[report.Row] = []
        self.later: dict[dt.date, dt.date] = {}
        self.ids: dict[str, dict[str, int]] = {}
        self.lines = 0
        self.lives: list[list[float]] = [[]]
        """Memory of the MLflow server after each night, for each time that it was started."""

    def night(self, day: dt.date, faults: list[Fault], draw: random.Random) -> None:
        """Run a night with its faults, and check everything after it."""
        late = self.later.pop(day, None)
        if late is not None:
            night = Night(self.house, late, draw)
            self._row(str(late), "The day that was two days late comes", "", lambda: catch_up(night), late)
        if all(fault.afterwards for fault in faults):
            self.house.deliver(day)
            self._row(str(day), "none", "", lambda: self._plain(day), day)
        waits = False
        for fault in faults:
            if not fault.delivers and not fault.afterwards:
                self.house.deliver(day)
            night = Night(self.house, day, draw, self.later)
            server = self.house.mlflow.process
            waits |= fault.nights > 0
            checked = None if waits else day
            self._row(str(day), fault.what, fault.remedy, lambda n=night, f=fault: f.strike(n), checked)
            if self.house.mlflow.process is not server:
                self.lives.append([])

    def _plain(self, day: dt.date) -> str:
        """Run a night without a fault, such as the first, before which nothing is published."""
        self._good(self.house.job("nightly", "--date", str(day)).wait())
        return "the night ended well"

    def _row(self, name: str, what: str, remedy: str, strike: Callable[[], object], day: dt.date | None) -> None:
        start = time.monotonic()
        row = report.Row(name, what, "", remedy, 0.0, True)
        try:
            row.seen = " ".join(str(strike()).split())
            row.seconds = time.monotonic() - start
            if day is not None:
                self._check(row, day)
        except Broken as broken:
            row.survived, row.seen = False, f"{row.seen} {broken}".strip()
        row.seen = row.seen.replace(str(self.house.disk), "…")
        row.seconds = row.seconds or time.monotonic() - start
        self.rows.append(row)
        report.show(row)

    def _check(self, row: report.Row, day: dt.date) -> None:
        """Check what has to hold when a night is done: first as it stands, then after `export` and `expire`."""
        root = self.house.root
        self.lines = invariants.rows_lost(root, self.house.log / "events")
        said = invariants.lists(root, day)
        invariants.complete(root, day)
        if day == dt.date.fromisoformat(str(invariants.pointer(root / "recommendations"))[:10]):
            invariants.newest_is_live(root)
        now = invariants.ids(root)
        invariants.ids_moved(self.ids, now)
        self.ids = now
        self._good(self.house.job("export").wait())
        if exported(self.house.postgres.address) != invariants.rows(root):
            raise Broken("the lists in PostgreSQL are not those that are published")
        for verb in ("verify", "expire"):
            self._good(self.house.tool(verb))
        last = invariants.pointer(root / "recommendations")
        today = max(day, dt.date.fromisoformat(str(last)[:10]))
        row.mb, outside = invariants.bounded(root, self.policy["versions"], self.policy["days"], today)
        row.tracking_mb = sum(f.stat().st_size for f in self.house.mlflow.folder.rglob("*") if f.is_file()) / 2**20
        row.rss_mb = {"mlflow": self.house.mlflow.rss_mb(), "postgres": self.house.postgres.rss_mb()}
        self.lives[-1].append(row.rss_mb["mlflow"])
        if self.reader.faults:
            raise Broken(f"a reader saw {self.reader.faults.pop(0)}")
        row.checks = f"{self.lines:,} lines accounted for; {said}; {outside:.2f} MB in no version"

    def _good(self, run: Run) -> None:
        if run.process.returncode:
            raise Broken(f"{run.said.name}: exit code {run.process.returncode}: {run.error or run.text[-500:]}")

    def invariants(self) -> dict[str, str]:
        """Say what held over all nights."""
        good = "yes" if all(row.survived for row in self.rows) else "**no**, see above"
        done = [row for row in self.rows if row.checks]
        sizes = [row.mb for row in done]
        return {
            "no row lost, no event twice": f"{good}: {self.lines:,} lines held against the files",
            "one list for each user, no item twice, in every night": f"{good}: {len(done)} nights",
            "every night's tables complete, files as their checksums say": good,
            "ids never moved": f"{good}: {', '.join(f'{len(v):,} {k}' for k, v in self.ids.items())}",
            "the published lists could be read at every moment": f"{good}: {self.reader.looks:,} looks, "
            f"{len(self.reader.seen)} versions",
            "the disk is bounded by the policy": f"{good}: {max(sizes, default=0):.0f} MB at most, "
            f"{sizes[-1] if sizes else 0:.0f} MB after the last night",
            "the memory of the MLflow server is flat": self._flat(),
        }  # fmt: skip

    def _flat(self) -> str:
        """Hold the last third of its longest life against the third before it."""
        longest = max(self.lives, key=len)
        third = len(longest) // 3
        if third < 1:
            return f"not told by so few nights in one life: {', '.join(f'{v:.0f}' for v in longest)} MB"
        before, last = statistics.mean(longest[third : 2 * third]), statistics.mean(longest[-third:])
        said = f"{before:.0f} MB in the middle, {last:.0f} MB at the end of {len(longest)} nights"
        return f"{'yes' if last <= _GROWTH * before else '**no**'}: {said}"


def soak(folder: Path, nights: int, seed: int, only: list[str] | None, keep: bool) -> bool:
    """Run a first night without a fault and `nights` more with them; returns whether all of it was survived."""
    start = time.monotonic()
    house = House(folder, nights, seed)
    reader = Reader(house.root)
    soaking = Soak(house, reader)
    good = False
    try:
        for day in house.first_days:
            house.deliver(day)
        dealt = deal(nights, seed, only)
        first, *others = house.days[len(house.first_days) :]
        soaking.night(first, [], random.Random(seed))
        if not soaking.rows[0].survived:
            return False
        with reader:
            for day, faults in zip(others, dealt, strict=True):
                soaking.night(day, faults, random.Random(f"{seed} {day}"))
        found = soaking.invariants()
        report.write(folder, seed, soaking.rows, found, time.monotonic() - start)
        for name, said in found.items():
            print(f"{name}: {said}")
        good = report.survived(soaking.rows, found)
    finally:
        house.close(keep=keep or not good)
    print(f"{'survived' if good else 'NOT SURVIVED'} in {(time.monotonic() - start) / 60:.0f} min; {folder}/soak.md")
    return good
