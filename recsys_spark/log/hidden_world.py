"""The world behind the embedded log: hidden tastes, hidden items, and how people act on them.

Everything here is numpy on one block of users, seeded by (seed, stream, block): which task of which
cluster simulates a block changes nothing. Items and users are unit vectors around category centroids.
A *slate* is one list that was shown; a *cell* is one place of a slate. D = `DIM` throughout.
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
DAY_MS = 86_400_000
EVENT_TYPES = ("impression", "click", "view", "purchase", "rating")
DEVICES = ("mobile", "desktop", "tablet", "tv")
COUNTRIES = ("US", "GB", "DE", "FR", "IN", "BR", "JP", "CA", "ES", "PL", "NL", "SE", "AU", "IT", "MX", "KE")
SLATE = 10
"""Most positions of a slate."""

_ITEMS, _USERS, _BOTS, _SESSIONS, _BOT_EVENTS = range(5)
_EVENTS_PER_BLOCK = 10_000
_EVENTS_PER_BOT = 1_000
_TASTE, _POPULARITY = 7.0, 0.6
_FROM_POPULARITY, _FROM_TASTE = 20, 20
"""Candidates of a slate that are drawn by popularity, and by the user's taste in categories."""
_SHOW, _CLICK_AT, _BUY_AT = 0.8, 5.2, 6.0
"""How far the shown list follows affinity, and the affinities at which clicking and buying are even."""
_DEVICE_SHARES = (0.55, 0.32, 0.08, 0.05)
_POSITION_FADE = 0.25
_HOURS = np.array([2, 1, 1, 1, 1, 1, 2, 3, 4, 4, 4, 4, 5, 5, 4, 4, 5, 6, 8, 10, 12, 11, 8, 4], float)
"""Sessions by hour of the day: few at night, most in the evening."""


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
    return _TASTE * taste @ item_vectors.T + _popularity_utility(item_popularity)


def click_probability(utility: Floats, position: Ints) -> Floats:
    """Return how probable a click on an item is that is shown for the first time: `sigmoid(u - 5.2) position^-1/4`.

    Args:
        utility: of the items, as `affinity` gives it.
        position: where each is shown, from 1.

    >>> click_probability(np.array([5.2, 5.2]), np.array([1, 16])).tolist()
    [0.5, 0.25]
    """
    return _sigmoid(utility - _CLICK_AT) * position.astype(float) ** -_POSITION_FADE


def draw_items(config: GeneratorConfig, seed: int) -> Items:
    """Draw the catalogue: categories, makers with a style, items near both, popularity, launch days."""
    rng, n, c = _rng(seed, _ITEMS), config.items, config.categories
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
    return tuple(sorted(_rng(seed, _BOTS).choice(config.users, n, replace=False).tolist()))


def draw_users(config: GeneratorConfig, items: Items, seed: int, block: int) -> Users:
    """Draw a block of users: each likes one to three categories and drifts towards another such taste."""
    rng, size = _rng(seed, _USERS, block), block_users(config)
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
        device=rng.choice(len(DEVICES), n, p=_DEVICE_SHARES),
        country=np.minimum(rng.geometric(0.3, n) - 1, len(COUNTRIES) - 1),
    )


def expected_activity(config: GeneratorConfig, users: Users) -> Floats:
    """Return [U, days]: each user's relative number of sessions on each day; weekends are busier."""
    day = np.arange(config.days)
    by_day = np.where((config.start.weekday() + day) % 7 >= 5, 1.3, 1.0)
    return users.activity[:, None] * np.where(day >= users.first_day[:, None], by_day, 0.0)


