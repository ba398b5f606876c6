"""Metrics of predicted probabilities of a click (or of scores, where only their order counts).

Labels are 0 or 1, `[N]`; probabilities lie in 0..1, `[N]`. Nothing to judge is NaN.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import rankdata

from recsys_spark.evaluation.metrics.hits import Bools, Floats

_EPSILON = float(np.finfo(np.float64).eps)


def auc(labels: ArrayLike, scores: ArrayLike) -> float:
    """Chance that a positive scores above a negative, ties counting half: the area under the ROC curve.

    Mann & Whitney's U over P N (Hanley & McNeil 1982). NaN where a class is missing.

    >>> auc([1, 0, 1, 0], [0.9, 0.4, 0.4, 0.1])
    0.875
    """
    clicked, values = _checked(labels, scores)
    positives = int(clicked.sum())
    negatives = len(clicked) - positives
    if not positives or not negatives:
        return float("nan")
    ranks = float(rankdata(values)[clicked].sum())
    return (ranks - positives * (positives + 1) / 2) / (positives * negatives)


def gauc(labels: ArrayLike, scores: ArrayLike, groups: ArrayLike) -> float:
    """Mean of the groups' AUCs, each weighted with its number of rows (Zhou et al. 2018, "Deep interest network").

    Args:
        groups: integers `[N]`, mostly users. A group without a positive or a negative has no AUC and no weight.

    >>> gauc([1, 0, 0, 1, 0, 1], [0.9, 0.1, 0.4, 0.2, 0.3, 0.8], [1, 1, 1, 2, 2, 3])
    0.6
    """
    total, weight = gauc_sums(labels, scores, groups)
    return total / weight if weight else float("nan")


def gauc_sums(labels: ArrayLike, scores: ArrayLike, groups: ArrayLike) -> tuple[float, float]:
    """Return Σ_g n_g AUC_g and Σ_g n_g over the groups that have both classes: what `gauc` divides.

    Sums over different groups add up, so that every rank counts its own users.

    >>> gauc_sums([1, 0, 0, 1], [0.9, 0.1, 0.4, 0.2], [1, 1, 2, 2])
    (2.0, 4.0)
    """
    clicked, values = _checked(labels, scores)
    _, group = np.unique(np.asarray(groups), return_inverse=True)
    if group.shape != clicked.shape:
        raise ValueError(f"groups have shape {group.shape}, labels {clicked.shape}")
    if not len(group):
        return 0.0, 0.0
    order = np.lexsort((values, group))
    group, values, clicked = group[order], values[order], clicked[order]
    new_tie = np.r_[True, (np.diff(group) != 0) | (np.diff(values) != 0)]
    tie = np.cumsum(new_tie) - 1
    first, size = np.flatnonzero(new_tie), np.bincount(tie)
    rows = np.bincount(group)
    start = np.cumsum(rows) - rows
    rank = (first + (size - 1) / 2)[tie] - start[group] + 1  # within the group, ties sharing their mean
    positives = np.bincount(group, weights=clicked)
    pairs = positives * (rows - positives)
    judged = pairs > 0
    won = np.bincount(group, weights=rank * clicked) - positives * (positives + 1) / 2
    return float((rows[judged] * won[judged] / pairs[judged]).sum()), float(rows[judged].sum())


def log_loss(labels: ArrayLike, probabilities: ArrayLike) -> float:
    """Mean of `-log p` of what happened, in nats; probabilities are kept 2^-52 away from 0 and 1.

    >>> round(log_loss([1, 0], [0.5, 0.25]), 4)
    0.4904
    """
    clicked, p = _checked(labels, probabilities, probability=True)
    p = np.clip(p, _EPSILON, 1 - _EPSILON)
    return float(-np.log(np.where(clicked, p, 1 - p)).mean()) if len(p) else float("nan")


def logit_log_loss_sum(labels: ArrayLike, logits: ArrayLike) -> float:
    """Sum of `-log p` of what happened, p = 1 / (1 + e^-logit), without rounding p: log-loss is its mean over the rows.

    >>> round(logit_log_loss_sum([1, 0], [0.0, 2.0]), 4)
    2.8201
    """
    clicked, s = _checked(labels, logits)
    return float((np.logaddexp(0.0, s) - s * clicked).sum())


def normalised_entropy(labels: ArrayLike, probabilities: ArrayLike) -> float:
    """Log-loss over that of the base rate: below 1 is better than knowing the rate alone (He et al. 2014).

    NaN where all labels are the same, because then the base rate is never wrong.

    >>> round(normalised_entropy([1, 0], [0.75, 0.25]), 4)
    0.415
    """
    clicked, _ = _checked(labels, probabilities)
    rate = float(clicked.mean()) if len(clicked) else 0.0
    if rate in (0.0, 1.0):
        return float("nan")
    return log_loss(labels, probabilities) / -(rate * np.log(rate) + (1 - rate) * np.log(1 - rate))


@dataclass(frozen=True, eq=False)
class Calibration:
    """What was predicted and what happened, by bin of the prediction; NaN in a bin that holds nothing."""

    predicted: Floats
    """Mean probability, `[bins]`."""
    happened: Floats
    """Share of positives, `[bins]`."""
    rows: NDArray[np.int64]
    """How many, `[bins]`."""


def calibration(labels: ArrayLike, probabilities: ArrayLike, bins: int = 10) -> Calibration:
    """Compare probabilities with what happened, in bins of equal width: `[0, 1/b], (1/b, 2/b], ..., (1 - 1/b, 1]`.

    >>> calibration([1, 0, 1], [0.9, 0.1, 0.05], bins=2).happened.tolist()
    [0.5, 1.0]
    """
    clicked, p = _checked(labels, probabilities, probability=True)
    at = np.searchsorted(np.linspace(0, 1, bins + 1)[1:-1], p)
    rows = np.bincount(at, minlength=bins)
    with np.errstate(invalid="ignore"):
        predicted, happened = (np.bincount(at, weights=w, minlength=bins) / rows for w in (p, clicked))
    return Calibration(predicted, happened, rows)


def expected_calibration_error(labels: ArrayLike, probabilities: ArrayLike, bins: int = 10) -> float:
    """ECE: mean distance of predicted and happened over the bins, by their rows (Naeini et al. 2015).

    >>> round(expected_calibration_error([1, 0, 1], [0.9, 0.1, 0.05], bins=2), 4)
    0.3167
    """
    found = calibration(labels, probabilities, bins)
    filled = found.rows > 0
    if not filled.any():
        return float("nan")
    distance = np.abs(found.predicted - found.happened)[filled]
    return float(np.average(distance, weights=found.rows[filled]))


def _checked(labels: ArrayLike, values: ArrayLike, probability: bool = False) -> tuple[Bools, Floats]:
    given, predicted = np.asarray(labels, float), np.asarray(values, float)
    if given.shape != predicted.shape or given.ndim != 1:
        raise ValueError(f"labels have shape {given.shape}, predictions {predicted.shape}; both must be [N]")
    if not np.isin(given, (0, 1)).all():
        raise ValueError("labels must be 0 or 1")
    if np.isnan(predicted).any():
        raise ValueError("predictions must not be NaN")
    if probability and not ((predicted >= 0) & (predicted <= 1)).all():
        raise ValueError("probabilities must lie between 0 and 1")
    return given == 1, predicted
