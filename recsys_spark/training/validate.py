"""Validation during training: NDCG@10 over the full catalogue, the users dealt out to the ranks.

What a loop asks of a validation is `sums(model)`, of this rank, and `figures(sums)`, fields of an `Epoch`, of what the
ranks' sums add up to. A ranker's is in `recsys_spark.training.ranking`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from recsys_spark.evaluation.metrics import evaluate_lists
from recsys_spark.models.base import Recommender
from recsys_spark.recommendation.select import blocks, recommend_block
from recsys_spark.recommendation.topk import read_block

K = 10
_COLUMNS = ["user_id", "items", "weights", "ratings"]
_BLOCK_USERS = 512


class Validation:
    """One rank's share of the validation users, read once."""

    def __init__(self, histories: Path, rank: int, size: int, most: int, seed: int) -> None:
        """Read the users with a history and something held out after the training part.

        Args:
            histories: rows of the `histories` table.
            most: users over all ranks; more are sampled down to it, the same sample on every rank.
        """
        table = pq.read_table(histories / "known=train", columns=[*_COLUMNS, "held_out"])
        held, known = (pc.list_value_length(table[name]).to_numpy() for name in ("held_out", "items"))
        chosen = np.flatnonzero((held > 0) & (known > 0))
        chosen = chosen[np.argsort(table["user_id"].to_numpy()[chosen])]
        if len(chosen) > most:
            drawn = np.random.default_rng(seed).choice(len(chosen), most, replace=False)
            chosen = chosen[np.sort(drawn)]
        rows = table.take(chosen[rank::size])
        self.users = read_block(rows)
        self.truth = rows["held_out"].to_pylist()

    def ndcg_sum(self, model: Recommender) -> tuple[float, int]:
        """Return the sum of NDCG@10 over this rank's users, and how many they are."""
        ranked = [recommend_block(model, block, K)[0] for block in blocks(self.users, _BLOCK_USERS)]
        if not ranked:
            return 0.0, 0
        values = evaluate_lists(np.concatenate(ranked), self.truth, [K])[f"ndcg@{K}"]
        return float(np.nansum(values)), int(np.isfinite(values).sum())

    def sums(self, model: Recommender) -> list[float]:
        """Return what `ndcg_sum` does, as the loop adds it up."""
        summed, users = self.ndcg_sum(model)
        return [summed, float(users)]

    def figures(self, sums: Sequence[float]) -> dict[str, float]:
        """Turn the ranks' sums into the mean over all users."""
        return {"valid_ndcg_at_10": sums[0] / max(sums[1], 1.0)}
