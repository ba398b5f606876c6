"""The sections of what keeps nights going: which versions stay, who watches, where the lists are handed over to."""

from __future__ import annotations

from urllib.parse import urlsplit

from pydantic import Field, model_validator

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


class ExportConfig(Section):
    """Where `jobs/export.py` hands the published lists over to; what is null is left out.

    No address may hold a password: of Redis it is in the environment variable REDIS_PASSWORD, of PostgreSQL in
    PGPASSWORD or in `~/.pgpass`.
    """

    parquet: str | None = None
    """Folder of versions of the lists as Parquet, a row for each item; its `_current` names the one to read."""
    jsonl: str | None = None
    """Folder of versions of the lists as JSON lines, gzipped, a line for each user; its `_current` names the one."""
    redis: str | None = None
    """Address such as `redis://host:6379/0`."""
    postgres: str | None = None
    """Address such as `postgresql://user@host:5432/database`."""
    name: str = Field("recommendations", pattern=r"^[a-z][a-z0-9_]{0,30}$")
    """What keys in Redis begin with, and how view and tables in PostgreSQL are called."""
    keep: int = Field(2, ge=1)
    """How many versions stay at each target: the one that is live, and those to switch back to."""

    @model_validator(mode="after")
    def _without_passwords(self) -> ExportConfig:
        for key, schemes in (("redis", ("redis", "rediss", "unix")), ("postgres", ("postgresql", "postgres"))):
            address = getattr(self, key)
            if address is None:
                continue
            parts = urlsplit(address)
            if parts.scheme not in schemes:
                raise ValueError(f"export.{key} does not begin with {schemes[0]}://")
            if parts.password or "password" in parts.query:
                raise ValueError(f"export.{key} holds a password; give it in the environment instead")
        return self
