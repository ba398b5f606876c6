"""The neighbourhood models against plain numpy: similarities, neighbours, scores, the cap, and what bad input gets."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys_spark.errors import DataError
from recsys_spark.models import code_of, item_knn, load, user_knn
from recsys_spark.models.base import NO_OPINION, TrainingData, UserBlock
from recsys_spark.models.item_knn import ItemKnn
from recsys_spark.models.knn import kernel
from recsys_spark.models.knn.search import neighbours
from recsys_spark.models.knn.similarity import Weighting
from recsys_spark.models.user_knn import UserKnn

USERS, ITEMS = 25, 18
TYPES = "user_id int, item_id int, weight float, rating float"
CHOICES = [
    {"similarity": "cosine", "discount": 0.0},
    {"similarity": "cosine", "discount": 1.0, "use_weights": True, "shrinkage": 3.0},
    {"similarity": "cosine", "discount": 0.5, "use_weights": True, "half_life": 2.0},
    {"similarity": "jaccard"},
    {"similarity": "jaccard", "shrinkage": 2.0, "half_life": 1.5},
    {"similarity": "bm25", "k1": 0.0, "b": 0.0},
    {"similarity": "bm25", "k1": 1.2, "b": 0.75, "use_weights": True, "shrinkage": 1.0},
    {"similarity": "bm25", "k1": 20.0, "b": 1.0, "half_life": 3.0},
]


def draw(seed, n=120):
    """A matrix of weights, 0 where there is no interaction; row 0 and column 0 are the unknown."""
    rng = np.random.default_rng(seed)
    X = np.zeros((USERS, ITEMS))
    at = rng.choice(np.arange((USERS - 1) * (ITEMS - 2)), n, replace=False)  # the last item but one is nobody's
    item = at % (ITEMS - 2) + 1
    X[at // (ITEMS - 2) + 1, np.where(item == ITEMS - 2, ITEMS - 1, item)] = rng.integers(1, 6, n)
    return X


def frame_of(spark, X):
    rows = [(int(u), int(i), float(X[u, i]), None) for u, i in zip(*np.nonzero(X), strict=True)]
    return spark.createDataFrame(rows, TYPES)


def fit(spark, tmp_path, module, rows, seed=1, **config):
    scratch = tmp_path / "scratch"
    scratch.mkdir(exist_ok=True)
    return module.fit(TrainingData(rows, seed, scratch), module.Config(**config))


# --- the definitions, with full matrices and loops ---


def plain_bm25(X, documents, config):
    """BM25 weights of rows given the training documents, which say how rare a term and how long a row is."""
    n, df, mean = (documents > 0).any(1).sum(), (documents > 0).sum(0), documents.sum() / (documents > 0).any(1).sum()
    length = X.sum(1, keepdims=True) / mean
    idf = np.log(n) - np.log(1 + df)
    with np.errstate(invalid="ignore"):
        return np.nan_to_num(X * (config.k1 + 1) / (config.k1 * (1 - config.b + config.b * length) + X)) * idf


def single(x):
    """Round to single precision, as the model keeps its vectors: or else ties would be broken differently."""
    return x.astype(np.float32).astype(np.float64)


def plain_similarity(rows, documents, config, recency=None):
    """Similarities [R, D] of rows to documents by the formulas."""
    shared = (rows > 0).astype(float) @ (documents > 0).T
    recency = np.ones_like(rows) if recency is None else single(recency)
    if config.similarity == "jaccard":
        either = (rows > 0).sum(1)[:, None] + (documents > 0).sum(1) - shared
        s = shared / np.maximum(either, 1)
    elif config.similarity == "cosine":
        length = np.sqrt((documents**2).sum(0))
        factor = np.where(length > 0, length, 1) ** -config.discount
        a, b = single(single(rows * factor) * recency), single(documents * factor)
        norms = np.linalg.norm(a, axis=1)[:, None] * np.linalg.norm(b, axis=1)
        s = a @ b.T / np.where(norms > 0, norms, 1)
    else:
        a, b = (single(plain_bm25(x, documents, config)) for x in (rows, documents))
        s = single(a * recency) @ b.T
    return single(s * shared / np.maximum(shared + config.shrinkage, 1e-9))


def plain_nearest(s, n, own):
    """Keep the n largest positive of each row, equal ones by smaller id, without a row's own."""
    kept = np.zeros_like(s)
    for r, row in enumerate(s):
        best = sorted((-v, d) for d, v in enumerate(row) if v > 1e-12 and d != own[r])[:n]
        for v, d in best:
            kept[r, d] = -v
    return kept


