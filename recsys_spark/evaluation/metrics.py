"""Every ranking metric, once: one function of one user's ranked list and truth.

Spark (inside `mapInPandas`), numpy and the torch training loop all call these functions, so that a number means
the same thing wherever it was computed. Notation: B users, K ranks in a list, k the cut-off; `hits[b, j]` says
whether the item at rank j + 1 of user b is relevant, `n_relevant[b]` how many items are.

Conventions, the same for every ranking metric:

* Relevance is binary, and item id 0 is no item: in a list it is padding and never a hit, in a truth it is an item
  that the dictionary does not know, and is left out.
* **Empty case**: a user without relevant items has no opinion; every metric is NaN there. Average with `nanmean`.
* A list shorter than k (K < k) is one whose remaining ranks are misses.
* Metrics work on the last axis: `[B, K]` hits give `[B]` values, one user's `[K]` hits give a scalar.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Ints = NDArray[np.integer[Any]]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


def hit_matrix(ranked: Ints, truth: Sequence[ArrayLike], n_items: int) -> Bools:
    """Whether each ranked item is in its user's truth: bool `[B, K]`.

    Args:
        ranked: item ids in 0..n_items, best first, `[B, K]`; 0 is "no recommendation" and never a hit.
        truth: B one-dimensional integer arrays, each a user's relevant items; order and repeats do not matter.
        n_items: the largest item id there is.

    An item that a list repeats is a hit at its best rank only, so that no metric can exceed 1.

    >>> hit_matrix(np.array([[3, 1, 2], [2, 0, 0]]), [np.array([2, 3]), np.array([1])], n_items=3).tolist()
    [[True, False, True], [False, False, False]]
    """
    return _find_hits(ranked, _truth_keys(truth, n_items), len(truth), n_items)


def relevant_counts(truth: Sequence[ArrayLike]) -> NDArray[np.int64]:
    """How many distinct known items each user's truth holds: `n_relevant`, int64 `[B]`.

    >>> relevant_counts([np.array([2, 3, 3]), np.array([0]), np.array([])]).tolist()
    [2, 0, 0]
    """
    n_items = _largest_id(truth)
    return np.bincount(_truth_keys(truth, n_items) // (n_items + 1), minlength=len(truth)).astype(np.int64)


def recall_at_k(hits: Bools, n_relevant: ArrayLike, k: int) -> Floats:
    """Share of the relevant items that the first k ranks hold: `|hits@k| / |truth|` (van Rijsbergen 1979).

    The denominator is the whole truth: with more than k relevant items the best value is below 1.
    NaN where n_relevant is 0.

    >>> float(recall_at_k(np.array([True, False, True]), 4, k=3))
    0.5
    """
    return _ratio(_top(hits, k).sum(axis=-1), n_relevant, n_relevant)


def precision_at_k(hits: Bools, n_relevant: ArrayLike, k: int) -> Floats:
    """Share of the first k ranks that hold a relevant item: `|hits@k| / k` (van Rijsbergen 1979).

    Always divided by k, however short the list. NaN where n_relevant is 0.

    >>> float(precision_at_k(np.array([True, False]), 4, k=4))
    0.25
    """
    return _ratio(_top(hits, k).sum(axis=-1), k, n_relevant)


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


RANKING_METRICS: dict[str, Callable[[Bools, ArrayLike, int], Floats]] = {
    "recall": recall_at_k,
    "precision": precision_at_k,
    "ndcg": ndcg_at_k,
    "mrr": mrr_at_k,
    "hit_rate": hit_rate_at_k,
    "map": map_at_k,
}
"""Every ranking metric under its label; a new one is one function and one line here."""


def evaluate_lists(ranked: Ints, truth: Sequence[ArrayLike], ks: Iterable[int]) -> dict[str, Floats]:
    """Every ranking metric at every cut-off: `{"ndcg@10": float64 [B], ...}`, one value per user.

    `ranked` `[B, K]` and `truth` are those of `hit_matrix`. A user with an empty truth is NaN throughout.

    >>> values = evaluate_lists(np.array([[3, 1, 2]]), [np.array([2, 3])], ks=[1, 3])
    >>> float(values["recall@1"][0]), float(values["recall@3"][0])
    (0.5, 1.0)
    """
    n_items = max(_largest_id(truth), int(np.max(ranked, initial=0)))
    keys = _truth_keys(truth, n_items)
    hits = _find_hits(ranked, keys, len(truth), n_items)
    n_relevant = np.bincount(keys // (n_items + 1), minlength=len(truth))
    return {f"{name}@{k}": metric(hits, n_relevant, k) for k in ks for name, metric in RANKING_METRICS.items()}


def coverage_at_k(distinct_items_recommended: int, n_catalogue: int) -> float:
    """Catalogue coverage: share of the catalogue that is in anyone's first k ranks (Ge et al. 2010).

    NaN for an empty catalogue; more items recommended than there are is a ValueError.

    >>> coverage_at_k(30, 120)
    0.25
    """
    if not 0 <= distinct_items_recommended <= n_catalogue:
        raise ValueError(f"{distinct_items_recommended} distinct items recommended of a catalogue of {n_catalogue}")
    return distinct_items_recommended / n_catalogue if n_catalogue else float("nan")


def rmse(predicted: ArrayLike, actual: ArrayLike) -> float:
    """Root mean squared error, `sqrt(mean((predicted - actual)^2))`, over the elements with an actual rating.

    NaN actuals are ignored, and none left gives NaN; a NaN prediction is a fault of the model and makes the result NaN.

    >>> rmse([1.0, 2.0, 9.0], [4.0, 6.0, float("nan")]) == 12.5**0.5
    True
    """
    return float(np.sqrt(_mean(np.square(_errors(predicted, actual)))))


def mae(predicted: ArrayLike, actual: ArrayLike) -> float:
    """Mean absolute error, `mean(|predicted - actual|)`; NaNs as in `rmse`.

    >>> mae([1.0, 2.0, 9.0], [4.0, 6.0, float("nan")])
    3.5
    """
    return _mean(np.abs(_errors(predicted, actual)))


def _largest_id(truth: Sequence[ArrayLike]) -> int:
    return max((int(np.max(items)) for items in truth if np.size(items)), default=0)


def _truth_keys(truth: Sequence[ArrayLike], n_items: int) -> NDArray[np.int64]:
    """Sorted distinct `user * (n_items + 1) + item`: all truths as one array that `searchsorted` can look into."""
    parts = [np.asarray(items) for items in truth]
    filled = [part for part in parts if part.size]  # an empty list comes as a float array; do not let it cast the rest
    if not filled:
        return np.zeros(0, np.int64)
    items = _checked_ids(np.concatenate(filled), n_items, "truth")
    user = np.repeat(np.arange(len(parts)), [part.size for part in parts])
    keys: NDArray[np.int64] = np.unique((user * (n_items + 1) + items)[items > 0])
    return keys


def _find_hits(ranked: Ints, keys: NDArray[np.int64], n_users: int, n_items: int) -> Bools:
    if np.ndim(ranked) != 2 or len(ranked) != n_users:
        raise ValueError(f"ranked must be [B, K] with one row per truth ({n_users}), got shape {np.shape(ranked)}")
    ids = _checked_ids(ranked, n_items, "ranked")
    if not keys.size or not ids.size:
        return np.zeros(ids.shape, bool)
    wanted = (np.arange(n_users)[:, None] * (n_items + 1) + ids).ravel()
    found = keys[np.minimum(np.searchsorted(keys, wanted), keys.size - 1)] == wanted
    at = np.flatnonzero(found)
    best = np.unique(wanted[at], return_index=True)[1]  # the first, hence best, rank of each item found
    hits = np.zeros(wanted.size, bool)
    hits[at[best]] = True
    return hits.reshape(ids.shape)


def _checked_ids(ids: Ints, n_items: int, name: str) -> NDArray[np.int64]:
    """Ids as int64; one out of range would count as another user's item, so it must not get further."""
    if ids.dtype.kind not in "iu":
        raise ValueError(f"{name} must hold integer item ids, got {ids.dtype}")
    if ids.size and not 0 <= int(ids.min()) <= int(ids.max()) <= n_items:
        raise ValueError(f"{name} holds item ids {ids.min()}..{ids.max()}, outside 0..{n_items}")
    return ids.astype(np.int64, copy=False)


def _top(hits: Bools, k: int) -> Bools:
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    return np.asarray(hits, bool)[..., :k]


def _ratio(numerator: ArrayLike, denominator: ArrayLike, n_relevant: ArrayLike) -> Floats:
    """`numerator / denominator`, NaN where nothing is relevant; the one place where the empty case is decided."""
    opinion = np.asarray(n_relevant) > 0
    value = np.asarray(numerator, float) / np.where(opinion, denominator, 1)
    return np.where(opinion, value, np.nan)[()]  # [()]: a 0-d array becomes a scalar


def _errors(predicted: ArrayLike, actual: ArrayLike) -> Floats:
    known = ~np.isnan(np.asarray(actual, float))
    difference: Floats = np.asarray(predicted, float)[known] - np.asarray(actual, float)[known]
    return difference


def _mean(values: Floats) -> float:
    return float(values.mean()) if values.size else float("nan")
