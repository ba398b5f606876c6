"""Let ranx and rectools measure random lists, and write lists and values to tests/metric_peers.json.

    python -m venv build/peers && build/peers/bin/pip install -r benchmarks/peers.txt
    build/peers/bin/python scripts/metric_peers.py

`tests/test_metric_parity.py` holds the project's own metrics against what is written there. The libraries are not part
of the test environment: rectools asks for other versions than ours of what both use.
"""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from ranx import Qrels, Run, evaluate
from rectools import metrics as rectools

TARGET = Path(__file__).parents[1] / "tests/metric_peers.json"
USERS, ITEMS, LENGTH, KS, SEED = 60, 30, 10, (1, 3, 5, 10), 7
SHORT = 45
"""From this user on lists are shorter than LENGTH."""
CATEGORIES = 4


def draw() -> dict[str, Any]:
    """Draw lists without repeats, truths, gains, the log before them and the items' categories."""
    rng = np.random.default_rng(SEED)
    popular = 1 / np.arange(1, ITEMS + 1)
    users = []
    for number in range(USERS):
        length = LENGTH if number < SHORT else int(rng.integers(1, LENGTH))
        items = rng.permutation(ITEMS) + 1
        truth = rng.choice(ITEMS, int(rng.integers(1, 13)), replace=False) + 1
        before = rng.choice(ITEMS, int(rng.integers(2, 9)), replace=False, p=popular / popular.sum()) + 1
        users.append({
            "ranked": items[:length].tolist(), "truth": truth.tolist(),
            "gains": rng.integers(1, 4, len(truth)).tolist(), "before": before.tolist(),
        })  # fmt: skip
    categories = rng.integers(0, 2, (ITEMS, CATEGORIES)).tolist()
    return {"items": ITEMS, "short_from": SHORT, "ks": KS, "users": users, "categories": categories}


def by_ranx(case: dict[str, Any]) -> dict[str, list[float]]:
    """Ask ranx for everything that it has at a cut-off; a user is a query."""
    names = [f"q{u:03}" for u in range(len(case["users"]))]
    run = {
        name: {f"d{item}": float(LENGTH - r) for r, item in enumerate(user["ranked"])}
        for name, user in zip(names, case["users"], strict=True)
    }
    found: dict[str, list[float]] = {}
    for graded, metrics in (
        (False, ("precision", "recall", "f1", "hit_rate", "ndcg", "mrr", "map")),
        (True, ("ndcg", "ndcg_burges")),
    ):
        truth = {
            name: {f"d{i}": int(g) if graded else 1 for i, g in zip(user["truth"], user["gains"], strict=True)}
            for name, user in zip(names, case["users"], strict=True)
        }
        for metric in metrics:
            for k in case["ks"]:
                measured = Run(run)
                evaluate(Qrels(truth), measured, f"{metric}@{k}")
                values = measured.scores[f"{metric}@{k}"]
                found[f"{'graded ' * graded}{metric}@{k}"] = [float(values[name]) for name in names]
    return found


def by_rectools(case: dict[str, Any]) -> dict[str, list[float]]:
    """Ask rectools for all of its metrics that we have too."""
    lists = [
        (u, item, r) for u, user in enumerate(case["users"]) for r, item in enumerate(user["ranked"], start=1)
    ]  # fmt: skip
    reco = pd.DataFrame(lists, columns=["user_id", "item_id", "rank"])
    truth, before = (
        pd.DataFrame([(u, i) for u, user in enumerate(case["users"]) for i in user[of]], columns=["user_id", "item_id"])
        for of in ("truth", "before")
    )
    catalogue = list(range(1, ITEMS + 1))
    features = pd.DataFrame(case["categories"], index=catalogue)
    distance = rectools.PairwiseHammingDistanceCalculator(features)
    found: dict[str, Any] = {}
    for k in case["ks"]:
        found |= {
            f"precision@{k}": rectools.Precision(k).calc_per_user(reco, truth),
            f"r_precision@{k}": rectools.Precision(k, r_precision=True).calc_per_user(reco, truth),
            f"recall@{k}": rectools.Recall(k).calc_per_user(reco, truth),
            f"f1@{k}": rectools.F1Beta(k).calc_per_user(reco, truth),
            f"hit_rate@{k}": rectools.HitRate(k).calc_per_user(reco, truth),
            f"ndcg@{k}": rectools.NDCG(k, divide_by_achievable=True).calc_per_user(reco, truth),
            f"ndcg of k@{k}": rectools.NDCG(k).calc_per_user(reco, truth),
            f"mrr@{k}": rectools.MRR(k).calc_per_user(reco, truth),
            f"map@{k}": rectools.MAP(k).calc_per_user(reco, truth),
            f"novelty@{k}": rectools.MeanInvUserFreq(k).calc_per_user(reco, before),
            f"popularity@{k}": rectools.AvgRecPopularity(k).calc_per_user(reco, before),
            f"serendipity@{k}": rectools.Serendipity(k).calc_per_user(reco, truth, before, catalogue),
            f"diversity@{k}": rectools.IntraListDiversity(k, distance).calc_per_user(reco),
        }
        found[f"coverage@{k}"] = [rectools.CatalogCoverage(k, normalize=True).calc(reco, catalogue)]
    return {
        name: [float(v) for v in (values.sort_index() if isinstance(values, pd.Series) else values)]
        for name, values in found.items()
    }


def main() -> None:
    """Write the file."""
    case = draw()
    versions = {name: version(name) for name in ("ranx", "rectools")}
    written = {"versions": versions, **case, "values": {"ranx": by_ranx(case), "rectools": by_rectools(case)}}
    values = json.dumps(written, allow_nan=True)
    TARGET.write_text(values.replace('"users"', '\n"users"').replace('"values"', '\n"values"') + "\n", encoding="utf-8")
    print(f"written {TARGET}")


if __name__ == "__main__":
    main()
