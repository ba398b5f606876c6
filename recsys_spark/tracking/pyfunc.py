"""The registered form of every model: `user_id` and `k` in, items and scores out.

It carries what it needs (the model, both dictionaries, the histories and the popularity that serves
unknown users), so it answers without Spark, the warehouse or this repository.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from mlflow.pyfunc.model import PythonModel

DEFAULT_K = 10


class RecommenderModel(PythonModel):
    """Answers `DataFrame[user_id, k]` with `DataFrame[items, scores]`, one list per row, best first."""

    def load_context(self, context: Any) -> None:
        from recsys_spark import models

        moment = context.artifacts.get("moment")  # of a model that ranks by features of users and items
        self.model = models.load(Path(context.artifacts["model"]), Path(moment) if moment else None)
        self.fallback = models.load(Path(context.artifacts["popularity"]))
        items = pq.read_table(context.artifacts["items"]).to_pandas()
        self.raw_items = np.full(int(items["id"].max()) + 1, "", object)
        self.raw_items[items["id"]] = items["raw_id"]
        users = pq.read_table(context.artifacts["users"]).to_pandas()
        self.rows = {raw: row for row, raw in enumerate(users["raw_id"])}
        # plain arrays: a row of a table takes longer to find than its list to make
        self.ids = users["id"].to_numpy()
        self.histories = [users[column].to_numpy() for column in ("items", "weights", "ratings")]

    def predict(self, context: Any, model_input: pd.DataFrame, params: Any = None) -> pd.DataFrame:
        """Recommend to each row's user; a missing `k` means 10, an unknown user gets popular items."""
        from recsys_spark.recommendation.select import recommend_block

        asked = pd.DataFrame(model_input)
        ks = asked["k"].fillna(DEFAULT_K).astype(int) if "k" in asked else pd.Series(DEFAULT_K, asked.index, dtype=int)
        ks = ks.clip(0, len(self.raw_items))  # a request for a billion items must not take the server down
        block = self._block(asked["user_id"].astype(str))
        most = max([1, *ks])
        items, scores = recommend_block(self.model, block, most)
        cold = ~(items > 0).any(axis=1)
        if cold.any():
            popular = recommend_block(self.fallback, block, most)
            items[cold], scores[cold] = popular[0][cold], popular[1][cold]
        n = np.minimum((items > 0).sum(axis=1), ks.to_numpy())
        return pd.DataFrame(
            {
                "items": [[str(i) for i in self.raw_items[row[:m]]] for row, m in zip(items, n, strict=True)],
                "scores": [row[:m].astype(float).tolist() for row, m in zip(scores, n, strict=True)],
            },
            index=asked.index,
        )

    def _block(self, raw: pd.Series) -> Any:
        from recsys_spark.models.base import UserBlock

        found = [self.rows.get(user) for user in raw]
        ids = [int(self.ids[row]) if row is not None else 0 for row in found]
        lists = ([column[row] if row is not None else [] for row in found] for column in self.histories)
        return UserBlock.of(ids, *lists)
