"""The Poisson bootstrap: its weights, its additivity over partitions, and whether its intervals tell the truth.

Every draw is seeded, so each statistical tolerance below is met or not once and for all; it is stated in standard
deviations of what it bounds.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from recsys_spark.evaluation.bootstrap import (
    BootstrapSums,
    bootstrap_sums,
    bootstrap_sums_by_name,
    paired_difference,
    poisson_weights,
    splitmix64,
)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_splitmix64_gives_the_published_sequence():
    """The first outputs of the reference implementation for seed 1234567."""
    states = np.uint64(1234567) + np.arange(1, 6, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    assert splitmix64(states).tolist() == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]


def test_weights_are_poisson_1():
    weights = poisson_weights(np.arange(4000), 1000, seed=3)
    n = weights.size
    # Poisson(1): variance 1, fourth central moment 4, so sd of the mean 1/sqrt(n), of the variance sqrt(3/n). 4 sd.
    assert abs(weights.mean() - 1) < 4 / math.sqrt(n)
    assert abs(weights.var() - 1) < 4 * math.sqrt(3 / n)
    observed = np.bincount(np.minimum(weights.ravel(), 8), minlength=9)
    expected = n * np.append(stats.poisson.pmf(np.arange(8), 1), stats.poisson.sf(7, 1))
    assert stats.chisquare(observed, expected).pvalue > 1e-3


def test_weights_are_uncorrelated_between_users_replicates_and_seeds():
    w = poisson_weights(np.arange(300), 300, seed=3).astype(float)
    off_diagonal = ~np.eye(300, dtype=bool)
    for matrix in (w, w.T):  # sd of a correlation 1/sqrt(300); 90,000 of them, so 6 sd
        assert np.abs(np.corrcoef(matrix)[off_diagonal]).max() < 6 / math.sqrt(300)
    other = poisson_weights(np.arange(300), 300, seed=4)
    assert abs(np.corrcoef(w.ravel(), other.ravel())[0, 1]) < 4 / 300


def test_a_weight_depends_on_seed_user_and_replicate_alone():
    ids = np.array([5, -1, 2**62, 0, 17])
    w = poisson_weights(ids, 101, seed=9)
    assert w.dtype == np.uint8 and w.shape == (5, 101)
    np.testing.assert_array_equal(poisson_weights(ids[::-1], 101, 9), w[::-1])  # the others and the order: no
    np.testing.assert_array_equal(poisson_weights(ids.astype(object).tolist(), 40, 9), w[:, :40])  # how many: no
    assert (poisson_weights(ids, 101, 10) != w).any(axis=1).all()
    assert poisson_weights([], 7, 9).shape == (0, 7)


def test_weights_never_change_between_releases():
    """Stored intervals can be reproduced only while these literal rows hold."""
    assert poisson_weights([1, 2], 12, seed=42).tolist() == [
        [1, 0, 0, 3, 1, 0, 1, 1, 0, 1, 2, 0],
        [1, 3, 0, 2, 1, 1, 2, 0, 2, 3, 1, 0],
    ]


def test_partitioning_changes_nothing():
    values, ids = rng().random(5000), rng(1).permutation(10**6)[:5000]
    values[::7] = np.nan
    whole = bootstrap_sums(values, ids, 200, seed=5)
    order = rng(2).permutation(5000)
    for cuts in ([], [1], [1000, 1000, 4999], list(range(250, 5000, 250))):
        parts = [bootstrap_sums(values[p], ids[p], 200, seed=5) for p in np.split(order, cuts)]
        total = sum(parts, start=BootstrapSums.empty(200))
        np.testing.assert_array_equal(total.weight_sum, whole.weight_sum)
        np.testing.assert_allclose(total.weighted_sum, whole.weighted_sum, rtol=1e-12)
        assert total.total == pytest.approx(whole.total, rel=1e-12) and total.n == whole.n
        a, b = total.interval(0.95), whole.interval(0.95)
        np.testing.assert_allclose([a.mean, a.low, a.high], [b.mean, b.low, b.high], rtol=1e-12)


def test_the_sums_are_what_the_weights_say():
    values, ids = np.array([0.25, np.nan, 1.0, 0.0]), np.array([11, 12, 13, 14])
    w = poisson_weights(ids, 50, seed=1).astype(float)
    sums = bootstrap_sums(values, ids, 50, seed=1)
    np.testing.assert_allclose(sums.weighted_sum, 0.25 * w[0] + w[2])
    np.testing.assert_array_equal(sums.weight_sum, w[0] + w[2] + w[3])
    assert (sums.total, sums.n) == (1.25, 3)


def test_many_values_at_once_are_the_same_as_one_by_one():
    ids = np.arange(700)
    values = {"a": rng(1).random(700), "b": np.where(ids % 3, rng(2).random(700), np.nan)}
    for name, sums in bootstrap_sums_by_name(values, ids, 300, seed=8).items():
        alone = bootstrap_sums(values[name], ids, 300, seed=8)
        np.testing.assert_allclose(sums.weighted_sum, alone.weighted_sum, rtol=1e-12)
        np.testing.assert_array_equal(sums.weight_sum, alone.weight_sum)
        assert sums.total == pytest.approx(alone.total) and sums.n == alone.n


def test_nan_values_are_as_if_the_user_were_not_there():
    values, ids = rng().random(400), np.arange(400)
    gone = ids % 4 == 0
    with_nan = bootstrap_sums(np.where(gone, np.nan, values), ids, 200, seed=2).interval(0.9)
    without = bootstrap_sums(values[~gone], ids[~gone], 200, seed=2).interval(0.9)
    assert (with_nan.n, with_nan.mean) == (300, pytest.approx(without.mean, rel=1e-12))
    assert (with_nan.low, with_nan.high) == pytest.approx((without.low, without.high), rel=1e-12)


@pytest.mark.parametrize("values", [[], [math.nan, math.nan]])
def test_no_values_give_a_nan_interval(values):
    got = bootstrap_sums(values, np.arange(len(values)), 100, seed=2).interval(0.95)
    assert got.n == 0 and all(map(math.isnan, (got.mean, got.low, got.high)))


def test_a_single_user_is_a_point_although_some_replicates_drew_nobody():
    got = bootstrap_sums([0.4], [1], 1000, seed=2).interval(0.95)
    assert (got.mean, got.n) == (0.4, 1) and (got.low, got.high) == pytest.approx((0.4, 0.4))


@pytest.mark.parametrize("draw", ["normal", "exponential"])
def test_same_interval_as_scipy_and_normal_theory(draw):
    values = getattr(rng(4), draw)(size=1000)
    se = values.std(ddof=1) / math.sqrt(1000)
    ours = bootstrap_sums(values, np.arange(1000), 4000, seed=6).interval(0.95)
    scipys = stats.bootstrap((values,), np.mean, n_resamples=4000, method="percentile", random_state=rng(5), batch=500)
    low, high = scipys.confidence_interval
    # An end is the 2.5% quantile of 4000 means: sd 0.042 se; the difference of two such, 0.06 se. 4 sd.
    assert ours.mean == pytest.approx(values.mean())
    assert abs(ours.low - low) < 0.24 * se and abs(ours.high - high) < 0.24 * se
    # Normal theory is exact in the limit only; skewness shifts both ends by some se / sqrt(n).
    assert abs(ours.low - (values.mean() - 1.96 * se)) < 0.3 * se
    assert abs(ours.high - (values.mean() + 1.96 * se)) < 0.3 * se


def test_the_spread_of_the_replicates_is_the_standard_error():
    values = rng(7).random(2000)
    sums = bootstrap_sums(values, np.arange(2000), 4000, seed=6)
    se = values.std(ddof=1) / math.sqrt(2000)
    spread = (sums.weighted_sum / sums.weight_sum).std(ddof=1)
    assert abs(spread / se - 1) < 4 / math.sqrt(2 * 4000)  # the sd of a standard deviation of R normals, 4 times


def test_intervals_cover_the_truth_as_often_as_they_say():
    """400 data sets of 200 users: the 90% interval has the true mean in 360, give or take 4 binomial sd (24)."""
    covered = 0
    for dataset in range(400):
        values = rng(1000 + dataset).beta(0.5, 1.5, size=200)  # like a recall: many near 0, mean 1/4
        got = bootstrap_sums(values, np.arange(200), 400, seed=dataset).interval(0.9)
        covered += got.low <= 0.25 <= got.high
    assert abs(covered - 360) <= 4 * math.sqrt(400 * 0.9 * 0.1)


def test_higher_confidence_is_wider():
    sums = bootstrap_sums(rng().random(500), np.arange(500), 1000, seed=1)
    narrow, wide = sums.interval(0.8), sums.interval(0.99)
    assert wide.low < narrow.low < narrow.mean < narrow.high < wide.high


def test_paired_difference_is_narrower_than_two_intervals_apart():
    user = rng(8).random(2000)  # what both models find easy or hard
    a, b = user + 0.02 + 0.05 * rng(9).normal(size=2000), user + 0.05 * rng(10).normal(size=2000)
    ids = np.arange(2000)
    paired = paired_difference(a, b, ids, 1000, 3, 0.95)
    apart = [bootstrap_sums(v, ids, 1000, 3).interval(0.95) for v in (a, b)]
    unpaired = math.hypot(*(i.high - i.low for i in apart))
    assert paired.high - paired.low < unpaired / 3
    assert 0 < paired.low < paired.mean < paired.high  # a difference of 0.02 is seen; apart, it is not
    assert apart[0].low < apart[1].high


def test_paired_difference_uses_users_that_have_both():
    got = paired_difference([1.0, math.nan, 3.0], [0.5, 1.0, math.nan], [1, 2, 3], 100, 3, 0.95)
    assert (got.mean, got.n) == (0.5, 1)


def test_equal_models_do_not_differ():
    values = rng().random(300)
    got = paired_difference(values, values, np.arange(300), 200, 3, 0.95)
    assert (got.mean, got.low, got.high) == (0.0, 0.0, 0.0)


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match=r"value has shape \(2,\), user_ids \(1,\)"):
        bootstrap_sums([1.0, 2.0], [1], 10, seed=1)
    with pytest.raises(ValueError, match="user_ids must be integers"):
        bootstrap_sums([1.0, 2.0], [1.0, math.nan], 10, seed=1)
    with pytest.raises(ValueError, match="replicates must be at least 1"):
        bootstrap_sums([1.0], [1], 0, seed=1)
    with pytest.raises(ValueError, match="10 replicates cannot be added to 20"):
        BootstrapSums.empty(10) + BootstrapSums.empty(20)
    for confidence in (0.0, 1.0, 95):
        with pytest.raises(ValueError, match="confidence must be between 0 and 1"):
            BootstrapSums.empty(10).interval(confidence)
