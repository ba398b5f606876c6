"""The read-out of an experiment on simulated ones whose effects are known.

Every draw is seeded, so each statistical tolerance is met or not once and for all; it is stated in standard errors.
"""

from __future__ import annotations

import datetime as dt
import math
from collections import defaultdict

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from recsys_spark.config import ExperimentConfig
from recsys_spark.errors import ConfigError, DataError
from recsys_spark.evaluation.ab.daily import COUNTS, METRICS, looks
from recsys_spark.evaluation.ab.effect import Asked, compare
from recsys_spark.evaluation.ab.mismatch import sample_ratio_mismatch
from recsys_spark.evaluation.ab.plan import EVERYONE, plan
from recsys_spark.evaluation.ab.power import detectable_effect, power, users_needed
from recsys_spark.evaluation.ab.read_out import read_out
from recsys_spark.evaluation.ab.sequential import always_valid_p, sequential_half_width
from recsys_spark.evaluation.user_sums import Moments
from recsys_spark.tracking.experiment_report import experiment_markdown, experiment_plot, plan_markdown

ASKED = Asked(alpha=0.05, expected_lift=0.1, power=0.8)
DAY = dt.date(2026, 3, 10)


def rng(*seed):
    return np.random.default_rng(list(seed))


def clicks(n, r, lift=0.0, days=10):
    """Vectors [n, 4] of clicks and impressions: people differ, and do so before the experiment as well."""
    taste, visits = r.beta(2, 8, n), r.gamma(2, 2, n)
    shown, before = r.poisson(visits * days) + 1, r.poisson(visits * 14)
    return np.stack(
        [r.binomial(shown, np.minimum(taste * (1 + lift), 1)), shown, r.binomial(before, taste), before], axis=1
    )


def experiment(n, seed, lift):
    return tuple(Moments.of(clicks(n, rng(seed, arm), lift * arm)) for arm in (0, 1))


# --- sizes of the arms


def test_sample_ratio_mismatch_is_pearsons_chi_square():
    users, shares = {"a": 5021, "b": 4979, "c": 10250}, {"a": 1.0, "b": 1.0, "c": 2.0}
    got = sample_ratio_mismatch(users, shares)
    want = stats.chisquare([5021, 4979, 10250], [5062.5, 5062.5, 10125])
    assert (got.chi_square, got.p_value) == pytest.approx((want.statistic, want.pvalue))
    assert got.expected == {"a": 5062.5, "b": 5062.5, "c": 10125}


def test_fair_draws_are_refused_as_seldom_as_was_asked_and_unfair_ones_nearly_always():
    n = 20_000
    fair = [
        sample_ratio_mismatch({"a": x, "b": n - x}, {"a": 1, "b": 1}).p_value for x in rng(1).binomial(n, 0.5, 2000)
    ]
    assert abs(np.mean(np.array(fair) < 0.01) - 0.01) < 4 * math.sqrt(0.0099 / 2000)
    lost = [
        sample_ratio_mismatch({"a": x, "b": n - x}, {"a": 1, "b": 1}).p_value for x in rng(2).binomial(n, 0.48, 200)
    ]
    assert np.mean(np.array(lost) < 0.001) > 0.95


@pytest.mark.parametrize(("users", "shares"), [({"a": 1}, {"a": 1.0}), ({"a": 1, "b": 2}, {"a": 1.0, "c": 1.0})])
def test_arms_and_shares_must_agree(users, shares):
    with pytest.raises(ValueError, match="must be the same"):
        sample_ratio_mismatch(users, shares)


# --- the effect


@pytest.fixture(scope="module")
def experiments():
    """400 experiments of 2 x 1,500 users with a lift of 8 %."""
    return [compare(*experiment(1500, seed, 0.08), ASKED) for seed in range(400)]


def test_the_lift_is_unbiased_and_its_interval_covers_it(experiments):
    lifts = np.array([e.lift.value for e in experiments])
    # a ratio's bias is of the order of its variance, which is 0.001 here
    assert abs(lifts.mean() - 0.08) < 4 * lifts.std() / 20 + 0.001
    covered = sum(e.once.low <= 0.08 <= e.once.high for e in experiments)
    assert abs(covered - 380) <= 4 * math.sqrt(400 * 0.95 * 0.05)
    assert np.mean([e.lift.error for e in experiments]) == pytest.approx(lifts.std(), rel=0.15)
    assert all(e.always.low < e.once.low and e.always.high > e.once.high for e in experiments)


