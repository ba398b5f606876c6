"""Ranking metrics against hand-computed values, pytrec_eval, and a plain-Python version written from the formulas."""

from __future__ import annotations

import math

import numpy as np
import pytest
import pytrec_eval
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys_spark.evaluation.metrics import (
    RANKING_METRICS,
    coverage_at_k,
    evaluate_lists,
    hit_matrix,
    mae,
    ndcg_at_k,
    recall_at_k,
    relevant_counts,
    rmse,
)

N_ITEMS = 12
KS = (1, 3, 5, 10)

# Discounts by hand: 1 / log2(2) = 1, 1 / log2(3) = 0.63092975, 1 / log2(4) = 0.5.
TABLE = [
    # ranked      truth      k  recall  precision  ndcg                           mrr  hit_rate  map
    ([1, 2, 3], [1, 2, 3], 3, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0),  # perfect
    ([1, 2, 3], [4], 3, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0),  # all wrong
    ([4, 1, 5], [1], 3, 1.0, 1 / 3, 0.63092975, 0.5, 1.0, 0.5),  # one hit at rank 2
    ([1, 4, 2], [1, 2], 3, 1.0, 2 / 3, 1.5 / 1.63092975, 1.0, 1.0, 5 / 6),  # hits at ranks 1 and 3
    ([4, 1, 2], [1, 2], 3, 1.0, 2 / 3, 1.13092975 / 1.63092975, 0.5, 1.0, 7 / 12),  # hits at ranks 2 and 3
    ([4, 1, 2], [1, 2], 1, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0),  # both hits beyond k
    ([1, 5, 6], [1, 2, 3, 4], 2, 0.25, 0.5, 1 / 1.63092975, 1.0, 1.0, 0.5),  # more relevant items than k
    ([1], [1, 2], 3, 0.5, 1 / 3, 1 / 1.63092975, 1.0, 1.0, 0.5),  # a list shorter than k
    ([0, 1, 0], [1], 3, 1.0, 1 / 3, 0.63092975, 0.5, 1.0, 0.5),  # padding keeps its rank and is no hit
    ([1, 1, 2], [1, 2], 3, 1.0, 2 / 3, 1.5 / 1.63092975, 1.0, 1.0, 5 / 6),  # a repeated item hits once
    ([0, 0, 1], [0, 1, 1], 3, 1.0, 1 / 3, 0.5, 1 / 3, 1.0, 1 / 3),  # id 0 and repeats in the truth do not count
]


@pytest.mark.parametrize("row", TABLE)
def test_hand_computed_values(row):
    ranked, truth, k, *expected = row
    got = evaluate_lists(np.array([ranked]), [np.array(truth)], [k])
    names = [f"{name}@{k}" for name in ("recall", "precision", "ndcg", "mrr", "hit_rate", "map")]
    assert set(got) == {f"{name}@{k}" for name in RANKING_METRICS}
    np.testing.assert_allclose([got[name][0] for name in names], expected, rtol=1e-8)


@st.composite
def users(draw, min_relevant=0):
    """Up to six users: lists of distinct items with padding anywhere, and a truth each."""
    n_users, length = draw(st.integers(1, 6)), draw(st.integers(1, N_ITEMS))
    ids = st.permutations(range(1, N_ITEMS + 1))
    keep = st.lists(st.sampled_from([0, 1, 1, 1]), min_size=length, max_size=length)
    ranked = [np.array(draw(ids)[:length]) * np.array(draw(keep)) for _ in range(n_users)]
    truth = [np.array(draw(ids)[: draw(st.integers(min_relevant, N_ITEMS))], int) for _ in range(n_users)]
    return np.array(ranked), truth


def plain_python(ranked, truth, k):
    """Each formula as one would read it out, for one user; None where there is nothing relevant."""
    truth = set(truth) - {0}
    if not truth:
        return dict.fromkeys(RANKING_METRICS)
    hits = [r for r, item in enumerate(ranked, start=1) if r <= k and item in truth]
    best = range(1, min(k, len(truth)) + 1)
    return {
        "recall": len(hits) / len(truth),
        "capped_recall": len(hits) / len(best),
        "precision": len(hits) / k,
        "f1": 2 / (k / len(hits) + len(truth) / len(hits)) if hits else 0.0,
        "ndcg": sum(1 / math.log2(r + 1) for r in hits) / sum(1 / math.log2(r + 1) for r in best),
        "mrr": 1 / hits[0] if hits else 0.0,
        "hit_rate": 1.0 if hits else 0.0,
        "map": sum(n / r for n, r in enumerate(hits, start=1)) / len(best),
    }


