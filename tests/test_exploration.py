"""Drawn lists: their propensities are exact, they are drawn as they say, and the same for a user and a date."""

from __future__ import annotations

import datetime as dt
import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from recsys_spark.config import ExplorationConfig
from recsys_spark.hashing import uniforms
from recsys_spark.recommendation.exploration import GREEDY, explore, policy_name, propensities

NIGHT = dt.date(2026, 1, 5)
EPSILON = ExplorationConfig(policy="epsilon", epsilon=0.3, candidates=4)
PLACKETT_LUCE = ExplorationConfig(policy="plackett_luce", temperature=0.7, candidates=4)
ITEMS, SCORES = np.array([11, 12, 13, 14]), np.array([2.0, 1.5, 1.4, -1.0])


def by_hand(config, shown):
    """The probability of one list rank by rank, in plain Python."""
    left = list(zip(ITEMS.tolist(), SCORES.tolist(), strict=True))
    found = []
    for item in shown:
        if config.policy == "epsilon":
            chance = config.epsilon / len(left) + (1 - config.epsilon) * (left[0][0] == item)
        else:
            weights = {i: math.exp(s / (config.temperature * float(np.std(SCORES)))) for i, s in left}
            chance = weights[item] / sum(weights.values())
        found.append(chance)
        left = [pair for pair in left if pair[0] != item]
    return found


@pytest.mark.parametrize("config", [EPSILON, PLACKETT_LUCE], ids=lambda c: c.policy)
def test_propensities_are_those_by_hand_and_those_of_all_lists_add_up_to_one(config):
    lists = np.array(list(itertools.permutations(ITEMS, 3)))
    many = (np.tile(x, (len(lists), 1)) for x in (ITEMS, SCORES))
    got = propensities(*many, lists, config)
    np.testing.assert_allclose(got, [by_hand(config, row) for row in lists.tolist()], rtol=1e-12)
    assert got.prod(axis=1).sum() == pytest.approx(1, rel=1e-12)


@pytest.mark.parametrize("config", [EPSILON, PLACKETT_LUCE], ids=lambda c: c.policy)
def test_lists_are_drawn_as_often_as_they_say(config):
    """30,000 users with the same candidates: chi-square over the 24 lists of three."""
    n = 30_000
    shown, scores, chances, explores = explore(
        np.tile(ITEMS, (n, 1)), np.tile(SCORES, (n, 1)), np.arange(n), 3, config, NIGHT
    )
    assert explores.all()
    at = np.searchsorted(ITEMS, shown)
    np.testing.assert_array_equal(scores, SCORES[at])
    lists = list(itertools.permutations(ITEMS.tolist(), 3))
    expected = n * np.array([math.prod(by_hand(config, row)) for row in lists])
    observed = np.array([(shown == row).all(axis=1).sum() for row in lists])
    assert observed.sum() == n
    assert stats.chisquare(observed, expected).pvalue > 1e-3
    first = {tuple(row): p for row, p in zip(shown.tolist(), chances.tolist(), strict=True)}
    for row, p in first.items():
        np.testing.assert_allclose(p, by_hand(config, row), rtol=1e-12)


def test_the_same_for_a_user_and_a_date_whoever_stands_beside():
    users = np.arange(1, 200)
    many = np.tile(ITEMS, (199, 1)), np.tile(SCORES, (199, 1))
    whole = explore(*many, users, 3, PLACKETT_LUCE, NIGHT)
    part = explore(many[0][50:60], many[1][50:60], users[50:60], 3, PLACKETT_LUCE, NIGHT)
    for a, b in zip(whole, part, strict=True):
        np.testing.assert_array_equal(a[50:60], b)
    other = explore(*many, users, 3, PLACKETT_LUCE, NIGHT + dt.timedelta(days=1))
    assert (other[0] != whole[0]).any()


