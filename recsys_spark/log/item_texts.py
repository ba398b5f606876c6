"""Titles, descriptions, prices and a knowledge graph for the embedded log's items, all from their hidden category."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TextIO

import numpy as np
import pandas as pd

from recsys_spark.config import GeneratorConfig
from recsys_spark.log import hidden_world as world

_TEXT_STREAM, _PRICE_STREAM = 101, 102

_WORDS = {
    "mystery": ("Harbour Alibi Lantern Witness Cipher Manor", "a detective, a clue and a secret"),
    "romance": ("Letter Summer Wedding Kiss Promise Waltz", "two lovers, a letter and a wedding"),
    "comedy": ("Neighbour Holiday Mix-Up Parade Cousin Prank", "a prank, a mix-up and a good laugh"),
    "western": ("Saddle Canyon Sheriff Prairie Outlaw Ranch", "a sheriff, an outlaw and a duel"),
    "thriller": ("Deadline Signal Hostage Border Pursuit Code", "a chase, a hostage and a deadline"),
    "fantasy": ("Dragon Crown Wizard Oath Forest Sword", "a dragon, a spell and a lost crown"),
    "drama": ("Daughter Winter Silence Inheritance River House", "a family, a quarrel and a loss"),
    "adventure": ("Expedition Jungle Compass Treasure Voyage Summit", "a map, a voyage and a treasure"),
    "musical": ("Ballroom Melody Stage Orchestra Spotlight Chorus", "a singer, a stage and a song"),
    "documentary": ("Archive Factory Glacier City Harvest Railway", "an archive, interviews and the facts"),
    "biography": ("Painter Pilot Composer Queen Inventor Doctor", "a life, its work and its price"),
    "heist": ("Vault Diamond Getaway Casino Blueprint Crew", "a crew, a vault and a plan"),
    "space opera": ("Orbit Nebula Starship Colony Comet Android", "a starship, a colony and an empire"),
    "ghost story": ("Attic Shadow Graveyard Whisper Mirror Cellar", "a haunted house, a ghost and a curse"),
    "sports film": ("Champion Final Rookie Stadium Marathon Coach", "a rookie, a coach and the final"),
    "nature film": ("Savannah Reef Wolf Migration Rainforest Eagle", "wild animals, a reef and the seasons"),
}
"""Category: nouns for titles, and what its descriptions speak of."""
_ADJECTIVES = (
    "Quiet", "Golden", "Broken", "Last", "Hidden", "Crimson", "Endless", "Little", "Silver", "Distant", "Burning",
    "Forgotten",
)  # fmt: skip
_TREES = (
    "Alder", "Birch", "Cedar", "Dogwood", "Elm", "Fir", "Ginkgo", "Hazel", "Ivy", "Juniper", "Larch", "Maple", "Oak",
    "Poplar", "Rowan", "Willow",
)  # fmt: skip
_HOUSES = ("Pictures", "Studios", "Films", "Productions")


def category_names(n: int) -> list[str]:
    """Return the names of n categories.

    >>> category_names(18)[-3:]
    ['nature film', 'mystery 2', 'romance 2']
    """
    names = list(_WORDS)
    return [names[i % len(names)] + (f" {i // len(names) + 1}" if i >= len(names) else "") for i in range(n)]


def write_catalogue(config: GeneratorConfig, items: world.Items, folder: Path, seed: int) -> None:
    """Write `items.jsonl`, `kg.jsonl` and `truth/items`, which all say the same about an item."""
    rng, n = np.random.default_rng([seed, _TEXT_STREAM]), config.items
    names, words = category_names(config.categories), list(_WORDS.values())
    makers = [
        f"{_TREES[m % 16]} {_HOUSES[m // 16 % 4]}" + (f" {m // 64 + 1}" if m >= 64 else "")
        for m in range(int(items.maker.max()) + 1)
    ]
    ids = [f"i{i:07d}" for i in range(n)]
    picks = rng.integers(0, [len(_ADJECTIVES), 6, 6, 3], size=(n, 4))
    prices = _prices(config, items, seed)
    told: dict[str, int] = {}  # titles so far: a second one of the same name is Part 2
    with (
        open(folder / "items.jsonl", "w", encoding="utf-8") as catalogue,
        open(folder / "kg.jsonl", "w", encoding="utf-8") as graph,
    ):
        for i in range(n):
            main, second, maker = int(items.category[i]), int(items.second[i]), makers[items.maker[i]]
            (nouns, about), (more, also) = words[main % len(words)], words[second % len(words)]
            adjective, noun = _ADJECTIVES[picks[i, 0]], nouns.split()[picks[i, 1]]
            other = (more if second >= 0 else nouns).split()[picks[i, 2]]
            label = names[main].rstrip(" 0123456789").title()
            title = (f"{adjective} {noun} {label}", f"The {adjective} {noun}", f"{noun} of the {adjective} {other}")[
                picks[i, 3]
            ]
            told[title] = told.get(title, 0) + 1
            title += f", Part {told[title]}" if told[title] > 1 else ""
            text = f"A {adjective.lower()} {names[main]} from {maker}: {about}"
            text += f", with a touch of {names[second]}: {also}." if second >= 0 else "."
            categories = [names[main]] + ([names[second]] if second >= 0 else [])
            _dump(catalogue, item_id=ids[i], title=title, description=text, categories=categories, price=prices[i])
            for category in categories:
                _dump(graph, head=ids[i], relation="has_category", tail=category)
            _dump(graph, head=ids[i], relation="made_by", tail=maker)
        for name, near in zip(names, world.related(items.centroids), strict=True):
            for tail in near:
                _dump(graph, head=name, relation="related_to", tail=names[tail])
    (folder / "truth" / "items").mkdir(parents=True)
    pd.DataFrame({
        "item_id": ids,
        "vector": list(items.vectors.astype(np.float32)),
        "popularity": items.popularity,
        "launch_day": items.launch_day.astype(np.int32),
    }).to_parquet(folder / "truth" / "items" / "part-00000.parquet", index=False)  # fmt: skip


def _prices(config: GeneratorConfig, items: world.Items, seed: int) -> list[float]:
    """Draw log-normal prices around the level of each item's category; no user's taste depends on them."""
    rng = np.random.default_rng([seed, _PRICE_STREAM])
    level = rng.normal(np.log(10), 0.5, config.categories)
    return np.exp(level[items.category] + rng.normal(0, 0.4, config.items)).round(2).tolist()


def _dump(file: TextIO, **fields: object) -> None:
    file.write(json.dumps(fields) + "\n")
