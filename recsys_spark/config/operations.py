"""The sections of what keeps nights going: which versions stay."""

from __future__ import annotations

from pydantic import Field

from recsys_spark.config.section import Section


class ExpiryConfig(Section):
    """Which versions `jobs/warehouse.py expire` keeps, beside those that are live or that others were made from."""

    versions: int = Field(3, ge=1)
    """How many of the newest versions of a table, or of a date of it, stay."""
    days: int | None = Field(30, ge=0)
    """How many days before the run date a date's tables and models stay; null = all dates. Days of the log go by
    `log.retention_days` alone."""


class ObservabilityConfig(Section):
    """What a job leaves for those who watch it; neither file ever holds a password or a key."""

    log: str | None = None
    """File to which every job appends JSON lines: time, run id, job, run date, level, message; null = none."""
    metrics: str | None = None
    """Folder of the node exporter's textfile collector, for figures in the text format of Prometheus; null = none."""