def test_off_and_the_users_who_do_not_explore_get_the_models_own_order():
    users = np.arange(5000)
    many = np.tile(ITEMS, (5000, 1)), np.tile(SCORES, (5000, 1))
    shown, _, chances, explores = explore(*many, users, 2, ExplorationConfig(), NIGHT)
    assert not explores.any() and (shown == [11, 12]).all() and (chances == 1).all()
    shown, _, chances, explores = explore(*many, users, 2, EPSILON.model_copy(update={"share": 0.2}), NIGHT)
    assert abs(explores.mean() - 0.2) < 4 * math.sqrt(0.16 / 5000)
    assert (shown[~explores] == [11, 12]).all() and (chances[~explores] == 1).all()
    assert (chances[explores] < 1).all()
    assert policy_name(ExplorationConfig()) == GREEDY
    assert policy_name(PLACKETT_LUCE) == "plackett_luce 0.7 of 4"


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([EPSILON, PLACKETT_LUCE]), st.integers(1, 6), st.integers(0, 6))
def test_drawn_lists_are_distinct_candidates_and_short_ones_end_in_nothing(seed, config, k, there):
    r = np.random.default_rng(seed)
    items = np.zeros((3, 6), np.int64)
    items[:, :there] = np.argsort(r.random((3, 20)), axis=1)[:, :there] + 1
    scores = np.where(items > 0, -np.sort(-r.normal(size=(3, 6)), axis=1), -np.inf).astype(np.float32)
    shown, of, chances, _ = explore(items, scores, r.integers(0, 99, 3), k, config, NIGHT)
    n = min(k, there)
    for b in range(3):
        row = shown[b, :n].tolist()
        assert len(set(row)) == n and set(row) <= set(items[b, :there].tolist())
        assert [dict(zip(items[b], scores[b], strict=True))[i] for i in row] == of[b, :n].tolist()
    assert (shown[:, n:] == 0).all() and (chances[:, n:] == 0).all() and np.isneginf(of[:, n:]).all()
    assert ((chances[:, :n] > 0) & (chances[:, :n] <= 1)).all()


def test_what_a_policy_would_never_show_has_no_chance_nor_has_what_is_below_it():
    lists = np.array([[12, 11, 13], [99, 11, 12], [11, 11, 12], [11, 0, 0]])
    many = np.tile(ITEMS, (4, 1)), np.tile(SCORES, (4, 1))
    greedy = propensities(*many, lists, ExplorationConfig())
    np.testing.assert_array_equal(greedy, [[0, 1, 1], [0, 0, 0], [1, 0, 0], [1, 0, 0]])
    got = propensities(*many, lists, PLACKETT_LUCE)
    assert (got[0] > 0).all() and (got[1] == 0).all() and (got[2, 1:] == 0).all() and (got[3, 1:] == 0).all()


def test_far_apart_scores_and_equal_ones():
    cold = ExplorationConfig(policy="plackett_luce", temperature=1e-4, candidates=3)
    items, scores = np.array([[1, 2, 3]]), np.array([[5.0, 1.0, -9.0]])
    assert propensities(items, scores, np.array([[1, 2, 3]]), cold).tolist() == [[1, 1, 1]]
    last_first = propensities(items, scores, np.array([[3, 2, 1]]), cold)
    assert last_first[0, 0] < 1e-300 and last_first[0, 2] == 1  # not 0 / 0 once the best is all that is left
    warm = ExplorationConfig(policy="plackett_luce", temperature=1.0, candidates=3)
    even = propensities(items, np.zeros((1, 3)), np.array([[2, 3, 1]]), warm)
    np.testing.assert_allclose(even, [[1 / 3, 1 / 2, 1]])


def test_uniforms_are_uniform_and_never_0_or_1():
    got = uniforms(3, np.arange(20_000), 5)
    assert got.min() > 0 and got.max() < 1
    assert stats.kstest(got.ravel(), "uniform").pvalue > 1e-3
    assert abs(np.corrcoef(got.T)[~np.eye(5, dtype=bool)]).max() < 5 / math.sqrt(20_000)
