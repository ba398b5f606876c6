"""The hybrid: its blends and weights against a user-by-user oracle, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys_spark.errors import DataError
from recsys_spark.evaluation.metrics import evaluate_lists
from recsys_spark.models import hybrid, load
from recsys_spark.models.base import NO_OPINION, TrainingData, UserBlock
from recsys_spark.models.ease import Config, Ease
from recsys_spark.models.popularity import Popularity
from recsys_spark.recommendation.select import recommend_block

N = 30


class Fixed:
    """A part that says what it was told for each user."""

    dot_product = rates = False

    def __init__(self, scores):
        self.scores = np.asarray(scores, np.float32)
        self.n_items = self.scores.shape[1]

    def score(self, users):
        return self.scores[users.user_id]


def draw(rng, users, n_items=N, step=0.0):
    """Scores with gaps, in steps if there are to be ties, and a user of whom nothing is known."""
    scores = rng.normal(3, 2, (users, n_items))
    if step:
        scores = np.round(scores / step) * step
    scores[rng.random(scores.shape) < 0.1] = NO_OPINION
    scores[rng.random(scores.shape) < 0.02] = np.nan
    scores[:, 0] = NO_OPINION
    scores[users - 1] = NO_OPINION
    return scores


def block(rng, users):
    histories = [rng.choice(np.arange(1, N + 5), rng.integers(0, 10), replace=False) for _ in range(users)]
    return UserBlock.of(range(users), histories)


def plain(parts, users, weights, method):
    """The module's formulas, one user and item at a time."""
    n_items = max(part.n_items for part in parts)
    out = np.full((len(users), n_items), -np.inf)
    for b in range(len(users)):
        seen = set(users.items[users.offsets[b] : users.offsets[b + 1]].tolist()) | {0}
        for part, weight in zip(parts, weights, strict=True):
            s = {i: float(v) for i, v in enumerate(part.score(users)[b]) if np.isfinite(v)}
            fresh = [v for i, v in s.items() if i not in seen]
            for i in range(n_items):
                value = 0.0
                if i in s and method == "zscore" and fresh and np.std(fresh) > 1e-6 * abs(np.mean(fresh)):
                    value = (s[i] - np.mean(fresh)) / np.std(fresh)
                elif i in s and method == "rank":
                    value = 1 / (60 + 1 + sum(v > s[i] or (v == s[i] and j < i) for j, v in s.items() if j not in seen))
                if i in s or np.isfinite(out[b, i]):
                    out[b, i] = (out[b, i] if np.isfinite(out[b, i]) else 0.0) + weight * value
        # a part that cannot rank an item adds 0, whichever part comes first
    return out


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from(["zscore", "rank"]), st.sampled_from([0.0, 1.0]))
def test_scores_are_the_formula(seed, method, step):
    rng = np.random.default_rng(seed)
    users = block(rng, 6)
    parts = {"a": Fixed(draw(rng, 6, N, step)), "b": Fixed(draw(rng, 6, N - 7, step)), "c": Fixed(draw(rng, 6))}
    weights = dict(zip(parts, rng.dirichlet(np.ones(3)), strict=True))
    scores = hybrid.Hybrid(parts, weights, method).score(users)
    expected = plain([*parts.values()], users, [*weights.values()], method)
    assert scores.dtype == np.float32
    np.testing.assert_array_equal(scores == NO_OPINION, ~np.isfinite(expected))
    np.testing.assert_allclose(scores, expected, rtol=1e-4, atol=1e-5)
    assert (scores[5] == NO_OPINION).all() and (scores[:, 0] == NO_OPINION).all()


@pytest.mark.parametrize("method", ["zscore", "rank"])
def test_a_part_alone_keeps_its_own_scores(method):
    rng = np.random.default_rng(1)
    users, a, b = block(rng, 6), Fixed(draw(rng, 6)), Fixed(draw(rng, 6))
    alone = hybrid.Hybrid({"a": a, "b": b}, {"a": 0.0, "b": 1.0}, method)
    np.testing.assert_array_equal(alone.score(users), np.where(np.isfinite(b.scores), b.scores, NO_OPINION))
    assert list(alone.parts) == ["b"]
    nothing = np.zeros_like(b.scores)
    assert hybrid.blend([nothing, nothing], [a.scores, b.scores], np.array([0.0, 1.0])) is b.scores


