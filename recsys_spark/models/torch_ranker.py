"""A ranking network and what it takes to ask it: which ids it knows, how features are encoded, and a moment's features.

It scores candidates, not the catalogue: see `two_stage` for who brings them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recsys_spark.errors import DataError
from recsys_spark.models import module_of
from recsys_spark.models.base import NO_OPINION, Floats, Ints, UserBlock, read_card, write_card
from recsys_spark.models.features import HISTORY, ITEM, POSITION, USER, Features
from recsys_spark.models.moment import Moment, rows_of

_PAIRS_AT_ONCE = 4_096
_TASTE, _REPEAT, _REPEAT_BUCKET = "user_taste", "user_item", "user_item_bucket"


class TorchRanker:
    """Ranks candidates; what it was not trained on it knows by its other features alone."""

    def __init__(
        self, name: str, network: Any, users: np.ndarray, items: np.ndarray, encoding: Mapping[str, Any], length: int
    ) -> None:
        """Wrap a network.

        Args:
            users, items: which ids were trained, bool [n_users] and [n_items].
            encoding: scales and vocabularies of the feed that it is trained on, as `encoding.json` has them.
            length: L, the length of the padded histories that the network reads.
        """
        self.name = name
        self.network: Any = network
        self.config = network.config
        self.users, self.items = users, items
        self.n_items = len(items)
        self.encoding = encoding
        self.length = length
        self._memo: tuple[Moment, dict[str, np.ndarray]] | None = None
        network.eval()

    @torch.inference_mode()
    def score_rows(self, batch: Mapping[str, Tensor]) -> Floats:
        """Return the network's score of encoded rows, [n] or [n, T], as its `logits` are."""
        known = self._known(dict(batch))
        n = len(next(iter(known.values())))
        device = next(self.network.parameters()).device
        found = []
        for start in range(0, n, _PAIRS_AT_ONCE):
            part = {name: values[start : start + _PAIRS_AT_ONCE].to(device) for name, values in known.items()}
            found.append(self.network.logits(part).float().cpu())
        return torch.cat(found).numpy() if found else np.empty(0, np.float32)

    @torch.inference_mode()
    def rank(self, users: UserBlock, items: Ints, moment: Moment) -> Floats:
        """Return the score of each user's candidates [B, C], larger is better; `NO_OPINION` of item 0.

        Raises:
            DataError: the moment lacks a feature that the network reads.
        """
        B, C = items.shape
        user_rows, item_rows = rows_of(moment.user_rows, users.user_id), rows_of(moment.item_rows, items)
        of_user = {HISTORY: users.last_items(self.length), USER: users.user_id}
        of_pair: dict[str, np.ndarray] = {ITEM: items, POSITION: np.zeros((B, C), np.int64)}
        for name in self.network.features.columns:
            if name in (*of_user, *of_pair):
                continue
            if name == _TASTE:
                of_pair[name] = self._encode(name, moment.user_taste(user_rows, item_rows))
            elif name == _REPEAT:
                of_pair[name] = self._encode(name, np.log1p(users.weight_of(items)))
            elif name == _REPEAT_BUCKET:
                of_pair[name] = repeat_bucket(users.weight_of(items), self.network.features.tables[name])
            elif name in moment.users:
                of_user[name] = self._encode(name, moment.users[name][user_rows])
            elif name in moment.items:
                of_pair[name] = self._of_items(name, moment)[item_rows]
            else:
                raise DataError(f"{self.name} reads {name!r}, which the data set has not: build it with this version")
        scores = np.empty(B * C, np.float32)
        device = next(self.network.parameters()).device
        for start in range(0, B * C, _PAIRS_AT_ONCE):
            pairs = np.arange(start, min(start + _PAIRS_AT_ONCE, B * C))
            part = {n: values[pairs // C] for n, values in of_user.items()}
            part |= {n: values.reshape(-1)[pairs] for n, values in of_pair.items()}
            batch = self._known({n: torch.from_numpy(values) for n, values in part.items()})
            on_device = {n: values.to(device) for n, values in batch.items()}
            scores[pairs] = self.network.score(on_device).float().cpu().numpy()
        return np.where(items > 0, scores.reshape(B, C), NO_OPINION)

    def _of_items(self, name: str, moment: Moment) -> np.ndarray:
        """Return a feature of all items, encoded once for a moment; several threads may ask."""
        memo = self._memo
        if memo is None or memo[0] is not moment:
            memo = self._memo = (moment, {})
        if name not in memo[1]:
            memo[1][name] = self._encode(name, moment.items[name])
        return memo[1][name]

    def _encode(self, name: str, values: np.ndarray) -> np.ndarray:
        """Encode a feature as `recsys_spark.dataset.features.encoding` does: the same number of every row."""
        if name in self.encoding["vocabularies"]:
            ids = {value: i for i, value in enumerate(self.encoding["vocabularies"][name], start=1)}
            return np.array([ids.get(value, 0) for value in values], np.int64)
        if name in self.encoding["scales"]:
            mean, spread = self.encoding["scales"][name]
            return np.nan_to_num((values - mean) / spread, nan=0.0).astype(np.float32)
        return np.nan_to_num(values, nan=0.0).astype(np.int64)  # an id as it stands

    def _known(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Put the unknown in the place of users and items that were not trained."""
        for name, trained in ((USER, self.users), (ITEM, self.items), (HISTORY, self.items)):
            if name in batch:
                ids, there = batch[name].long(), torch.from_numpy(trained)
                batch[name] = ids.where((ids < len(there)) & there[ids.clamp(max=len(there) - 1)], 0)
        return batch

    def save(self, path: Path) -> None:
        torch.save(self.network.state_dict(), path / "weights.pt")
        np.savez(path / "trained.npz", users=self.users, items=self.items)
        write_card(
            path, self.name, config=self.config.model_dump(), features=self.network.features.to_json(),
            encoding=self.encoding, length=self.length,
        )  # fmt: skip


def repeat_bucket(weight: np.ndarray, size: int) -> Ints:
    """Return the feature `user_item_bucket` of summed weights, as `recsys_spark.dataset.features.repeat` has it.

    >>> repeat_bucket(np.array([0.0, 0.1, 1.0, 3.0, 1e9]), 33).tolist()
    [0, 1, 4, 8, 32]
    """
    return np.minimum(np.ceil(4 * np.log2(1 + weight) - 1e-6), size - 1).astype(np.int64)


def load(path: Path) -> TorchRanker:
    """Read a saved ranker onto the CPU."""
    card = read_card(path)
    module = module_of(card["model"])
    network = module.Network(module.Config.model_validate(card["config"]), Features.of_json(card["features"]))
    network.load_state_dict(torch.load(path / "weights.pt", map_location="cpu", weights_only=True))
    with np.load(path / "trained.npz") as arrays:
        users, items = arrays["users"], arrays["items"]
    return TorchRanker(card["model"], network, users, items, card["encoding"], card["length"])
