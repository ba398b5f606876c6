"""Metrics on sampled negatives, for who asks for them: what they say, and an estimate of what all items would say.

Ranking a held-out item among m drawn items instead of all N - 1 others is fast and **biased**: its rank among the
sample is about m / N of its true one, so that ndcg@10 of 100 negatives is nearer to ndcg@1000 of a catalogue of 10,000.
The order of two models can turn round (Krichene & Rendle 2020, "On sampled metrics for item recommendation"; Li, Jin,
Gao & Liu 2020, "On sampling top-K recommendation evaluation"). Only AUC comes out the same. The night never samples.

The corrected estimator replaces the metric f(rank) by weights w(sampled rank) whose expectation is as close to f of the
true rank as a bound on their variance allows. It is right on average over users, not for one of them.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import binom

from recsys_spark.evaluation.metrics.hits import Floats

BIAS = (
    "on sampled negatives: not comparable with figures of the full catalogue, and the order of models may differ from "
    "theirs (Krichene & Rendle 2020)"
)
"""What has to stand beside every sampled figure."""

RANK_METRICS: dict[str, Callable[[Floats, int], Floats]] = {
    "recall": lambda rank, k: (rank <= k).astype(float),
    "ndcg": lambda rank, k: (rank <= k) / np.log2(rank + 1),
    "mrr": lambda rank, k: (rank <= k) / rank,
}
"""Metrics of one held-out item by its rank, from 1; with one relevant item they are those of `metrics.ranking`."""


def sampled_values(ranks: ArrayLike, metric: str, k: int) -> Floats:
    """Metric of each rank among the sample, `[N]`, as it is usually reported: `BIAS` says what is wrong with it.

    Args:
        ranks: 1 + how many of the drawn negatives stand above the held-out item, `[N]`.

    >>> sampled_values([1, 3, 11], "recall", k=10).tolist()
    [1.0, 1.0, 0.0]
    """
    return RANK_METRICS[metric](np.asarray(ranks, float), k)


def corrected_values(
    ranks: ArrayLike, metric: str, k: int, n_candidates: int, negatives: int, variance: float = 0.01
) -> Floats:
    """Estimate of the metric over all candidates from each rank among the sample, `[N]`; its mean is what counts.

    Args:
        ranks: as of `sampled_values`, in 1..negatives + 1.
        n_candidates: items that could have been ranked, the held-out one among them.
        negatives: how many were drawn, with replacement, all alike likely.
        variance: of `correction_weights`.
    """
    at = np.asarray(ranks, np.int64)
    if at.size and not 1 <= int(at.min()) <= int(at.max()) <= negatives + 1:
        raise ValueError(f"ranks {at.min()}..{at.max()} of {negatives} negatives, outside 1..{negatives + 1}")
    return correction_weights(metric, k, n_candidates, negatives, variance)[at - 1]


def correction_weights(metric: str, k: int, n_candidates: int, negatives: int, variance: float = 0.01) -> Floats:
    """Weight of each sampled rank 1..m + 1: the bias-variance estimator of Krichene & Rendle (2020, section 5.3).

    The sampled rank of an item of rank r is `1 + Binomial(m, (r - 1) / (N - 1))`; call its probabilities A[r, s]. With
    ranks alike likely, w minimises `sum_r (sum_s A[r, s] w_s - f(r))^2 + variance x Var_s(w | r)`:

        w = ((1 - variance) A'A + variance diag(A'1))^-1 A'f

    Args:
        variance: 0 is the least biased and swings wildly; 1 is the steadiest, and nearer to the mean of all ranks.
    """
    if not 0 < variance <= 1:
        raise ValueError(f"variance must be above 0 and at most 1, got {variance}")
    if n_candidates < 2 or negatives < 1:
        raise ValueError(f"{n_candidates} candidates and {negatives} negatives leave nothing to sample")
    rank = np.arange(1, n_candidates + 1)
    table: NDArray[np.float64] = binom.pmf(
        np.arange(negatives + 1), negatives, ((rank - 1) / (n_candidates - 1))[:, None]
    )  # [N, m + 1]
    left = (1 - variance) * table.T @ table + variance * np.diag(table.sum(axis=0))
    weights: Floats = np.linalg.solve(left, table.T @ RANK_METRICS[metric](rank.astype(float), k))
    return weights
