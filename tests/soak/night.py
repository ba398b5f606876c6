"""What a fault is given: its night, and how to see that a run failed as it should and left alone what was published."""

from __future__ import annotations

import datetime as dt
import random
import shlex
from dataclasses import dataclass, field

from soak import invariants
from soak.house import House
from soak.run import Broken, Run

COMMAND = "the same command again"


@dataclass
class Night:
    """A night that a fault comes to."""

    house: House
    day: dt.date
    draw: random.Random
    later: dict[dt.date, dt.date] = field(default_factory=dict)
    """Days that are delivered late, by the day on which they come."""

    def __post_init__(self) -> None:
        self.before = invariants.published(self.house.root)

    def start(self, *overrides: str, master: str | None = None, **environment: str) -> Run:
        """Start the night."""
        return self.house.job("nightly", "--date", str(self.day), *overrides, master=master, **environment)

    def run(self, *overrides: str, **more: str) -> Run:
        """Run the night to its end, which has to be a good one."""
        return self.well(self.start(*overrides, **more))

    def well(self, run: Run) -> Run:
        """Wait for a run that has to end well."""
        run.wait()
        if run.process.returncode:
            raise Broken(f"{run.said.name}: exit code {run.process.returncode}: {run.error or run.text[-500:]}")
        return run

    def refused(self, run: Run, code: int, *words: str) -> str:
        """Wait for a run that has to fail with this exit code and one line that holds these words.

        Returns:
            The line.
        """
        run.wait()
        line = run.error
        if run.process.returncode != code or not all(word in line for word in words):
            raise Broken(
                f"{run.said.name}: exit code {run.process.returncode} and {shlex.quote(line)}, "
                f"not {code} and a line with {', '.join(words)}"
            )
        if run.trace:
            raise Broken(f"{run.said.name}: a stack trace above the line: {line}")
        self.unchanged()
        return f"exit {code}: {line}"

    def killed(self, run: Run) -> None:
        """See that what was published is as it was, after a run that was killed; it may have got through before."""
        now = invariants.published(self.house.root)
        if now != self.before and now.run_date != str(self.day):
            raise Broken(f"{run.said.name}: {now.version} is published, {self.before.version} was before")

    def unchanged(self) -> None:
        now = invariants.published(self.house.root)
        if now != self.before:
            raise Broken(f"what was published has changed: {self.before} before, {now} now")
