"""The content model: its vectors and cosines against the definition, and catalogues that say little."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys_spark.errors import ConfigError, DataError
from recsys_spark.models import content, load
from recsys_spark.models.base import NO_OPINION, TrainingData, UserBlock

ITEMS = [
    (1, "red house", "a house by the sea", ["travel", "sea"]),
    (2, "Blue House", None, ["travel"]),
    (3, "the sea", "blue sea, deep sea", ["sea"]),
    (4, None, "deep blue", None),
    (5, "the travel house", None, []),
    (6, None, None, None),
    (9, "deep red sea", None, ["sea"]),
]
"""6 has no text; 9 has, and no training row."""
ROWS = [(1, i, 1.0) for i in range(1, 7)]
USERS = UserBlock.of([1, 2, 3, 4], [[1, 3], [2], [6], [1, 4, 5]], [[1, 3], [2], [1], [1, 2, 0.5]])


def frame(spark, items=ITEMS):
    return spark.createDataFrame(
        items, "item_id int, title string, description string, categories array<string>"
    )  # fmt: skip


def fit(spark, tmp_path, items=ITEMS, rows=ROWS, **config):
    interactions = spark.createDataFrame(rows, "user_id int, item_id int, weight float")
    data = TrainingData(interactions, 1, tmp_path, items=frame(spark, items))
    return content.fit(data, content.Config(**{"min_items": 1, **config}))


def unit(tokens):
    length = math.sqrt(sum(v * v for v in tokens.values()))
    return {t: v / length for t, v in tokens.items()} if length else {}


def tfidf(documents, least=1):
    """{item: {token: tf (1 + ln(n / n_t))}} at length 1, for {item: tokens}."""
    among = {}
    for tokens in documents.values():
        for token in set(tokens):
            among[token] = among.get(token, 0) + 1
    found = {}
    for item, tokens in documents.items():
        used = [t for t in tokens if among[t] >= least]
        found[item] = unit({t: used.count(t) * (1 + math.log(len(documents) / among[t])) for t in used})
    return found


def plain(items, weight, least=1):
    """Every item's vector, as a mapping of tokens, from the definition."""

    def words(title, text):
        return [w for w in f"{title or ''} {text or ''}".lower().replace(",", " ").split() if len(w) > 1]

    named = tfidf({i: words(t, d) for i, t, d, _ in items}, least)
    kinds = tfidf({i: c or [] for i, _, _, c in items})
    return {
        i: unit({("word", t): v for t, v in named[i].items()} | {("kind", t): weight * v for t, v in kinds[i].items()})
        for i, *_ in items
    }


def cosine(a, b):
    dot = sum(v * b.get(t, 0) for t, v in a.items())
    lengths = math.sqrt(sum(v * v for v in a.values()) * sum(v * v for v in b.values()))
    return dot / lengths


@pytest.mark.parametrize("cold", [False, True])
@pytest.mark.parametrize(("weight", "least", "weighted"), [(1.0, 1, True), (0.3, 1, False), (2.0, 2, True)])
def test_scores_are_cosines_with_the_mean_of_the_history(spark, tmp_path, weight, least, weighted, cold):
    model = fit(spark, tmp_path, category_weight=weight, min_items=least, weighted=weighted, cold_items=cold)
    vectors = plain([item for item in ITEMS if cold or item[0] != 9], weight, least)
    scores = model.score(USERS)
    assert scores.shape == (4, 10 if cold else 7)
    for b in range(len(USERS)):
        history = slice(USERS.offsets[b], USERS.offsets[b + 1])
        profile = {}
        for item, w in zip(USERS.items[history].tolist(), USERS.weights[history].tolist(), strict=True):
            for t, v in vectors[item].items():
                profile[t] = profile.get(t, 0) + v * (w if weighted else 1)
        for item in range(scores.shape[1]):
            if not profile or not vectors.get(item):
                assert scores[b, item] == NO_OPINION, (b, item)
            else:
                assert scores[b, item] == pytest.approx(cosine(profile, vectors[item]), abs=1e-5), (b, item)
    assert (scores[2] == NO_OPINION).all()  # all that this user had has no text
    assert np.nanmax(scores) <= 1 + 1e-6


