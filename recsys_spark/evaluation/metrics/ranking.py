"""Metrics of a ranked list against a truth: functions of one user's hits.

`hits[b, j]` says whether the item at rank j + 1 of user b is relevant, `n_relevant[b]` how many items are; both come
from `metrics.hits`. The conventions are those of the package.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
from numpy.typing import ArrayLike

from recsys_spark.evaluation.metrics.hits import (
    Bools,
    Floats,
    Ints,
    Truth,
    find_hits,
    gain_matrix,
    ideal_gains,
    largest_id,
)


def recall_at_k(hits: Bools, n_relevant: ArrayLike, k: int) -> Floats:
    """Share of the relevant items that the first k ranks hold: `|hits@k| / |truth|` (van Rijsbergen 1979).

    The denominator is the whole truth: with more than k relevant items the best value is below 1.
    NaN where n_relevant is 0.

    >>> float(recall_at_k(np.array([True, False, True]), 4, k=3))
    0.5
    """
    return _ratio(_top(hits, k).sum(axis=-1), n_relevant, n_relevant)


def capped_recall_at_k(hits: Bools, n_relevant: ArrayLike, k: int) -> Floats:
    """Share of the relevant items that k ranks could hold: `|hits@k| / min(k, |truth|)`; a perfect list scores 1.

    The second denominator of recall: rectools calls it R-precision, Mult-VAE's paper recall (Liang et al. 2018).
    NaN where n_relevant is 0.

    >>> float(capped_recall_at_k(np.array([True, False, True]), 4, k=2))
    0.5
    """
    return _ratio(_top(hits, k).sum(axis=-1), np.minimum(n_relevant, k), n_relevant)


def precision_at_k(hits: Bools, n_relevant: ArrayLike, k: int) -> Floats:
    """Share of the first k ranks that hold a relevant item: `|hits@k| / k` (van Rijsbergen 1979).

    Always divided by k, however short the list. NaN where n_relevant is 0.

    >>> float(precision_at_k(np.array([True, False]), 4, k=4))
    0.25
    """
    return _ratio(_top(hits, k).sum(axis=-1), k, n_relevant)


def f1_at_k(hits: Bools, n_relevant: ArrayLike, k: int) -> Floats:
    """Harmonic mean of precision and recall: `2 |hits@k| / (k + |truth|)`, 0 without a hit (van Rijsbergen 1979).

    NaN where n_relevant is 0.

    >>> float(f1_at_k(np.array([True, False, True]), 3, k=3)) == 2 / 3
    True
    """
    return _ratio(2 * _top(hits, k).sum(axis=-1), k + np.asarray(n_relevant), n_relevant)


def ndcg_at_k(hits: Bools, n_relevant: ArrayLike, k: int) -> Floats:
    """Normalised discounted cumulative gain with binary gains (Järvelin & Kekäläinen 2002, base-2 discount).

    `DCG@k = sum over ranks r <= k of hit(r) / log2(r + 1)`, divided by the DCG of an ideal list, which has hits at
    ranks 1..min(k, n_relevant). NaN where n_relevant is 0.

    >>> round(float(ndcg_at_k(np.array([False, True, False]), 1, k=3)), 4)
    0.6309
    """
    top = _top(hits, k)
    discount = 1.0 / np.log2(np.arange(2, k + 2))
    ideal = np.concatenate([[0.0], np.cumsum(discount)])[np.minimum(n_relevant, k)]
    return _ratio(top @ discount[: top.shape[-1]], ideal, n_relevant)


def graded_ndcg_at_k(gains: Floats, ideal: Floats, k: int) -> Floats:
    """NDCG whose hits are worth what their gains say (Järvelin & Kekäläinen 2002, base-2 discount).

    `DCG@k = sum over ranks r <= k of gain(r) / log2(r + 1)`, divided by the DCG of the list with the largest gains
    first. Gains are taken as they are; for `2^grade - 1` (Burges et al. 2005) pass those. NaN where nothing is worth
    anything.

    Args:
        gains: `[B, K]`, of `gain_matrix`.
        ideal: `[B, T]`, of `ideal_gains`.

    >>> round(float(graded_ndcg_at_k(np.array([1.0, 0.0, 3.0]), np.array([3.0, 1.0]), k=3)), 4)
    0.6885
    """
    best = _dcg(np.asarray(ideal, float)[..., :k], k)
    return _ratio(_dcg(np.asarray(gains, float)[..., :k], k), best, best > 0)


def mrr_at_k(hits: Bools, n_relevant: ArrayLike, k: int) -> Floats:
    """Reciprocal rank of the first hit: `1 / r` if its rank r is <= k, else 0 (Voorhees 1999, TREC-8 QA).

    NaN where n_relevant is 0. The mean over users is the MRR.

    >>> float(mrr_at_k(np.array([False, True, True]), 2, k=3))
    0.5
    """
    top = _top(hits, k)
    reciprocal = top / np.arange(1, top.shape[-1] + 1)  # the first hit has the largest
    return _ratio(reciprocal.max(axis=-1, initial=0.0), 1, n_relevant)


def hit_rate_at_k(hits: Bools, n_relevant: ArrayLike, k: int) -> Floats:
    """1 if any of the first k ranks is a hit, else 0 (Deshpande & Karypis 2004). NaN where n_relevant is 0.

    >>> float(hit_rate_at_k(np.array([False, True, True]), 2, k=1))
    0.0
    """
    return _ratio(_top(hits, k).any(axis=-1), 1, n_relevant)


def map_at_k(hits: Bools, n_relevant: ArrayLike, k: int) -> Floats:
    """Average precision, cut at k; its mean over users is the MAP (Buckley & Voorhees 2000).

    `AP@k = sum over ranks r <= k of hit(r) * precision@r, divided by min(k, n_relevant)`: a perfect list scores 1.
    trec_eval's `map_cut` divides by n_relevant instead. NaN where n_relevant is 0.

    >>> round(float(map_at_k(np.array([True, False, True]), 2, k=3)), 4)
    0.8333
    """
    top = _top(hits, k)
    precision = np.cumsum(top, axis=-1) / np.arange(1, top.shape[-1] + 1)
    return _ratio((precision * top).sum(axis=-1), np.minimum(n_relevant, k), n_relevant)


def auc_at_k(hits: Bools, n_relevant: ArrayLike, k: int, n_candidates: ArrayLike) -> Floats:
    """Chance that a relevant candidate stands above one that is not, as far as k ranks tell (Schröder et al. 2011).

    With P relevant ones among C candidates, `sum over hits of the misses below them / (P (C - P))`. Where the list
    ends before the candidates do, the relevant ones that it lacks are taken to lie evenly among the rest (LAUC); with
    k = C it is the area under the ROC curve. NaN where all candidates are relevant, or none.

    Args:
        hits: `[B, K]`; the first min(k, K) ranks each hold a candidate, no padding.
        n_relevant: P, among the candidates.
        n_candidates: C, what could have been ranked: the catalogue less what the user has had.

    >>> float(auc_at_k(np.array([False, True, False, False]), 1, k=4, n_candidates=4)) == 2 / 3
    True
    """
    top = _top(hits, k)
    relevant = np.asarray(n_relevant)
    others = np.asarray(n_candidates) - relevant
    misses_above = np.cumsum(~top, axis=-1) * top
    found = top.sum(axis=-1)
    missing = relevant - found
    below = others - (top.shape[-1] - found)  # candidates that are not relevant, behind the list
    if np.any((missing < 0) | (below < 0)):
        raise ValueError("n_candidates must count every item of the list and of the truth")
    pairs_won = found * others - misses_above.sum(axis=-1) + missing * below / 2
    return _ratio(pairs_won, relevant * others, (relevant > 0) & (others > 0))


RANKING_METRICS: dict[str, Callable[[Bools, ArrayLike, int], Floats]] = {
    "recall": recall_at_k,
    "capped_recall": capped_recall_at_k,
    "precision": precision_at_k,
    "f1": f1_at_k,
    "ndcg": ndcg_at_k,
    "mrr": mrr_at_k,
    "hit_rate": hit_rate_at_k,
    "map": map_at_k,
}
"""Every metric of hits alone, under its label; a new one is one function and one line here."""


def evaluate_lists(
    ranked: Ints,
    truth: Sequence[ArrayLike] | Truth,
    ks: Iterable[int],
    gains: Sequence[ArrayLike] | None = None,
) -> dict[str, Floats]:
    """Every ranking metric at every cut-off: `{"ndcg@10": float64 [B], ...}`, one value per user.

    `ranked` `[B, K]` and `truth` are those of `hit_matrix`. A user with an empty truth is NaN throughout. With the
    `gains` of `gain_matrix` (then the truth is a list of arrays) there is `graded_ndcg@k` as well.

    >>> values = evaluate_lists(np.array([[3, 1, 2]]), [np.array([2, 3])], ks=[1, 3])
    >>> float(values["recall@1"][0]), float(values["recall@3"][0])
    (0.5, 1.0)
    """
    ks, laid = list(ks), Truth.of(truth)
    n_items = max(largest_id(laid.items), largest_id(np.asarray(ranked)))
    hits, n_relevant = find_hits(ranked, laid, n_items)
    found = {f"{name}@{k}": metric(hits, n_relevant, k) for k in ks for name, metric in RANKING_METRICS.items()}
    if gains is not None:
        if isinstance(truth, Truth):
            raise ValueError("gains need the truth as a list of arrays")
        worth, ideal = gain_matrix(ranked, truth, gains, n_items), ideal_gains(truth, gains)
        found |= {f"graded_ndcg@{k}": graded_ndcg_at_k(worth, ideal, k) for k in ks}
    return found


def _top(hits: Bools, k: int) -> Bools:
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    return np.asarray(hits, bool)[..., :k]


def _ratio(numerator: ArrayLike, denominator: ArrayLike, n_relevant: ArrayLike) -> Floats:
    """`numerator / denominator`, NaN where nothing is relevant; the one place where the empty case is decided."""
    opinion = np.asarray(n_relevant) > 0
    value = np.asarray(numerator, float) / np.where(opinion, denominator, 1)
    return np.where(opinion, value, np.nan)[()]  # [()]: a 0-d array becomes a scalar


def _dcg(gains: Floats, k: int) -> Floats:
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    discounted: Floats = gains @ (1.0 / np.log2(np.arange(2, gains.shape[-1] + 2)))
    return discounted
