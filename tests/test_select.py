"""The kernel under every top-K against a sort in plain Python."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from recsys_spark.models.base import NO_OPINION, UserBlock
from recsys_spark.recommendation import select
from recsys_spark.recommendation.select import blocks, recommend_block, select_top_k

INF = float("inf")
TIED = st.sampled_from([-INF, -INF, float("nan"), -1.0, -0.0, 0.0, 0.5, 0.5, 1.0, INF])
SCORES = hnp.array_shapes(min_dims=2, max_dims=2, max_side=9).flatmap(
    lambda shape: hnp.arrays(np.float32, shape, elements=st.one_of(TIED, st.floats(-2, 2, width=32)))
)


def by_sorting(row, k, seen=()):
    """The k best items of one row: sort all of it by (-score, id)."""
    usable = ((i, s) for i, s in enumerate(row.tolist()) if i > 0 and i not in seen)
    ranked = sorted((-s, i) for i, s in usable if not math.isnan(s) and s > -INF)
    return [(i, -s) for s, i in ranked[:k]]


def nobody(scores):
    return UserBlock.of([0] * len(scores), [[]] * len(scores))


@settings(deadline=None)  # the first call compiles
@given(SCORES, st.integers(1, 12), st.data())
def test_equals_a_full_sort(scores, k, data):
    one = st.lists(st.integers(0, scores.shape[1] + 2), unique=True, max_size=4)
    histories = data.draw(st.lists(one, min_size=len(scores), max_size=len(scores)))
    before = scores.copy()
    items, best = select_top_k(scores, UserBlock.of(range(len(scores)), histories), k)
    assert items.shape == best.shape == (len(scores), k)
    for b, row in enumerate(scores):
        expected = by_sorting(row, k, histories[b])
        short = k - len(expected)
        assert items[b].tolist() == [i for i, _ in expected] + [0] * short
        assert best[b].tolist() == [s for _, s in expected] + [-INF] * short
    np.testing.assert_array_equal(scores, before)  # what was given stays as it was


@settings(deadline=None)
@given(st.integers(1, 200), st.integers(1, 40), st.integers(0, 10_000))
def test_many_ties_go_to_the_smaller_id(n_items, k, seed):
    scores = np.random.default_rng(seed).integers(0, 3, (5, n_items)).astype(np.float32)
    items, _ = select_top_k(scores, nobody(scores), k)
    for b, row in enumerate(scores):
        expected = [i for i, _ in by_sorting(row, k)]
        assert items[b].tolist() == expected + [0] * (k - len(expected))


def test_more_ranks_than_items():
    scores = np.array([[NO_OPINION, 1, 2]], np.float32)
    items, best = select_top_k(scores, nobody(scores), 5)
    assert items.tolist() == [[2, 1, 0, 0, 0]]
    assert best.tolist() == [[2, 1, -INF, -INF, -INF]]


def test_a_row_without_opinion_is_empty():
    scores = np.array([[-INF, -INF], [math.nan, math.nan]], np.float32)
    items, best = select_top_k(scores, nobody(scores), 2)
    assert not items.any()
    assert (best == NO_OPINION).all()


def test_no_users_and_no_ranks():
    for scores, k in ((np.empty((0, 4), np.float32), 3), (np.ones((2, 4), np.float32), 0)):
        items, best = select_top_k(scores, nobody(scores), k)
        assert items.shape == best.shape == (len(scores), k)


class Fixed:
    """The same scores for whomever."""

    def __init__(self, row):
        self.row = np.array(row, np.float32)

    dot_product = False

    def score(self, users):
        return np.tile(self.row, (len(users), 1))


def test_recommend_block_skips_what_was_seen():
    users = UserBlock.of([1, 2, 3], [[2], [], [1, 2, 3]])
    items, scores = recommend_block(Fixed([9, 1, 3, 3]), users, 2)
    assert items.tolist() == [[3, 1], [2, 3], [0, 0]]
    assert scores.tolist() == [[3, 1], [3, 3], [-INF, -INF]]


class Products:
    """Vectors of small whole numbers: many items of equal score; every third item cannot be ranked."""

    dot_product = True

    def __init__(self, n_users, n_items, seed):
        rng = np.random.default_rng(seed)
        self.users = rng.integers(-2, 3, (n_users, 3)).astype(np.float32)
        self.items = rng.integers(-2, 3, (n_items, 3)).astype(np.float32)

    def user_vectors(self, users):
        return self.users[users.user_id]

    def item_vectors(self):
        return self.items

    def item_mask(self):
        return np.arange(len(self.items)) % 3 > 0


@pytest.mark.parametrize(("n_users", "n_items", "k"), [(3, 50, 7), (70, 130, 40), (5, 200, 300), (1, 1, 2)])
def test_dot_products_in_tiles_equal_a_full_sort(monkeypatch, n_users, n_items, k):
    monkeypatch.setattr(select, "_TILE_USERS", 32)
    monkeypatch.setattr(select, "_TILE_ITEMS", 48)
    model, rng = Products(n_users, n_items, k), np.random.default_rng(k)
    histories = [rng.choice(n_items, rng.integers(0, n_items // 2 + 1), replace=False) for _ in range(n_users)]
    items, scores = recommend_block(model, UserBlock.of(range(n_users), histories), k)
    for u in range(n_users):
        row = model.users[u] @ model.items.T if model.users[u].any() else np.full(n_items, np.nan)
        row = np.where(model.item_mask(), row, np.nan)
        expected = by_sorting(row, k, set(histories[u].tolist()))
        assert items[u].tolist() == [i for i, _ in expected] + [0] * (k - len(expected))
        assert scores[u, : len(expected)].tolist() == [s for _, s in expected]


@given(st.integers(0, 9), st.integers(1, 11))
def test_blocks_cut_without_loss(n, size):
    users = UserBlock.of(range(n), [[u + 1] for u in range(n)])
    parts = list(blocks(users, size))
    assert all(0 < len(part) <= size for part in parts)
    assert [int(u) for part in parts for u in part.user_id] == list(range(n))
    assert [int(i) for part in parts for i in part.items] == [u + 1 for u in range(n)]