def test_an_item_without_a_training_row_counts_only_if_told(spark, tmp_path):
    history = UserBlock.of([1, 1], [[1, 9], [9]])
    warm, cold = (fit(spark, tmp_path, cold_items=told) for told in (False, True))
    np.testing.assert_array_equal(warm.score(history)[0], warm.score(UserBlock.of([1], [[1]]))[0])
    assert (warm.score(history)[1] == NO_OPINION).all()
    assert cold.score(UserBlock.of([1], [[3]]))[0, 9] > cold.score(UserBlock.of([1], [[3]]))[0, 5]
    assert np.isfinite(cold.score(history)[1, 3])


def test_catalogue_order_and_partitions_do_not_show(spark, tmp_path):
    one = fit(spark, tmp_path)
    interactions = spark.createDataFrame(ROWS, "user_id int, item_id int, weight float")
    shuffled = frame(spark, ITEMS[::-1]).repartition(4)
    other = content.fit(TrainingData(interactions, 1, tmp_path, items=shuffled), content.Config(min_items=1))
    np.testing.assert_array_equal(one.vectors.toarray(), other.vectors.toarray())
    assert one.items.tolist() == other.items.tolist()


def test_saved_and_loaded(spark, tmp_path):
    model = fit(spark, tmp_path, weighted=False, cold_items=True)
    folder = tmp_path / "saved"
    folder.mkdir()
    model.save(folder)
    np.testing.assert_array_equal(load(folder).score(USERS), model.score(USERS))


def test_weights_of_nothing_and_a_single_item(spark, tmp_path):
    model = fit(spark, tmp_path)
    assert (model.score(UserBlock.of([1], [[1]], [[0.0]])) == NO_OPINION).all()
    alone = fit(spark, tmp_path, [ITEMS[0]], [(1, 1, 1.0)])
    np.testing.assert_allclose(alone.score(UserBlock.of([1], [[1]]))[0], [NO_OPINION, 1], rtol=1e-6)


def test_only_categories_or_only_words(spark, tmp_path):
    kinds = fit(spark, tmp_path, [(1, None, None, ["a"]), (2, None, None, ["b"]), (3, "", "", ["a", "", None])])
    assert kinds.score(UserBlock.of([1], [[1]]))[0, 1:4] == pytest.approx([1, 0, 1])
    words = fit(spark, tmp_path, [(1, "sea", None, None), (2, "house", None, None), (3, None, "Sea", [])])
    assert words.score(UserBlock.of([1], [[1]]))[0, 1:4] == pytest.approx([1, 0, 1])
    assert fit(spark, tmp_path, category_weight=0.0).score(UserBlock.of([1], [[2]]))[0, 4] > 0


@pytest.mark.parametrize("items", [[(1, None, None, None), (2, "", " ", [])], [(8, "only", "elsewhere", ["x"])], []])
def test_a_catalogue_that_says_nothing(spark, tmp_path, items):
    with pytest.raises(DataError, match=r"no word or category .* mend log\.items") as error:
        fit(spark, tmp_path, items)
    assert "\n" not in str(error.value)


def test_items_without_a_text_are_warned_of(spark, tmp_path, capsys):
    fit(spark, tmp_path)
    assert "1 of 6 items have no text or category" in capsys.readouterr().err


def test_a_catalogue_that_is_too_large(spark, tmp_path):
    with pytest.raises(ConfigError, match=r"content: 6 items, models\.content\.max_items is 5"):
        fit(spark, tmp_path, max_items=5)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 12))
def test_vectors_have_length_one_or_nothing(seed, n):
    rng = np.random.default_rng(seed)
    words = ["aa", "bb", "cc", "a", "", "dd ee"]
    rows = pd.DataFrame({
        "title": [None if rng.random() < 0.3 else str(rng.choice(words)) for _ in range(n)],
        "description": [None if rng.random() < 0.3 else str(rng.choice(words)) for _ in range(n)],
        "categories": [None if rng.random() < 0.3 else list(rng.choice(["x", "y", "z"], 2)) for _ in range(n)],
    })  # fmt: skip
    config = content.Config(min_items=1, category_weight=float(rng.uniform(0, 3)))
    vectors = content.vectorise(rows, config)
    lengths = np.linalg.norm(vectors.toarray(), axis=1)
    expected = plain([(i, *row) for i, row in enumerate(rows.itertuples(index=False))], config.category_weight)
    np.testing.assert_allclose(lengths, [1.0 if expected[i] else 0.0 for i in range(n)], atol=1e-5)
    similar = vectors.toarray() @ vectors.toarray().T
    for i in range(n):
        for j in range(n):
            assert similar[i, j] == pytest.approx(
                sum(v * expected[j].get(t, 0) for t, v in expected[i].items()), abs=1e-5
            )
