"""Metrics beyond accuracy, of fairness and of business against plain Python; the jackknife against simulations."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from recsys_spark.evaluation import exposure
from recsys_spark.evaluation.lists import mean_metrics, ranked_matrix, truth_of
from recsys_spark.evaluation.maps import map_array, map_columns
from recsys_spark.evaluation.metrics import beyond_accuracy as beyond
from recsys_spark.evaluation.metrics import evaluate_lists, hit_matrix
from recsys_spark.evaluation.metrics.business import click_through_rate, conversion_rate, revenue_per_thousand
from recsys_spark.evaluation.metrics.fairness import exposure_ratio, group_exposure, group_gap

N_ITEMS, KS = 9, (1, 3, 6)


@st.composite
def lists(draw):
    """Up to five lists of distinct items, padded at the end; some are empty."""
    length = draw(st.integers(1, N_ITEMS))
    rows = []
    for _ in range(draw(st.integers(1, 5))):
        items = list(draw(st.permutations(range(1, N_ITEMS + 1))))[: draw(st.integers(0, length))]
        rows.append(items + [0] * (length - len(items)))
    return np.array(rows)


def same(got, expected):
    np.testing.assert_allclose(got, [math.nan if e is None else e for e in expected], rtol=1e-9, atol=1e-12)


def mean(values):
    values = list(values)
    return sum(values) / len(values) if values else None


@settings(max_examples=100, deadline=None)
@given(lists(), st.lists(st.integers(0, 20), min_size=N_ITEMS, max_size=N_ITEMS), st.sampled_from(KS))
def test_novelty_popularity_and_freshness_are_means_over_the_listed_items(ranked, counts, k):
    counts = [0, *counts]
    tops = [[i for i in row[:k] if i] for row in ranked.tolist()]
    information = beyond.self_information(counts, 25)
    same(
        beyond.novelty_at_k(ranked, information, k), [mean(-math.log2(max(counts[i], 1) / 25) for i in t) for t in tops]
    )
    same(beyond.popularity_at_k(ranked, np.array(counts, float), k), [mean(counts[i] for i in t) for t in tops])
    age = np.where(np.array(counts) == 0, np.nan, np.array(counts, float))
    fresh = [mean(float(0 < counts[i] <= 7) for i in t) for t in tops]
    same(beyond.freshness_at_k(ranked, age, 7, k), fresh)


@settings(max_examples=100, deadline=None)
@given(lists(), st.integers(0, 10**6), st.sampled_from(KS))
def test_diversity_is_the_mean_over_all_pairs(ranked, seed, k):
    vectors = np.random.default_rng(seed).integers(0, 3, (N_ITEMS + 1, 4)).astype(float)

    def apart(i, j):
        norms = np.linalg.norm(vectors[i]) * np.linalg.norm(vectors[j])
        return 1 - vectors[i] @ vectors[j] / norms if norms else 1.0

    tops = [[i for i in row[:k] if i] for row in ranked.tolist()]
    same(
        beyond.intra_list_diversity_at_k(ranked, vectors, k),
        [mean(apart(i, j) for i, j in itertools.combinations(top, 2)) for top in tops],
    )


@settings(max_examples=100, deadline=None)
@given(lists(), st.lists(st.integers(0, 5), min_size=N_ITEMS, max_size=N_ITEMS), st.data(), st.sampled_from(KS))
def test_serendipity_is_its_formula(ranked, counts, data, k):
    truth = [data.draw(st.sets(st.integers(1, N_ITEMS))) for _ in ranked]
    rank = beyond.popularity_ranks([0, *counts])
    hits = hit_matrix(ranked, [np.array(sorted(t), int) for t in truth], N_ITEMS)
    expected = []
    for row, wanted in zip(ranked.tolist(), truth, strict=True):
        gain = 0.0
        for r, item in enumerate(row[:k], start=1):
            if item in wanted:
                popular = len({c for c in counts if c > counts[item - 1]}) + 1 if counts[item - 1] else N_ITEMS + 1
                gain += max((N_ITEMS + 1 - r) / N_ITEMS - (N_ITEMS + 1 - popular) / N_ITEMS, 0)
        expected.append(gain / k if any(row[:k]) else None)
    same(beyond.serendipity_at_k(ranked, hits, rank, N_ITEMS, k), expected)


@settings(max_examples=100, deadline=None)
@given(lists(), st.data(), st.sampled_from(KS))
def test_repeats_and_churn_are_shares_of_the_list(ranked, data, k):
    had = [data.draw(st.sets(st.integers(1, N_ITEMS))) for _ in ranked]
    before = np.array([data.draw(st.permutations(range(1, N_ITEMS + 1))) for _ in ranked])
    tops = [[i for i in row[:k] if i] for row in ranked.tolist()]
    histories = [np.array(sorted(h), int) for h in had]
    repeats = [mean(float(i in h) for i in t) for t, h in zip(tops, had, strict=True)]
    same(beyond.repeat_rate_at_k(ranked, histories, k), repeats)
    new = [mean(float(i not in old[:k]) for i in t) for t, old in zip(tops, before.tolist(), strict=True)]
    same(beyond.churn_at_k(before, ranked, k), new)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 30), min_size=1, max_size=12))
def test_gini_is_half_the_relative_mean_difference_and_entropy_scipys(counts):
    n, total = len(counts), sum(counts)
    if not total:
        assert math.isnan(beyond.gini(counts)) and math.isnan(beyond.shannon_entropy(counts))
        return
    differences = sum(abs(a - b) for a in counts for b in counts)
    assert beyond.gini(counts) == pytest.approx(differences / (2 * n * total))
    assert beyond.shannon_entropy(counts) == pytest.approx(stats.entropy(counts, base=2))


def test_exposures_add_up():
    a, b = np.array([[1, 2], [2, 0]]), np.array([[3, 2]])
    whole = beyond.exposure_counts(np.concatenate([a, b]), 4, 2)
    assert whole.tolist() == [1, 3, 1, 0]
    assert (beyond.exposure_counts(a, 4, 2) + beyond.exposure_counts(b, 4, 2)).tolist() == whole.tolist()


def test_popularity_lift_leaves_out_whom_either_lacks():
    assert beyond.popularity_lift([4.0, math.nan, 9.0], [2.0, 5.0, math.nan]) == 1.0
    assert math.isnan(beyond.popularity_lift([math.nan], [1.0]))


# --- fairness and business ---


@settings(max_examples=60, deadline=None)
@given(lists(), st.lists(st.integers(-1, 2), min_size=N_ITEMS, max_size=N_ITEMS), st.sampled_from(KS))
def test_exposure_of_groups_is_its_formula(ranked, groups, k):
    expected = [0.0, 0.0, 0.0]
    for row in ranked.tolist():
        for r, item in enumerate(row[:k], start=1):
            if item and groups[item - 1] >= 0:
                expected[groups[item - 1]] += 1 / math.log2(r + 1)
    same(group_exposure(ranked, np.array([-1, *groups]), 3, k), expected)


def test_exposure_ratio_without_exposure_or_share_is_nan():
    assert exposure_ratio([1.0, 1.0, 0.0], [1, 0, 1]).tolist()[::2] == [1.0, 0.0]
    assert math.isnan(exposure_ratio([1.0, 1.0], [1, 0])[1])
    assert np.isnan(exposure_ratio([0.0, 0.0], [1, 1])).all()


def test_a_gap_needs_two_groups():
    found = group_gap([0.5, math.nan, 0.25], [0, 1, 2], 4)
    assert found.gap == 0.25 and np.isnan(found.means).tolist() == [False, True, False, True]
    assert math.isnan(group_gap([0.5], [0], 2).gap)


def test_business_rates():
    assert click_through_rate([1, 0], [4, 0]).tolist()[0] == 0.25
    assert math.isnan(click_through_rate([1, 0], [4, 0])[1])
    assert conversion_rate(3, 2) == 1.5 and revenue_per_thousand(5, 2000) == 2.5
    for bad in ((-1, 2), (1, 0)):
        with pytest.raises(ValueError):
            click_through_rate(*bad)


# --- the jackknife ---


def test_jackknife_intervals_cover_the_truth():
    """200 logs of 2000 lists: the 90 % interval of the entropy has the true one in 180, give or take 4 binomial sd."""
    p = 1 / np.arange(1, 31)
    p /= p.sum()
    truth, covered = -(p * np.log2(p)).sum(), 0
    for seed in range(200):
        items = np.random.default_rng(seed).choice(30, (exposure.GROUPS, 100), p=p)
        counts = np.stack([np.bincount(row, minlength=30) for row in items])
        found = exposure.jackknife(counts, beyond.shannon_entropy, 0.9, 2000, math.inf)
        covered += found.low <= truth <= found.high
    assert abs(covered - 180) <= 4 * math.sqrt(200 * 0.9 * 0.1)


def test_an_interval_stays_within_what_is_possible_and_few_users_have_none():
    counts = np.eye(20, 40, dtype=np.int64)
    figure, most = exposure.FIGURES["coverage"]
    found = exposure.jackknife(counts, figure, 0.95, 40, most)
    assert (found.low, found.mean, found.high) == pytest.approx((0.5, 0.5, 0.5))  # each group shows one of its own
    one = np.zeros((20, 4), np.int64)
    one[0, :3] = one[1:, 0] = 1
    found = exposure.jackknife(one, figure, 0.95, 40, most)
    assert found.mean == 0.75 and 0 <= found.low < 0.75 < found.high == 1.0
    few = exposure.jackknife(counts, figure, 0.95, 39, most)
    assert few.mean == 0.5 and math.isnan(few.low) and math.isnan(few.high)


# --- columns of lists and maps ---


def test_maps_go_there_and_back_with_slices_and_missing_entries():
    values = {"b": np.array([1.0, math.nan, 3.0]), "a": np.array([math.nan, math.nan, 0.5])}
    full, sparse = map_array(values), map_array(values, leave_out_nan=True)
    assert sparse.to_pylist() == [[("b", 1.0)], [], [("b", 3.0), ("a", 0.5)]]
    for column in (full, sparse):
        for name, expected in values.items():
            np.testing.assert_array_equal(map_columns(column)[name], expected)
    assert map_columns(sparse.slice(2))["a"].tolist() == [0.5] and map_columns(sparse.slice(1, 1)) == {}
    assert map_columns(pa.array([None, [("x", 2.0)]], pa.map_(pa.string(), pa.float64())))["x"][1] == 2.0


def test_mean_metrics_of_files_are_those_of_numpy(spark, tmp_path):
    """Lists of every length, none, and users without a truth, over several files and row groups."""
    rng = np.random.default_rng(3)
    items = [rng.permutation(50)[: rng.integers(0, 13)].astype(np.int32) + 1 for _ in range(90)]
    truth = [rng.permutation(50)[: rng.integers(0, 9)].astype(np.int32) + 1 for _ in range(90)]
    columns = {"items": [None, *items[1:]], "held_out": [*truth[:-1], None]}
    schema = pa.schema([("items", pa.list_(pa.int32())), ("held_out", pa.list_(pa.int32()))])
    for number, part in enumerate((slice(0, 40), slice(40, 90))):
        table = pa.table({name: values[part] for name, values in columns.items()}, schema=schema)
        pq.write_table(table, tmp_path / f"{number}.parquet", row_group_size=17)
    ranked = np.array([np.pad(row, (0, 12 - len(row))) for row in [[], *items[1:]]], int)
    expected = evaluate_lists(ranked, [*truth[:-1], np.array([], int)], [1, 5, 10])
    got = mean_metrics(spark, tmp_path, [1, 5, 10])
    assert got.keys() == expected.keys()
    for name, values in expected.items():
        assert got[name] == pytest.approx(np.nanmean(values)), name
    block = pq.read_table(tmp_path / "0.parquet").to_batches()[0].slice(3, 6)
    assert ranked_matrix(block["items"], 12).tolist() == ranked[3:9].tolist()
    laid = truth_of(block["held_out"])
    assert [laid.items[a:b].tolist() for a, b in itertools.pairwise(laid.offsets)] == [t.tolist() for t in truth[3:9]]