def simulate(
    config: GeneratorConfig, items: Items, users: Users, seed: int, block: int, sessions: int
) -> dict[str, Ints]:
    """Return the human events of a block of users that has `sessions` sessions.

    Returns:
        Columns of equal length: user, item, type (index into `EVENT_TYPES`), ms (since the start of the
        log), rating and position (0 = none), session (from 0 in the block), device, country.
    """
    rng = _rng(seed, _SESSIONS, block)
    # Sessions, sorted by user and time, so that "earlier" below is a cell's place in the array.
    weight = expected_activity(config, users).ravel()
    counts = rng.multinomial(sessions if weight.any() else 0, weight / max(weight.sum(), 1e-12))
    user, day = np.divmod(np.repeat(np.arange(len(weight)), counts), config.days)
    hour = rng.choice(24, len(user), p=_HOURS / _HOURS.sum())
    clock = hour * (DAY_MS // 24) + rng.integers(DAY_MS // 24, size=len(user))
    order = np.lexsort((clock, day, user))
    user, day, clock = user[order], day[order], clock[order]
    device = np.where(rng.random(len(user)) < 0.85, users.device[user], rng.choice(4, len(user), p=_DEVICE_SHARES))
    taste = users.start[user] + (users.end - users.start)[user] * (day / (config.days - 1))[:, None]

    # Slates: S of them, SLATE cells each; a slate ends where the user stopped to scroll.
    session = np.repeat(np.arange(len(user)), np.minimum(rng.geometric(0.6, len(user)), 4))
    item, utility, shown = _show(rng, items, taste, day, session)
    cell_user = np.broadcast_to(user[session][:, None], shown.shape)
    clicked = shown & (rng.random(shown.shape) < click_probability(utility, np.arange(1, SLATE + 1)))
    viewed = clicked & (rng.random(shown.shape) < 0.92)
    bought = viewed & (rng.random(shown.shape) < 0.45 * _sigmoid(utility - _BUY_AT))
    rated = viewed & (rng.random(shown.shape) < np.where(bought, 0.5, 0.08))
    stars = np.clip(np.rint(3.4 + 0.8 * (utility - _CLICK_AT) + 0.7 * rng.normal(size=shown.shape)), 1, 5)
    # A known item is clicked again less often, and one that was bought hardly ever.
    key = cell_user * len(items.popularity) + item
    again = np.where(_earlier(key, bought), 0.03, np.where(_earlier(key, clicked), 0.4, 1.0))
    kept = rng.random(shown.shape) < again
    clicked, viewed, bought, rated = clicked & kept, viewed & kept, bought & kept, rated & kept

    # Time: the session walks through its cells; the steps of one cell follow each other.
    spans = ((400, 2_000), (800, 4_000), (200, 1_500), (8_000, 90_000), (5_000, 60_000))
    masks = (shown, clicked, viewed, bought, rated)
    steps = [m * rng.integers(low, high, size=shown.shape) for m, (low, high) in zip(masks, spans, strict=True)]
    pause = viewed * rng.integers(3_000, 40_000, size=shown.shape)
    pause[:, -1] += rng.integers(3_000, 20_000, size=len(pause))
    spent = (np.sum(steps, axis=0) + pause).ravel()
    before = np.concatenate([[0], np.cumsum(spent)])
    bounds = np.searchsorted(session, np.arange(len(user) + 1)) * SLATE
    length = before[bounds[1:]] - before[bounds[:-1]]
    begin = day * DAY_MS + np.minimum(clock, DAY_MS - 1 - length)  # a session stays within its day
    clock_at = (begin - before[bounds[:-1]])[session][:, None] + before[:-1].reshape(shown.shape)

    place = np.broadcast_to(np.arange(1, SLATE + 1), shown.shape)
    parts = []
    for kind, (mask, step) in enumerate(zip(masks, steps, strict=True)):
        clock_at = clock_at + step
        s = np.broadcast_to(session[:, None], shown.shape)[mask]
        parts.append({
            "user": users.first + user[s],
            "item": item[mask],
            "type": np.full(len(s), kind),
            "ms": clock_at[mask],
            "rating": stars[mask].astype(int) if kind == EVENT_TYPES.index("rating") else np.zeros(len(s), int),
            "position": place[mask] if kind <= EVENT_TYPES.index("click") else np.zeros(len(s), int),
            "session": s,
            "device": device[s],
            "country": users.country[user[s]],
        })  # fmt: skip
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def simulate_bots(config: GeneratorConfig, items: Items, users: Users, seed: int, block: int) -> dict[str, Ints]:
    """Return the bots' events of a block, in `simulate`'s columns: views on one day, evenly spaced in time.

    Session numbers count down from -1, so that they never meet those of `simulate`.
    """
    rng, bots = _rng(seed, _BOT_EVENTS, block), np.flatnonzero(users.is_bot)
    n = round(config.dirt.bots * config.events / max(1, len(bot_ids(config, seed))))
    step = max(1, min(3_000, DAY_MS // (n + 1)))
    day = rng.integers(config.days, size=len(bots))
    begin = (rng.random(len(bots)) * (DAY_MS - n * step)).astype(int)
    item = [rng.choice(np.flatnonzero(items.launch_day <= d), n) for d in day]
    zeros = np.zeros(n * len(bots), int)
    return {
        "user": np.repeat(users.first + bots, n),
        "item": np.concatenate([zeros[:0], *item]),
        "type": zeros + EVENT_TYPES.index("view"),
        "ms": ((day * DAY_MS + begin)[:, None] + step * np.arange(n)).ravel(),
        "rating": zeros,
        "position": zeros,
        "session": np.repeat(-1 - np.arange(len(bots)), n),
        "device": zeros + DEVICES.index("desktop"),
        "country": np.repeat(users.country[bots], n),
    }


def _show(
    rng: np.random.Generator, items: Items, taste: Floats, day: Ints, session: Ints
) -> tuple[Ints, Floats, Bools]:
    """Choose what S slates show. Returns [S, SLATE] each: item, utility, and whether the cell was shown.

    Candidates come from the popular items and from the user's categories; the slate is a draw without
    replacement from them, by the Gumbel trick, that leans towards what the user likes.
    """
    n, c = len(session), len(items.centroids)
    by_popularity = _draw(np.cumsum(items.popularity), rng.random((n, _FROM_POPULARITY)))
    wish = np.exp(_TASTE * taste @ items.centroids.T)
    wish = np.cumsum(wish / wish.sum(axis=1, keepdims=True), axis=1)  # [sessions, C]
    # One sorted ladder of all sessions' cumulated shares: session s owns the rungs between s and s + 1.
    rungs = (wish + np.arange(len(wish))[:, None]).ravel()
    row = np.broadcast_to(session[:, None], (n, _FROM_TASTE))
    category = np.clip(_draw(rungs, row + rng.random(row.shape)) - row * c, 0, c - 1)
    # Within a category, the square root keeps its best sellers from filling every list.
    by_category = np.argsort(items.category, kind="stable")
    rungs = np.cumsum(np.sqrt(items.popularity[by_category]))
    size = np.bincount(items.category, np.sqrt(items.popularity), minlength=c)
    floor = np.cumsum(size) - size
    by_taste = by_category[_draw(rungs, floor[category] + size[category] * rng.random(row.shape))]

    item = np.sort(np.concatenate([by_popularity, by_taste], axis=1), axis=1)
    utility = _TASTE * np.einsum("nd,nmd->nm", taste[session], items.vectors[item])
    utility += _popularity_utility(items.popularity)[item]
    key = _SHOW * utility + rng.gumbel(size=item.shape)
    key[:, 1:][item[:, 1:] == item[:, :-1]] = -np.inf
    key[items.launch_day[item] > day[session][:, None]] = -np.inf
    top = np.argsort(-key, axis=1)[:, :SLATE]
    item, utility, key = (np.take_along_axis(a, top, axis=1) for a in (item, utility, key))
    length = rng.integers(6, SLATE + 1, size=(n, 1))
    return item, utility, np.isfinite(key) & (np.arange(SLATE) < length)


def _tastes(rng: np.random.Generator, centroids: Floats, n: int) -> Floats:
    """Return [n, D] unit vectors near a weighted sum of one to three centroids."""
    liked = rng.integers(len(centroids), size=(n, 3))
    weight = np.array([1.0, 0.6, 0.35]) * (np.arange(3) < rng.choice([1, 2, 3], (n, 1), p=[0.35, 0.4, 0.25]))
    return _unit(np.einsum("nk,nkd->nd", weight, centroids[liked]) + 0.5 * _unit(rng.normal(size=(n, DIM))))


def _earlier(key: Ints, flag: Bools) -> Bools:
    """Tell for each cell whether an earlier cell of the same key, in array order, carries the flag.

    >>> _earlier(np.array([[7, 8], [7, 7]]), np.array([[True, True], [False, True]])).tolist()
    [[False, False], [True, True]]
    """
    flat = key.ravel()
    order = np.argsort(flat, kind="stable")
    run, on = flat[order], flag.ravel()[order]
    so_far = np.cumsum(on) - on
    first = np.searchsorted(run, run)  # where each cell's run of equal keys begins
    found = np.empty(len(flat), bool)
    found[order] = so_far > so_far[first]
    return found.reshape(key.shape)


def _popularity_utility(popularity: Floats) -> Floats:
    return _POPULARITY * np.log(popularity * len(popularity))


def _draw(rungs: Floats, at: Floats) -> Ints:
    """Inverse of a cumulated distribution; clipped, for sums that round to just below their total."""
    return np.minimum(np.searchsorted(rungs, at, side="right"), len(rungs) - 1)


def _sigmoid(x: Floats) -> Floats:
    return 0.5 * (1.0 + np.tanh(0.5 * x))


def _unit(x: Floats) -> Floats:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def _rng(seed: int, *stream: int) -> np.random.Generator:
    return np.random.default_rng([seed, *stream])
