"""A model whose scores are no numbers is not made: it would be served as if it knew nobody."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from recsys_spark.errors import DataError
from recsys_spark.models.base import Recommender
from recsys_spark.recommendation.topk import sample_users

_USERS, _SCORES = 256, 1 << 24
"""Most users, and most scores, that are looked at."""


def check_scores(model: Recommender, name: str, histories: Path) -> None:
    """Let a model that was just trained score some users.

    Args:
        histories: files of the `histories` table, for one moment; nobody is scored where it is empty.

    Raises:
        DataError: a score, or a vector that scores are products of, is NaN or infinite.
    """
    if not any(pq.read_metadata(file).num_rows for file in histories.glob("*.parquet")):
        return
    users = sample_users(histories, max(1, min(_USERS, _SCORES // max(1, model.n_items))))
    if model.dot_product:
        vectors: Any = model
        parts = vectors.user_vectors(users), vectors.item_vectors()[vectors.item_mask()]
        bad, of = sum(int((~np.isfinite(part)).any(axis=1).sum()) for part in parts), sum(map(len, parts))
        what = "vectors"
    else:
        scores = model.score(users)
        bad, of, what = int((np.isnan(scores) | np.isposinf(scores)).sum()), scores.size, "scores"
    if bad:
        raise DataError(
            f"{name}: {bad:,} of {of:,} {what} are no number, so it is not made; mend the parameters in models.{name}, "
            "such as its learning_rate or its regularization"
        )
