"""Every metric against libraries that share nothing with it: on lists that they have measured, and on random cases."""

from __future__ import annotations

import importlib
import math
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sklearn
from sklearn.calibration import calibration_curve

from recsys_spark.evaluation.metrics import auc_at_k, evaluate_lists, hit_matrix, mae, mse, r2, relevant_counts, rmse
from recsys_spark.evaluation.metrics.probability import (
    auc,
    calibration,
    expected_calibration_error,
    gauc,
    log_loss,
    normalised_entropy,
)

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))
reference = importlib.import_module("metrics_reference")


@pytest.fixture(scope="module")
def case():
    """The lists, what every library made of them, and what we make of them."""
    loaded = reference.load()
    return loaded, reference.ours(loaded)


@pytest.mark.parametrize("same", reference.SAME, ids=lambda s: f"{s.metric}-{s.peer}")
def test_same_value_for_every_user_and_cut_off(case, same):
    loaded, own = case
    for k in loaded["ks"]:
        theirs = loaded["values"][same.peer][f"{same.name}@{k}"]
        if same.translate is not None:
            theirs = same.translate(theirs, loaded, k)
        assert len(theirs) == (1 if same.metric == "coverage" else len(loaded["users"]))
        np.testing.assert_allclose(own[f"{same.metric}@{k}"], theirs, rtol=1e-9, atol=1e-12, err_msg=f"@{k}")


def test_the_document_is_up_to_date(capsys):
    assert reference.main(["--check"]) == 0, capsys.readouterr().err


def test_no_metric_is_without_a_formula():
    named = [name for _, module in reference.FAMILIES for name, _ in reference._functions(module)]
    assert len(named) == len(set(named)) > 30
    for _, module in reference.FAMILIES:
        assert all(about.endswith((".", ")")) for _, about in reference._functions(module))


# --- random cases ---

NUMBERS = st.floats(-5, 5, width=32)
RATED = st.lists(st.tuples(NUMBERS, NUMBERS), min_size=2, max_size=30)


@settings(max_examples=100, deadline=None)
@given(RATED, st.lists(NUMBERS, max_size=3))
def test_rating_errors_are_scikit_learns(pairs, unrated):
    predicted, actual = map(list, zip(*pairs, strict=True))
    with_nan = [*predicted, *unrated], [*actual, *[math.nan] * len(unrated)]
    assert mse(*with_nan) == pytest.approx(sklearn.mean_squared_error(actual, predicted))
    assert rmse(*with_nan) == pytest.approx(sklearn.root_mean_squared_error(actual, predicted))
    assert mae(*with_nan) == pytest.approx(sklearn.mean_absolute_error(actual, predicted))
    if len(set(actual)) > 1 and np.var(actual) > 1e-6:
        assert r2(*with_nan) == pytest.approx(sklearn.r2_score(actual, predicted), rel=1e-6, abs=1e-9)
    elif len(set(actual)) == 1:
        assert math.isnan(r2(*with_nan))


