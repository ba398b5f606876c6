"""The raw log's sections: where it lies, what it may hold, and what is done about what it may not."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any, Literal
from zoneinfo import ZoneInfo

from pydantic import Field, field_validator, model_validator

from recsys_spark.config.generator import GeneratorConfig
from recsys_spark.config.section import Section


class FileConfig(Section):
    """Where a table of text or Parquet lies and how to read it."""

    path: str | list[str]
    """A file or folder; of a list, the first that exists. Relative to the working directory."""
    format: Literal["jsonl", "csv", "parquet"] = "jsonl"
    delimiter: str = ","
    header: bool = True
    encoding: str = "UTF-8"
    columns: dict[str, str] = {}
    """Our column name -> the file's (`_c0`, `_c1`, … where it has no header); empty = the same names."""

    def resolve(self) -> Path:
        """Return the first of the paths that exists, else the first: the caller words the error."""
        paths = [self.path] if isinstance(self.path, str) else self.path
        return next((Path(p) for p in paths if Path(p).exists()), Path(paths[0]))


class ItemsConfig(FileConfig):
    """The item catalogue: `item_id`, and where known `title`, `description`, `categories`, `price`."""

    categories_separator: str = "|"
    """Between the categories of an item, in a text file."""


class EventTypeConfig(Section):
    """What an event of one type is worth, and what it must carry."""

    weight: float = Field(1.0, ge=0)
    """Its weight as an interaction; 0 = an event, not an interaction."""
    requires: list[str] = []
    """Fields that such an event must have, such as `rating`; without one it is quarantined."""


class BotsConfig(Section):
    """Users whose events of a batch are kept apart, in the table `bots`; null turns a rule off."""

    events_per_minute: int | None = Field(120, ge=2)
    """Most events within one minute."""
    items_per_hour: int | None = Field(1_000, ge=2)
    """Most distinct items, of events that are no impressions, within one hour."""
    regular_events: int | None = Field(50, ge=10)
    """With at least so many events in a batch, the gaps between them must vary: see `regular_spread`."""
    regular_spread: float = Field(0.05, ge=0, lt=1)
    """Least standard deviation / mean of the gaps of a person."""


class PersonalColumn(Section):
    """What becomes of a column that describes a person."""

    keep: Literal["nothing", "bands", "lookup", "pseudonym"] = "nothing"
    """`nothing` drops it; `bands` turns a number into a band such as 30-39; `lookup` maps it by a table; `pseudonym`
    replaces it by an HMAC, as user ids are."""
    width: int = Field(10, ge=1)
    """Width of a band."""
    table: dict[str, str] = {}
    """Of a lookup, such as city -> country; a value that it lacks becomes null."""


class PrivacyConfig(Section):
    """What leaves the raw log only in another form."""

    pseudonymise: bool = False
    """Replace user ids by HMAC-SHA-256 under a key, which is read from `key_file`, else from `key_variable`."""
    key_variable: str = "RECSYS_PSEUDONYM_KEY"
    """Environment variable with the key, in hexadecimal, 32 bytes or more."""
    key_file: str | None = None
    """File with the key, in the same form."""
    old_key_files: list[str] = []
    """Files with keys that were rotated out: by them alone the people erased under those keys are recognised."""
    personal: dict[str, PersonalColumn] = {}
    """By column: one of `log.attributes`, or `device`, `country`, `session_id`."""
    retrain_days: int = Field(30, ge=1)
    """Days after an erasure by which the models that were trained before it are to be trained again."""

    @model_validator(mode="after")
    def _can_hide(self) -> PrivacyConfig:
        for name, column in self.personal.items():
            if column.keep == "lookup" and not column.table:
                raise ValueError(f"log.privacy.personal.{name}: keep is lookup but there is no table; write one")
            if column.keep == "pseudonym" and not self.pseudonymise:
                raise ValueError(
                    f"log.privacy.personal.{name}: keep is pseudonym without a key; set log.privacy.pseudonymise"
                )
        return self


