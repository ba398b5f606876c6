"""PSI against a plain second implementation, closed forms, and its three properties."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys_spark.log.drift import FLOOR, RARE, drift, psi
from recsys_spark.log.profile import Histogram

counts = st.lists(st.integers(0, 1_000), min_size=1, max_size=12)
pairs = st.integers(1, 12).flatmap(lambda n: st.tuples(*[st.lists(st.integers(0, 1_000), min_size=n, max_size=n)] * 2))


def plain_psi(reference, now):
    total = 0.0
    for old, new in zip(reference, now, strict=True):
        q, p = max(old / sum(reference), FLOOR), max(new / sum(now), FLOOR)
        total += p * math.log(p / q) + q * math.log(q / p)
    return total


@settings(max_examples=200, deadline=None)
@given(pairs)
def test_it_is_the_sum_of_both_divergences_never_negative_and_symmetric(two):
    reference, now = two
    value = psi(reference, now)
    assert value >= 0 and value == pytest.approx(psi(now, reference), abs=1e-12)
    if sum(reference) and sum(now):
        assert value == pytest.approx(plain_psi(reference, now), abs=1e-9)
        assert psi(reference, [7 * n for n in reference]) == pytest.approx(0, abs=1e-12)
    else:
        assert value == 0


def test_closed_forms():
    assert psi([1, 1], [3, 1]) == pytest.approx(0.25 * math.log(3))
    assert psi([100, 0], [0, 100]) == pytest.approx(2 * (1 - FLOOR) * math.log(1 / FLOOR))
    # two normal distributions half a standard deviation apart, finely binned: the divergence J is 1/4
    edges = np.linspace(-8, 9, 70)
    cdf = np.array([[(1 + math.erf((x - m) / math.sqrt(2))) / 2 for x in edges] for m in (0, 0.5)])
    assert psi(*np.diff(cdf)) == pytest.approx(0.25, rel=0.02)  # less by what the floor and the bins hide


def values(numeric=False, other=0, missing=0, **found):
    return Histogram(numeric, found, other, missing)


def numbers(sample, missing=0):
    found = {}
    for x in sample:
        found[f"{x:.1e}"] = found.get(f"{x:.1e}", 0) + 1
    return Histogram(True, found, 0, missing)


def test_categories_that_are_rare_on_both_days_are_one_bin():
    rare = {f"r{i}": 2 for i in range(40)}
    reference = Histogram(False, {"a": 600, "b": 320, **rare}, other=0)
    now = Histogram(False, {"a": 300, "b": 620}, other=80)
    found = drift(reference, now)
    assert found.psi == pytest.approx(plain_psi([600, 320, 80], [300, 620, 80]))
    assert found.noise == pytest.approx(2 * (1 / 1_000 + 1 / 1_000))
    # what is rare on one day alone stands by itself
    grown = Histogram(False, {"a": 500, "b": 320, "r0": 180})
    assert drift(reference, grown).psi == pytest.approx(plain_psi([600, 320, 2, 78], [500, 320, 180, 0]))
    assert 2 <= RARE * 1_000 < 80


def test_a_value_that_is_missing_is_a_bin():
    assert drift(values(a=90, missing=10), values(a=10, missing=90)).psi == pytest.approx(plain_psi([90, 10], [10, 90]))
    gone = drift(numbers([1, 2, 3] * 30), numbers([], missing=90))
    assert gone.psi > 1
    came = drift(numbers([], missing=90), numbers([1, 2, 3] * 30))
    assert came.psi > 1


def test_a_day_without_events_cannot_be_told():
    assert drift(values(), values(a=1)) is None and drift(values(a=1), values()) is None
    assert drift(numbers([]), numbers([1.0])) is None


def plain_quantiles(reference, now):
    """Deciles by sorting every single number, and bins by comparing every one with every edge."""
    ordered = sorted(reference)
    edges = sorted({ordered[math.ceil(len(ordered) * d / 10) - 1] for d in range(1, 10)})
    tally = [
        [sum(sum(x > e for e in edges) == b for x in day) for b in range(len(edges) + 1)] for day in (reference, now)
    ]
    return plain_psi(*tally)


numeric = st.lists(st.integers(-99, 99).map(float), min_size=1, max_size=60)


@settings(max_examples=100, deadline=None)
@given(numeric, numeric)
def test_numbers_are_binned_by_the_deciles_of_the_reference(reference, now):
    found = drift(numbers(reference), numbers(now))
    assert found.psi == pytest.approx(plain_quantiles(reference, now), abs=1e-9)
    assert drift(numbers(reference), numbers(reference)).psi == 0


def test_noise_is_what_chance_gives():
    """Two samples of one distribution, many times: the mean PSI is the expected one."""
    rng = np.random.default_rng(5)
    shares = np.array([0.3, 0.2, 0.2, 0.15, 0.1, 0.05])
    found = []
    for _ in range(400):
        q, p = (
            Histogram(False, dict(zip("abcdef", map(int, rng.multinomial(n, shares)), strict=True))) for n in (800, 400)
        )
        found.append(drift(q, p))
    assert np.mean([f.psi for f in found]) == pytest.approx(found[0].noise, rel=0.15)
