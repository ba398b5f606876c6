"""The embedded log's sections."""

from __future__ import annotations

import datetime as dt

from pydantic import Field

from recsys_spark.config.section import Section


class DirtConfig(Section):
    """Shares of the embedded log's events that are spoilt, each as a fraction of all events."""

    duplicates: float = Field(0.01, ge=0, le=0.5)
    late: float = Field(0.005, ge=0, le=0.5)
    bad_timestamp: float = Field(0.002, ge=0, le=0.5)
    unknown_type: float = Field(0.002, ge=0, le=0.5)
    truncated: float = Field(0.002, ge=0, le=0.5)
    nulls: float = Field(0.002, ge=0, le=0.5)
    bots: float = Field(0.01, ge=0, le=0.5)


class GeneratorConfig(Section):
    """The embedded log: how much of it, and how dirty."""

    users: int = Field(2_000, ge=2)
    items: int = Field(1_000, ge=10)
    days: int = Field(14, ge=2)
    events: int = Field(200_000, ge=100)
    """Clean events over all days, impressions included; the log comes within a few per cent of it."""
    start: dt.date = dt.date(2026, 1, 1)
    categories: int = Field(12, ge=2)
    new_user_share: float = Field(0.2, ge=0, le=1)
    """Share of the users who first appear after day one, evenly over the days."""
    new_item_share: float = Field(0.1, ge=0, le=1)
    """Share of the items that are launched after day one, evenly over the days."""
    drift: float = Field(0.3, ge=0, le=1)
    """How far a user's taste moves over the whole log: 0 = fixed, 1 = to another taste altogether."""
    dirt: DirtConfig = DirtConfig()
