"""The truth beside an embedded log, asked by the log's own ids: what each user really thought of each item.

`generate_log` writes it, and no station of a night reads it: it is what a night is measured against.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from recsys_spark.errors import DataError
from recsys_spark.log import hidden_world as world
from recsys_spark.log.generate import MARK
from recsys_spark.log.hidden_world import Floats, Ints


@dataclass(frozen=True)
class Truth:
    """What the truth of a log says of U users and I items. D = `hidden_world.DIM`."""

    users: pd.Index
    """[U], the log's ids."""
    tastes: tuple[Floats, Floats]
    """[U, D] each, on the first and on the last day."""
    items: pd.Index
    """[I], the log's ids."""
    vectors: Floats
    """[I, D], unit length."""
    popularity: Floats
    """[I], sums to 1."""
    first: dt.date
    days: int
    """Length of the log."""

    @classmethod
    def read(cls, log: Path) -> Truth:
        """Read the truth of an embedded log.

        Args:
            log: the folder that holds `events/` and `truth/`.

        Raises:
            DataError: there is no embedded log.
        """
        try:
            config = json.loads((log / MARK).read_text(encoding="utf-8"))["config"]
            users, items = (pd.read_parquet(log / "truth" / name) for name in ("users", "items"))
        except (OSError, ValueError, KeyError) as error:
            raise DataError(f"{log}: holds no embedded log ({error}); write one with jobs/generate_log.py") from None
        return cls(
            pd.Index(users["user_id"]), (np.stack(users["start"].tolist()), np.stack(users["end"].tolist())),
            pd.Index(items["item_id"]), np.stack(items["vector"].tolist()), items["popularity"].to_numpy(),
            dt.date.fromisoformat(config["start"]), config["days"],
        )  # fmt: skip

    def day(self, seconds: ArrayLike) -> Ints:
        """Return the days [n] of times [n] in seconds since 1970 UTC; 0 is the first day of the log."""
        return np.asarray(seconds) // 86_400 - (self.first - dt.date(1970, 1, 1)).days

    def utility(self, user_ids: Sequence[str], item_ids: Sequence[str], day: ArrayLike) -> Floats:
        """Return the utility [n] of n items to as many users, each on a day: `hidden_world.affinity` of single pairs.

        Raises:
            DataError: the log's world lacks one of them.
        """
        user, item = _find("user", self.users, user_ids), _find("item", self.items, item_ids)
        start, end = (taste[user] for taste in self.tastes)
        taste = start + (end - start) * (np.asarray(day) / (self.days - 1))[:, None]
        match = np.einsum("nd,nd->n", taste, self.vectors[item])
        return world.TASTE * match + world.popularity_utility(self.popularity)[item]


def _find(kind: str, known: pd.Index, ids: Sequence[str]) -> Ints:
    found = known.get_indexer(pd.Index(ids))
    if (found < 0).any():
        stranger = np.asarray(ids)[found < 0][0]
        raise DataError(
            f"the embedded log's truth has no {kind} {stranger!r}; take the log that the warehouse was made from, "
            "and ids that are no pseudonyms"
        )
    return found