CLICKS = st.lists(
    st.tuples(st.integers(0, 1), st.sampled_from([0.0, 0.1, 0.25, 0.3, 0.5, 0.7, 0.9, 1.0]) | st.floats(0, 1)),
    min_size=1, max_size=40,
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(CLICKS)
def test_probability_metrics_are_scikit_learns(rows):
    labels, p = map(np.array, zip(*rows, strict=True))
    assert log_loss(labels, p) == pytest.approx(sklearn.log_loss(labels, p, labels=[0, 1]))
    found = calibration(labels, p, 5)
    happened, predicted = calibration_curve(labels, p, n_bins=5)
    np.testing.assert_allclose(found.happened[found.rows > 0], happened)
    np.testing.assert_allclose(found.predicted[found.rows > 0], predicted)
    gaps = np.abs(happened - predicted) @ found.rows[found.rows > 0] / len(labels)
    assert expected_calibration_error(labels, p, 5) == pytest.approx(gaps)
    if 0 < labels.sum() < len(labels):
        assert auc(labels, p) == pytest.approx(sklearn.roc_auc_score(labels, p))
        base = sklearn.log_loss(labels, np.full(len(p), labels.mean()))
        assert normalised_entropy(labels, p) == pytest.approx(sklearn.log_loss(labels, p) / base)
    else:
        assert math.isnan(auc(labels, p)) and math.isnan(normalised_entropy(labels, p))


@settings(max_examples=100, deadline=None)
@given(CLICKS, st.lists(st.integers(-3, 3), min_size=40, max_size=40))
def test_gauc_is_the_weighted_mean_of_scikit_learns_auc(rows, groups):
    labels, p = map(np.array, zip(*rows, strict=True))
    group = np.array(groups[: len(rows)])
    judged = [group == g for g in set(groups) if 0 < labels[group == g].sum() < (group == g).sum()]
    if not judged:
        assert math.isnan(gauc(labels, p, group))
        return
    each = [sklearn.roc_auc_score(labels[of], p[of]) for of in judged]
    assert gauc(labels, p, group) == pytest.approx(np.average(each, weights=[of.sum() for of in judged]))


@settings(max_examples=100, deadline=None)
@given(st.permutations(range(1, 11)), st.sets(st.integers(1, 10), min_size=1, max_size=9), st.integers(1, 10))
def test_auc_of_a_whole_ranking_is_scikit_learns_and_of_a_part_the_mean_over_what_is_left(ranked, truth, k):
    ranked, wanted = np.array(ranked), np.array(sorted(truth))
    labels = np.isin(ranked, wanted)
    hits, n = hit_matrix(ranked[None], [wanted], 10), relevant_counts([wanted])
    assert auc_at_k(hits, n, 10, 10)[0] == pytest.approx(sklearn.roc_auc_score(labels, -np.arange(10)))
    # behind rank k all items are alike: one score for all of them, which scikit-learn counts half
    tied = np.minimum(np.arange(10), k)
    assert auc_at_k(hits, n, k, 10)[0] == pytest.approx(sklearn.roc_auc_score(labels, -tied))


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_graded_ndcg_is_scikit_learns(data):
    ranked = np.array(data.draw(st.permutations(range(1, 13))))
    gains = np.array(data.draw(st.lists(st.integers(0, 4), min_size=12, max_size=12)), float)
    k = data.draw(st.integers(1, 14))
    got = evaluate_lists(ranked[None], [np.arange(1, 13)], [k], [gains])[f"graded_ndcg@{k}"][0]
    if not gains.any():
        assert math.isnan(got)
        return
    assert got == pytest.approx(sklearn.ndcg_score(gains[ranked - 1][None], -np.arange(12.0)[None], k=k))


def test_graded_ndcg_of_equal_gains_is_the_binary_one():
    ranked, truth = np.array([[3, 1, 2, 0]]), [np.array([2, 3, 5, 5])]
    got = evaluate_lists(ranked, truth, [1, 3, 4], [np.ones(4)])
    for k in (1, 3, 4):
        assert got[f"graded_ndcg@{k}"] == pytest.approx(got[f"ndcg@{k}"])


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="labels must be 0 or 1"):
        auc([2], [0.5])
    with pytest.raises(ValueError, match="must not be NaN"):
        auc([1], [math.nan])
    with pytest.raises(ValueError, match="between 0 and 1"):
        log_loss([1], [1.5])
    with pytest.raises(ValueError, match=r"both must be \[N\]"):
        auc([1, 0], [0.5])
    with pytest.raises(ValueError, match="groups have shape"):
        gauc([1, 0], [0.5, 0.1], [1])
    with pytest.raises(ValueError, match="one number for every item"):
        evaluate_lists(np.array([[1]]), [np.array([1])], [1], [np.array([1.0, 2.0])])
    with pytest.raises(ValueError, match="finite and not negative"):
        evaluate_lists(np.array([[1]]), [np.array([1])], [1], [np.array([-1.0])])
    with pytest.raises(ValueError, match="n_candidates must count"):
        auc_at_k(np.array([[True]]), [3], 1, [2])
    assert (
        math.isnan(gauc([], [], [])) and math.isnan(log_loss([], [])) and math.isnan(expected_calibration_error([], []))
    )