def test_the_power_that_is_promised_is_the_power_there_is(experiments):
    """By what the first experiment says it needs; then so many users see the lift as often as was asked for."""
    asked = Asked(0.05, 0.08, 0.8)
    needed = compare(*experiment(1500, 0, 0.0), asked).users_needed
    found = [compare(*experiment(needed // 2, 1000 + seed, 0.08), asked).p_value < 0.05 for seed in range(300)]
    assert abs(np.mean(found) - 0.8) < 4 * math.sqrt(0.16 / 300) + 0.03  # the need itself is estimated from 3,000 users


@pytest.mark.parametrize("rho", [0.0, 0.5, 0.9])
def test_cuped_leaves_one_minus_rho_squared_of_the_variance(rho):
    """Of a mean: Y and X with correlation rho. With 40,000 users the estimate of it is good to 1 %."""
    r = rng(7)
    x = r.normal(size=40_000)
    y = 10 + rho * x + math.sqrt(1 - rho**2) * r.normal(size=40_000)
    ones = np.ones_like(x)
    arms = [
        Moments.of(np.stack([y[part], ones[part], 5 + x[part], ones[part]], axis=1))
        for part in np.split(np.arange(40_000), 2)
    ]
    assert compare(*arms, ASKED).variance_left == pytest.approx(1 - rho**2, abs=0.01)


def test_cuped_narrows_and_does_not_move_the_lift(experiments):
    raw = np.array([e.treatment.value / e.control.value - 1 for e in experiments])
    with_it = np.array([e.lift.value for e in experiments])
    left = np.mean([e.variance_left for e in experiments])
    assert left < 0.75
    assert with_it.var() / raw.var() == pytest.approx(left, abs=0.12)  # what it says it saves is what it saves
    assert abs((with_it - raw).mean()) < 4 * (with_it - raw).std() / 20


def test_without_anything_from_before_cuped_does_nothing():
    vectors = clicks(500, rng(3))
    vectors[:, 2:] = 0
    effect = compare(Moments.of(vectors[:250]), Moments.of(vectors[250:]), ASKED)
    assert effect.variance_left == pytest.approx(1)
    assert effect.difference.value == pytest.approx(effect.treatment.value - effect.control.value)


def test_nobody_or_nothing_is_nan_and_no_error():
    some = Moments.of(clicks(50, rng(1)))
    for control, treatment in (
        (Moments.empty(4), some),
        (some, Moments.empty(4)),
        (Moments.empty(4), Moments.empty(4)),
    ):
        effect = compare(control, treatment, ASKED)
        assert math.isnan(effect.lift.value) and math.isnan(effect.always.low) and effect.always_p == 1
    none = np.ones((50, 4)) * [0, 1, 0, 1]
    assert math.isnan(compare(Moments.of(none), some, ASKED).lift.value)  # no click to be more than


# --- looking every day


def peek(seed, lift=0.0, days=20, arrivals=60):
    """Effects of one experiment at the end of each day: new people every day, who come back."""
    r, vectors, found = rng(seed), [np.zeros((0, 4)), np.zeros((0, 4))], []
    taste, visits = [np.zeros(0), np.zeros(0)], [np.zeros(0), np.zeros(0)]
    for _ in range(days):
        for arm in (0, 1):
            new, coming = r.beta(2, 8, arrivals), r.gamma(2, 2, arrivals)
            before = r.poisson(coming * 7)
            joined = np.stack([np.zeros(arrivals), np.zeros(arrivals), r.binomial(before, new), before], axis=1)
            vectors[arm] = np.concatenate([vectors[arm], joined])
            taste[arm], visits[arm] = np.concatenate([taste[arm], new]), np.concatenate([visits[arm], coming])
            shown = r.poisson(visits[arm])
            vectors[arm][:, 0] += r.binomial(shown, np.minimum(taste[arm] * (1 + lift * arm), 1))
            vectors[arm][:, 1] += shown
        found.append(compare(Moments.of(vectors[0]), Moments.of(vectors[1]), ASKED))
    return found


def test_daily_peeking_is_wrong_no_more_often_than_was_said():
    """120 experiments without an effect, looked at on 20 days."""
    runs = [peek(seed) for seed in range(120)]
    naive = np.mean([any(e.p_value < 0.05 for e in run) for run in runs])
    always = np.mean([any(not e.always.low <= 0 <= e.always.high for e in run) for run in runs])
    assert naive > 0.15, "else this test would show nothing"
    assert always < 0.05 + 3 * math.sqrt(0.05 * 0.95 / 120)
    by_p = np.mean([min(e.always_p for e in run) < 0.05 for run in runs])
    assert by_p == always


def test_daily_peeking_covers_a_true_lift_at_all_looks_together_and_finds_it():
    runs = [peek(1000 + seed, lift=0.2) for seed in range(60)]
    covered = np.mean([all(e.always.low <= 0.2 <= e.always.high for e in run) for run in runs])
    assert covered > 0.95 - 3 * math.sqrt(0.05 * 0.95 / 60)
    assert np.mean([any(e.always.low > 0 for e in run) for run in runs]) > 0.5


@settings(max_examples=200, deadline=None)
@given(st.floats(-1, 1), st.floats(1e-3, 1), st.floats(1e-3, 1), st.floats(1e-4, 0.5))
def test_interval_and_p_value_say_the_same(value, error, tau, alpha):
    width = sequential_half_width(error, tau, alpha)
    if abs(abs(value) - width) > 1e-9 * width:
        assert (abs(value) > width) == (always_valid_p(value, error, tau) < alpha)
    assert width > stats.norm.isf(alpha / 2) * error


def test_the_mixture_is_the_integral_that_it_stands_for():
    """The likelihood ratio against 0, averaged over effects N(0, τ²), by quadrature: 1 / p."""
    from scipy.integrate import quad

    value, error, tau = 0.07, 0.03, 0.05

    def ratio(effect):
        return stats.norm.pdf(value, effect, error) / stats.norm.pdf(value, 0, error) * stats.norm.pdf(effect, 0, tau)

    assert 1 / always_valid_p(value, error, tau) == pytest.approx(quad(ratio, -1, 1, points=[0, value])[0], rel=1e-6)


@pytest.mark.parametrize("arguments", [(0.1, 0.0, 0.05), (0.1, 0.1, 0.0), (0.1, 0.1, 1.0)])
def test_a_bound_without_a_size_or_a_chance_is_refused(arguments):
    with pytest.raises(ValueError, match="must be"):
        sequential_half_width(*arguments)


# --- power


def test_power_is_what_a_simulation_finds():
    n, effect = 300, 0.2
    draws = rng(4).normal(size=(4000, 2, n)).mean(axis=2)
    z = (draws[:, 1] + effect - draws[:, 0]) / math.sqrt(2 / n)
    assert abs(np.mean(np.abs(z) > 1.959964) - power(effect, 1.0, n, n, 0.05)) < 4 * math.sqrt(0.25 / 4000)
    assert power(0.0, 1.0, n, n, 0.05) == pytest.approx(0.05)


@settings(max_examples=100, deadline=None)
@given(st.floats(0.01, 2), st.floats(0.1, 5), st.floats(0.001, 0.2), st.floats(0.5, 0.99), st.floats(0.1, 0.9))
def test_so_many_users_have_the_power_and_one_fewer_has_not(effect, deviation, alpha, chance, share):
    n = users_needed(effect, deviation, alpha, chance, share)
    assert power(effect, deviation, n * (1 - share), n * share, alpha) >= chance - 1e-9
    one_tail = stats.norm.isf(alpha / 2)
    if n > 2:
        error = deviation * math.sqrt(1 / ((n - 1) * share) + 1 / ((n - 1) * (1 - share)))
        assert stats.norm.sf(one_tail - effect / error) < chance + 1e-9
        assert detectable_effect(error, alpha, chance) > effect * (1 - 1e-9)


# --- from days to looks


def plain(rows, look, name, arm, retention_days):
    """The vectors of a look, user by user in plain Python."""
    top, below = METRICS[name].numerator, METRICS[name].denominator
    top_before, below_before = METRICS[name].before
    users = defaultdict(list)
    for row in rows:
        users[row["user_id"]].append(row)
    vectors = []
    for of in users.values():
        known = of[0]["assigned"] + (2 * retention_days - 1 if name == "retention" else 0) <= look
        if of[0]["arm"] != arm or not known:
            continue
        since = [r for r in of if not r["pre"] and r["day"] <= look]
        before = [r for r in of if r["pre"]]
        value = sum(r[top] for r in since)
        vectors.append([
            min(value, 1) if name == "retention" else value, sum(r[below] for r in since) if below else 1,
            sum(r[top_before] for r in before), sum(r[below_before] for r in before) if below_before else 1,
        ])  # fmt: skip
    return vectors


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 3))
def test_looks_are_what_plain_python_counts(seed, retention_days):
    r = rng(seed)
    rows = []
    for user in range(r.integers(1, 12)):
        arm, assigned = str(r.choice(["a", "b"])), int(r.integers(100, 106))
        for _ in range(r.integers(1, 6)):
            pre = bool(r.random() < 0.3)
            day = int(r.integers(95, assigned + 1) if pre else r.integers(assigned, 112))
            counts = dict(zip(COUNTS, r.integers(0, 4, len(COUNTS)).tolist(), strict=True)) | {"active": 1}
            rows.append({"user_id": f"u{user}", "arm": arm, "assigned": assigned, "day": day, "pre": pre, **counts})
    order = r.permutation(len(rows))
    frame = pd.DataFrame([rows[i] for i in order])
    found = {(look.day, look.arm, look.metric): look.moments for look in looks(frame, range(100, 110), retention_days)}
    for look in range(100, 110):
        for arm in "ab":
            for name in METRICS:
                want = plain(rows, look, name, arm, retention_days)
                got = found.get((look, arm, name))
                assert (got.n if got else 0) == len(want)
                if want:
                    np.testing.assert_allclose(got.mean, np.mean(want, axis=0), atol=1e-12)
                    centred = np.array(want) - np.mean(want, axis=0)
                    np.testing.assert_allclose(got.scatter, centred.T @ centred, atol=1e-9)


# --- verdicts


def moments(lift, spread=0.0, n=4000, seed=1):
    return Moments.of(clicks(n, rng(seed, 5), lift))


def read(lifts, config=None, users=None, crossed=0, n=4000):
    """A read-out of two days: by metric, the lift of the treatment."""
    config = config or ExperimentConfig(expected_lift=0.1)
    found = {}
    for number, name in enumerate(METRICS):
        for day in (DAY - dt.timedelta(days=1), DAY):
            found[day, "control", name] = moments(0.0, n=n, seed=10 + number)
            found[day, "new", name] = moments(lifts.get(name, 0.0), n=n, seed=20 + number)
    return read_out(users or {"control": n, "new": n}, crossed, found, config)


GUARDED = ExperimentConfig(expected_lift=0.1, guardrails={"retention": 0.05, "cvr": 0.1})
WRONG_SIZES = {"control": 4000, "new": 3000}


@pytest.mark.parametrize(
    ("lifts", "config", "users", "n", "call", "words"),
    [
        ({"ctr": 0.2}, None, None, 4000, "ship", "Ship: ctr changes by +"),
        ({"ctr": 0.2, "retention": 0.1, "cvr": 0.05}, GUARDED, None, 4000, "ship", "no guardrail loses"),
        ({"ctr": -0.2}, None, None, 4000, "stop", "Stop: it does harm"),
        ({"ctr": 0.2, "retention": -0.3}, GUARDED, None, 4000, "stop", "a guardrail is broken, retention by -"),
        ({"ctr": 0.25}, GUARDED, None, 400, "wait", "may still change by -"),
        ({}, None, None, 400, "wait", "and there are 800"),
        ({"ctr": 1.0}, None, None, 99, "wait", "an arm of 99 users is too small"),
        ({}, None, None, 4000, "wait", "and there are 8,000"),
        ({"ctr": 0.2}, None, WRONG_SIZES, 4000, "invalid", "Read nothing out of this experiment"),
    ],
)
def test_the_verdict_says_what_to_do_and_why(lifts, config, users, n, call, words):
    verdict = read(lifts, config, users, n=n).verdicts["new"]
    assert verdict.call == call and words in verdict.text and "\n" not in verdict.text
    assert "nan" not in verdict.text


def test_a_metric_that_is_not_known_yet_is_waited_for():
    config = ExperimentConfig(primary="retention", guardrails={"cvr": 0.1})
    found = {(DAY, arm, m): moments(0.0) for arm in ("control", "new") for m in METRICS if m != "retention"}
    report = read_out({"control": 4000, "new": 4000}, 0, found, config)
    assert report.verdicts["new"].text == "Wait: there is no retention to compare yet."
    assert "nan" not in experiment_markdown(report)
    found[DAY, "new", "cvr"] = moments(-0.5)
    broken = read_out({"control": 4000, "new": 4000}, 0, found, config).verdicts["new"]
    assert broken.call == "stop" and "there is no retention to compare yet" in broken.text and "nan" not in broken.text


def test_several_arms_share_the_chance_of_being_wrong():
    found = {(DAY, arm, m): moments(0.0, seed=number) for number, arm in enumerate(("a", "b", "c")) for m in METRICS}
    users = {"a": 4000, "b": 4000, "c": 4000}
    config = ExperimentConfig(control="a", expected_lift=0.1)
    three = read_out(users, 0, found, config).effects["b"]["ctr"].once
    two = {key: value for key, value in found.items() if key[1] != "c"}
    alone = read_out({"a": 4000, "b": 4000}, 0, two, config).effects["b"]["ctr"].once
    want = stats.t.ppf(1 - 0.05 / 4, 7999) / stats.t.ppf(1 - 0.05 / 2, 7999)
    assert (three.high - three.low) / (alone.high - alone.low) == pytest.approx(want)


def test_arms_that_the_configuration_does_not_know_are_refused():
    with pytest.raises(ConfigError, match=r"experiment\.control 'old' is no arm"):
        read({}, ExperimentConfig(control="old"))
    with pytest.raises(ConfigError, match=r"experiment\.shares names control, other"):
        read({}, ExperimentConfig(shares={"control": 0.5, "other": 0.5}))
    with pytest.raises(DataError, match="is the only arm"):
        read({}, users={"control": 10})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"shares": {"control": 0.0, "b": 1.0}}, "needs a share above 0"),
        ({"shares": {"a": 0.5, "b": 0.5}}, "lacks the control"),
        ({"shares": {"control": 1.0}}, "needs two"),
        ({"guardrails": {"cvr": 1.0}}, "below 1"),
        ({"guardrails": {"ctr": 0.1}}, "names the primary metric"),
    ],
)
def test_an_experiment_that_contradicts_itself_is_refused(values, message):
    with pytest.raises(ValueError, match=message):
        ExperimentConfig(**values)


