"""What a list is besides right: how much of the catalogue it shows, how known, how varied, how new.

Metrics of one list take `ranked`, item ids `[B, K]` with 0 for nothing, and give `[B]`; NaN where the first k ranks
hold nothing. Metrics of all lists take the exposure counts, which add up over users.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from recsys_spark.evaluation.metrics.hits import Bools, Floats, Ints, Truth, hit_matrix, largest_id

# --- of all lists ---


def exposure_counts(ranked: Ints, n_items: int, k: int) -> NDArray[np.int64]:
    """How many lists have each item in their first k ranks: int64 `[n_items]`, that of item 1 first.

    >>> exposure_counts(np.array([[1, 2], [2, 0]]), n_items=3, k=2).tolist()
    [1, 2, 0]
    """
    return np.bincount(ranked[:, :k].ravel(), minlength=n_items + 1)[1 : n_items + 1]


def coverage_at_k(distinct_items_recommended: int, n_catalogue: int) -> float:
    """Catalogue coverage: share of the catalogue that is in anyone's first k ranks (Ge et al. 2010).

    NaN for an empty catalogue; more items recommended than there are is a ValueError.

    >>> coverage_at_k(30, 120)
    0.25
    """
    if not 0 <= distinct_items_recommended <= n_catalogue:
        raise ValueError(f"{distinct_items_recommended} distinct items recommended of a catalogue of {n_catalogue}")
    return distinct_items_recommended / n_catalogue if n_catalogue else float("nan")


def gini(counts: ArrayLike) -> float:
    """Gini index of the exposures: 0 where every item is shown equally often, (n - 1) / n where only one is.

    `sum over items, in rising order i = 1..n, of (2 i - n - 1) x_i, divided by n sum(x)` (Fleder & Hosanagar 2009).
    Items that are never shown count: pass their zeros. NaN without any exposure.

    >>> gini([0, 0, 4]), gini([2, 2])
    (0.6666666666666666, 0.0)
    """
    x = np.sort(np.asarray(counts, float))
    n, total = len(x), float(x.sum())
    return float((2 * np.arange(1, n + 1) - n - 1) @ x / (n * total)) if total else float("nan")


def shannon_entropy(counts: ArrayLike) -> float:
    """Entropy of the exposures in bits, `-sum p_i log2 p_i`; `log2` of the catalogue where all are shown equally.

    NaN without any exposure.

    >>> shannon_entropy([1, 1, 1, 1, 0])
    2.0
    """
    x = np.asarray(counts, float)
    p = x[x > 0] / x.sum()
    return float(-(p * np.log2(p)).sum()) + 0.0 if p.size else float("nan")


# --- of one list ---


def self_information(users_of_item: ArrayLike, n_users: int) -> Floats:
    """What it says of a user to have an item: `-log2(users_i / n_users)` bits, `[n_items + 1]` as its argument.

    An item that nobody has counts as if one user had.

    >>> self_information([0, 8, 2, 0], n_users=8).tolist()
    [3.0, 0.0, 2.0, 3.0]
    """
    users = np.maximum(np.asarray(users_of_item, float), 1)
    return -np.log2(users / n_users) + 0.0


def novelty_at_k(ranked: Ints, information: Floats, k: int) -> Floats:
    """Mean self-information of the listed items, in bits (Zhou et al. 2010; Castells et al. 2011).

    >>> novelty_at_k(np.array([[1, 2], [2, 0]]), np.array([3.0, 0.0, 2.0]), k=2).tolist()
    [1.0, 2.0]
    """
    return _mean_of_items(ranked, information, k)


def popularity_at_k(ranked: Ints, popularity: Floats, k: int) -> Floats:
    """ARP, average recommendation popularity: mean count of the listed items in the log (Yin et al. 2012).

    `popularity` is `[n_items + 1]`.

    >>> popularity_at_k(np.array([[1, 2]]), np.array([0.0, 10.0, 2.0]), k=2).tolist()
    [6.0]
    """
    return _mean_of_items(ranked, popularity, k)


def popularity_lift(of_lists: ArrayLike, of_histories: ArrayLike) -> float:
    """How much more popular lists are than what their users have had: `(ARP - P) / P` (Abdollahpouri et al. 2020).

    Both are means over the same users' items; NaN users are left out.

    >>> round(popularity_lift([6.0, 6.0], [4.0, 6.0]), 6)
    0.2
    """
    lists, histories = np.asarray(of_lists, float), np.asarray(of_histories, float)
    both = ~(np.isnan(lists) | np.isnan(histories))
    own = float(histories[both].sum())
    return (float(lists[both].sum()) - own) / own if own else float("nan")


def intra_list_diversity_at_k(ranked: Ints, vectors: Floats, k: int) -> Floats:
    """Mean of `1 - cosine` over the pairs of listed items (Ziegler et al. 2005); NaN for fewer than two items.

    No pair is looked at: the cosines of all pairs of unit vectors v add up to `(|sum v|^2 - sum |v|^2) / 2`.

    Args:
        vectors: of each item, `[n_items + 1, D]`: categories, or embeddings. A vector of zeros is like no other.

    >>> apart = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [2.0, 0.0]])
    >>> intra_list_diversity_at_k(np.array([[1, 2, 3], [1, 3, 0]]), apart, k=3).round(4).tolist()
    [0.6667, 0.0]
    """
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = np.divide(vectors, norms, out=np.zeros(vectors.shape), where=norms > 0)
    top = ranked[:, :k]
    listed = top > 0
    of = unit[np.where(listed, top, 0)] * listed[..., None]  # [B, k, D]
    n = listed.sum(axis=1)
    alike = (np.square(of.sum(axis=1)).sum(axis=1) - np.square(of).sum(axis=(1, 2))) / 2
    pairs = n * (n - 1) / 2
    return np.where(pairs > 0, 1 - alike / np.maximum(pairs, 1), np.nan)


def popularity_ranks(users_of_item: ArrayLike) -> NDArray[np.int64]:
    """Rank of each item by its users, 1 the most popular, `[n_items + 1]` as its argument.

    Items with as many users share a rank, and the next number of users has the next one, as in rectools; an item that
    nobody has stands behind the whole catalogue.

    >>> popularity_ranks([0, 2, 5, 2, 0]).tolist()
    [5, 2, 1, 2, 5]
    """
    users = np.asarray(users_of_item)
    at = np.unique(-users, return_inverse=True)[1]
    return np.where(users > 0, at + 1, len(users))


def serendipity_at_k(ranked: Ints, hits: Bools, popularity_rank: Ints, n_items: int, k: int) -> Floats:
    """Right where popularity would not have been: mean over k ranks of `hit(r) max(p(r) - p(popularity rank), 0)`.

    `p(rank) = (n_items + 1 - rank) / n_items`, so what counts is how much higher an item stands than in the list of
    the most popular (Ge et al. 2010, with ranks for probabilities as rectools has it). Divided by k.

    Args:
        hits: of `hit_matrix`, `[B, K]`.
        popularity_rank: of `popularity_ranks`, `[n_items + 1]`.

    >>> hits, rank = np.array([[True, True]]), np.array([0, 1, 3, 2])
    >>> serendipity_at_k(np.array([[2, 1]]), hits, rank, n_items=3, k=2).round(4).tolist()
    [0.3333]
    """
    top, hit = ranked[:, :k], hits[:, :k]
    ahead = (popularity_rank[top] - np.arange(1, top.shape[1] + 1)) / n_items
    value = (np.maximum(ahead, 0) * hit).sum(axis=1) / k
    return np.where((top > 0).any(axis=1), value, np.nan)


def freshness_at_k(ranked: Ints, age_days: Floats, within: float, k: int) -> Floats:
    """Share of the listed items whose age is at most `within` days; `age_days` is `[n_items + 1]`, NaN is old.

    >>> freshness_at_k(np.array([[1, 2]]), np.array([0.0, 3.0, 40.0]), within=7, k=2).tolist()
    [0.5]
    """
    return _mean_of_items(ranked, (age_days <= within).astype(float), k)


def repeat_rate_at_k(ranked: Ints, histories: Sequence[ArrayLike] | Truth, k: int) -> Floats:
    """Share of the listed items that the user has had before.

    >>> repeat_rate_at_k(np.array([[1, 2], [3, 0]]), [np.array([2, 5]), np.array([1])], k=2).tolist()
    [0.5, 0.0]
    """
    laid = Truth.of(histories)
    n_items = max(largest_id(ranked), largest_id(laid.items))
    return _share(hit_matrix(ranked, laid, n_items)[:, :k], ranked[:, :k])


def churn_at_k(before: Ints, after: Ints, k: int) -> Floats:
    """Share of the newer list's first k items that were not among the older's: 0 the same items, 1 all new.

    >>> churn_at_k(np.array([[1, 2, 3]]), np.array([[3, 4, 1]]), k=2).tolist()
    [1.0]
    """
    n_items = max(largest_id(before), largest_id(after))
    return 1 - _share(hit_matrix(after[:, :k], list(before[:, :k]), n_items), after[:, :k])


def _mean_of_items(ranked: Ints, of_item: Floats, k: int) -> Floats:
    listed = ranked[:, :k] > 0
    n = listed.sum(axis=1)
    total = (of_item[ranked[:, :k]] * listed).sum(axis=1)
    return np.where(n > 0, total / np.maximum(n, 1), np.nan)


def _share(marked: Bools, ranked: Ints) -> Floats:
    n = (ranked > 0).sum(axis=1)
    return np.where(n > 0, marked.sum(axis=1) / np.maximum(n, 1), np.nan)
