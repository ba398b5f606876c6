"""The world behind the embedded log: its items, its people, and what they like; `hidden_acts` is what they do.

Everything here is numpy on one block of users, seeded by (seed, stream, block): which task of which
cluster draws a block changes nothing. Items and users are unit vectors around category centroids. D = `DIM`.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recsys_spark.config import GeneratorConfig

Floats = NDArray[np.floating]
Ints = NDArray[np.integer]
Bools = NDArray[np.bool_]

DIM = 12
DEVICES = ("mobile", "desktop", "tablet", "tv")
COUNTRIES = ("US", "GB", "DE", "FR", "IN", "BR", "JP", "CA", "ES", "PL", "NL", "SE", "AU", "IT", "MX", "KE")

_ITEMS, _USERS, _BOTS, SESSIONS, BOT_EVENTS = range(5)
"""Streams of random numbers."""
_EVENTS_PER_BLOCK = 10_000
_EVENTS_PER_BOT = 1_000
TASTE, _POPULARITY = 7.0, 0.6
CLICK_AT = 5.2
"""The affinity at which clicking is even."""
DEVICE_SHARES = (0.55, 0.32, 0.08, 0.05)
_POSITION_FADE = 0.25


@dataclass(frozen=True)
class Items:
    """I items, C categories, M makers."""

    vectors: Floats
    """[I, D], unit length."""
    popularity: Floats
    """[I], sums to 1, Zipf-like."""
    launch_day: Ints
    """[I], days from the start of the log; 0 = there from the start."""
    category: Ints
    """[I], the main category."""
    second: Ints
    """[I], a further category, or -1."""
    maker: Ints
    """[I]; every item of a maker has one of the maker's one or two categories."""
    centroids: Floats
    """[C, D], unit length."""


@dataclass(frozen=True)
class Users:
    """A block of U users, the first of which is number `first`."""

    first: int
    start: Floats
    """[U, D], taste on day 0."""
    end: Floats
    """[U, D], taste on the last day."""
    first_day: Ints
    """[U], days from the start of the log before which the user has no event."""
    is_bot: Bools
    activity: Floats
    """[U], heavy-tailed; 0 for bots."""
    device: Ints
    country: Ints


def affinity(
    user_start: Floats, user_end: Floats, item_vectors: Floats, item_popularity: Floats, day: int, days: int
) -> Floats:
    """Return the true utility of every item to every user on a day; the oracle ranks by it.

    The taste on a day lies on the line between the two tastes, t = day / (days - 1) of the way:
    `7 ((1-t) start + t end) · item + 0.6 ln(I popularity)`. Whether an item is launched is not in it.

    Args:
        user_start: [U, D] tastes on day 0 (`truth/users`, column `start`).
        user_end: [U, D] tastes on the last day (`end`).
        item_vectors: [I, D] (`truth/items`, column `vector`).
        item_popularity: [I], sums to 1 (`popularity`).
        day: 0 is the first day of the log.
        days: length of the log.

    Returns:
        [U, I] utilities, larger is better.

    >>> taste, popularity = np.eye(2), np.array([0.5, 0.5])
    >>> affinity(taste, taste[::-1], taste, popularity, day=0, days=3).tolist()
    [[7.0, 0.0], [0.0, 7.0]]
    >>> affinity(taste, taste[::-1], taste, popularity, day=1, days=3).tolist()
    [[3.5, 3.5], [3.5, 3.5]]
    """
    taste = user_start + (user_end - user_start) * (day / (days - 1))
    return TASTE * taste @ item_vectors.T + popularity_utility(item_popularity)


def click_probability(utility: Floats, position: Ints) -> Floats:
    """Return how probable a click on an item is that is shown for the first time: `sigmoid(u - 5.2) position^-1/4`.

    Args:
        utility: of the items, as `affinity` gives it.
        position: where each is shown, from 1.

    >>> click_probability(np.array([5.2, 5.2]), np.array([1, 16])).tolist()
    [0.5, 0.25]
    """
    return sigmoid(utility - CLICK_AT) * position.astype(float) ** -_POSITION_FADE


