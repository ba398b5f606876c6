"""EASE: its closed form against plain numpy, and against what it is the minimum of."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys_spark.errors import ConfigError, DataError
from recsys_spark.models import ease, load
from recsys_spark.models.base import NO_OPINION, TrainingData, UserBlock

TYPES = "user_id int, item_id int, weight float, rating float"


def draw(seed=1, users=40, items=15, share=0.3):
    """Dense X [users, items] with ids from 1; some items and users have nothing."""
    rng = np.random.default_rng(seed)
    X = rng.integers(1, 5, (users + 1, items + 1)) * (rng.random((users + 1, items + 1)) < share)
    X[0], X[:, 0], X[:, 4] = 0, 0, 0
    X[7] = 0
    X[1, items] = 3
    return X.astype(float)


def rows_of(X):
    return [(int(u), int(i), float(X[u, i]), None) for u, i in zip(*X.nonzero(), strict=True)]


def fit(spark, tmp_path, rows, partitions=3, types=TYPES, **more):
    scratch = tmp_path / f"scratch-{partitions}"
    scratch.mkdir(exist_ok=True)
    frame = spark.createDataFrame(rows, types).repartition(partitions)
    return ease.fit(TrainingData(frame, 1, scratch), ease.Config(**{"blocks": 3, **more}))


def plain(X, regularization):
    """Algorithm 1 of the paper."""
    P = np.linalg.inv(X.T @ X + regularization * np.eye(X.shape[1]))
    B = P / -np.diag(P)
    B[np.diag_indices(len(B))] = 0
    return B


@pytest.mark.parametrize("binary", [True, False])
def test_scores_are_histories_times_the_papers_matrix(spark, tmp_path, binary):
    X = draw()
    model = fit(spark, tmp_path, rows_of(X), binary=binary, regularization=3.0)
    known = np.flatnonzero(X.any(axis=0))
    assert model.items.tolist() == known.tolist() and 4 not in known
    used = (X > 0).astype(float) if binary else X
    B = plain(used[:, known], 3.0)
    np.testing.assert_allclose(model.weights, B, rtol=1e-4, atol=1e-6)
    users = UserBlock.of(range(len(X)), [np.flatnonzero(x) for x in X], [x[x > 0] for x in X])
    scores = model.score(users)
    some = X.any(axis=1)
    np.testing.assert_allclose(scores[np.ix_(some, known)], (used[:, known] @ B)[some], rtol=1e-4, atol=1e-5)
    assert (scores[~some] == NO_OPINION).all() and (scores[:, [0, 4]] == NO_OPINION).all()


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 12), st.floats(0.01, 1_000))
def test_no_other_matrix_without_a_diagonal_fits_better(seed, size, regularization):
    """The objective's gradient is 0 but for the diagonal: X'(XB - X) + λB = diag(γ)."""
    rng = np.random.default_rng(seed)
    X = rng.integers(0, 3, (20, size)).astype(float)
    B = ease.solve(X.T @ X, regularization).astype(float)
    gradient = X.T @ (X @ B - X) + regularization * B
    gradient[np.diag_indices(size)] = 0
    assert np.abs(gradient).max() < 1e-5 * (1 + np.abs(X.T @ X).max() + regularization)
    assert not np.diag(B).any()
    np.testing.assert_allclose(B, plain(X, regularization), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("binary", [True, False])
def test_what_came_last_counts_most(spark, tmp_path, binary):
    """Half as much for every two known items after it; one that the model does not know takes no place."""
    model = fit(spark, tmp_path, rows_of(draw()), binary=binary, half_life=2.0, regularization=3.0)
    B = np.zeros((16, 16))
    B[np.ix_(model.items, model.items)] = model.weights
    w = [1.0, 1.0, 1.0] if binary else [3.0, 1.0, 2.0]
    expected = w[0] * 0.5 * B[9] + w[1] * 0.5**0.5 * B[2] + w[2] * B[5]
    scores = model.score(UserBlock.of([1, 2], [[9, 2, 4, 5, 99], [1]], [[3.0, 1.0, 7.0, 2.0, 7.0], [1.0]]))
    np.testing.assert_allclose(scores[0, model.items], expected[model.items], rtol=1e-5, atol=1e-7)
    folder = tmp_path / "saved"
    folder.mkdir()
    model.save(folder)
    assert load(folder).config == model.config


def test_neither_the_order_of_rows_nor_the_partitions_change_a_byte(spark, tmp_path):
    rng = np.random.default_rng(2)
    rows = [(u, i, float(w) * float(rng.random() + 0.01), None) for u, i, w, _ in rows_of(draw(2))]
    models = [
        fit(spark, tmp_path, given, partitions, binary=False) for given, partitions in ((rows, 4), (rows[::-1], 1))
    ]
    np.testing.assert_array_equal(models[0].weights, models[1].weights)


def test_blocks_do_not_show_and_ids_may_have_gaps(spark, tmp_path):
    rows = [(u * 1000 + 1, i * 777, w, r) for u, i, w, r in rows_of(draw(3))]
    one, many = (fit(spark, tmp_path, rows, blocks, blocks=blocks) for blocks in (1, 7))
    np.testing.assert_array_equal(one.weights, many.weights)
    assert one.items.tolist() == sorted({i for _, i, _, _ in rows})
    np.testing.assert_allclose(one.weights, plain((draw(3) > 0)[:, one.items // 777].astype(float), 100.0), rtol=1e-3,
                               atol=1e-7)  # fmt: skip


def test_one_item_alone(spark, tmp_path):
    model = fit(spark, tmp_path, [(1, 2, 1.0, None), (3, 2, 1.0, None)])
    assert model.weights.tolist() == [[0]]
    assert model.score(UserBlock.of([1, 2], [[2], []])).tolist() == [[NO_OPINION, NO_OPINION, 0], [NO_OPINION] * 3]


def test_a_loaded_matrix_is_mapped_and_the_same(spark, tmp_path):
    model = fit(spark, tmp_path, rows_of(draw()), binary=False)
    folder = tmp_path / "saved"
    folder.mkdir()
    model.save(folder)
    users = UserBlock.of([1], [[1, 2, 3]], [[1.0, 2.0, 5.0]])
    np.testing.assert_array_equal(load(folder).score(users), model.score(users))


def test_a_catalogue_that_is_too_large_is_refused_by_the_key(spark, tmp_path):
    with pytest.raises(ConfigError, match=r"ease: 14 items make .* models\.ease\.max_gb is 1e-06") as error:
        fit(spark, tmp_path, rows_of(draw()), max_gb=1e-6)
    assert "\n" not in str(error.value)
    assert not list((tmp_path / "scratch-3").iterdir())  # before anything was done
    fit(spark, tmp_path, rows_of(draw()), max_gb=14 * 14 * 12 / 1e9)


def test_a_penalty_that_rounding_swallows_is_refused():
    with pytest.raises(ConfigError, match=r"models\.ease\.regularization: 1e-30 is too small"):
        ease.solve(np.ones((3, 3)), 1e-30)


@pytest.mark.parametrize(
    ("rows", "types", "says"),
    [
        ([(1, 1, float("nan"), None)], TYPES, "1 interactions have a weight that is negative or no number"),
        ([(1, 1, float("inf"), None)], TYPES, "negative or no number"),
        ([(1, 1, -1.0, None)], TYPES, "negative or no number"),
        ([(1, 1, None, None)], TYPES, "negative or no number"),
        ([(1, -3, 1.0, None)], TYPES, "ids reach from -3"),
        ([(2**31, 1, 1.0, None)], "user_id long, item_id long, weight float, rating float", "from 1 to 2147483648"),
        ([], TYPES, "no interaction to train on"),
    ],
)  # fmt: skip
def test_what_cannot_be_learnt_from_says_why(spark, tmp_path, rows, types, says):
    with pytest.raises(DataError, match=says) as error:
        fit(spark, tmp_path, rows, types=types, binary=False)
    assert "\n" not in str(error.value)
