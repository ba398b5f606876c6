"""The index of item vectors against the scan: the recall it claims is the recall it has."""

from __future__ import annotations

import numpy as np
import pytest

from recsys_spark.models.als import AlsModel
from recsys_spark.models.als import Config as AlsConfig
from recsys_spark.models.base import UserBlock
from recsys_spark.models.popularity import Popularity
from recsys_spark.recommendation.index import build, load, recall
from recsys_spark.recommendation.select import recommend_block
from recsys_spark.recommendation.topk import top_k

K, N_ITEMS = 10, 20_000


def drawn_model(groups=200, rank=16, seed=1):
    """Factors in groups, as those of real items are; every seventh item was not trained."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(groups, rank))
    factors = (centres[rng.integers(groups, size=N_ITEMS)] + rng.normal(size=(N_ITEMS, rank)) / 4).astype(np.float32)
    known = np.arange(N_ITEMS) % 7 > 0
    return AlsModel(factors * known[:, None], known, AlsConfig(rank=rank))


def drawn_users(n, most, seed=2):
    rng = np.random.default_rng(seed)
    trained = np.flatnonzero(np.arange(N_ITEMS) % 7)
    histories = [rng.choice(trained, rng.integers(1, most), replace=False) for _ in range(n)]
    return UserBlock.of(np.arange(1, n + 1), histories)


@pytest.fixture(scope="module")
def indexed(tmp_path_factory):
    model, path = drawn_model(), tmp_path_factory.mktemp("index") / "items.ivf"
    measured = build(model, drawn_users(300, 30), K, 0.9, path)
    assert measured is not None
    return model, path, measured


def test_finds_what_it_says_on_users_that_it_was_not_measured_on(indexed):
    model, path, measured = indexed
    assert 0.9 <= measured.recall <= 1 and measured.probes < measured.lists and measured.users == 300
    others = drawn_users(400, 30, seed=9)
    truth, (found, scores) = recommend_block(model, others, K), load(path, model).recommend_block(others, K)
    assert abs(recall(truth[0], found) - measured.recall) < 0.03
    same = truth[0] == found
    np.testing.assert_allclose(scores[same], truth[1][same], rtol=1e-4, atol=1e-6)


def test_recommends_nothing_seen_unknown_or_twice(indexed):
    model, path, _ = indexed
    users = drawn_users(200, 30, seed=5)
    items, scores = load(path, model).recommend_block(users, K)
    for b in range(len(users)):
        mine = set(users.items[users.offsets[b] : users.offsets[b + 1]].tolist())
        assert len(set(items[b].tolist())) == K and not mine & set(items[b].tolist()) and model.known[items[b]].all()
        ranked = [(-s, i) for i, s in zip(items[b], scores[b], strict=True)]
        assert ranked == sorted(ranked)


def test_who_has_had_all_that_the_index_finds_is_scanned_for(indexed):
    model, path, _ = indexed
    first = UserBlock.of([1], [[5]])
    best = recommend_block(model, first, 3_000)[0][0]
    full = UserBlock.of([1, 0], [[5, *best], []])
    index = load(path, model)
    # the vector of the short history with the long one's items seen
    model.user_vectors, keep = (lambda users: np.repeat(keep(first), len(users), axis=0)), model.user_vectors
    try:
        items, _ = index.recommend_block(full.take(0, 1), K)
        truth, _ = recommend_block(model, full.take(0, 1), K)
    finally:
        del model.user_vectors
    assert items.tolist() == truth.tolist()
    assert index.recommend_block(full, K)[0][1].tolist() == [0] * K  # nobody knows anything of the second


def test_where_no_few_lists_suffice_there_is_no_index(tmp_path):
    flat = drawn_model(groups=N_ITEMS, rank=64, seed=3)  # no groups at all
    assert build(flat, drawn_users(50, 5), K, 1.0, tmp_path / "items.ivf") is None
    assert not (tmp_path / "items.ivf").exists()


def test_lists_in_spark_are_those_of_the_index(spark, indexed, tmp_path):
    model, path, _ = indexed
    users = drawn_users(60, 10, seed=7)
    (tmp_path / "model").mkdir()
    model.save(tmp_path / "model")
    Popularity(np.ones(N_ITEMS, np.float32), np.full(N_ITEMS, np.nan, np.float32)).save(tmp_path)
    histories = [users.items[users.offsets[b] : users.offsets[b + 1]].tolist() for b in range(60)]
    rows = [(u + 1, h, [1.0] * len(h), [float("nan")] * len(h)) for u, h in enumerate([*histories, []])]
    frame = spark.createDataFrame(rows, "user_id int, items array<int>, weights array<float>, ratings array<float>")
    frame.repartition(3).write.parquet(str(tmp_path / "histories"))
    lists = top_k(
        spark, tmp_path / "histories", tmp_path / "model", K, 16, tmp_path / "lists", index=path, fallback=tmp_path
    ).collect()
    found = {r.user_id: (r.model, r["items"]) for r in lists}
    want = load(path, model).recommend_block(users, K)[0]
    assert found == {u + 1: ("als", want[u].tolist()) for u in range(60)} | {61: ("popularity", list(range(1, K + 1)))}