def plain_history(items, weights, known, config):
    """A history as a row of weights, and what each counts by its age."""
    row, recency = np.zeros(len(known)), np.zeros(len(known))
    trained = [(i, w) for i, w in zip(items, weights, strict=True) if i < len(known) and known[i]]
    for place, (i, w) in enumerate(reversed(trained)):
        row[i] = w if config.use_weights else 1
        recency[i] = 1 if config.half_life is None else 0.5 ** (place / config.half_life)
    return row, recency


def some_histories(seed):
    rng = np.random.default_rng(seed)
    items = [rng.choice(np.arange(1, ITEMS + 3), n, replace=False).tolist() for n in (0, 1, 2, 5, 9, 12)]
    weights = [rng.integers(1, 6, len(i)).tolist() for i in items]
    return UserBlock.of([0, 1, 2, 3, 4, 10_000], items, weights), items, weights


def plain_scores(module, X, config, seed):
    X = X if config.use_weights else (X > 0).astype(float)
    known = (X > 0).any(0)
    users, items, weights = some_histories(seed)
    both = [plain_history(i, w, known, config) for i, w in zip(items, weights, strict=True)]
    rows, recency = np.array([row for row, _ in both]), np.array([recency for _, recency in both])
    if module is user_knn:
        near = plain_nearest(plain_similarity(rows, X, config, recency), config.neighbours, users.user_id)
        scores = near @ X
    else:
        near = plain_nearest(plain_similarity(X.T, X.T, config), config.neighbours, np.arange(ITEMS))
        if config.normalize:
            near = near / np.maximum(near.sum(1, keepdims=True), 1e-12)
        scores = (rows * recency) @ (near.T if config.neighbours_of == "candidate" else near)
    scores[:, ~known] = NO_OPINION
    scores[~rows.any(1)] = NO_OPINION
    return users, scores


# Spark's packing is fitted once for each model below; the rest is drawn through the constructors.


def csr(X):
    return np.concatenate([[0], np.cumsum((X > 0).sum(1))]), np.nonzero(X)[1].astype(np.int32), X[X > 0].astype("f4")


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from(CHOICES), st.sampled_from([1, 3, 100]))
def test_user_knn_is_the_plain_one(seed, choice, n):
    X = draw(seed)
    config = user_knn.Config(**choice, neighbours=n)
    users, expected = plain_scores(user_knn, X, config, seed)
    model = UserKnn(*csr(X if config.use_weights else (X > 0).astype(float)), ITEMS, config)
    np.testing.assert_allclose(model.score(users), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "choice",
    [
        {"similarity": "cosine", "discount": 1.0, "use_weights": True, "shrinkage": 3.0, "neighbours": 4},
        {"similarity": "jaccard", "half_life": 1.5, "neighbours_of": "candidate", "neighbours": 3},
        {"similarity": "bm25", "use_weights": True, "normalize": True, "neighbours": 5},
        {"similarity": "bm25", "k1": 20.0, "b": 1.0, "normalize": True, "neighbours_of": "candidate", "neighbours": 99},
    ],
)  # fmt: skip
def test_item_knn_is_the_plain_one(spark, tmp_path, choice):
    X, config = draw(4), item_knn.Config(**choice)
    model = fit(spark, tmp_path, item_knn, frame_of(spark, X), **choice)
    users, expected = plain_scores(item_knn, X, config, 4)
    np.testing.assert_allclose(model.score(users), expected, rtol=1e-5, atol=1e-5)
    indptr, ids, _ = model.neighbours
    assert np.diff(indptr).max() <= config.neighbours
    assert all((np.diff(ids[indptr[i] : indptr[i + 1]]) > 0).all() for i in range(ITEMS))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from(CHOICES), st.sampled_from([1, 3, 100]))
