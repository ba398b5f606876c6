"""How the values of a day's columns are spread, beside those of the day that drift was measured against."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from recsys_spark.log.profile import HOUR, Histogram, Profile

_SHOWN = 6
MISSING, OTHER = "none", "other"


@dataclass(frozen=True)
class Shares:
    """One column: the most frequent values and their shares of the events, on both days."""

    column: str
    labels: Sequence[str]
    days: Mapping[str, Sequence[float]]
    """By day, the reference first."""


def shares(reference: Profile, now: Profile) -> list[Shares]:
    """Compare every column that both profiles have a histogram of."""
    columns = [c for c in reference.histograms if c in now.histograms]
    return [_shares(column, reference, now) for column in sorted(columns)]


def _shares(column: str, reference: Profile, now: Profile) -> Shares:
    days = {profile.batch: profile.histograms[column] for profile in (reference, now)}
    labels = _labels(column, *days.values())
    rows = np.array([_row(histogram, labels) for histogram in days.values()])  # [2, labels + 2]
    numeric = reference.histograms[column].numeric
    named = [*(f"{float(label):g}" if numeric else label for label in labels), OTHER, MISSING]
    there = rows.any(axis=0)
    kept = [name for name, has in zip(named, there, strict=True) if has]
    return Shares(column, kept, dict(zip(days, rows[:, there].tolist(), strict=True)))


def _labels(column: str, *histograms: Histogram) -> list[str]:
    """Return the values that are shown, in their order: all hours, else the most frequent of each day."""
    most = None if column == HOUR else _SHOWN
    frequent = {v for h in histograms for v in sorted(h.values, key=lambda v: (-h.values[v], v))[:most]}
    if histograms[0].numeric:
        return sorted(frequent, key=float)
    if column == HOUR:
        return sorted(frequent)
    return sorted(frequent, key=lambda v: (-sum(h.values.get(v, 0) for h in histograms), v))


def _row(histogram: Histogram, labels: Sequence[str]) -> list[float]:
    """Return the labels' shares of the events, then that of all other values, then that of none."""
    counts = [histogram.values.get(label, 0) for label in labels]
    other = sum(histogram.values.values()) + histogram.other - sum(counts)
    total = sum(counts) + other + histogram.missing
    return [n / total if total else 0.0 for n in (*counts, other, histogram.missing)]