def test_scores_that_are_all_alike_say_nothing():
    users = UserBlock.of([0], [[1]])
    nearly = np.nextafter(np.float32(0.3), np.float32(1))
    same, other = Fixed([[-np.inf, 0.1, nearly, 0.3, 0.3]]), Fixed([[-np.inf, 1, 2, 3, 4]])
    scores = hybrid.Hybrid({"a": same, "b": other}, {"a": 0.9, "b": 0.1}, "zscore").score(users)
    assert np.argsort(-scores[0])[:3].tolist() == [4, 3, 2]


@pytest.mark.parametrize("step", [0.0, 1.0])
def test_figures_of_the_search_are_the_metrics_of_what_would_be_served(step):
    """NDCG@10 of every candidate equals `evaluation.metrics` on the hybrid's own lists, ties and gaps included."""
    rng = np.random.default_rng(3)
    n = 40
    users = block(rng, n)
    parts = [Fixed(draw(rng, n, N, step)), Fixed(draw(rng, n, N - 4, step))]
    parts[0].scores[:, 0] = 99  # nothing may recommend the unknown item, whatever a part says of it
    truth = [np.unique(rng.integers(0, N + 3, rng.integers(1, 40))) for _ in range(n)]
    truth = [np.setdiff1d(t, users.take(b, b + 1).items) for b, t in enumerate(truth)]
    candidates = np.array([[0.5, 0.5], [1, 0], [0, 1], [0.2, 0.8]])
    found = hybrid.try_block(parts, users, truth, ("zscore", "rank"), candidates)
    for m, method in enumerate(("zscore", "rank")):
        for c, weights in enumerate(candidates):
            model = hybrid.Hybrid(dict(zip("ab", parts, strict=True)), dict(zip("ab", weights, strict=True)), method)
            lists, _ = recommend_block(model, users, 10)
            np.testing.assert_allclose(found[:, m, c], evaluate_lists(lists, truth, [10])["ndcg@10"], rtol=1e-12)


# --- the search ---


def ease_of(weights, items=N - 1):
    return Ease(weights.astype(np.float32), np.arange(1, items + 1), items + 1, Config())


def saved(model, path):
    path.mkdir()
    model.save(path)
    return path


def histories(spark, rows):
    rows = [("train", u, h, [1.0] * len(h), [float("nan")] * len(h), t) for u, h, t in rows]
    rows.append(("valid", 1, [1], [1.0], [1.0], [2]))  # has seen the validation part: not to be looked at
    return spark.createDataFrame(
        rows,
        "known string, user_id int, items array<int>, weights array<float>, ratings array<float>, held_out array<int>",
    )


def search(spark, tmp_path, rows, parts, log=None, seed=1, **config):
    made = {
        name: path if isinstance(path, Path) else saved(path, tmp_path / name) for name, path in parts.items()
    }  # fmt: skip
    frame = spark.createDataFrame([(1, 1, 1.0)], "user_id int, item_id int, weight float")
    logs = {} if log is None else log
    data = TrainingData(
        frame, seed, tmp_path, histories=histories(spark, rows), models=made, log=lambda step, f: logs.update(f)
    )
    return hybrid.fit(data, hybrid.Config(**{"parts": list(parts), **config}))


def noisy_parts(seed=5, users=150):
    """Two item matrices, each the truth under noise of its own: together they know more than each."""
    rng = np.random.default_rng(seed)
    n = N - 1
    truth = rng.normal(size=(n, n)) ** 3
    rows = []
    for u in range(1, users + 1):
        h = rng.choice(np.arange(1, N), 6, replace=False)
        score = truth[h - 1].sum(axis=0)
        score[h - 1] = -np.inf
        rows.append((u, sorted(h.tolist()), sorted((np.argsort(-score)[:2] + 1).tolist())))
    return rows, ease_of(truth + rng.normal(0, 1.5, (n, n))), ease_of(truth + rng.normal(0, 1.5, (n, n)))


