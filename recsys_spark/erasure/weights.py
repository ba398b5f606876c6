"""Take people out of saved models: the rows that a deep model has learnt about them become zeros.

Of the baselines user_knn keeps what single users had and popularity which segment they are of, and both lose it here;
the others keep nothing of single users: ALS keeps the items' factors and item_knn the items' neighbours alone. A deep
model's tables of users are the embeddings of its network whose names begin with `user`, a row per dense id, or in a
large ranking model a row that ids share by their hash. What else a model learnt from people stays in it until it is
trained again.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from recsys_spark import models
from recsys_spark.erasure.rows import replacing
from recsys_spark.models.base import read_card
from recsys_spark.models.hybrid import PARTS, Hybrid
from recsys_spark.models.popularity import SEGMENTS, Popularity
from recsys_spark.models.two_stage import RANKER, RETRIEVER
from recsys_spark.models.user_knn import ROWS, UserKnn

WEIGHTS, TRAINED = "weights.pt", "trained.npz"


def erase_from_model(folder: Path, ids: list[int]) -> int:
    """Zero the people's rows in a saved model, and let it know that it does not know them.

    Returns:
        Of how many of the people it held anything.
    """
    name = read_card(folder)["model"]
    if name == UserKnn.name:
        return _erase_rows(folder / ROWS, ids)
    if name == Popularity.name:
        return _erase_segments(folder / SEGMENTS, ids) if (folder / SEGMENTS).exists() else 0
    if name == Hybrid.name:  # carries the models that it blends
        return max(erase_from_model(part, ids) for part in sorted((folder / PARTS).iterdir()))
    if name == models.TWO_STAGE:
        return max(erase_from_model(folder / part, ids) for part in (RETRIEVER, RANKER))
    if name not in (*models.DEEP, *models.RANKERS) or not ids:
        return 0
    import torch  # only here: a warehouse without deep models needs no torch

    with np.load(folder / TRAINED) as arrays:
        trained = dict(arrays)
    there = [i for i in ids if i < len(trained["users"])]
    state = torch.load(folder / WEIGHTS, map_location="cpu", weights_only=True)
    tables = {n: _rows_of(there, len(state[n]), len(trained["users"])) for n in user_tables(name) if n in state}
    held = {i for k, i in enumerate(there) if any(bool(state[n][rows[k]].any()) for n, rows in tables.items())}
    known = {i for i in there if trained["users"][i]}
    # the weights first: killed in between, the person is known by a row of zeros, and found again
    if held:
        for n, rows in tables.items():
            state[n][rows] = 0
        with replacing(folder / WEIGHTS) as aside, open(aside, "wb") as opened:
            torch.save(state, opened)
    if known:
        trained["users"][there] = False
        with replacing(folder / TRAINED) as aside, open(aside, "wb") as opened:
            np.savez(opened, **trained)
    return len(held | known)


def _rows_of(ids: list[int], size: int, users: int) -> list[int]:
    """Return the rows of users in a table: that of their id, or the one that it shares with others by its hash."""
    if size == users:
        return ids
    import torch

    from recsys_spark.models.features import hashed

    return hashed(torch.tensor(ids), size).tolist()


def _erase_rows(path: Path, ids: list[int]) -> int:
    """Empty the people's rows of training items, and return how many of them had one."""
    with np.load(path) as arrays:
        rows = dict(arrays)
    lengths = np.diff(rows["indptr"])
    there = [i for i in ids if i < len(lengths) and lengths[i]]
    if there:
        stays = ~np.isin(np.repeat(np.arange(len(lengths)), lengths), there)
        lengths[there] = 0
        rows |= {"items": rows["items"][stays], "weights": rows["weights"][stays]}
        rows["indptr"] = np.concatenate([[0], np.cumsum(lengths)])
        with replacing(path) as aside, open(aside, "wb") as opened:
            np.savez(opened, **rows)
    return len(there)


def _erase_segments(path: Path, ids: list[int]) -> int:
    """Put the people into no segment, and return how many of them were in one."""
    with np.load(path) as arrays:
        segments = dict(arrays)
    there = [i for i in ids if i < len(segments["of_user"]) and segments["of_user"][i]]
    if there:
        segments["of_user"][there] = 0
        with replacing(path) as aside, open(aside, "wb") as opened:
            np.savez(opened, **segments)
    return len(there)


def user_tables(name: str) -> list[str]:
    """Return the names of a model's tables of users in its state."""
    from torch import nn

    modules = _network(name).named_modules()
    of_users = (n for n, m in modules if isinstance(m, nn.Embedding) and _is_of_users(n))
    return [f"{n}.weight" for n in of_users]


def _is_of_users(name: str) -> bool:
    return any(part.startswith("user") for part in name.split("."))


def _network(name: str) -> Any:
    """Build the smallest network of a kind: its tables' names do not hang on its sizes."""
    module = models.module_of(name)
    if name in models.RANKERS:
        from recsys_spark.models.features import Features

        return module.Network(module.Config(), Features.of_ids(2, 2))
    return module.Network(module.Config(), 2, 2)
