"""What the rankers of a night promised for the impressions of the test part, and what happened."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from recsys_spark.evaluation.metrics.probability import Calibration, calibration, expected_calibration_error, log_loss

_BINS = 10


@dataclass(frozen=True)
class Reliability:
    """One label of one ranker."""

    model: str
    label: str
    bins: Calibration
    error: float
    """Expected calibration error."""
    log_loss: float
    rows: int
    share: float
    """Of the impressions for which it happened."""


def reliability(name: str, path: Path, feed: Path, users: int, seed: int) -> list[Reliability]:
    """Ask a saved ranker how probable each label was, and compare.

    Args:
        feed: the feed of impressions that it was trained on.
        users: most users whose impressions are read.
    """
    # here, and not above: torch takes a second to import, and most nights have no ranker
    from recsys_spark.models.torch_ranker import load
    from recsys_spark.training.ranking import RankingValidation

    model = load(path)
    labels = model.config.labels
    part = RankingValidation(feed / "test", model.network.columns, labels, 0, 1, users, seed)
    chances = 1 / (1 + np.exp(-part.logits(model).astype(np.float64)))
    found = []
    for t, label in enumerate(labels):
        truth, chance = part.rows[label], chances[:, t]
        if len(truth):
            found.append(Reliability(
                name, label.removeprefix("label_"), calibration(truth, chance, _BINS),
                expected_calibration_error(truth, chance, _BINS), log_loss(truth, chance), len(truth),
                float(np.mean(truth)),
            ))  # fmt: skip
    return found
