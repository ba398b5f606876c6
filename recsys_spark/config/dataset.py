"""From events to training data."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from recsys_spark.config.section import Section


class DatasetConfig(Section):
    """From events to training data."""

    k_core: int = Field(5, ge=0)
    """Least interactions of every user and item in the training part, to a fixed point; 0 = off."""
    split: Literal["time", "leave_one_out", "column", "random"] = "time"
    """`random` leaks the future into training and says so: for comparing with papers that split so."""
    valid_days: int = Field(1, ge=1)
    """Days before the test days that choose epochs and parameters (`time` only)."""
    test_days: int = Field(1, ge=1)
    """Last days, which are only ever measured on (`time` only)."""
    gap_days: int = Field(0, ge=0)
    """Days left out between the training and the valid days (`time` only): what a nightly model has not yet seen."""
    valid_share: float = Field(0.1, gt=0, lt=0.5)
    """Share of the interactions that are valid (`random` only)."""
    test_share: float = Field(0.1, gt=0, lt=0.5)
    """Share of the interactions that are test (`random` only)."""
    half_life_days: float | None = Field(None, gt=0)
    """Age at which an event counts half; null = age does not matter."""
    max_user_interactions: int | None = Field(None, ge=1)
    """Training rows kept of a user, the newest; null = all."""
    feeds: list[Literal["pairs", "sequences", "impressions"]] = ["pairs"]
    """Training feeds to write: pairs for two-tower and NeuMF, sequences, and impressions for ranking models."""
    history_length: int = Field(50, ge=1)
    """Length of the padded histories of pairs, and of the windows of sequences."""
    sequence_stride: int | None = Field(None, ge=1)
    """Items between the windows that a history longer than `history_length` is cut into; null = its length."""
    label_hours: int = Field(24, ge=1)
    """Hours after an impression within which a click or purchase of the item labels it."""
    positive_rating: float = 4.0
    """Least rating that labels a row of the impressions feed positive, where a log has ratings and no impressions."""
    drawn_impressions: int = Field(0, ge=0)
    """Items drawn beside each rating, as rows of the impressions feed whose labels are 0, where a log has ratings and
    no impressions: a ranker of `label_rating` then learns what people come to next."""
    feed_files: int = Field(8, ge=1)
    """Least number of files (= row groups) of a feed; there are never fewer than four for each reader thread."""
    feed_rows_per_file: int = Field(1_000_000, ge=1)
    """Most rows of one file of a feed; fewer where a file would hold more than 128 MiB of plain values."""

    @model_validator(mode="after")
    def _agrees(self) -> DatasetConfig:
        if "pairs" not in self.feeds or len(set(self.feeds)) < len(self.feeds):
            raise ValueError("dataset.feeds needs 'pairs', where the catalogue of every model is, and no kind twice")
        if self.sequence_stride is not None and self.sequence_stride > self.history_length:
            raise ValueError(
                f"dataset.sequence_stride {self.sequence_stride} is above dataset.history_length "
                f"{self.history_length}: items between two windows would be in none; lower it"
            )
        return self
