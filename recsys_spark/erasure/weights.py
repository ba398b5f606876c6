"""Take people out of saved models: the rows that a deep model has learnt about them become zeros.

Of the baselines user_knn keeps what single users had and popularity which segment they are of, and both lose it here;
the others keep nothing of single users: ALS keeps the items' factors and item_knn the items' neighbours alone. A deep
model's tables of users are the embeddings of its network whose names begin with `user`, a row per dense id. What else a
model learnt from people stays in it until it is trained again.
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
    if name not in models.DEEP or not ids:
        return 0
    import torch  # only here: a warehouse without deep models needs no torch

    with np.load(folder / TRAINED) as arrays:
        trained = dict(arrays)
    there = [i for i in ids if i < len(trained["users"])]
    state = torch.load(folder / WEIGHTS, map_location="cpu", weights_only=True)
    tables = [n for n in user_tables(name) if n in state and len(state[n]) == len(trained["users"])]
    held = {i for i in there if any(bool(state[n][i].any()) for n in tables)}
    known = {i for i in there if trained["users"][i]}
    # the weights first: killed in between, the person is known by a row of zeros, and found again
    if held:
        for n in tables:
            state[n][there] = 0
        with replacing(folder / WEIGHTS) as aside, open(aside, "wb") as opened:
            torch.save(state, opened)
    if known:
        trained["users"][there] = False
        with replacing(folder / TRAINED) as aside, open(aside, "wb") as opened:
            np.savez(opened, **trained)
    return len(held | known)


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
    return [f"{n}.weight" for n, m in modules if n.startswith("user") and isinstance(m, nn.Embedding)]


def _network(name: str) -> Any:
    """Build the smallest network of a kind: its tables' names do not hang on its sizes."""
    module = models.module_of(name)
    return module.Network(module.Config(), 2, 2)