class Limit(Section):
    """How far a gate lets a figure go. Where a gate has limits of its own, the one that is not named stays as it is."""

    warn: float | None = Field(None, ge=0)
    """A figure above it is a warning; null = never."""
    stop: float | None = Field(None, ge=0)
    """A figure above it ends the night with exit code 3; null = never."""


class GatesConfig(Section):
    """What a day has to look like, beside the days before it, before anything downstream starts."""

    trailing_days: int = Field(7, ge=1)
    """Days that a day is held against: the batches of so many days before it, those that there are."""
    least_days: int = Field(3, ge=1)
    """With fewer trailing days, what needs them is not judged."""
    volume_drop: Limit = Limit(warn=0.25, stop=0.33)
    """1 - events / the trailing median. Half a day stops the night even where a whole one were a third above it."""
    volume_rise: Limit = Limit(warn=1.0, stop=None)
    """Events / the trailing median - 1."""
    bad_share: Limit = Limit(warn=0.05, stop=None)
    """Quarantined rows / rows in; `log.max_bad_share` stops earlier, while ingesting."""
    null_share: dict[str, Limit] = {}
    """By column of `events` or of `log.attributes`: events without it / events."""
    unknown_share: Limit = Limit(warn=0.2, stop=None)
    """Events of items that the catalogue does not have / events; not judged without a catalogue."""
    users_drop: Limit = Limit(warn=0.4, stop=None)
    """1 - distinct users / the trailing median."""
    items_drop: Limit = Limit(warn=0.4, stop=None)
    """1 - distinct items / the trailing median."""
    new_users: Limit = Limit(warn=0.6, stop=None)
    """Users that no trailing day had / users."""
    new_items: Limit = Limit(warn=0.3, stop=None)
    """Items that no trailing day had / items."""
    bot_share: Limit = Limit(warn=0.2, stop=None)
    """Events of bots / events with them."""
    mix: Limit = Limit(warn=0.25, stop=None)
    """PSI of the event types against the trailing days together."""
    stale_hours: Limit = Limit(warn=6.0, stop=None)
    """Hours from the day's last event to its end, in UTC."""
    drift: Limit = Limit(warn=0.25, stop=None)
    """PSI of any column of `drift_columns` against the reference day; 0.1 counts as a change, 0.25 as a large one."""
    drift_columns: list[str] = ["event_type", "device", "country", "position", "rating", "hour"]
    """Columns of `events` or of `log.attributes` that are watched, none that names people (`user_id`, `event_id`,
    `session_id`); `hour` is that of the timestamp, in UTC."""
    reference_day: dt.date | None = None
    """Day that drift is measured against; null = the oldest trailing day."""

    @model_validator(mode="before")
    @classmethod
    def _keeps_the_limit_that_is_not_named(cls, values: Any) -> Any:
        """Let `volume_drop: {warn: 0.1}` leave `stop` as it is; a `stop` below `warn` takes that along."""
        if not isinstance(values, dict):
            return values
        merged = dict(values)
        for name, given in values.items():
            usual = cls.model_fields[name].default if name in cls.model_fields else None
            if isinstance(usual, Limit) and isinstance(given, dict):
                limits = {**usual.model_dump(), **given}
                warn, stop = limits["warn"], limits["stop"]
                if "warn" not in given and isinstance(stop, int | float) and warn is not None and stop < warn:
                    limits["warn"] = stop
                merged[name] = limits
        return merged

    @model_validator(mode="after")
    def _can_be_meant(self) -> GatesConfig:
        if self.least_days > self.trailing_days:
            raise ValueError(
                f"log.gates.least_days {self.least_days} is above log.gates.trailing_days {self.trailing_days}: "
                "nothing would be judged"
            )
        gates = {name: limit for name, limit in self if isinstance(limit, Limit)}
        for name, limit in {**gates, **{f"null_share.{c}": limit for c, limit in self.null_share.items()}}.items():
            if limit.warn is not None and limit.stop is not None and limit.warn > limit.stop:
                bounds = f"warns above {limit.warn} and stops above {limit.stop}"
                raise ValueError(f"log.gates.{name} {bounds}; set warn to no more than stop")
        return self