def test_neighbours_are_the_plain_ones(seed, choice, n):
    X = draw(seed)
    config = item_knn.Config(**choice, neighbours=n)
    if not config.use_weights:
        X = (X > 0).astype(float)
    starts, users, weights = csr(X.T)
    item = np.repeat(np.arange(ITEMS), np.diff(starts))
    weighting = Weighting.of(config, users, weights, USERS, int((X > 0).any(0).sum()))
    lengths = np.bincount(item, weights, ITEMS)
    values = weighting.apply(weights, lengths[item], users)
    sizes = weighting.sizes(values, item, ITEMS)
    by_user = np.lexsort((item, users))
    lists = csr(X)[0], item[by_user].astype(np.int32), values[by_user], sizes
    indptr, ids, found = neighbours((starts, users, values, sizes), np.arange(ITEMS), lists, config)
    kept = np.zeros((ITEMS, ITEMS))
    kept[np.repeat(np.arange(ITEMS), np.diff(indptr)), ids] = found
    expected = plain_similarity(X.T, X.T, config)
    wanted = plain_nearest(expected, n, np.arange(ITEMS))
    np.testing.assert_allclose(kept, wanted, rtol=1e-6)


def test_bm25_weighs_as_the_library_implicit_does():
    from implicit.nearest_neighbours import bm25_weight
    from scipy.sparse import csr_matrix

    X = draw(9)
    X = X[(X > 0).any(1)][:, (X > 0).any(0)]  # implicit counts empty documents, too
    config = item_knn.Config(similarity="bm25", k1=1.5, b=0.4, use_weights=True)
    starts, users, weights = csr(X.T)
    item = np.repeat(np.arange(X.shape[1]), np.diff(starts))
    weighting = Weighting.of(config, users, weights, len(X), X.shape[1])
    ours = weighting.apply(weights, np.bincount(item, weights)[item], users)
    np.testing.assert_allclose(ours, bm25_weight(csr_matrix(X.T), 1.5, 0.4).tocsr().data, rtol=1e-5)


def test_equally_similar_neighbours_go_by_id():
    """Items 2, 3, 4 and 5 were had by the same people: of four equal similarities the smaller ids stay."""
    X = np.zeros((4, 7))
    X[1:, [1, 2, 3, 4, 5]], X[1, 6] = 1, 1
    config = user_knn.Config(similarity="jaccard", neighbours=2)
    starts, users, weights = csr(X.T)
    sizes = (X > 0).sum(0).astype(float)
    lists = csr(X)[0], csr(X)[1], csr(X)[2], sizes
    indptr, ids, found = neighbours((starts, users, weights, sizes), np.arange(7), lists, config)
    assert [ids[indptr[i] : indptr[i + 1]].tolist() for i in range(7)] == [[], [2, 3], [1, 3], [1, 2], [1, 2], [1, 2],
                                                                           [1, 2]]  # fmt: skip
    assert found.tolist() == pytest.approx([1] * 10 + [1 / 3] * 2)


# --- Spark ---


@pytest.mark.parametrize("module", [item_knn, user_knn])
def test_neither_the_order_nor_the_partitions_change_a_byte(spark, tmp_path, module):
    """And heavy users lose what a seeded hash says, the same rows every time; others lose nothing."""
    X = draw(2)
    X[3, 1 : ITEMS - 2] = 2
    rows, config = frame_of(spark, X), {"similarity": "bm25", "use_weights": True, "max_user_items": 7}

    def saved(rows, name, **arguments):
        (tmp_path / name).mkdir()
        fit(spark, tmp_path, module, rows, **config, **arguments).save(tmp_path / name)
        return {file.name: file.read_bytes() for file in (tmp_path / name).iterdir()}

    once = saved(rows.repartition(1), "once")
    assert once == saved(rows.repartition(5).orderBy("weight"), "again")
    assert once != saved(rows, "seed", seed=2)
    if module is user_knn:
        indptr = load(tmp_path / "once").rows[0]
        counts = (X > 0).sum(1)
        assert counts.max() > 7 and np.diff(indptr).tolist() == np.minimum(counts, 7)[: len(indptr) - 1].tolist()


@pytest.mark.parametrize("module", [item_knn, user_knn])
def test_one_single_item(spark, tmp_path, module):
    rows = spark.createDataFrame([(1, 1, 1.0, None), (2, 1, 1.0, None)], TYPES)
    for similarity in ("cosine", "jaccard", "bm25"):
        model = fit(spark, tmp_path, module, rows, similarity=similarity)
        scores = model.score(UserBlock.of([1, 7, 8], [[1], [], [5]]))
        assert np.isfinite(scores[0, 1]) and scores[0, 0] == NO_OPINION and (scores[1:] == NO_OPINION).all()


