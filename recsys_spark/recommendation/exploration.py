"""Lists that leave a model's own order by a known chance, and what that chance is.

A policy draws a list from a user's candidates, best first, without replacement. Its propensity is that of *the item at
a rank, given the items above it*: by it a list's probability is the product down its ranks, and it can be told exactly
for any list, also for one that another policy has drawn (`recsys_spark.evaluation.off_policy`).
"""

from __future__ import annotations

import datetime as dt

import numpy as np
from numpy.typing import NDArray

from recsys_spark.config import ExplorationConfig
from recsys_spark.hashing import uniforms
from recsys_spark.models.base import NO_OPINION, Floats, Ints

GREEDY = "greedy"
Chances = NDArray[np.float64]


def policy_name(config: ExplorationConfig) -> str:
    """Name a policy as the table `exposures` does.

    >>> policy_name(ExplorationConfig(policy="epsilon", epsilon=0.2, candidates=50))
    'epsilon 0.2 of 50'
    """
    if config.policy == "none":
        return GREEDY
    strength = config.epsilon if config.policy == "epsilon" else config.temperature
    return f"{config.policy} {strength:g} of {config.candidates}"


def explore(
    items: Ints, scores: Floats, users: Ints, k: int, config: ExplorationConfig, night: dt.date
) -> tuple[Ints, Floats, Chances, NDArray[np.bool_]]:
    """Draw the lists of a night: the same for a user and a run date, however often.

    Args:
        items: candidates [B, M], best first; 0 fills up.
        scores: theirs, [B, M].
        users: dense ids, [B].
        k: ranks of a list, at most M.

    Returns:
        Items, their scores and their propensities, [B, k] each, and who explores, [B]: the others get the first k
        candidates with a propensity of 1. Ranks without an item are 0 with `NO_OPINION` and 0.
    """
    b, m = items.shape
    draws = uniforms(night.toordinal(), users, 1 + k + m)  # who explores; when, by rank; which item
    explores = draws[:, 0] < config.share if config.policy != "none" else np.zeros(b, bool)
    order = np.broadcast_to(np.arange(m), (b, m)).copy()
    if config.policy == "plackett_luce":
        # the Gumbel trick (Yellott 1977): the order of logit + Gumbel noise is a draw without replacement
        noisy = logits(items, scores, config.temperature) - np.log(-np.log(draws[:, 1 + k :]))
        order[explores] = np.argsort(-noisy[explores], axis=1, kind="stable")
    elif config.policy == "epsilon":
        order[explores] = _epsilon_order(items, draws[:, 1 : 1 + k] < config.epsilon, draws[:, 1 + k :])[explores]
    at = order[:, :k]
    shown, of = np.take_along_axis(items, at, axis=1), np.take_along_axis(scores, at, axis=1)
    chances = np.where(shown > 0, 1.0, 0.0)
    if explores.any():
        chances[explores] = propensities(items[explores], scores[explores], shown[explores], config)
    return shown, np.where(shown > 0, of, NO_OPINION), chances, explores


def _epsilon_order(items: Ints, coins: NDArray[np.bool_], noise: Chances) -> Ints:
    """Return places of candidates [B, M]: at a rank whose coin fell the noisiest that is left, else the first.

    One noise for all ranks is enough: what was taken says nothing about the order of the rest.
    """
    b, m = items.shape
    noise = np.where(items > 0, noise, -1.0)
    left, order = np.ones((b, m), bool), np.zeros((b, m), np.int64)
    for rank in range(coins.shape[1]):
        drawn = np.argmax(np.where(left, noise, -2.0), axis=1)
        place = np.where(coins[:, rank], drawn, np.argmax(left, axis=1))
        order[:, rank] = place
        left[np.arange(b), place] = False
    return order


def logits(items: Ints, scores: Floats, temperature: float) -> Chances:
    """Return score / (temperature x standard deviation of the user's candidates), [B, M]; -inf where there is no item.

    Without the standard deviation a temperature would mean something else for every model.
    """
    there = items > 0
    n = np.maximum(there.sum(axis=1, keepdims=True), 1)
    values = np.where(there, scores, 0.0).astype(np.float64)
    middle = values.sum(axis=1, keepdims=True) / n
    spread = np.sqrt((np.where(there, values - middle, 0.0) ** 2).sum(axis=1, keepdims=True) / n)
    return np.where(there, (values - middle) / (temperature * np.where(spread > 0, spread, 1.0)), -np.inf)


def propensities(items: Ints, scores: Floats, shown: Ints, config: ExplorationConfig) -> Chances:
    """Return how probable each shown item was at its rank, given those above: [B, K].

    Plackett-Luce: `exp(l_i) / Σ exp(l_j)` over the candidates j that are left (Plackett 1975). Epsilon: `ε / left`, and
    `1 - ε` more for the best that is left. None: 1 for the best that is left. An item that is no candidate any more, or
    never was, has 0, as has everything below it; so has the item 0.

    Args:
        items, scores: the candidates of the policy that is asked about, [B, M], best first.
        shown: lists that any policy has drawn, [B, K]; 0 fills up.

    >>> config = ExplorationConfig(policy="epsilon", epsilon=0.3, candidates=3)
    >>> propensities(np.array([[7, 8, 9]]), np.ones((1, 3)), np.array([[8, 7]]), config).round(3).tolist()
    [[0.1, 0.85]]
    """
    b, left = len(items), items > 0
    chances = np.zeros(shown.shape)
    possible = np.ones(b, bool)
    level = logits(items, scores, config.temperature) if config.policy == "plackett_luce" else None
    for rank in range(shown.shape[1]):
        here = left & (items == shown[:, rank, None]) & (shown[:, rank, None] > 0)
        possible &= here.any(axis=1)
        place = np.argmax(here, axis=1)
        if level is not None:
            among = np.where(left, level, -np.inf)
            top = np.max(among, axis=1, keepdims=True, initial=-1e300)  # taken off, so that not all underflow
            weight = np.exp(among - top)
            chance = weight[np.arange(b), place] / np.maximum(weight.sum(axis=1), 1e-300)
        else:
            epsilon = config.epsilon if config.policy == "epsilon" else 0.0
            best = np.argmax(left, axis=1) == place
            chance = epsilon / np.maximum(left.sum(axis=1), 1) + (1 - epsilon) * best
        chances[:, rank] = np.where(possible, chance, 0.0)
        left = left & ~here
    return chances
