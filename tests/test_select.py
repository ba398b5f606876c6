"""The numpy kernel under every top-K against a sort in plain Python."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from recsys_spark.models.base import NO_OPINION, UserBlock
from recsys_spark.recommendation.select import blocks, mask_seen, recommend_block, select_top_k

INF = float("inf")
TIED = st.sampled_from([-INF, -INF, float("nan"), -1.0, -0.0, 0.0, 0.5, 0.5, 1.0, INF])
SCORES = hnp.array_shapes(min_dims=2, max_dims=2, max_side=9).flatmap(
    lambda shape: hnp.arrays(np.float32, shape, elements=st.one_of(TIED, st.floats(-2, 2, width=32)))
)


def by_sorting(row, k):
    """The k best items of one row: sort all of it by (-score, id)."""
    ranked = sorted((-s, i) for i, s in enumerate(row.tolist()) if not math.isnan(s) and s > -INF)
    return [(i, -s) for s, i in ranked[:k]]


@given(SCORES, st.integers(1, 12))
def test_equals_a_full_sort(scores, k):
    before = scores.copy()
    items, best = select_top_k(scores, k)
    assert items.shape == best.shape == (len(scores), k)
    for b, row in enumerate(scores):
        expected = by_sorting(row, k)
        short = k - len(expected)
        assert items[b].tolist() == [i for i, _ in expected] + [0] * short
        assert best[b].tolist() == [s for _, s in expected] + [-INF] * short
    np.testing.assert_array_equal(scores, before)  # what was given stays as it was


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 10_000))
def test_many_ties_go_to_the_smaller_id(n_items, k, seed):
    scores = np.random.default_rng(seed).integers(0, 3, (5, n_items)).astype(np.float32)
    items, _ = select_top_k(scores, k)
    for b, row in enumerate(scores):
        assert items[b, : min(k, n_items)].tolist() == [i for i, _ in by_sorting(row, k)]


def test_more_ranks_than_items():
    items, best = select_top_k(np.array([[NO_OPINION, 1, 2]], np.float32), 5)
    assert items.tolist() == [[2, 1, 0, 0, 0]]
    assert best.tolist() == [[2, 1, -INF, -INF, -INF]]


def test_a_row_without_opinion_is_empty():
    items, best = select_top_k(np.array([[-INF, -INF], [math.nan, math.nan]], np.float32), 2)
    assert not items.any()
    assert (best == NO_OPINION).all()


def test_no_users():
    items, best = select_top_k(np.empty((0, 4), np.float32), 3)
    assert items.shape == best.shape == (0, 3)


@given(st.lists(st.lists(st.integers(0, 12), unique=True, max_size=8), min_size=1, max_size=5), st.integers(1, 9))
def test_mask_takes_out_the_history_and_the_unknown_item_only(histories, n_items):
    users = UserBlock.of(range(1, len(histories) + 1), histories)
    scores = np.arange(len(histories) * n_items, dtype=np.float32).reshape(-1, n_items)
    masked = mask_seen(scores.copy(), users)
    for b, history in enumerate(histories):
        for i in range(n_items):
            expected = NO_OPINION if i == 0 or i in history else scores[b, i]
            assert masked[b, i] == expected


class Fixed:
    """The same scores for whomever."""

    def __init__(self, row):
        self.row = np.array(row, np.float32)

    def score(self, users):
        return np.tile(self.row, (len(users), 1))


def test_recommend_block_skips_what_was_seen():
    users = UserBlock.of([1, 2, 3], [[2], [], [1, 2, 3]])
    items, scores = recommend_block(Fixed([9, 1, 3, 3]), users, 2)
    assert items.tolist() == [[3, 1], [2, 3], [0, 0]]
    assert scores.tolist() == [[3, 1], [3, 3], [-INF, -INF]]


@given(st.integers(0, 9), st.integers(1, 11))
def test_blocks_cut_without_loss(n, size):
    users = UserBlock.of(range(n), [[u + 1] for u in range(n)])
    parts = list(blocks(users, size))
    assert all(0 < len(part) <= size for part in parts)
    assert [int(u) for part in parts for u in part.user_id] == list(range(n))
    assert [int(i) for part in parts for i in part.items] == [u + 1 for u in range(n)]