# --- reports and plans


def test_the_report_has_its_figures_and_a_picture(tmp_path):
    report = read({"ctr": 0.2}, GUARDED, crossed=3)
    text = experiment_markdown(report)
    effect = report.effects["new"]["ctr"]
    assert f"{effect.control.value:.4g}" in text and f"{100 * effect.lift.value:+.2g} %" in text
    assert "3 users were given more than one arm" in text and "4,000" in text
    experiment_plot(report, tmp_path / "report.png")
    assert (tmp_path / "report.png").read_bytes()[:4] == b"\x89PNG"
    assert report.to_json()["effects"]["new"]["ctr"]["lift"]["value"] == effect.lift.value


def test_a_plan_needs_what_an_experiment_of_that_size_can_see():
    config = ExperimentConfig(expected_lift=0.1)
    everyone = Moments.of(clicks(20_000, rng(3)))
    found = plan({(DAY, EVERYONE, "ctr"): everyone}, DAY, config)["ctr"]
    halves = compare(*(Moments.of(clicks(10_000, rng(4, arm))) for arm in (0, 1)), Asked(0.05, 0.1, 0.8))
    assert found.needed[0.1] == pytest.approx(halves.users_needed, rel=0.05)
    assert found.detectable == pytest.approx(halves.detectable, rel=0.05)
    assert found.variance_left == pytest.approx(halves.variance_left, abs=0.03)
    assert found.needed[0.05] == pytest.approx(4 * found.needed[0.1], rel=1e-3)
    assert "| ctr |" in plan_markdown({"ctr": found}, 14)
