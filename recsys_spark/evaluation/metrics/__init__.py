"""Every metric, once: a function of one user's list, of ratings, of probabilities, of counts.

Spark (inside `mapInArrow`), numpy and the torch training loop all call these functions, so that a number means the
same thing wherever it was computed. `docs/metrics.md` has every formula, and where other libraries differ.

Conventions, the same for every metric of a list. B users, K ranks in a list, k the cut-off:

* Item id 0 is no item: in a list it is padding and never a hit, in a truth it is an item that the dictionary does not
  know, and is left out.
* **Empty case**: a user without relevant items has no opinion; every ranking metric is NaN there. A metric of the list
  alone is NaN where the list holds nothing. Average with `nanmean`.
* A list shorter than k (K < k) is one whose remaining ranks are misses.
* An item that a list repeats is a hit at its best rank only, so that no metric can exceed 1.
* Metrics work on the last axis: `[B, K]` gives `[B]` values, one user's `[K]` a scalar.
"""

from recsys_spark.evaluation.metrics.beyond_accuracy import coverage_at_k
from recsys_spark.evaluation.metrics.hits import gain_matrix, hit_matrix, ideal_gains, relevant_counts
from recsys_spark.evaluation.metrics.ranking import (
    RANKING_METRICS,
    auc_at_k,
    capped_recall_at_k,
    evaluate_lists,
    f1_at_k,
    graded_ndcg_at_k,
    hit_rate_at_k,
    map_at_k,
    mrr_at_k,
    ndcg_at_k,
    precision_at_k,
    recall_at_k,
)
from recsys_spark.evaluation.metrics.rating import mae, mse, r2, rmse

__all__ = [
    "RANKING_METRICS",
    "auc_at_k",
    "capped_recall_at_k",
    "coverage_at_k",
    "evaluate_lists",
    "f1_at_k",
    "gain_matrix",
    "graded_ndcg_at_k",
    "hit_matrix",
    "hit_rate_at_k",
    "ideal_gains",
    "mae",
    "map_at_k",
    "mrr_at_k",
    "mse",
    "ndcg_at_k",
    "precision_at_k",
    "r2",
    "recall_at_k",
    "relevant_counts",
    "rmse",
]
