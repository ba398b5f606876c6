"""Off-policy estimates: exact where they can be, unbiased and covering where the truth is known.

Every draw is seeded, so each statistical tolerance is met or not once and for all; it is stated in standard errors.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys_spark.config import GeneratorConfig
from recsys_spark.evaluation import off_policy
from recsys_spark.evaluation.off_policy import Rounds
from recsys_spark.evaluation.user_sums import Moments, sum_by_user
from recsys_spark.log import hidden_world as world

CONFIDENCE = 0.9


def rng(*seed):
    return np.random.default_rng(list(seed))


class Bandit:
    """One item of five is shown to each user; rewards, both policies and so the truth are known."""

    clicks = np.array([0.05, 0.1, 0.2, 0.4, 0.6])
    logging = np.array([0.4, 0.3, 0.15, 0.1, 0.05])
    target = np.array([0.05, 0.1, 0.15, 0.3, 0.4])
    truth = float(target @ clicks)

    def log(self, n, seed):
        shown = rng(seed, 1).choice(5, n, p=self.logging)
        reward = rng(seed, 2).random(n) < self.clicks[shown]
        return shown, Rounds.of(reward, self.logging[shown], self.target[shown])

    def estimates(self, n, seed):
        shown, rounds = self.log(n, seed)
        believed = self.clicks + np.array([0.03, -0.05, 0.05, 0.02, -0.1])  # a model that is somewhat wrong
        robust = off_policy.doubly_robust(rounds, believed[shown], np.full(n, believed @ self.target), CONFIDENCE)
        return {
            "ips": off_policy.ips(rounds, CONFIDENCE), "snips": off_policy.snips(rounds, CONFIDENCE), "dr": robust,
            "clipped": off_policy.clipped_ips(rounds, 3.0, CONFIDENCE),
        }  # fmt: skip


def test_unbiased_and_covering_on_a_bandit_whose_truth_is_known():
    """600 logs of 400 rounds: the mean within 4 standard errors of the truth, 90 % of the intervals around it."""
    bandit, n = Bandit(), 600
    found = [bandit.estimates(400, seed) for seed in range(n)]
    for name in ("ips", "snips", "dr"):
        values = np.array([f[name].mean for f in found])
        assert abs(values.mean() - bandit.truth) < 4 * values.std() / math.sqrt(n), name
        covered = sum(f[name].low <= bandit.truth <= f[name].high for f in found)
        # skewed rewards: an interval by Student's t covers a little less than it says
        assert 0.9 * n - 5 * math.sqrt(n * 0.09) < covered < 0.9 * n + 4 * math.sqrt(n * 0.09), name
    spread = {name: np.std([f[name].mean for f in found]) for name in found[0]}
    assert spread["dr"] < spread["ips"] and spread["snips"] < spread["ips"] and spread["clipped"] < spread["ips"]
    exact = bandit.target @ (
        np.minimum(bandit.target / bandit.logging, 3) / (bandit.target / bandit.logging) * bandit.clicks
    )
    clipped = np.array([f["clipped"].mean for f in found])
    assert abs(clipped.mean() - exact) < 4 * clipped.std() / math.sqrt(n) and exact < bandit.truth
    ratio = bandit.target / bandit.logging
    assert bandit.truth - exact <= bandit.logging @ np.maximum(ratio - 3, 0)  # the bound that is reported


def test_doubly_robust_survives_a_fault_of_either_side():
    bandit, found = Bandit(), []
    for seed in range(300):
        shown, right = bandit.log(400, seed)
        wrong = Rounds.of(right.reward, np.clip(right.logging * 0.6, 0, 1), right.target)
        lie = np.full(400, 0.9)
        found.append([
            off_policy.doubly_robust(right, lie, lie, CONFIDENCE).mean,
            off_policy.doubly_robust(wrong, bandit.clicks[shown], np.full(400, bandit.truth), CONFIDENCE).mean,
            off_policy.ips(wrong, CONFIDENCE).mean,
        ])  # fmt: skip
    bias = np.mean(found, axis=0) - bandit.truth
    error = np.std(found, axis=0) / math.sqrt(len(found))
    assert (np.abs(bias[:2]) < 4 * error[:2]).all()
    assert bias[2] > 20 * error[2], "wrong propensities are seen in IPS"


def test_every_list_of_a_cascade_weighted_by_its_probability_gives_the_truth():
    """No draws: lists of 2 of 3 items, each as often as the logging policy shows it. IPS is exact, rank by rank."""
    p, q = np.array([0.5, 0.3, 0.2]), np.array([0.1, 0.2, 0.7])

    def given_above(of, a, b):
        return of[b] / (1 - of[a])

    def reward(a, b):  # at rank 2 it depends on what stands above
        return 0.3 * b + 0.1 * a

    lists = list(itertools.permutations(range(3), 2))
    truth = sum(q[a] * given_above(q, a, b) * (0.2 * a + reward(a, b)) for a, b in lists) / 2
    rows = {"reward": [], "logging": [], "target": [], "lists": [], "ranks": []}
    often = []
    for number, (a, b) in enumerate(lists):
        rows["reward"] += [reward(a, b), 0.2 * a]  # not in the order of the ranks
        rows["logging"] += [given_above(p, a, b), p[a]]
        rows["target"] += [given_above(q, a, b), q[a]]
        rows["lists"] += [number, number]
        rows["ranks"] += [2, 1]
        often += [p[a] * given_above(p, a, b)] * 2
    rounds = Rounds.of(**rows)
    often = np.array(often) / 2
    assert often @ (rounds.weight * rounds.reward) == pytest.approx(truth, rel=1e-12)
    assert often @ rounds.weight == pytest.approx(1, rel=1e-12)
    # the doubly robust terms have the same mean, whatever is believed
    believed = rng(3).random(len(often))
    expected = np.empty(len(often))
    for number, (a, _) in enumerate(lists):
        second = {b: believed[2 * m] for m, (other, b) in enumerate(lists) if other == a}
        expected[2 * number] = sum(given_above(q, a, b) * x for b, x in second.items())
        believed[2 * number + 1] = 0.37 + 0.1 * a
        expected[2 * number + 1] = 0.37 + 0.1 * q @ np.arange(3)
    terms = off_policy.doubly_robust_terms(rounds, believed, expected)
    assert often @ terms == pytest.approx(truth, rel=1e-12)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 60), st.integers(0, 1000))
def test_a_rounds_weight_is_the_product_down_its_list_whatever_the_order_of_the_rows(n, seed):
    r = rng(seed)
    lists, ratio = r.integers(0, 6, n), r.uniform(0, 3, n)
    ranks = r.permutation(n) + 1  # with gaps, and in any order
    want = [math.prod(ratio[j] for j in range(n) if lists[j] == lists[i] and ranks[j] < ranks[i]) for i in range(n)]
    np.testing.assert_allclose(off_policy.weights_above(ratio, lists, ranks), want, rtol=1e-12)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_asked_about_the_logging_policy_every_estimate_is_the_plain_mean(data):
    n = data.draw(st.integers(2, 40))
    reward = data.draw(st.lists(st.floats(-5, 5), min_size=n, max_size=n))
    p = data.draw(st.lists(st.floats(0.01, 1), min_size=n, max_size=n))
    users = data.draw(st.lists(st.integers(0, 10), min_size=n, max_size=n))
    lists = data.draw(st.lists(st.integers(0, 5), min_size=n, max_size=n))
    rounds = Rounds.of(reward, p, p, users, lists, np.arange(n))
    plain = off_policy.on_policy(rounds, 0.9)
    assert plain.mean == pytest.approx(np.mean(reward), abs=1e-12)
    predicted = rng(n).random(n)
    for other in (
        off_policy.ips(rounds, 0.9), off_policy.snips(rounds, 0.9), off_policy.clipped_ips(rounds, 1.0, 0.9),
        off_policy.doubly_robust(rounds, predicted, predicted, 0.9),
    ):  # fmt: skip
        np.testing.assert_allclose(
            [other.mean, other.low, other.high, other.n], [plain.mean, plain.low, plain.high, plain.n], atol=1e-9
        )
    assert off_policy.effective_sample_size(rounds.weight) == pytest.approx(n)


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 60), st.integers(0, 1000), st.floats(0.2, 10))
def test_sums_over_partitions_give_the_same_estimates(n, seed, cap):
    r = rng(seed)
    rounds = Rounds.of(
        r.random(n), r.uniform(0.05, 1, n), r.random(n), r.integers(0, 9, n), r.integers(0, 5, n), np.arange(n)
    )
    predicted, expected = r.random(n), r.random(n)
    sums = off_policy.user_sums(rounds, cap, predicted, expected)
    cut = len(sums) // 2
    whole = off_policy.read(Moments.of(sums[:cut]) + Moments.of(sums[cut:]), 0.9)
    alone = {
        "logging": off_policy.on_policy(rounds, 0.9), "ips": off_policy.ips(rounds, 0.9),
        "snips": off_policy.snips(rounds, 0.9), "clipped": off_policy.clipped_ips(rounds, cap, 0.9),
        "doubly_robust": off_policy.doubly_robust(rounds, predicted, expected, 0.9),
    }  # fmt: skip
    for name, interval in alone.items():
        got = getattr(whole, name)
        np.testing.assert_allclose(
            [got.mean, got.low, got.high, got.n],
            [interval.mean, interval.low, interval.high, interval.n],
            rtol=1e-7,
            atol=1e-9,
        )
    assert whole.rounds == n
    assert whole.gain.mean == pytest.approx(whole.doubly_robust.mean - whole.logging.mean, abs=1e-9)
    assert whole.effective == pytest.approx(off_policy.effective_sample_size(rounds.weight))
    assert whole.mean_weight == pytest.approx(rounds.weight.mean())
    assert whole.clipping_bias == pytest.approx(np.maximum(rounds.weight - cap, 0).mean(), abs=1e-12)


def test_a_users_rounds_hang_together_and_the_interval_knows_it():
    """200 users of 30 equal rounds each are 200 observations, not 6,000."""
    per_user = rng(5).random(200)
    reward, users = np.repeat(per_user, 30), np.repeat(np.arange(200), 30)
    rounds = Rounds.of(reward, np.full(6000, 0.5), np.full(6000, 0.5), users)
    got = off_policy.ips(rounds, 0.95)
    assert got.n == 200
    assert (got.high - got.low) / 2 == pytest.approx(1.972 * per_user.std(ddof=1) / math.sqrt(200), rel=1e-3)


def test_what_was_never_logged_is_seen_in_the_mean_weight():
    p, q = np.array([0.5, 0.5, 0.0]), np.array([0.3, 0.3, 0.4])
    shown = rng(1).choice(3, 20_000, p=p)
    rounds = Rounds.of(np.ones(20_000), p[shown], q[shown])
    found = off_policy.read(Moments.of(off_policy.user_sums(rounds, 10.0)), 0.9)
    assert found.mean_weight == pytest.approx(0.6, abs=1e-9) and found.ips.mean == pytest.approx(0.6, abs=1e-9)


def test_no_rounds_and_no_weight_are_nan_and_not_an_error():
    nothing = off_policy.read(Moments.empty(len(off_policy.SUMS)), 0.9)
    assert math.isnan(nothing.ips.mean) and nothing.rounds == 0 and nothing.effective == 0
    rounds = Rounds.of([1.0, 0.0], [0.5, 0.5], [0.0, 0.0])
    assert off_policy.ips(rounds, 0.9).mean == 0 and math.isnan(off_policy.snips(rounds, 0.9).mean)
    assert off_policy.effective_sample_size(rounds.weight) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([1.0], [0.0], [0.5]), "logging propensity"),
        (([1.0], [1.2], [0.5]), "logging propensity"),
        (([1.0], [np.nan], [0.5]), "logging propensity"),
        (([1.0], [0.5], [-0.1]), "target propensity"),
        (([np.inf], [0.5], [0.5]), "reward"),
        (([1.0, 2.0], [0.5], [0.5]), r"must all be \[N\]"),
    ],
)
def test_bad_rounds_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Rounds.of(*arguments)


def test_moments_are_numpys_and_add_up_where_means_are_large():
    x = rng(2).normal(1e6, 1.0, (500, 3))
    cuts = np.split(x, [0, 7, 7, 300])
    total = Moments.total((Moments.of(part) for part in cuts), 3)
    np.testing.assert_allclose(total.mean, x.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(total.covariance, np.cov(x.T), rtol=1e-6, atol=1e-9)


def test_the_error_of_a_ratio_is_that_of_a_jackknife():
    """The delta method against leaving out each user in turn: they agree to the order of 1/n."""
    r = rng(6)
    shown = r.poisson(20, 800) + 1
    clicks = r.binomial(shown, r.beta(2, 10, 800))
    got = Moments.of(np.stack([clicks, shown], axis=1)).ratio(0, 1)
    left_out = (clicks.sum() - clicks) / (shown.sum() - shown)
    jackknife = math.sqrt(799 / 800 * ((left_out - left_out.mean()) ** 2).sum())
    assert got.value == pytest.approx(clicks.sum() / shown.sum(), rel=1e-12)
    assert got.error == pytest.approx(jackknife, rel=5e-3)
    np.testing.assert_array_equal(sum_by_user(np.ones((3, 1)), np.array([5, 5, 1])), [[1], [2]])


def test_bias_and_coverage_in_the_world_of_the_embedded_log():
    """Lists of three, drawn by two policies over the same 15 items, clicked as the hidden world has it."""
    config = GeneratorConfig(users=1500, items=40, days=3, events=1000)
    items = world.draw_items(config, 1)
    blocks = [world.draw_users(config, items, 1, b) for b in range(world.block_count(config))]
    start = np.concatenate([u.start for u in blocks])
    utility = world.affinity(start, start, items.vectors, items.popularity, 0, 3)
    pool = np.argsort(-items.popularity)[:15]
    utility = utility[:, pool]
    logging = 0.15 * utility + 0.3 * rng(1).normal(size=utility.shape)
    target = 0.4 * utility

    def draw(logits, r, k=3):
        return np.argsort(-(logits + r.gumbel(size=logits.shape)), axis=1)[:, :k]

    def propensity(logits, shown):
        e = np.exp(logits - logits.max(axis=1, keepdims=True))
        picked = np.take_along_axis(e, shown, axis=1)
        left = e.sum(axis=1, keepdims=True) - np.cumsum(picked, axis=1) + picked
        return picked / left

    def clicked(shown, of=slice(None)):
        at = np.take_along_axis(utility[of], shown, axis=1)
        return world.click_probability(at, np.arange(1, 4))

    truth = np.mean([clicked(draw(target, rng(7, i))).mean() for i in range(150)])
    rank_rate = np.array([0.2, 0.17, 0.15])
    n, found = 120, []
    for i in range(n):
        who = rng(10, i).integers(len(utility), size=1000)  # other people each time: they are part of the spread
        shown = draw(logging[who], rng(8, i))
        reward = rng(9, i).random(shown.shape) < clicked(shown, who)
        user = np.repeat(np.arange(len(shown)), 3)
        ranks = np.tile([1, 2, 3], len(shown))
        rounds = Rounds.of(
            reward.ravel(),
            propensity(logging[who], shown).ravel(),
            propensity(target[who], shown).ravel(),
            user,
            user,
            ranks,
        )
        believed = np.tile(rank_rate, len(shown))
        found.append(off_policy.read(Moments.of(off_policy.user_sums(rounds, 20.0, believed, believed)), CONFIDENCE))
    on = np.mean([f.logging.mean for f in found])
    assert truth > 1.1 * on, "the target is better, and a naive reading of the log would not know"
    for name in ("ips", "snips", "doubly_robust"):
        values = np.array([getattr(f, name).mean for f in found])
        assert abs(values.mean() - truth) < 4 * values.std() / math.sqrt(n) + 0.002 * truth, name
        covered = sum(getattr(f, name).low <= truth <= getattr(f, name).high for f in found)
        assert abs(covered - 0.9 * n) < 4 * math.sqrt(n * 0.09), (name, covered)
    assert np.mean([f.mean_weight for f in found]) == pytest.approx(1, abs=0.02)
    assert all(f.effective < f.rounds for f in found)
