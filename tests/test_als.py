"""Engine `blocked` of ALS: its kernels, its packing and its answers against plain numpy, and against MLlib."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys_spark.errors import ConfigError, DataError
from recsys_spark.models import als
from recsys_spark.models.als import blocked, kernel
from recsys_spark.models.base import TrainingData, UserBlock
from recsys_spark.models.blocks import Side, pack

USERS, ITEMS, RANK = 70, 40, 8


def draw(seed: int = 1, n: int = 900) -> list[tuple]:
    """Distinct pairs with structure: two tastes, so that there is something to find."""
    rng = np.random.default_rng(seed)
    pairs = {}
    while len(pairs) < n:
        user, item = int(rng.integers(1, USERS)), int(rng.integers(1, ITEMS))
        if (user + item) % 2 == 0 or rng.random() < 0.2:
            pairs[user, item] = (float(rng.integers(1, 4)), float(rng.integers(1, 6)))
    return [(u, i, w, r) for (u, i), (w, r) in pairs.items()]


def frame_of(spark, rows, types="user_id int, item_id int, weight float, rating float"):
    return spark.createDataFrame(rows, types)


def fit(spark, tmp_path, rows, partitions=3, previous=None, seed=1, **settings):
    """Return the model, and the objective of each iteration."""
    log: list[float] = []
    scratch = tmp_path / "scratch"
    scratch.mkdir(exist_ok=True)
    data = TrainingData(
        frame_of(spark, rows).repartition(partitions), seed, scratch, previous=previous,
        log=lambda step, figures: log.append(figures["objective"]),
    )  # fmt: skip
    return als.fit(data, als.Config(**{"rank": RANK, **settings})), log


def histories(rows):
    users = sorted({row[0] for row in rows})
    of = {u: [row[1:] for row in rows if row[0] == u] for u in users}
    return UserBlock.of(users, *([[entry[c] for entry in of[u]] for u in users] for c in range(3)))


def dense(rows, column):
    matrix = np.full((USERS, ITEMS), np.nan)
    for row in rows:
        matrix[row[0], row[1]] = row[column]
    return matrix


def plain_step(matrix, others, config, implicit):
    """Every row's least squares, written down from the definition with full matrices."""
    out = np.zeros((len(matrix), others.shape[1]))
    for u, row in enumerate(matrix):
        has = ~np.isnan(row)
        if not has.any():
            continue
        lam = config.regularization * (has.sum() if config.scale_regularization else 1)
        c = np.where(has, 1 + config.alpha * np.nan_to_num(row), 1.0) if implicit else has.astype(float)
        p = has.astype(float) if implicit else np.nan_to_num(row)
        A = others.T @ (c[:, None] * others) + lam * np.eye(others.shape[1])
        out[u] = np.linalg.solve(A, others.T @ (c * p))
    return out


def plain_objective(matrix, X, Y, config, implicit):
    has = ~np.isnan(matrix)
    c = np.where(has, 1 + config.alpha * np.nan_to_num(matrix), 1.0) if implicit else has.astype(float)
    p = has.astype(float) if implicit else np.nan_to_num(matrix)
    n_u, n_i = (has.sum(axis=1), has.sum(axis=0)) if config.scale_regularization else (has.any(1), has.any(0))
    penalty = (n_u * (X**2).sum(1)).sum() + (n_i * (Y**2).sum(1)).sum()
    return (c * (p - X @ Y.T) ** 2).sum() + config.regularization * penalty


@pytest.mark.parametrize("scaled", [True, False])
@pytest.mark.parametrize("implicit", [True, False])
def test_every_iteration_is_the_plain_one_and_its_objective_is_the_definitions(spark, tmp_path, implicit, scaled):
    """With enough steps of conjugate gradient, the alternating least squares of numpy, digit for digit nearly."""
    rows = draw()
    settings = {
        "implicit": implicit, "scale_regularization": scaled, "alpha": 2.0, "regularization": 0.3 if scaled else 3.0,
        "cg_steps": 40, "iterations": 3, "blocks": 3,
    }  # fmt: skip
    model, log = fit(spark, tmp_path, rows, **settings)
    config, matrix = als.Config(rank=RANK, **settings), dense(rows, 2 if implicit else 3)
    Y = np.random.default_rng(1).standard_normal((len(model.factors) + 64, RANK), np.float32)[:ITEMS]
    Y = Y / np.linalg.norm(Y, axis=1, keepdims=True) * ~np.isnan(matrix).all(axis=0)[:, None]
    for iteration in range(3):
        X = plain_step(matrix, Y, config, implicit)
        Y = plain_step(matrix.T, X, config, implicit)
        assert log[iteration] == pytest.approx(plain_objective(matrix, X, Y, config, implicit), rel=1e-4)
    np.testing.assert_allclose(model.factors, Y, rtol=2e-3, atol=2e-3)
    assert model.known.tolist() == (~np.isnan(matrix).all(axis=0)).tolist()
    assert log[0] > log[1] > log[2]
    np.testing.assert_allclose(  # and the model folds in what comes next
        model.user_vectors(histories(rows)), plain_step(matrix, model.factors, config, implicit)[
            sorted({row[0] for row in rows})], rtol=2e-3, atol=2e-4,
    )  # fmt: skip