@settings(max_examples=100, deadline=None)
@given(users())
def test_same_as_the_formulas_in_plain_python(case):
    ranked, truth = case
    got = evaluate_lists(ranked, truth, KS)
    for b in range(len(truth)):
        for k in KS:
            for name, value in plain_python(ranked[b].tolist(), truth[b].tolist(), k).items():
                ours = got[f"{name}@{k}"][b]
                assert math.isnan(ours) if value is None else ours == pytest.approx(value, rel=1e-12), (name, k, b)


@settings(max_examples=60, deadline=None)
@given(users(min_relevant=1))
def test_same_as_pytrec_eval(case):
    ranked, truth = case
    got = evaluate_lists(ranked, truth, KS)
    qrels = {f"u{b}": {f"i{i}": 1 for i in items} for b, items in enumerate(truth)}
    # Padding keeps its rank: for trec it is a document nobody judged.
    run = [[(f"i{i}" if i else f"none{r}", float(-r)) for r, i in enumerate(row)] for row in ranked]
    cuts = ",".join(map(str, KS))
    measures = {f"{m}.{cuts}" for m in ("recall", "P", "ndcg_cut", "map_cut", "success")}
    theirs = pytrec_eval.RelevanceEvaluator(qrels, measures).evaluate({f"u{b}": dict(row) for b, row in enumerate(run)})
    for k in KS:
        # trec's reciprocal rank has no cut-off, so the run is cut for it.
        first = pytrec_eval.RelevanceEvaluator(qrels, {"recip_rank"}).evaluate(
            {f"u{b}": dict(row[:k]) for b, row in enumerate(run)}
        )
        for b, items in enumerate(truth):
            trec = theirs[f"u{b}"]
            expected = {
                "recall": trec[f"recall_{k}"],
                "precision": trec[f"P_{k}"],
                "ndcg": trec[f"ndcg_cut_{k}"],
                "mrr": first[f"u{b}"]["recip_rank"],
                "hit_rate": trec[f"success_{k}"],
                "map": trec[f"map_cut_{k}"] * len(items) / min(k, len(items)),  # trec divides by all relevant items
            }
            for name, value in expected.items():
                assert got[f"{name}@{k}"][b] == pytest.approx(value, abs=1e-9), (name, k, b)


@settings(max_examples=60, deadline=None)
@given(users(min_relevant=1), st.sampled_from(KS), st.randoms(use_true_random=False))
def test_order_beyond_k_changes_nothing(case, k, random):
    ranked, truth = case
    shuffled = ranked.copy()
    for row in shuffled:
        tail = row[k:].tolist()
        random.shuffle(tail)
        row[k:] = tail
    before, after = evaluate_lists(ranked, truth, [k]), evaluate_lists(shuffled, truth, [k])
    for name, values in before.items():
        np.testing.assert_array_equal(values, after[name], err_msg=name)


@settings(max_examples=60, deadline=None)
@given(users(min_relevant=1), st.sampled_from(KS), st.data())
def test_moving_a_hit_up_never_hurts_and_all_values_are_in_0_1(case, k, data):
    ranked, truth = case
    hits = hit_matrix(ranked, truth, N_ITEMS)
    low = data.draw(st.integers(0, ranked.shape[1] - 1))
    high = data.draw(st.integers(0, low))
    better = hits.copy()
    better[:, low], better[:, high] = hits[:, low] & hits[:, high], hits[:, low] | hits[:, high]
    n_relevant = relevant_counts(truth)
    for name, metric in RANKING_METRICS.items():
        before, after = metric(hits, n_relevant, k), metric(better, n_relevant, k)
        assert (after >= before - 1e-12).all(), name
        assert ((before >= 0) & (after <= 1 + 1e-12)).all(), name


@settings(max_examples=30, deadline=None)
@given(users(min_relevant=1))
def test_recall_mrr_and_hit_rate_grow_with_k(case):
    got = evaluate_lists(*case, range(1, N_ITEMS + 2))
    for name in ("recall", "mrr", "hit_rate"):
        over_k = np.array([got[f"{name}@{k}"] for k in range(1, N_ITEMS + 2)])
        assert (np.diff(over_k, axis=0) >= 0).all(), name


