"""Metrics of a ranking model on impressions: how well it tells those that came to something from the others.

Shapes: n rows. Scores are larger for what is the more likely; labels are 0 or 1.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating]


def auc(scores: Array, labels: Array) -> float:
    """Area under the ROC curve: how often a positive row is scored above a negative one, ties counting half.

    (Σ ranks of the positives - P (P + 1) / 2) / (P N), ranks from 1 and equal scores sharing theirs: Hanley & McNeil
    1982, "The meaning and use of the area under a receiver operating characteristic (ROC) curve". NaN without both
    kinds.

    >>> auc(np.array([0.1, 0.4, 0.35, 0.8]), np.array([0.0, 0.0, 1.0, 1.0]))
    0.75
    """
    total, weight = grouped_auc_sums(np.zeros(len(scores), np.int64), scores, labels)
    return total / weight if weight else float("nan")


def grouped_auc_sums(groups: NDArray[np.integer], scores: Array, labels: Array) -> tuple[float, float]:
    """Return Σ_u n_u AUC_u and Σ_u n_u over the groups u that have both kinds of rows: GAUC is their quotient.

    Zhou et al. 2018, "Deep interest network for click-through rate prediction", equation 7, with users as groups and
    n_u their impressions. Sums of different groups add up.
    """
    if not len(scores):
        return 0.0, 0.0
    order = np.lexsort((scores, groups))
    group, score, label = groups[order], scores[order], labels[order].astype(np.float64)
    new_group = np.append(True, group[1:] != group[:-1])
    starts = np.flatnonzero(new_group)
    sizes = np.diff(np.append(starts, len(group)))
    place = np.arange(1, len(group) + 1) - np.repeat(starts, sizes)  # from 1 in each group
    ties = np.flatnonzero(new_group | np.append(True, score[1:] != score[:-1]))
    n_tied = np.diff(np.append(ties, len(group)))
    rank = np.repeat(np.add.reduceat(place, ties) / n_tied, n_tied)
    positive = np.add.reduceat(label, starts)
    negative = sizes - positive
    both = (positive > 0) & (negative > 0)
    wins = np.add.reduceat(rank * label, starts) - positive * (positive + 1) / 2
    area = wins[both] / (positive * negative)[both]
    return float((sizes[both] * area).sum()), float(sizes[both].sum())


def log_loss_sum(logits: Array, labels: Array) -> float:
    """Return Σ -y log σ(s) - (1 - y) log(1 - σ(s)) over all rows; log-loss is their mean.

    >>> round(log_loss_sum(np.array([0.0, 2.0]), np.array([1.0, 0.0])), 4)
    2.8201
    """
    s = logits.astype(np.float64)
    return float((np.logaddexp(0.0, s) - s * labels).sum())
