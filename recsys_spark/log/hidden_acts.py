"""What the people of the hidden world do: sessions, slates, clicks, purchases; and bots.

Numpy on one block of users, like `hidden_world`. A *slate* is one list that was shown, a *cell* one place of a slate.
"""

from __future__ import annotations

import numpy as np

from recsys_spark.config import GeneratorConfig
from recsys_spark.log import hidden_world as world
from recsys_spark.log.hidden_world import Bools, Floats, Ints

DAY_MS = 86_400_000
EVENT_TYPES = ("impression", "click", "view", "purchase", "rating")
SLATE = 10
"""Most positions of a slate."""

_FROM_POPULARITY, _FROM_TASTE = 20, 20
"""Candidates of a slate that are drawn by popularity, and by the user's taste in categories."""
_SHOW, _BUY_AT = 0.8, 6.0
"""How far the shown list follows affinity, and the affinity at which buying is even."""
_HOURS = np.array([2, 1, 1, 1, 1, 1, 2, 3, 4, 4, 4, 4, 5, 5, 4, 4, 5, 6, 8, 10, 12, 11, 8, 4], float)
"""Sessions by hour of the day: few at night, most in the evening."""


def expected_activity(config: GeneratorConfig, users: world.Users) -> Floats:
    """Return [U, days]: each user's relative number of sessions on each day; weekends are busier."""
    day = np.arange(config.days)
    by_day = np.where((config.start.weekday() + day) % 7 >= 5, 1.3, 1.0)
    return users.activity[:, None] * np.where(day >= users.first_day[:, None], by_day, 0.0)


def simulate(
    config: GeneratorConfig, items: world.Items, users: world.Users, seed: int, block: int, sessions: int
) -> dict[str, Ints]:
    """Return the human events of a block of users that has `sessions` sessions.

    Returns:
        Columns of equal length: user, item, type (index into `EVENT_TYPES`), ms (since the start of the
        log), rating and position (0 = none), session (from 0 in the block), device, country.
    """
    rng = world.generator(seed, world.SESSIONS, block)
    # Sessions, sorted by user and time, so that "earlier" below is a cell's place in the array.
    weight = expected_activity(config, users).ravel()
    counts = rng.multinomial(sessions if weight.any() else 0, weight / max(weight.sum(), 1e-12))
    user, day = np.divmod(np.repeat(np.arange(len(weight)), counts), config.days)
    hour = rng.choice(24, len(user), p=_HOURS / _HOURS.sum())
    clock = hour * (DAY_MS // 24) + rng.integers(DAY_MS // 24, size=len(user))
    order = np.lexsort((clock, day, user))
    user, day, clock = user[order], day[order], clock[order]
    device = np.where(rng.random(len(user)) < 0.85, users.device[user], rng.choice(4, len(user), p=world.DEVICE_SHARES))
    taste = users.start[user] + (users.end - users.start)[user] * (day / (config.days - 1))[:, None]

    # Slates: S of them, SLATE cells each; a slate ends where the user stopped to scroll.
    session = np.repeat(np.arange(len(user)), np.minimum(rng.geometric(0.6, len(user)), 4))
    item, utility, shown = _show(rng, items, taste, day, session)
    cell_user = np.broadcast_to(user[session][:, None], shown.shape)
    clicked = shown & (rng.random(shown.shape) < world.click_probability(utility, np.arange(1, SLATE + 1)))
    viewed = clicked & (rng.random(shown.shape) < 0.92)
    bought = viewed & (rng.random(shown.shape) < 0.45 * world.sigmoid(utility - _BUY_AT))
    rated = viewed & (rng.random(shown.shape) < np.where(bought, 0.5, 0.08))
    stars = np.clip(np.rint(3.4 + 0.8 * (utility - world.CLICK_AT) + 0.7 * rng.normal(size=shown.shape)), 1, 5)
    key = cell_user * len(items.popularity) + item
    kept = rng.random(shown.shape) < repeat_share(_earlier(key, clicked), _earlier(key, bought))
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


def repeat_share(clicked: Bools, bought: Bools) -> Floats:
    """Return which share of its clicks an item keeps: a known one is clicked less often, a bought one hardly ever.

    Args:
        clicked, bought: whether the user had clicked on it, and bought it, before.

    >>> repeat_share(np.array([False, True, True]), np.array([False, False, True])).tolist()
    [1.0, 0.4, 0.03]
    """
    return np.where(bought, 0.03, np.where(clicked, 0.4, 1.0))


def simulate_bots(
    config: GeneratorConfig, items: world.Items, users: world.Users, seed: int, block: int
) -> dict[str, Ints]:
    """Return the bots' events of a block, in `simulate`'s columns: views on one day, evenly spaced in time.

    Session numbers count down from -1, so that they never meet those of `simulate`.
    """
    rng, bots = world.generator(seed, world.BOT_EVENTS, block), np.flatnonzero(users.is_bot)
    n = round(config.dirt.bots * config.events / max(1, len(world.bot_ids(config, seed))))
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
        "device": zeros + world.DEVICES.index("desktop"),
        "country": np.repeat(users.country[bots], n),
    }


def _show(
    rng: np.random.Generator, items: world.Items, taste: Floats, day: Ints, session: Ints
) -> tuple[Ints, Floats, Bools]:
    """Choose what S slates show. Returns [S, SLATE] each: item, utility, and whether the cell was shown.

    Candidates come from the popular items and from the user's categories; the slate is a draw without
    replacement from them, by the Gumbel trick, that leans towards what the user likes.
    """
    n, c = len(session), len(items.centroids)
    by_popularity = _draw(np.cumsum(items.popularity), rng.random((n, _FROM_POPULARITY)))
    wish = np.exp(world.TASTE * taste @ items.centroids.T)
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
    utility = world.TASTE * np.einsum("nd,nmd->nm", taste[session], items.vectors[item])
    utility += world.popularity_utility(items.popularity)[item]
    key = _SHOW * utility + rng.gumbel(size=item.shape)
    key[:, 1:][item[:, 1:] == item[:, :-1]] = -np.inf
    key[items.launch_day[item] > day[session][:, None]] = -np.inf
    top = np.argsort(-key, axis=1)[:, :SLATE]
    item, utility, key = (np.take_along_axis(a, top, axis=1) for a in (item, utility, key))
    length = rng.integers(6, SLATE + 1, size=(n, 1))
    return item, utility, np.isfinite(key) & (np.arange(SLATE) < length)


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


def _draw(rungs: Floats, at: Floats) -> Ints:
    """Inverse of a cumulated distribution; clipped, for sums that round to just below their total."""
    return np.minimum(np.searchsorted(rungs, at, side="right"), len(rungs) - 1)