class LogConfig(FileConfig):
    """The raw interaction log. Daily partitions are folders named `date=YYYY-MM-DD`."""

    generate: GeneratorConfig | None = None
    """Set for the embedded log: `generate_log` writes it to `path`."""
    timestamps: Literal["iso", "seconds", "milliseconds"] = "iso"
    """ISO 8601 text (UTC unless it names an offset), or a number since 1970-01-01 UTC."""
    timezone: str = "UTC"
    """IANA zone of times that name no offset; they are kept in UTC."""
    not_before: dt.date = Field(dt.date(1990, 1, 1), ge=dt.date(1970, 1, 1))
    """An earlier time is unreadable: seconds read as milliseconds end up in January 1970."""
    event_types: dict[str, float | EventTypeConfig] = {"rating": 1.0}
    """Known event types and the weight of each as an interaction (0 = an event, not an interaction), or more of it."""
    attributes: list[str] = []
    """Further columns of the log to keep, as text, in `events.attributes`."""
    default_type: str | None = None
    """Type of every event, for a log without a type column."""
    max_bad_share: float = Field(0.1, ge=0, le=1)
    """Quarantined rows / rows in, above which a run stops before anything downstream."""
    max_id_length: int = Field(256, ge=1)
    """Characters of a user, item or event id, above which the row is quarantined."""
    max_line_bytes: int = Field(1 << 20, ge=1 << 10)
    """Bytes of a line of text, above which it is quarantined, cut short."""
    late_days: int = Field(3, ge=0)
    """How many days after its own day an event may arrive in a daily partition."""
    session_gap_minutes: int = Field(30, ge=1)
    """Minutes without an event after which a user's next one begins a session, where the log names none."""
    retention_days: int | None = Field(None, ge=1)
    """Days before the run date that are kept; older batches leave the warehouse. null = all."""
    bots: BotsConfig = BotsConfig()
    privacy: PrivacyConfig = PrivacyConfig()
    gates: GatesConfig = GatesConfig()
    items: ItemsConfig | None = None

    @property
    def weights(self) -> dict[str, float]:
        """Weight of each event type."""
        return {n: t.weight if isinstance(t, EventTypeConfig) else t for n, t in self.event_types.items()}

    @property
    def required(self) -> dict[str, list[str]]:
        """Fields that each event type must have, of those that must have any."""
        return {n: t.requires for n, t in self.event_types.items() if isinstance(t, EventTypeConfig) and t.requires}

    @field_validator("timezone")
    @classmethod
    def _is_a_zone(cls, zone: str) -> str:
        try:
            ZoneInfo(zone)
        except (KeyError, ValueError, OSError):
            raise ValueError(f"{zone!r} is no IANA time zone; write one such as Europe/Berlin") from None
        return zone

    @model_validator(mode="after")
    def _knows_what_is_personal(self) -> LogConfig:
        for name in self.privacy.personal:
            if name not in (*self.attributes, "device", "country", "session_id"):
                raise ValueError(
                    f"log.privacy.personal names {name!r}, which is no column that is kept; "
                    "name one of log.attributes, device, country, session_id"
                )
        return self

    @model_validator(mode="after")
    def _has_a_type(self) -> LogConfig:
        if self.default_type is not None and self.default_type not in self.event_types:
            raise ValueError(f"log.default_type {self.default_type!r} is not among log.event_types")
        if not any(w > 0 for w in self.weights.values()):
            raise ValueError("log.event_types gives every type the weight 0: no interactions; set one above 0")
        return self