def draw_items(config: GeneratorConfig, seed: int) -> Items:
    """Draw the catalogue: categories, makers with a style, items near both, popularity, launch days."""
    rng, n, c = generator(seed, _ITEMS), config.items, config.categories
    centroids = _unit(rng.normal(size=(c, DIM)))
    makers = max(c, n // 25)
    style = _unit(rng.normal(size=(makers, DIM)))
    main_of = np.arange(makers) % c
    also_of = np.where(rng.random(makers) < 0.5, related(centroids)[main_of, 0], main_of)
    maker = rng.integers(makers, size=n)
    category = np.where(rng.random(n) < 0.7, main_of[maker], also_of[maker])
    second = np.where(rng.random(n) < 0.35, related(centroids)[category, rng.integers(min(2, c - 1), size=n)], -1)
    vectors = centroids[category] + 0.45 * style[maker] + 0.45 * _unit(rng.normal(size=(n, DIM)))
    vectors = _unit(vectors + np.where(second[:, None] >= 0, 0.5 * centroids[second], 0.0))
    popularity = 1.0 / (rng.permutation(n) + 5.0) ** 1.0
    launch_day = np.where(rng.random(n) < config.new_item_share, rng.integers(1, config.days, size=n), 0)
    launch_day[np.argsort(-popularity)[:3]] = 0  # even a tiny catalogue has something to show on day 0
    return Items(vectors, popularity / popularity.sum(), launch_day, category, second, maker, centroids)


def related(centroids: Floats) -> Ints:
    """Return [C, min(2, C - 1)]: the nearest other categories of each category, nearest first."""
    cosine = centroids @ centroids.T
    np.fill_diagonal(cosine, -np.inf)
    return np.argsort(-cosine, axis=1, kind="stable")[:, : min(2, len(centroids) - 1)]


def block_users(config: GeneratorConfig) -> int:
    """Users of a block: about 10,000 events' worth, so that a block's memory does not grow with the log."""
    return int(np.clip(_EVENTS_PER_BLOCK * config.users // config.events, 1, 1_000))


def block_count(config: GeneratorConfig) -> int:
    """Blocks of the log."""
    return -(-config.users // block_users(config))


@functools.lru_cache(maxsize=4)
def bot_ids(config: GeneratorConfig, seed: int) -> tuple[int, ...]:
    """Return the numbers of the users who are bots: one for every 1,000 bot events, at most 5 % of all."""
    if config.dirt.bots == 0:
        return ()
    n = int(np.clip(round(config.dirt.bots * config.events / _EVENTS_PER_BOT), 1, max(1, config.users // 20)))
    return tuple(sorted(generator(seed, _BOTS).choice(config.users, n, replace=False).tolist()))


def draw_users(config: GeneratorConfig, items: Items, seed: int, block: int) -> Users:
    """Draw a block of users: each likes one to three categories and drifts towards another such taste."""
    rng, size = generator(seed, _USERS, block), block_users(config)
    first, n = block * size, min(size, config.users - block * size)
    start, other = _tastes(rng, items.centroids, n), _tastes(rng, items.centroids, n)
    is_bot = np.isin(np.arange(first, first + n), bot_ids(config, seed))
    late = (rng.random(n) < config.new_user_share) & ~is_bot
    return Users(
        first=first,
        start=start,
        end=_unit((1 - config.drift) * start + config.drift * other) if config.drift else start,
        first_day=np.where(late, rng.integers(1, config.days, size=n), 0),
        is_bot=is_bot,
        activity=np.where(is_bot, 0.0, np.minimum(1.0 + rng.pareto(2.0, n), 20.0)),
        device=rng.choice(len(DEVICES), n, p=DEVICE_SHARES),
        country=np.minimum(rng.geometric(0.3, n) - 1, len(COUNTRIES) - 1),
    )


def _tastes(rng: np.random.Generator, centroids: Floats, n: int) -> Floats:
    """Return [n, D] unit vectors near a weighted sum of one to three centroids."""
    liked = rng.integers(len(centroids), size=(n, 3))
    weight = np.array([1.0, 0.6, 0.35]) * (np.arange(3) < rng.choice([1, 2, 3], (n, 1), p=[0.35, 0.4, 0.25]))
    return _unit(np.einsum("nk,nkd->nd", weight, centroids[liked]) + 0.5 * _unit(rng.normal(size=(n, DIM))))


def popularity_utility(popularity: Floats) -> Floats:
    """Return what popularity adds to the utility of each item."""
    return _POPULARITY * np.log(popularity * len(popularity))


def sigmoid(x: Floats) -> Floats:
    """Return 1 / (1 + exp(-x))."""
    return 0.5 * (1.0 + np.tanh(0.5 * x))


def _unit(x: Floats) -> Floats:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def generator(seed: int, *stream: int) -> np.random.Generator:
    """Return the random numbers of a stream, and of a block in it."""
    return np.random.default_rng([seed, *stream])
