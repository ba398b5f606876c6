"""UserBlock against the plain lists it is made from."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys_spark.models.base import UserBlock

ENTRY = st.tuples(st.integers(1, 9), st.integers(1, 8), st.sampled_from([1.0, 2.5, float("nan")]))
HISTORY = st.lists(ENTRY, max_size=6, unique_by=lambda entry: entry[0])
USERS = st.lists(st.tuples(st.integers(0, 99), HISTORY), max_size=6)


def block_of(users):
    columns = [[[entry[c] for entry in history] for _, history in users] for c in range(3)]
    return UserBlock.of([user for user, _ in users], *columns)


def histories_of(block):
    """The block read back entry by entry, NaN as None so that equality works."""
    lists = []
    for b in range(len(block)):
        h = range(block.offsets[b], block.offsets[b + 1])
        rating = {i: None if np.isnan(block.ratings[i]) else float(block.ratings[i]) for i in h}
        lists.append((int(block.user_id[b]), [(int(block.items[i]), float(block.weights[i]), rating[i]) for i in h]))
    return lists


def as_plain(users):
    return [(u, [(i, float(w), None if r != r else r) for i, w, r in history]) for u, history in users]


@given(USERS)
def test_of_keeps_every_entry_in_order(users):
    block = block_of(users)
    assert len(block) == len(users)
    assert histories_of(block) == as_plain(users)
    assert (block.user_id.dtype, block.items.dtype, block.offsets.dtype) == (np.int64,) * 3
    assert (block.weights.dtype, block.ratings.dtype) == (np.float32,) * 2


@given(USERS)
def test_rows_names_the_user_of_each_entry(users):
    assert block_of(users).rows().tolist() == [b for b, (_, history) in enumerate(users) for _ in history]


@given(USERS, st.data())
def test_take_is_a_slice_of_the_users(users, data):
    start = data.draw(st.integers(0, len(users)))
    stop = data.draw(st.integers(start, len(users)))
    taken = block_of(users).take(start, stop)
    assert histories_of(taken) == as_plain(users[start:stop])
    assert taken.offsets[0] == 0
    assert taken.rows().tolist() == block_of(users[start:stop]).rows().tolist()


@given(USERS, st.data())
def test_take_of_a_part_is_a_part(users, data):
    half = data.draw(st.integers(0, len(users)))
    part = block_of(users).take(half, len(users))
    assert histories_of(part.take(0, len(part))) == as_plain(users[half:])


@given(USERS, st.integers(0, 8))
def test_last_items_pads_on_the_left(users, length):
    expected = []
    for _, history in users:
        newest = [item for item, _, _ in history][-length:] if length else []
        expected.append([0] * (length - len(newest)) + newest)
    got = block_of(users).last_items(length)
    assert got.shape == (len(users), length)
    assert got.tolist() == expected


@given(USERS, st.integers(0, 4), st.data())
def test_weight_of_looks_into_each_users_own_history(users, n, data):
    asked = [data.draw(st.lists(st.integers(0, 12), min_size=n, max_size=n)) for _ in users]
    expected = [
        [dict((i, float(w)) for i, w, _ in history).get(item, 0.0) for item in row]
        for (_, history), row in zip(users, asked, strict=True)
    ]
    got = block_of(users).weight_of(np.array(asked, np.int64).reshape(len(users), n))
    assert got.shape == (len(users), n)
    assert got.tolist() == expected


def test_weights_default_to_one_and_ratings_to_none():
    block = UserBlock.of([3, 4], [[1, 2], [5]])
    assert block.weights.tolist() == [1, 1, 1]
    assert np.isnan(block.ratings).all()


@pytest.mark.parametrize("arrays", [True, False])
def test_of_takes_the_arrays_that_pandas_hands_over(arrays):
    items = [[3, 1], [], [7]]
    rows = [np.array(i, np.int32) for i in items] if arrays else items
    assert histories_of(UserBlock.of(np.array([5, 6, 7], np.int32), rows)) == [
        (5, [(3, 1.0, None), (1, 1.0, None)]), (6, []), (7, [(7, 1.0, None)]),
    ]  # fmt: skip
