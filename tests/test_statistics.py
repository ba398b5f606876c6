"""The permutation test, corrections for many comparisons and power, against scipy, plain Python and simulations.

Every draw is seeded, so each statistical tolerance below is met or not once and for all; it is stated in standard
deviations of what it bounds.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from recsys_spark.evaluation.bootstrap import bootstrap_sums, paired_difference, ratio_interval
from recsys_spark.evaluation.comparisons import benjamini_hochberg, holm
from recsys_spark.evaluation.permutation import SignFlipSums, sign_flip_sums
from recsys_spark.evaluation.power import minimal_detectable_effect, users_needed


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


# --- permutation ---


def test_p_value_is_that_of_every_assignment_of_signs():
    """Ten users have 1024 assignments: their exact share, and scipy's test, which looks at all of them too."""
    values = rng(3).normal(0.4, 1, 10)
    extreme = [abs(np.dot(signs, values)) >= abs(values.sum()) for signs in itertools.product((-1, 1), repeat=10)]
    exact = float(np.mean(extreme))
    found = sign_flip_sums(values, np.arange(10), 20_000, seed=1).p_value()
    assert abs(found - exact) < 4 * math.sqrt(exact * (1 - exact) / 20_000)
    theirs = stats.permutation_test((values,), np.sum, permutation_type="samples", n_resamples=np.inf)
    assert theirs.pvalue == pytest.approx(exact)


def test_p_values_of_no_difference_are_uniform():
    p = [sign_flip_sums(rng(s).standard_t(3, 60), np.arange(60), 500, seed=s).p_value() for s in range(500)]
    assert stats.kstest(p, "uniform").pvalue > 1e-3


def test_signs_of_partitions_add_up_and_hang_on_seed_and_user_alone():
    values, ids = rng(1).normal(size=3000), rng(2).permutation(10**6)[:3000]
    values[::7] = np.nan
    whole = sign_flip_sums(values, ids, 130, seed=5)
    order = rng(3).permutation(3000)
    parts = [sign_flip_sums(values[p], ids[p], 130, seed=5) for p in np.split(order, [1, 1, 2500])]
    total = sum(parts, start=SignFlipSums.empty(130))
    np.testing.assert_allclose(total.flipped, whole.flipped, atol=1e-9)
    assert (total.n, total.p_value()) == (whole.n, whole.p_value()) == (int((~np.isnan(values)).sum()), whole.p_value())
    assert not np.allclose(sign_flip_sums(values, ids, 130, seed=6).flipped, whole.flipped)
    # the spread of a sum with random signs is the root of the sum of squares; sd of a standard deviation, 4 times
    spread = sign_flip_sums(values, ids, 4000, seed=5).flipped.std()
    assert abs(spread / math.sqrt(np.nansum(values**2)) - 1) < 4 / math.sqrt(2 * 4000)


def test_no_user_no_p_value_and_no_difference_p_of_one():
    assert math.isnan(sign_flip_sums([], [], 100, seed=1).p_value())
    assert math.isnan(sign_flip_sums([math.nan], [1], 100, seed=1).p_value())
    assert sign_flip_sums([0.0, 0.0], [1, 2], 100, seed=1).p_value() == 1.0
    assert sign_flip_sums(np.ones(200), np.arange(200), 999, seed=1).p_value() == 0.001
    with pytest.raises(ValueError, match="replicates must be at least 1"):
        sign_flip_sums([1.0], [1], 0, seed=1)
    with pytest.raises(ValueError, match=r"differences have shape \(2,\)"):
        sign_flip_sums([1.0, 2.0], [1], 10, seed=1)


# --- many comparisons ---

P_VALUES = st.lists(st.floats(0, 1) | st.just(math.nan), max_size=12)


@settings(max_examples=200, deadline=None)
@given(P_VALUES)
def test_holm_is_its_definition(p):
    """Step down by hand: the smallest of m is multiplied by m, and none may come out below one before it."""
    known = sorted((value, i) for i, value in enumerate(p) if value == value)
    expected, least = dict.fromkeys(range(len(p)), math.nan), 0.0
    for rank, (value, i) in enumerate(known):
        least = max(least, min(1.0, value * (len(known) - rank)))
        expected[i] = least
    np.testing.assert_allclose(holm(p), [expected[i] for i in range(len(p))])