def test_it_agrees_with_mllib(spark, tmp_path):
    """Objective within 1 %, as both say of themselves: MLlib's factors are measured by the definition."""
    from pyspark.ml.recommendation import ALS

    rows = draw(3, 1_200)
    settings = {"regularization": 0.02, "alpha": 2.0, "iterations": 12}
    _, log = fit(spark, tmp_path, rows, **settings)
    theirs = ALS(
        rank=RANK, maxIter=12, regParam=0.02, alpha=2.0, implicitPrefs=True, userCol="user_id", itemCol="item_id",
        ratingCol="weight", seed=1,
    ).fit(frame_of(spark, rows))  # fmt: skip
    X, Y = np.zeros((USERS, RANK)), np.zeros((ITEMS, RANK))
    for factors, frame in ((X, theirs.userFactors), (Y, theirs.itemFactors)):
        for row in frame.collect():
            factors[row.id] = row.features
    expected = plain_objective(dense(rows, 2), X, Y, als.Config(**settings), True)
    assert log[-1] == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize("implicit", [True, False])
def test_neither_the_order_of_rows_nor_a_lost_task_changes_a_byte(spark, tmp_path, monkeypatch, implicit):
    rows = draw(5)
    settings = {"implicit": implicit, "iterations": 2, "blocks": 2}
    once, _ = fit(spark, tmp_path / "", rows, partitions=4, **settings)
    again, _ = fit(spark, tmp_path / "", rows[::-1], partitions=1, **settings)
    np.testing.assert_array_equal(once.factors, again.factors)

    whole = blocked._write

    def cut_short(path, solved, offset):
        """Write half of a block, then do it all again, as a task does whose executor was lost."""
        whole(path, solved[: len(solved) // 2], offset)
        whole(path, solved, offset)

    monkeypatch.setattr(blocked, "_write", cut_short)
    third, _ = fit(spark, tmp_path / "", rows, **settings)
    np.testing.assert_array_equal(once.factors, third.factors)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 9), st.integers(1, 12), st.booleans())
def test_the_kernels_solve_what_numpy_solves(seed, rank, height, implicit):
    rng = np.random.default_rng(seed)
    others = rng.standard_normal((15, rank), np.float32)
    counts = rng.integers(0, 14, height)
    indptr = np.concatenate([[0], np.cumsum(counts)])
    indices = np.concatenate([rng.choice(15, n, replace=False) for n in counts]).astype(np.int32)
    values = rng.uniform(0.1, 4, len(indices)).astype(np.float32)
    config = als.Config(rank=rank, alpha=1.0, regularization=0.4)
    matrix = np.full((height, 15), np.nan)
    for u in range(height):
        matrix[u, indices[indptr[u] : indptr[u + 1]]] = values[indptr[u] : indptr[u + 1]]
    expected = plain_step(matrix, others.astype(np.float64), config, implicit)
    wide = others.astype(np.float64)
    base = wide.T @ wide if implicit else np.zeros((rank, rank))
    left, right = (values, 1 + values) if implicit else (np.ones_like(values), values)
    solved = np.full((height, rank), 7, np.float32)
    kernel.solve_exactly(indptr, indices, left, right, others, base, 0.4, True, solved)
    np.testing.assert_allclose(solved, expected, rtol=1e-3, atol=1e-4)
    if implicit:
        start = rng.standard_normal((height, rank), np.float32)
        kernel.descend(indptr, indices, values, others, base.astype(np.float32), 0.4, True, 60, start)
        np.testing.assert_allclose(start, expected, rtol=1e-2, atol=1e-3)


def test_long_histories_take_the_other_way_through_the_kernel(monkeypatch):
    """Above `_NEAR` entries factors are not copied next to each other; the answer is the same."""
    rng = np.random.default_rng(0)
    n = kernel._NEAR + 500
    others = rng.standard_normal((n, 6), np.float32)
    indices, extra = rng.permutation(n).astype(np.int32), rng.uniform(0, 2, n).astype(np.float32)
    gram = others.T @ others
    solved = np.zeros((1, 6), np.float32)
    kernel.descend(np.array([0, n]), indices, extra, others, gram, 0.1, True, 30, solved)
    y, e = others[indices].astype(np.float64), extra.astype(np.float64)
    A = gram + (y * e[:, None]).T @ y + 0.1 * n * np.eye(6)
    np.testing.assert_allclose(solved[0], np.linalg.solve(A, y.T @ (1 + e)), rtol=1e-3)


