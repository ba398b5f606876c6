"""From the columns of an impression to vectors: one embedding module, which reads the feed's feature schema.

Shapes: B rows, F fields, D numbers in a vector. A column of ids takes its vector from a table, a list of ids the mean
of its ids' vectors, and a number x is x times a vector of its own. `position` says where on the page a row was shown,
which biases what was clicked: it is read in training, and is the first place for every row when a model is asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from recsys_spark.errors import ConfigError

USER, ITEM, HISTORY, POSITION = "user_id", "item_id", "history", "position"
SERVED_POSITION = 1
_ODD = 0x9E3779B97F4A7C15 - (1 << 64)  # 2^64 over the golden ratio: spreads neighbouring ids, as Fibonacci hashing does
_SPREAD = 0.02


@dataclass(frozen=True)
class Features:
    """Which columns describe a row: the feature schema.

    Attributes:
        tables: rows of each table of embeddings.
        ids: columns of ids, and the table that each reads.
        lists: columns of lists of ids, padded with 0, and the table that each reads.
        numbers: columns of normalised numbers.
    """

    tables: dict[str, int]
    ids: dict[str, str]
    lists: dict[str, str] = field(default_factory=dict)
    numbers: tuple[str, ...] = ()

    @classmethod
    def of(cls, manifest: dict[str, Any]) -> Features:
        """Read the schema of a feed of impressions; a column that has one value alone says nothing and is left out."""
        tables = {USER: manifest["n_users"], ITEM: manifest["n_items"], **manifest["ids"]}
        tables = {name: size for name, size in tables.items() if size > 1}
        lists = {HISTORY: ITEM} if HISTORY in dict(manifest["schema"]) else {}
        return cls(tables, {name: name for name in tables}, lists, tuple(manifest["floats"]))

    @classmethod
    def of_ids(cls, n_users: int, n_items: int) -> Features:
        """Return the schema of a user and an item, and nothing else."""
        return cls({USER: n_users, ITEM: n_items}, {USER: USER, ITEM: ITEM})

    @classmethod
    def of_json(cls, said: dict[str, Any]) -> Features:
        """Undo `to_json`."""
        return cls(**{**said, "numbers": tuple(said["numbers"])})

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns, in the order of the fields."""
        return (*self.ids, *self.lists, *self.numbers)

    def only(self, names: Sequence[str]) -> Features:
        """Keep some of the columns.

        Raises:
            ConfigError: one of them is not there.
        """
        missing = [name for name in names if name not in self.columns]
        if missing:
            raise ConfigError(f"features: the feed has no feature {missing[0]!r}; it has {', '.join(self.columns)}")
        ids, lists = ({c: t for c, t in columns.items() if c in names} for columns in (self.ids, self.lists))
        tables = {t: n for t, n in self.tables.items() if t in (*ids.values(), *lists.values())}
        return Features(tables, ids, lists, tuple(n for n in self.numbers if n in names))

    def without(self, *names: str) -> Features:
        """Leave some of the columns out, and keep every table."""
        ids, lists = ({c: t for c, t in columns.items() if c not in names} for columns in (self.ids, self.lists))
        return Features(self.tables, ids, lists, tuple(n for n in self.numbers if n not in names))


class FeatureEmbedding(nn.Module):
    """The fields of a row as vectors, [B, F, D].

    Id 0 of users, items and lists is the unknown: its vector is 0 and stays so. Of a table with more than `buckets`
    rows the ids are hashed into that many, and ids that meet share a vector.
    """

    def __init__(self, features: Features, dim: int, buckets: int) -> None:
        super().__init__()
        self.features = features
        blank = {USER, ITEM, *features.lists.values()}
        tables = {
            name: nn.Embedding(min(size, buckets), dim, padding_idx=0 if name in blank else None)
            for name, size in features.tables.items()
        }
        for table in tables.values():
            nn.init.normal_(table.weight, std=_SPREAD)
            if table.padding_idx is not None:
                nn.init.zeros_(table.weight[0].detach())
        self.tables = nn.ModuleDict(tables)
        self.rows = {name: table.num_embeddings for name, table in tables.items()}
        if features.numbers:
            self.slopes = nn.Parameter(torch.randn(len(features.numbers), dim) * _SPREAD)

    @property
    def fields(self) -> int:
        """F."""
        return len(self.features.columns)

    def look_up(self, table: str, ids: Tensor) -> Tensor:
        """Return the vectors [..., D] of ids [...]; an id that is not in the table counts as the unknown."""
        rows, ids = self.rows[table], ids.long()
        if rows < self.features.tables[table]:
            return self.tables[table](hashed(ids, rows))
        return self.tables[table](ids.where(ids < rows, 0))

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        features = self.features
        vectors = [self.look_up(table, self._ids(batch, name)) for name, table in features.ids.items()]  # [B, D] each
        for name, table in features.lists.items():
            length = (batch[name] > 0).sum(dim=1, keepdim=True).clamp(min=1)
            vectors.append(self.look_up(table, batch[name]).sum(dim=1) / length)
        found = torch.stack(vectors, dim=1) if vectors else None  # [B, ids and lists, D]
        if not features.numbers:
            assert found is not None
            return found
        numbers = torch.stack([batch[name] for name in features.numbers], dim=1)[:, :, None] * self.slopes
        return numbers if found is None else torch.cat([found, numbers], dim=1)

    def _ids(self, batch: dict[str, Tensor], name: str) -> Tensor:
        if name == POSITION and not self.training:
            return torch.full_like(batch[name], SERVED_POSITION)
        return batch[name]


def hashed(ids: Tensor, buckets: int) -> Tensor:
    """Hash ids, int64 of any shape, to 1 up to buckets - 1; 0 stays 0.

    >>> hashed(torch.tensor([0, 1, 2, 10**12]), 100).tolist()
    [0, 50, 99, 3]
    """
    mixed = ((ids * _ODD) >> 32) & 0x7FFFFFFF
    return torch.where(ids > 0, 1 + mixed % (buckets - 1), 0)
