"""The section of an A/B test: who was given which arm, what is measured, and what may not get worse."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from recsys_spark.config.log import FileConfig
from recsys_spark.config.section import Section

MetricName = Literal["ctr", "cvr", "revenue", "retention"]
METRIC_NAMES: tuple[MetricName, ...] = ("ctr", "cvr", "revenue", "retention")


class AssignmentsConfig(FileConfig):
    """The assignment table, a row per user: `user_id`, `arm` and `assigned_at` (a time, or a UTC day)."""

    format: Literal["jsonl", "csv", "parquet"] = "csv"


class ExperimentConfig(Section):
    """An A/B test that `jobs/ab_report.py` reads out."""

    assignments: AssignmentsConfig | None = None
    """Who was given which arm, and since when; null = there is no experiment."""
    control: str = "control"
    """The arm that the others are held against."""
    shares: dict[str, float] = {}
    """By arm: the share of the users that it was to get; empty = equal shares of the arms that the table has."""
    expected_lift: float = Field(0.05, gt=0)
    """Relative change that is looked for. Set it before the first look: the intervals that hold at every look are
    narrowest for such an effect."""
    primary: MetricName = "ctr"
    """The metric that decides."""
    guardrails: dict[MetricName, float] = {}
    """By metric: the relative loss that is put up with; `{retention: 0.02}` wants it shown that retention loses less
    than 2 %. A metric that is better when it falls has no place here."""
    confidence: float = Field(0.95, gt=0, lt=1)
    """Of every interval; shared out where several arms are held against the control."""
    power: float = Field(0.8, gt=0, lt=1)
    """Chance to see an effect that is there, for the size that the experiment needs."""
    days: int = Field(14, ge=1)
    """Days that an experiment is to run, for `ab_report --plan`."""
    pre_days: int = Field(14, ge=0)
    """Days before a user's assignment by which the spread between users is taken away (CUPED); 0 = not at all."""
    retention_days: int = Field(7, ge=1)
    """A user is retained who has an event between so many days after the assignment and twice as many, the last
    left out; users for whom that time is not over are not counted yet."""
    impression: str = "impression"
    """Type of the events that an item was shown."""
    click: str = "click"
    """Type of the events that are clicks: CTR = clicks / impressions."""
    purchase: str = "purchase"
    """Type of the events that are purchases: CVR = purchases / clicks."""
    revenue_attribute: str | None = None
    """Attribute of a purchase (`log.attributes`) with the amount paid; null = the catalogue's price of the item."""
    mismatch: float = Field(0.001, gt=0, lt=1)
    """Arms of sizes that have a smaller chance than this are no fair draw, and nothing is read out of them."""

    @model_validator(mode="after")
    def _agrees(self) -> ExperimentConfig:
        for arm, share in self.shares.items():
            if share <= 0:
                raise ValueError(f"experiment.shares.{arm} is {share:g}; an arm needs a share above 0")
        if self.shares and self.control not in self.shares:
            raise ValueError(f"experiment.shares lacks the control {self.control!r}; give it a share")
        if self.shares and len(self.shares) < 2:
            raise ValueError("experiment.shares names one arm; an experiment needs two")
        for metric, loss in self.guardrails.items():
            if not 0 <= loss < 1:
                raise ValueError(f"experiment.guardrails.{metric} is {loss:g}; it is a share of 0 or more, below 1")
        if self.primary in self.guardrails:
            raise ValueError(f"experiment.guardrails names the primary metric {self.primary}; it is held anyway")
        return self