def test_the_blend_beats_its_parts_on_validation_and_is_found_again(spark, tmp_path, monkeypatch):
    rows, a, b = noisy_parts()
    log = {}
    model = search(spark, tmp_path, rows, {"als": a, "ease": b}, log, candidates=16)
    assert log["valid_ndcg_10"] > max(log["valid_ndcg_10_als"], log["valid_ndcg_10_ease"]) + 0.02
    assert sum(model.weights.values()) == pytest.approx(1)
    # the figures are those of what would be served
    users = UserBlock.of([r[0] for r in rows], [r[1] for r in rows])
    for found, of in ((model, "valid_ndcg_10"), (a, "valid_ndcg_10_als"), (b, "valid_ndcg_10_ease")):
        lists, _ = recommend_block(found, users, 10)
        assert log[of] == pytest.approx(np.mean(evaluate_lists(lists, [r[2] for r in rows], [10])["ndcg@10"]))
    parts = {"als": tmp_path / "als", "ease": tmp_path / "ease"}
    again = search(spark, tmp_path, rows[::-1], parts, candidates=16)
    assert (again.weights, again.method) == (model.weights, model.method)
    monkeypatch.setattr(hybrid, "_METHODS", ("rank", "zscore"))
    assert search(spark, tmp_path, rows, parts, candidates=16).method == model.method == "zscore"
    for method in ("zscore", "rank"):
        only: dict = {}
        assert search(spark, tmp_path, rows, parts, only, candidates=16, method=method).method in (method,)
        assert only["valid_ndcg_10"] <= log["valid_ndcg_10"]
    assert search(spark, tmp_path, rows, parts, candidates=16, seed=2).weights != model.weights


def test_a_useless_part_is_left_out(spark, tmp_path):
    """Never below the best part: the other one here puts the truth last for everyone."""
    rows, _, _ = noisy_parts()
    truth = np.zeros((N - 1, N - 1))
    rows = [(u, [u % 10 + 1], [u % 10 + 11]) for u, _, _ in rows]
    truth[np.arange(10), np.arange(10) + 10] = 1
    log = {}
    model = search(spark, tmp_path, rows, {"als": ease_of(-truth), "ease": ease_of(truth)}, log, candidates=2)
    assert log["valid_ndcg_10"] >= log["valid_ndcg_10_ease"] == 1.0
    assert model.weights.get("als", 0) < 0.5


def test_saved_with_its_parts(spark, tmp_path):
    rows, a, b = noisy_parts()
    model = search(spark, tmp_path, rows, {"als": a, "ease": b}, candidates=4)
    folder = saved(model, tmp_path / "hybrid")
    assert sorted(p.name for p in (folder / "parts").iterdir()) == ["als", "ease"]
    for name in ("als", "ease"):
        (tmp_path / name / "weights.npy").unlink()  # the parts it was made of are not needed any more
    users = UserBlock.of([1, 2, 3], [[1, 2], [], [4]])
    again = load(folder)
    np.testing.assert_array_equal(again.score(users), model.score(users))
    assert (again.method, again.weights) == (model.method, model.weights)


def test_popularity_as_a_part_speaks_for_whom_the_other_does_not_know(spark, tmp_path):
    _, a, _ = noisy_parts(users=20)
    counts = np.arange(N + 2, dtype=np.float32)
    popular = Popularity(counts, np.full(N + 2, np.nan, np.float32))
    model = hybrid.Hybrid({"popularity": popular, "ease": a}, {"popularity": 0.3, "ease": 0.7}, "zscore")
    lists, _ = recommend_block(model, UserBlock.of([1], [[]]), 3)
    assert lists.tolist() == [[N + 1, N, N - 1]]
    assert model.n_items == N + 2


def test_at_most_so_many_users_are_tried(spark, tmp_path, monkeypatch):
    rows, a, b = noisy_parts()
    tried = []
    original = hybrid.np.concatenate
    monkeypatch.setattr(
        hybrid.np, "concatenate", lambda found, *rest, **more: tried.append(original(found, *rest, **more)) or tried[-1]
    )
    search(spark, tmp_path, rows, {"als": a, "ease": b}, candidates=2, valid_users=70)
    assert (70, 2, 5) in [t.shape for t in tried]


@pytest.mark.parametrize("rows", [[], [(1, [], [3]), (2, [1, 2], [])]])
def test_nobody_to_learn_from(spark, tmp_path, rows):
    _, a, b = noisy_parts(users=1)
    with pytest.raises(DataError, match="no user has both") as error:
        search(spark, tmp_path, rows, {"als": a, "ease": b})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("parts", [["als", "hybrid"], ["als", "als"], ["als"], ["als", "neumf"], ["als", "oracle"]])
def test_parts_that_cannot_be(parts):
    with pytest.raises(ValueError, match="parts"):
        hybrid.Config(parts=parts)


def test_it_needs_the_histories_and_its_parts():
    assert hybrid.needs(hybrid.Config(parts=["ease", "content"])) == ["histories", "models/ease", "models/content"]