@settings(max_examples=200, deadline=None)
@given(P_VALUES)
def test_benjamini_hochberg_is_scipys(p):
    found, known = benjamini_hochberg(p), [i for i, value in enumerate(p) if value == value]
    expected = stats.false_discovery_control([p[i] for i in known]) if known else []
    np.testing.assert_allclose(found[known], expected, atol=1e-12)
    assert np.isnan(np.delete(found, known)).all()


def test_what_is_no_p_value_is_refused():
    for adjust in (holm, benjamini_hochberg):
        with pytest.raises(ValueError, match="between 0 and 1"):
            adjust([0.5, 1.5])


def test_holm_keeps_the_chance_of_any_false_one():
    """20 true nulls, 1000 times: one below 5 % in at most 5 % of them; unadjusted in 64 %."""
    draws = rng(5).random((1000, 20))
    false = [(holm(p) < 0.05).any() for p in draws]
    assert np.mean(false) < 0.05 + 4 * math.sqrt(0.05 * 0.95 / 1000)
    assert ((draws < 0.05).any(axis=1)).mean() > 0.5


# --- power ---


def test_the_minimal_detectable_effect_is_detected_as_often_as_it_says():
    """500 data sets of 400 users whose true difference is the effect: found in 80 %, give or take 4 binomial sd."""
    effect = minimal_detectable_effect(1 / math.sqrt(400), 0.95, 0.8)
    found = 0
    for seed in range(500):
        values = rng(seed).normal(effect, 1, 400)
        found += bootstrap_sums(values, np.arange(400), 300, seed).interval(0.95).low > 0
    assert abs(found / 500 - 0.8) < 4 * math.sqrt(0.8 * 0.2 / 500)


def test_users_needed_is_where_the_effect_is_detectable():
    n = users_needed(0.01, standard_error=0.02, n=500)
    assert (
        minimal_detectable_effect(0.02 * math.sqrt(500 / n))
        <= 0.01
        < minimal_detectable_effect(0.02 * math.sqrt(500 / (n - 2)))
    )
    with pytest.raises(ValueError, match="effect must be positive"):
        users_needed(0.0, 0.1, 10)
    with pytest.raises(ValueError, match="between 0 and 1"):
        minimal_detectable_effect(0.1, power=1.0)


# --- ratios ---


def test_interval_of_a_ratio_covers_the_truth():
    """400 data sets of 150 users with clicks of impressions: the 90 % interval has the true rate in 360, 4 sd."""
    covered = 0
    for seed in range(400):
        shown = rng(seed).geometric(0.1, 150)
        clicks = rng(1000 + seed).binomial(shown, 0.2)
        over, under = (bootstrap_sums(v, np.arange(150), 400, seed) for v in (clicks, shown))
        found = ratio_interval(over, under, 0.9)
        assert found.mean == clicks.sum() / shown.sum() and found.n == shown.sum()
        covered += found.low <= 0.2 <= found.high
    assert abs(covered - 360) <= 4 * math.sqrt(400 * 0.9 * 0.1)


def test_a_ratio_to_nothing_is_nan():
    nothing = bootstrap_sums([0.0, 0.0], [1, 2], 50, 1)
    found = ratio_interval(nothing, nothing, 0.9)
    assert found.n == 0 and all(map(math.isnan, (found.mean, found.low, found.high)))


def test_bootstrap_and_permutation_agree_on_what_is_no_chance():
    ids, user = np.arange(800), rng(1).random(800)
    for gain, seen in ((0.0, False), (0.03, True)):
        a, b = user + gain + rng(2).normal(0, 0.1, 800), user + rng(3).normal(0, 0.1, 800)
        assert (paired_difference(a, b, ids, 1000, 3, 0.95).low > 0) is seen
        assert (sign_flip_sums(a - b, ids, 1000, 3).p_value() < 0.05) is seen
