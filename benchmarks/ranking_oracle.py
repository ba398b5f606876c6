"""Context-aware rankers on the embedded log's world, between popularity and the oracle that knows every taste.

The people of `recsys_spark/log/hidden_acts.py` act for two weeks; the last day is test, the one before it valid. GAUC
of clicks on the test day's impressions: by how often an item was clicked before (popularity), by the true utility
(oracle), and by rankers that learn from the days before with the features of the feed: user, item, category, hour,
weekday, device, country, position, taste, popularity lately, and the history. What is wanted is 80 % of the oracle's
gain over popularity.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from _report import Row, finish, parser

from recsys_spark.config import GeneratorConfig
from recsys_spark.evaluation.metrics.probability import gauc
from recsys_spark.log import hidden_acts as acts
from recsys_spark.log import hidden_world as world
from recsys_spark.models import module_of
from recsys_spark.models.features import Features

SEED, BAR, LENGTH, DAY_MS = 42, 0.8, 20, acts.DAY_MS
SETTINGS = {
    "dim": 16, "hidden": [64, 32], "dropout": 0.2, "batch_size": 1024, "learning_rate": 0.002, "weight_decay": 1e-5,
}  # fmt: skip
EPOCHS, PATIENCE = 15, 2
LABEL = "label_click"


def live(config: GeneratorConfig, sessions: int) -> tuple[world.Items, dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Let everyone act; return the items, the users' tastes, and the events in the order of their time."""
    items = world.draw_items(config, SEED)
    blocks = range(world.block_count(config))
    users = [world.draw_users(config, items, SEED, b) for b in blocks]
    activity = np.array([acts.expected_activity(config, u).sum() for u in users])
    of = np.rint(sessions * activity / activity.sum()).astype(int)
    parts = [acts.simulate(config, items, u, SEED, b, int(n)) for b, u, n in zip(blocks, users, of, strict=True)]
    events = {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}
    order = np.argsort(events["ms"], kind="stable")
    tastes = {"start": np.concatenate([u.start for u in users]), "end": np.concatenate([u.end for u in users])}
    return items, tastes, {name: values[order] for name, values in events.items()}


def describe(items: world.Items, events: dict[str, np.ndarray], days: int) -> dict[str, np.ndarray]:
    """Return a row for each impression: what was known before it, and whether it was clicked."""
    shown, clicked = events["type"] == 0, events["type"] == 1
    n_items, category, day = len(items.category), items.category, events["ms"] // DAY_MS
    clicks = np.zeros((days, n_items))
    np.add.at(clicks, (day[clicked], events["item"][clicked]), 1)
    week = np.stack([clicks[max(0, d - 7) : d].sum(axis=0) for d in range(days)])
    ever = np.cumsum(clicks, axis=0) - clicks
    key = (events["session"] * (n_items + 1) + events["item"]) * (events["user"].max() + 1) + events["user"]
    hit = np.isin(key[shown], key[clicked])
    history: dict[int, list[int]] = {}
    liked: dict[int, np.ndarray] = {}
    rows, taste = np.zeros((int(shown.sum()), LENGTH), np.int64), np.zeros(int(shown.sum()))
    at = 0
    for user, item, kind in zip(events["user"].tolist(), events["item"].tolist(), events["type"].tolist(), strict=True):
        if kind == 0:
            past = history.get(user, [])[-LENGTH:]
            rows[at, LENGTH - len(past) :] = past
            if user in liked:
                taste[at] = liked[user][category[item]] / liked[user].sum()
            at += 1
        elif kind == 1:
            mine = history.setdefault(user, [])
            if item + 1 in mine:
                mine.remove(item + 1)
            mine.append(item + 1)
            liked.setdefault(user, np.zeros(category.max() + 1))[category[item]] += 1
    user, item, of_day, ms = (values[shown] for values in (events["user"], events["item"], day, events["ms"]))
    found = {
        "user_id": user + 1, "item_id": item + 1, "category": category[item] + 1, "history": rows,
        "hour": ms // (DAY_MS // 24) % 24, "weekday": of_day % 7, "device": events["device"][shown],
        "country": events["country"][shown], "position": events["position"][shown], "user_taste": taste,
        "item_last_week": np.log1p(week[of_day, item]), "day": of_day, "popularity": ever[of_day, item], LABEL: hit,
    }  # fmt: skip
    early = of_day < days - 2
    for name in ("user_taste", "item_last_week"):
        found[name] = (found[name] - found[name][early].mean()) / found[name][early].std()
    return found