@settings(max_examples=30, deadline=None)
@given(users())
def test_a_block_of_users_is_the_same_as_one_by_one(case):
    ranked, truth = case
    hits, n_relevant = hit_matrix(ranked, truth, N_ITEMS), relevant_counts(truth)
    for name, metric in RANKING_METRICS.items():
        block = metric(hits, n_relevant, 5)
        for b in range(len(truth)):
            alone = metric(hits[b], int(n_relevant[b]), 5)
            assert np.ndim(alone) == 0 and isinstance(alone, float)
            np.testing.assert_array_equal(block[b], alone, err_msg=name)


def test_users_without_relevant_items_have_no_opinion():
    got = evaluate_lists(np.array([[1, 2], [1, 2], [1, 2]]), [np.array([]), np.array([0]), np.array([2])], [1, 5])
    for name, values in got.items():
        assert np.isnan(values).tolist() == [True, True, False], name


def test_nobody_at_all_and_nothing_recommended():
    assert all(v.shape == (0,) for v in evaluate_lists(np.zeros((0, 5), int), [], [3]).values())
    for ranked in (np.zeros((2, 3), int), np.zeros((2, 0), int)):
        got = evaluate_lists(ranked, [np.array([1]), np.array([], int)], [3])
        for name, values in got.items():
            np.testing.assert_array_equal(values, [0.0, np.nan], err_msg=name)


def test_hits_do_not_leak_into_the_neighbouring_user():
    """The checkerboard: user b likes items of b's parity only, everyone is shown everything."""
    ranked = np.tile(np.arange(1, 9), (6, 1))
    truth = [np.arange(2 - b % 2, 9, 2) for b in range(6)]
    expected = [[(item + b) % 2 == 0 for item in range(1, 9)] for b in range(6)]
    assert hit_matrix(ranked, truth, 8).tolist() == expected


@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.uint64])
def test_any_integer_type_and_wide_ids(dtype):
    """Ids come as int32 from Parquet; user * stride must not be computed in it."""
    got = evaluate_lists(np.full((3000, 1), 2_000_000, dtype), [np.array([2_000_000], dtype)] * 3000, [1])
    assert all((values == 1).all() for values in got.values())


@pytest.mark.parametrize(
    ("ranked", "truth", "message"),
    [
        (np.array([[9]]), [np.array([1])], "ranked holds item ids 9..9, outside 0..5"),
        (np.array([[-1]]), [np.array([1])], "ranked holds item ids -1..-1"),
        (np.array([[1]]), [np.array([6])], "truth holds item ids 6..6"),
        (np.array([[1.0]]), [np.array([1])], "ranked must hold integer"),
        (np.array([[1]]), [np.array([1.5])], "truth must hold integer"),
        (np.array([1]), [np.array([1])], r"ranked must be \[B, K\]"),
        (np.array([[1]]), [], r"one row per truth \(0\)"),
    ],
)
def test_bad_input_is_refused(ranked, truth, message):
    with pytest.raises(ValueError, match=message):
        hit_matrix(ranked, truth, 5)


@pytest.mark.parametrize("name", RANKING_METRICS)
def test_k_below_one_is_refused(name):
    with pytest.raises(ValueError, match="k must be at least 1"):
        RANKING_METRICS[name](np.array([True]), 1, 0)


def test_recall_is_of_the_whole_truth_but_ndcg_of_what_fits():
    hits = np.array([True, True])
    assert recall_at_k(hits, 8, 2) == 0.25
    assert ndcg_at_k(hits, 8, 2) == 1.0


def test_coverage():
    assert coverage_at_k(0, 10) == 0.0
    assert coverage_at_k(10, 10) == 1.0
    assert math.isnan(coverage_at_k(0, 0))
    with pytest.raises(ValueError, match="11 distinct items"):
        coverage_at_k(11, 10)


def test_rating_errors():
    nan = math.nan
    assert rmse([3.0, 5.0], [3.0, 1.0]) == pytest.approx(math.sqrt(8))
    assert mae([3.0, 5.0], [3.0, 1.0]) == 2.0
    for error in (rmse, mae):
        assert error([1.0, 7.0], [1.0, nan]) == 0.0  # unrated: ignored
        assert math.isnan(error([1.0, nan], [1.0, 2.0]))  # not predicted: a fault, shown
        assert math.isnan(error([1.0], [nan])) and math.isnan(error([], []))