@pytest.mark.parametrize("module", [item_knn, user_knn])
@pytest.mark.parametrize(
    ("row", "types", "says"),
    [
        (None, TYPES, "no interaction to train on"),
        ((1, 1, float("nan"), None), TYPES, "1 interactions have a weight that is negative or no number"),
        ((1, 1, None, None), TYPES, "negative or no number"),
        ((1, 1, -1.0, None), TYPES, "negative or no number"),
        ((-3, 1, 1.0, None), TYPES, "ids reach from -3"),
        ((2**31, 1, 1.0, None), TYPES.replace("int", "long"), "to 2147483648"),
    ],
)
def test_what_cannot_be_learnt_from_says_why(spark, tmp_path, module, row, types, says):
    rows = spark.createDataFrame([row] if row else [], types)
    with pytest.raises(DataError, match=says) as error:
        fit(spark, tmp_path, module, rows, use_weights=True)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("module", [item_knn, user_knn])
def test_weights_of_zero_and_strange_histories_do_no_harm(spark, tmp_path, module):
    rows = spark.createDataFrame([(1, 1, 0.0, None), (1, 2, 0.0, None), (2, 1, 1.0, None), (2, 2, 2.0, None)], TYPES)
    for similarity in ("cosine", "jaccard", "bm25"):
        model = fit(spark, tmp_path, module, rows, similarity=similarity, use_weights=True, b=1.0)
        histories = UserBlock.of([0, 0, 0], [[1]] * 3, [[np.nan], [-1.0], [0.0]])
        scores = model.score(histories)
        assert np.isfinite(scores[:, 1:]).all()


def test_a_model_is_made_anew_when_what_it_shares_changes():
    assert code_of("item_knn") == ("models/item_knn.py", "models/knn")
    assert code_of("user_knn") == ("models/user_knn.py", "models/knn")
    assert code_of("als") == ("models/als",)


def test_where_the_memory_is_found_does_not_show_in_the_answer():
    """See `test_als.py`: neighbours and scores are the same bytes at whatever addresses the arrays lie."""
    rng, X = np.random.default_rng(0), draw(1, 200)
    starts, users, weights = csr(X.T)
    indptr, items, theirs = csr(X)
    sizes, answers, junk = np.sqrt((X**2).sum(0)), set(), []

    def moved(array):
        buffer, offset = np.empty(array.nbytes + 256, np.uint8), int(rng.integers(0, 16)) * array.itemsize
        start = -buffer.ctypes.data % 64 + offset
        copy = buffer[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
        copy[:] = array
        return copy

    for _ in range(300):
        junk = [*junk[-50:], np.empty(rng.integers(1, 3_000), np.uint8)]
        ids, similarities, found = (
            np.zeros((ITEMS, 5), np.int32),
            np.zeros((ITEMS, 5), np.float32),
            np.zeros(ITEMS, int),
        )
        ids, similarities = moved(ids), moved(similarities)
        kernel.nearest(
            starts, moved(users), moved(weights), moved(sizes), np.arange(ITEMS), indptr, moved(items), moved(theirs),
            moved(sizes), False, 2.0, ids, similarities, found,
        )  # fmt: skip
        there = np.arange(5) < found[:, None]
        lists = np.concatenate([[0], np.cumsum(found)]), moved(ids[there]), moved(similarities[there])
        scores = moved(np.zeros((USERS, ITEMS), np.float32))
        kernel.spread(indptr, moved(items), moved(theirs), *lists, scores)
        answers.add((ids.tobytes(), similarities.tobytes(), scores.tobytes()))
    assert len(answers) == 1


def test_sums_of_similarities_are_divided_by():
    """Two neighbours with 0.2 and 0.6 become 0.25 and 0.75."""
    arrays = np.array([0, 0, 2, 2, 2]), np.array([2, 3], np.int32), np.array([0.2, 0.6], np.float32)
    model = ItemKnn(*arrays, np.array([False, True, True, True]), item_knn.Config(normalize=True))
    assert model.score(UserBlock.of([1], [[1]]))[0, 1:].tolist() == pytest.approx([0, 0.25, 0.75])