def gauc_of(rows: dict[str, np.ndarray], scores: np.ndarray) -> float:
    return gauc(rows[LABEL], scores, rows["user_id"])


def tensors(rows: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    floats = ("user_taste", "item_last_week", LABEL)
    return {n: torch.from_numpy(v).float() if n in floats else torch.from_numpy(v) for n, v in rows.items()}


def fit(name: str, parts: list[dict[str, np.ndarray]], features: Features) -> np.ndarray:
    """Train a ranker until its GAUC on valid stops growing; return its scores of the test part."""
    module = module_of(name)
    known = {k: v for k, v in SETTINGS.items() if k in module.Config.model_fields}
    config = module.Config(**known, label=LABEL)
    torch.manual_seed(SEED)
    network = module.Network(config, features)
    optimizer = torch.optim.Adam(
        network.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
    )
    train, valid, test = map(tensors, parts)
    generator = torch.Generator().manual_seed(SEED)
    best, scores, since = 0.0, np.zeros(len(test[LABEL])), 0
    for epoch in range(EPOCHS):
        network.train()
        for rows in torch.randperm(len(train[LABEL]), generator=generator).split(config.batch_size):
            optimizer.zero_grad()
            network.loss({n: v[rows] for n, v in train.items()}, generator).backward()
            optimizer.step()
        network.eval()
        with torch.inference_mode():
            reached = gauc_of(parts[1], network.logits(valid).numpy())
            if reached > best:
                best, scores, since = reached, network.logits(test).numpy(), 0
            else:
                since += 1
        print(f"{name}: epoch {epoch}, GAUC on valid {reached:.4f}", flush=True)
        if since > PATIENCE:
            break
    return scores


def main() -> None:
    options = parser(__doc__ or "")
    options.add_argument("--users", type=int, default=2_000)
    options.add_argument("--sessions", type=int, default=14_000)
    options.add_argument("--models", nargs="+", default=["deepfm", "din"])
    args: argparse.Namespace = options.parse_args()
    config = GeneratorConfig(users=args.users, items=1_000, days=14, events=240_000)
    items, tastes, events = live(config, args.sessions)
    rows = describe(items, events, config.days)
    parts = [{n: v[keep] for n, v in rows.items()} for keep in split(rows["day"], config.days)]
    test = parts[2]
    t = (config.days - 1) / (config.days - 1)
    taste = tastes["start"] + t * (tastes["end"] - tastes["start"])
    utility = world.affinity(
        taste, taste, items.vectors, items.popularity, config.days - 1, config.days
    )[test["user_id"] - 1, test["item_id"] - 1]  # fmt: skip
    low, high = gauc_of(test, test["popularity"]), gauc_of(test, utility)
    print(f"{len(parts[0][LABEL]):,} training rows, {parts[0][LABEL].mean():.3f} clicked; "
          f"popularity {low:.4f}, oracle {high:.4f}", flush=True)  # fmt: skip
    tables = {
        "user_id": args.users + 1, "item_id": 1_001, "category": config.categories + 1, "hour": 24, "weekday": 7,
        "device": 4, "country": 16, "position": 11,
    }  # fmt: skip
    features = Features(tables, {n: n for n in tables}, {"history": "item_id"}, ("user_taste", "item_last_week"))
    found = []
    for name in args.models:
        reached = gauc_of(test, fit(name, parts, features))
        share = (reached - low) / (high - low)
        print(f"{name}: GAUC on test {reached:.4f}, {share:.2f} of the oracle's gain", flush=True)
        found.append(Row(f"{name}: GAUC", reached, "GAUC", "oracle", high, share, f"≥ {BAR} of its gain", share >= BAR))
    finish("ranking_oracle", found, args.out)


def split(day: np.ndarray, days: int) -> list[np.ndarray]:
    return [day < days - 2, day == days - 2, day == days - 1]


if __name__ == "__main__":
    main()
