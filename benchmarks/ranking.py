"""Ranking models on MovieLens-100k: test AUC and log-loss, beside what a library's models reach on the same protocol.

A rating of 4 or 5 is a positive; 80 / 10 / 10 % of the rows at random with seed 2020; fields user_id, age, gender,
occupation, item_id, release_year and genres. A random split: for comparing models only. The parameters are those of
conf/models/, chosen on the valid part; a model is trained until its valid AUC has not grown for some epochs, and the
best epoch is measured on test.
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import yaml
from _report import Row, finish, parser

from recsys_spark.config import load_config
from recsys_spark.evaluation.metrics.probability import auc, logit_log_loss_sum
from recsys_spark.models import module_of
from recsys_spark.models.features import ITEM, USER, Features

ROOT = Path(__file__).parents[1]
LABEL, SEED, PATIENCE, GENRES = "label_positive", 2020, 8, 6
REFERENCE = {
    "fm": (0.7830, 0.5654), "deepfm": (0.7858, 0.5659), "wide_and_deep": (0.7848, 0.5660), "dcn_v2": (0.7786, 0.5678),
}  # fmt: skip
"""Test AUC and log-loss of RecBole's models of library-default sizes on this protocol."""

Batch = dict[str, torch.Tensor]


def read(folder: Path) -> tuple[Batch, Features]:
    """Return every rating as a row of features with its label, and the features' schema."""
    rated = pd.read_csv(folder / "u.data", sep="\t", names=["user_id", "item_id", "rating", "time"])
    users = pd.read_csv(folder / "users.tsv", sep="\t").set_index("user_id")
    items = pd.read_csv(folder / "items.tsv", sep="\t").set_index("item_id")
    columns = {
        USER: rated[USER], ITEM: rated[ITEM], "release_year": rated[ITEM].map(items["release_year"]),
        **{name: rated[USER].map(users[name]) for name in ("age", "gender", "occupation")},
    }  # fmt: skip
    numbered = {name: pd.factorize(values.astype(str), sort=True)[0] + 1 for name, values in columns.items()}
    genres = items["class"].fillna("").str.split()
    known = {genre: i for i, genre in enumerate(sorted({g for of in genres for g in of}), start=1)}
    of_item = {item: [known[g] for g in of][:GENRES] for item, of in genres.items()}
    lists = np.array([[*of_item[i], *[0] * (GENRES - len(of_item[i]))] for i in rated[ITEM]])
    batch = {name: torch.from_numpy(values) for name, values in numbered.items()}
    batch |= {"genres": torch.from_numpy(lists), LABEL: torch.tensor(rated["rating"].to_numpy() >= 4).float()}
    tables = {name: int(values.max()) + 1 for name, values in numbered.items()} | {"genres": len(known) + 1}
    return batch, Features(tables, {name: name for name in numbered}, {"genres": "genres"})


def split(rows: int) -> list[torch.Tensor]:
    """Return the rows of the train, valid and test part."""
    order = torch.randperm(rows, generator=torch.Generator().manual_seed(SEED))
    return list(order.split([rows - rows // 5, rows // 10, rows // 10]))


def settings(name: str) -> dict:
    """Return a model's parameters of conf/models/."""
    return yaml.safe_load((ROOT / "conf/models" / f"{name}.yaml").read_text(encoding="utf-8"))["models"][name]


def fit(name: str, parameters: dict, batch: Batch, features: Features, seed: int, measured: int = 2) -> dict:
    """Train a model; return the valid part's best AUC, and AUC and log-loss of part `measured` at that epoch."""
    module = module_of(name)
    config = module.Config.model_validate({**parameters, "label": LABEL, "features": None})
    parts = [{column: values[rows] for column, values in batch.items()} for rows in split(len(batch[LABEL]))]
    torch.manual_seed(seed)
    network = module.Network(config, features)
    optimizer = torch.optim.Adam(
        network.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
    )
    generator = torch.Generator().manual_seed(seed)
    best: dict = {"valid": 0.0}
    epoch, start = 0, time.perf_counter()
    while epoch < config.epochs and epoch - best.get("epoch", 0) <= PATIENCE:
        network.train()
        for rows in torch.randperm(len(parts[0][LABEL]), generator=generator).split(config.batch_size):
            optimizer.zero_grad()
            network.loss({column: values[rows] for column, values in parts[0].items()}, generator).backward()
            optimizer.step()
        network.eval()
        with torch.inference_mode():
            logits = [network.logits(part).numpy() for part in parts[1:]]
        labels = [part[LABEL].numpy() for part in parts[1:]]
        valid = auc(labels[0], logits[0])
        if valid > best["valid"]:
            at = measured - 1
            found = auc(labels[at], logits[at]), logit_log_loss_sum(labels[at], logits[at]) / len(labels[at])
            best = {"valid": valid, "epoch": epoch, "auc": found[0], "log_loss": found[1]}
        epoch += 1
    return {**best, "seconds": time.perf_counter() - start}


def main() -> None:
    options = parser(__doc__ or "")
    files = [ROOT / path for path in load_config(ROOT / "conf/movielens-100k.yaml").log.path]
    folder = next((file for file in files if file.exists()), files[-1]).parent
    options.add_argument("--data", type=Path, default=folder, help="folder of u.data, users.tsv and items.tsv")
    options.add_argument("--models", nargs="+", default=list(REFERENCE))
    options.add_argument("--seed", type=int, default=1, help="of the initial weights and the order of rows")
    args = options.parse_args()
    for name in ("u.data", "users.tsv", "items.tsv"):
        if not (args.data / name).exists():
            raise SystemExit(
                f"{args.data / name}: no such file; run `make data DATASET=movielens-100k`, or name --data"
            )
    batch, features = read(args.data)
    rows = []
    for name in args.models:
        found = fit(name, settings(name), batch, features, args.seed)
        area, loss = REFERENCE.get(name, (None, None))
        rows += [
            Row(f"{name}: AUC", found["auc"], "AUC", "RecBole", area, None, "at least", area and found["auc"] >= area),
            Row(f"{name}: log-loss", found["log_loss"], "nats", "RecBole", loss, None, "at most",
                loss and found["log_loss"] <= loss),
        ]  # fmt: skip
        print(f"{name}: {found}", flush=True)
    finish("ranking", rows, args.out)


if __name__ == "__main__":
    main()