@pytest.mark.parametrize("partitions", [1, 5])
def test_blocks_hold_every_entry_once_in_order(spark, tmp_path, partitions):
    rows = draw(2, 300)
    users, items = (Side.of(n, size, 4, tmp_path) for n, size in (("users", USERS), ("items", ITEMS)))
    frame = frame_of(spark, rows).selectExpr("user_id", "item_id", "weight as value").repartition(partitions)
    pack(frame.unionByName(frame.limit(0)), users, items)
    for side, own, other in ((users, 0, 1), (items, 1, 0)):
        found = []
        for block in range(side.blocks):
            indptr, indices, values = side.csr(block)
            assert len(indptr) == side.height + 1 and indptr[-1] == len(indices) == len(values)
            for row in range(side.height):
                mine = slice(indptr[row], indptr[row + 1])
                assert (np.diff(indices[mine]) > 0).all()
                found += [(block * side.height + row, i, v) for i, v in zip(indices[mine], values[mine], strict=True)]
        assert sorted(found) == sorted((row[own], row[other], row[2]) for row in rows)
    assert not list(tmp_path.glob("piece-*"))


def test_a_warm_start_begins_where_the_night_before_ended(spark, tmp_path, capsys):
    rows = draw(7)
    cold, first = fit(spark, tmp_path, rows, iterations=6)
    saved = tmp_path / "saved"
    saved.mkdir()
    cold.save(saved)
    _, warm = fit(spark, tmp_path, rows, iterations=1, warm_start=True, previous=saved)
    assert warm[0] < first[2]
    assert als.Config(warm_start=True).warm_start and list(als.needs(als.Config(warm_start=True))) == ["previous"]
    assert not list(als.needs(als.Config()))
    fit(spark, tmp_path, rows, iterations=1, warm_start=True, previous=saved, rank=RANK + 1)
    assert "had another rank; starts at random" in capsys.readouterr().err
    fit(spark, tmp_path, rows, iterations=1, warm_start=True)
    assert "no earlier night to start from" in capsys.readouterr().err


def test_factors_that_do_not_fit_are_left_to_mllib(spark, tmp_path, capsys):
    model, log = fit(spark, tmp_path, draw(1, 200), iterations=1, max_broadcast_gb=1e-9)
    assert log == [] and model.known.any()
    assert "engine mllib takes over" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="scale_regularization"):
        fit(spark, tmp_path, draw(1, 200), engine="mllib", scale_regularization=False)


@pytest.mark.parametrize(
    ("row", "types", "says"),
    [
        ((1, 1, float("nan"), None), None, "1 interactions have a weight that is negative or no number"),
        ((1, 1, float("inf"), None), None, "negative or no number"),
        ((1, 1, -1.0, None), None, "negative or no number"),
        ((-3, 1, 1.0, None), None, "ids reach from -3"),
        ((2**31, 1, 1.0, None), "user_id long, item_id long, weight float, rating float", "from 1 to 2147483648"),
    ],
)  # fmt: skip
def test_what_cannot_be_factorised_says_why(spark, tmp_path, row, types, says):
    rows = [*draw(1, 50), row]
    data = TrainingData(frame_of(spark, rows, *([types] if types else [])), 1, tmp_path)
    with pytest.raises(DataError, match=says) as error:
        als.fit(data, als.Config(rank=2))
    assert "\n" not in str(error.value)


def test_more_factors_than_items_and_items_that_nobody_touched(spark, tmp_path):
    rows = [(1, 2, 1.0, None), (2, 9, 1.0, None), (4, 2, 2.0, None)]
    model, log = fit(spark, tmp_path, rows, rank=20, iterations=3, blocks=50)
    assert model.known.nonzero()[0].tolist() == [2, 9] and np.isfinite(model.factors).all()
    assert not model.factors[~model.known].any() and log[-1] <= log[0]
    scores = model.score(UserBlock.of([1, 3], [[2], []]))
    assert np.isfinite(scores[0, [2, 9]]).all() and not np.isfinite(scores[1]).any()


@pytest.mark.parametrize("rank", [8, 64])
def test_where_the_memory_is_found_does_not_show_in_the_answer(rank):
    """Compiled loops choose between versions by the addresses of their arrays; all of them have to round alike."""
    rng = np.random.default_rng(0)
    counts = rng.integers(0, 25, 60)
    indptr = np.concatenate([[0], np.cumsum(counts)])
    indices = np.concatenate([rng.choice(40, n, replace=False) for n in counts]).astype(np.int32)
    extra = rng.integers(1, 5, len(indices)).astype(np.float32)
    others = rng.standard_normal((40, rank), np.float32)
    gram, answers, junk = others.T @ others, set(), []

    def moved(array):
        buffer, offset = np.empty(array.nbytes + 256, np.uint8), int(rng.integers(0, 16)) * 4
        start = -buffer.ctypes.data % 64 + offset
        copy = buffer[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
        copy[:] = array
        return copy

    for _ in range(400):
        junk = [*junk[-50:], np.empty(rng.integers(1, 3_000), np.uint8)]
        descended, exact = (moved(np.zeros((60, rank), np.float32)) for _ in range(2))
        arguments = (moved(extra), moved(others))
        kernel.descend(indptr, indices, *arguments, moved(gram), 0.05, True, 3, descended)
        base = gram.astype(np.float64)
        kernel.solve_exactly(indptr, indices, arguments[0], arguments[0], arguments[1], base, 0.05, True, exact)
        answers.add((descended.tobytes(), exact.tobytes()))
    assert len(answers) == 1
