"""What the page of a night shows, as plain values: each section takes the whole and looks at its own part."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from recsys_spark.evaluation.evaluate import Results, from_json
from recsys_spark.log.gates import GateResult
from recsys_spark.reporting.calibration import Reliability
from recsys_spark.reporting.drift import Shares
from recsys_spark.reporting.lists import Lists
from recsys_spark.reporting.people import Person
from recsys_spark.tracking.promotion import METRIC
from recsys_spark.warehouse import Version


@dataclass(frozen=True)
class Measured:
    """What a night's evaluation found."""

    day: dt.date
    results: Results
    slices: Results
    groups: Mapping[str, Any]
    """Exposure of groups of items, as `evaluation.groups.to_json` has it; empty of an older night."""

    @classmethod
    def of(cls, version: Version, day: dt.date) -> Measured:
        """Read the manifest of a version of `user_metrics`."""
        known = version.manifest
        found, sliced = from_json(known["results"]), from_json(known.get("slices", {}))
        return cls(day, found, sliced, known.get("groups", {}))

    @property
    def models(self) -> list[str]:
        """The models that were measured on test, best first."""
        tested = [name for name, splits in self.results.items() if METRIC in splits.get("test", {})]
        return sorted(tested, key=lambda name: (-self.results[name]["test"][METRIC].mean, name))


@dataclass(frozen=True)
class Published:
    """The lists that the night published."""

    name: str
    users: int
    rows: int
    coverage: float
    churn: float | None
    """Against what was published before; None where nothing was."""
    model: str | None
    """Model that made them; None where MLflow does not know it any more."""


@dataclass(frozen=True)
class Tracked:
    """What MLflow knows of a night."""

    why: str = ""
    """The decision in one sentence."""
    record: Mapping[str, Any] | None = None
    """The record of the decision; None where there was nothing to decide."""
    gates: Sequence[GateResult] = ()
    rows: Sequence[Mapping[str, Any]] = ()
    """Where every row of the log went: `station`, `what` and `rows`."""
    curves: Mapping[str, Mapping[str, Sequence[tuple[float, float]]]] = field(default_factory=dict)
    """By model and figure: step and value."""
    rankers: Mapping[str, str] = field(default_factory=dict)
    """Ranking models by name, and the versions that they are."""
    published: str | None = None
    """Model that made the published lists."""


@dataclass(frozen=True)
class Night:
    """A whole night."""

    name: str
    """Of the data set."""
    day: dt.date
    data_version: str
    measured: Measured
    before: Measured | None
    """The night before it that was measured."""
    tracked: Tracked
    published: Published | None
    min_slice_users: int
    """Slices of fewer users are not shown."""
    lists: Lists
    reliability: Sequence[Reliability]
    drift: Sequence[Shares]
    reference: str | None
    """The day that drift was measured against."""
    people: Sequence[Person]
    pseudonyms: bool
    """Whether user ids are pseudonyms."""
