"""evaluate() on a handful of users against metrics written out in plain Python."""

from __future__ import annotations

import datetime as dt
import math

import numpy as np
import pytest
from pyspark.sql import functions as F
from scipy.sparse import csr_matrix

from recsys_spark.config import EvaluationConfig
from recsys_spark.evaluation.bootstrap import bootstrap_sums, paired_difference
from recsys_spark.evaluation.evaluate import Candidate, compare, evaluate, from_json, summarise, to_json
from recsys_spark.evaluation.item_facts import ItemFacts
from recsys_spark.evaluation.metrics.beyond_accuracy import gini, popularity_lift, shannon_entropy
from recsys_spark.evaluation.results import slice_results
from recsys_spark.evaluation.slices import ITEM_CLASSES, ItemCounts, item_classes, user_labels
from recsys_spark.models.als import AlsModel
from recsys_spark.models.als import Config as AlsConfig
from recsys_spark.models.base import UserBlock
from recsys_spark.models.popularity import Popularity
from recsys_spark.schemas import HISTORIES

N_ITEMS, CATALOGUE, SEED = 13, 12, 3
CONFIG = EvaluationConfig(ks=[2, 5], confidence=0.9, replicates=200)
NEWER = N_ITEMS + 5  # an item that no model has seen
NAN = float("nan")
POPULARITY = [0, 12, 10, 6, 0, 3, 2, 1, 1, 1, 1, 1, 0] + [0] * 10
"""Users of each item in the training part."""
TRAINED = 25
AGES = [NAN, 0.5, 30.0, 7.0, NAN, 7.5, 1.0, 2.0, 90.0, 3.0, 8.0, 6.0, 12.0]
KINDS = {1: "a", 2: "ab", 3: "b", 5: "bc", 6: "c", 7: "abc", 8: "a", 9: "d", 11: "cd", 12: "ad"}
"""Categories of each item; the others have none."""


def make_rows():
    """(known, user, items, ratings, held_out, held_out_ratings); some users have no history or no truth."""
    rng = np.random.default_rng(8)
    rows = []
    for known in ("train", "valid", "test"):
        for u in range(1, 31):
            items = rng.permutation(np.arange(1, N_ITEMS)).tolist()
            n = int(rng.integers(1, 6))
            history, held = items[:n], sorted(items[n : n + int(rng.integers(1, 4))])
            if u % 7 == 0:
                history = []
            if u % 5 == 0 or known == "test":
                held = []
            if u % 6 == 0 and held:
                held.append(NEWER)
            rate = rng.integers(1, 6, 20).astype(float)
            rate[rng.random(20) < 0.3] = NAN
            rows.append((known, u, history, rate[: len(history)].tolist(), held, rate[10 : 10 + len(held)].tolist()))
    return rows


def make_models():
    rng = np.random.default_rng(9)
    factors = rng.normal(size=(N_ITEMS, 3)).astype(np.float32)
    known = (np.arange(N_ITEMS) > 0) & (np.arange(N_ITEMS) != 4)
    counts = rng.permutation(N_ITEMS).astype(np.float32)
    counts[0] = 0
    return {
        "popularity": Popularity(counts, rng.uniform(1, 5, N_ITEMS).astype(np.float32)),
        "als": AlsModel(factors * known[:, None], known, AlsConfig(rank=3, implicit=False, regularization=0.1)),
    }


@pytest.fixture(scope="module")
def measured(spark, tmp_path_factory):
    """(results, the user_metrics rows) of both models."""
    folder = tmp_path_factory.mktemp("evaluate")
    candidates = []
    for name, model in make_models().items():
        (folder / name).mkdir()
        model.save(folder / name)
        candidates.append(Candidate(name, "v1", folder / name))
    rows = [(k, u, i, [1.0] * len(i), r, h, hr, None) for k, u, i, r, h, hr in make_rows()]
    frame = spark.createDataFrame(rows, HISTORIES.schema).repartition(3)
    frame.write.partitionBy("known").parquet(str(folder / "histories"))
    out = folder / "out"
    device = [(u, [f"device={'phone' if u % 2 else 'tablet'}"]) for u in range(1, 21)]
    labels = spark.createDataFrame(device, "user_id int, labels array<string>")
    counts = ItemCounts(np.array(POPULARITY[:N_ITEMS]), TRAINED)
    results, costs = evaluate(
        spark, candidates, folder / "histories", CATALOGUE, out, CONFIG, 4, SEED, labels, counts, facts=facts()
    )
    for name in make_models():
        assert costs[name].bytes == sum(f.stat().st_size for f in (folder / name).iterdir())
        assert 0 < costs[name].score_ms < 10_000
    assert [p.name for p in out.iterdir()] == ["data"]  # nothing of the histories is left beside the figures
    return results, spark.read.parquet(str(out / "data")).cache()


def plain_list(model, items, ratings, k):
    scores = model.score(UserBlock.of([1], [items], None, [ratings]))[0].tolist()
    ranked = sorted((-s, i) for i, s in enumerate(scores) if i and i not in items and s > -math.inf)
    return [i for _, i in ranked[:k]]


def facts():
    kinds = [[name in KINDS.get(i, "") for name in "abcd"] for i in range(N_ITEMS)]
    return ItemFacts(np.array(AGES, np.float32), csr_matrix(np.array(kinds, np.float32)), tuple("abcd"))


def plain_likeness(i, j):
    """The cosine of two items' categories."""
    a, b = set(KINDS.get(i, "")), set(KINDS.get(j, ""))
    return len(a & b) / math.sqrt(len(a) * len(b)) if a and b else 0.0


def plain_beyond(ranked, truth, history, k):
    counts = sorted({n for n in POPULARITY[:N_ITEMS] if n}, reverse=True)
    rank = {i: counts.index(n) + 1 if n else N_ITEMS for i, n in enumerate(POPULARITY[:N_ITEMS])}
    top = ranked[:k]
    ahead = [max(0, rank[i] - r) / (N_ITEMS - 1) for r, i in enumerate(top, start=1) if i in truth]
    pairs = [(i, j) for n, i in enumerate(top) for j in top[n + 1 :]]
    return {
        f"serendipity@{k}": sum(ahead) / k,
        f"freshness@{k}": sum(AGES[i] <= 7 for i in top) / len(top),
        f"repeat_rate@{k}": sum(i in history for i in top) / len(top),
        f"diversity@{k}": sum(1 - plain_likeness(i, j) for i, j in pairs) / len(pairs),
        "popularity_of_history": sum(POPULARITY[i] for i in history) / len(history),
    }


def plain_metrics(ranked, truth, k):
    hits = [i in truth for i in ranked[:k]]
    dcg = sum(hit / math.log2(r + 2) for r, hit in enumerate(hits))
    ideal = sum(1 / math.log2(r + 2) for r in range(min(k, len(truth))))
    return {
        f"recall@{k}": sum(hits) / len(truth),
        f"capped_recall@{k}": sum(hits) / min(k, len(truth)),
        f"f1@{k}": 2 * sum(hits) / (k + len(truth)),
        f"precision@{k}": sum(hits) / k,
        f"ndcg@{k}": dcg / ideal,
        f"mrr@{k}": max((hit / (r + 1) for r, hit in enumerate(hits)), default=0.0),
        f"hit_rate@{k}": float(any(hits)),
        f"map@{k}": sum(hit * sum(hits[: r + 1]) / (r + 1) for r, hit in enumerate(hits)) / min(k, len(truth)),
        f"novelty@{k}": sum(math.log2(TRAINED / max(1, POPULARITY[i])) for i in ranked[:k]) / len(ranked[:k]),
        f"popularity@{k}": sum(POPULARITY[i] for i in ranked[:k]) / len(ranked[:k]),
    }


def plain_ndcg(ranked, truth):
    """At 10, None without a truth."""
    dcg = sum(1 / math.log2(r + 2) for r, item in enumerate(ranked[:10]) if item in truth)
    return dcg / sum(1 / math.log2(r + 2) for r in range(min(10, len(truth)))) if truth else None


def plain_slices(known, u, history, ranked, held):
    """NDCG@10 by slice; the head is items 1 and 2, which have 22 of 38 training rows, the newer ones are cold."""
    slices = {f"activity={'1-4' if len(history) < 5 else '5-19'}": plain_ndcg(ranked, held)}
    if u <= 20:
        slices["device=phone" if u % 2 else "device=tablet"] = plain_ndcg(ranked, held)
    head = {1, 2}
    of = {"head": head, "tail": {i for i in range(1, N_ITEMS) if POPULARITY[i]} - head}
    of["cold"] = set(range(1, NEWER + 1)) - of["head"] - of["tail"]
    for name, items in of.items():
        value = plain_ndcg(ranked, [i for i in held if i in items])
        if value is not None:
            slices[f"item={name}"] = value
    return slices


def plain(name, split):
    """User -> (list, metrics, rating errors, slices), of who has both a history and a truth."""
    model, known = make_models()[name], {"valid": "train", "test": "valid"}[split]
    found = {}
    for at, u, items, ratings, held, held_ratings in make_rows():
        if at != known or not items or not held:
            continue
        ranked = plain_list(model, items, ratings, max(CONFIG.ks))
        if not ranked:  # whom a model does not know is served by popularity, and measured so
            ranked = plain_list(make_models()["popularity"], items, ratings, max(CONFIG.ks))
        predicted = model.rate(UserBlock.of([1], [items], None, [ratings]))[0]
        errors = [predicted[i] - r for i, r in zip(held, held_ratings, strict=True) if i < N_ITEMS and r == r]
        metrics = {}
        for k in CONFIG.ks:
            metrics |= plain_metrics(ranked, held, k) | plain_beyond(ranked, held, items, k)
        slices = plain_slices(known, u, items, ranked, held)
        found[u] = ranked, metrics, [e for e in errors if math.isfinite(e)], slices
    return found


EVERY = pytest.mark.parametrize(("name", "split"), [(n, s) for n in ("popularity", "als") for s in ("valid", "test")])


@EVERY
def test_per_user_rows_equal_plain_python(measured, name, split):
    rows = {r.user_id: r for r in measured[1].where(f"model = '{name}' and split = '{split}'").collect()}
    expected = plain(name, split)
    assert rows.keys() == expected.keys()  # users without history or truth are left out
    assert not {7, 14, 21, 28, 5, 10} & rows.keys()
    for u, (ranked, metrics, errors, slices) in expected.items():
        assert rows[u]["items"] == ranked
        assert rows[u].metrics == pytest.approx(metrics)
        assert rows[u].slices == pytest.approx(slices)
        assert rows[u].rated == len(errors)
        assert rows[u].squared_error == pytest.approx(sum(e * e for e in errors), rel=1e-5)


@EVERY
def test_means_coverage_and_rating_errors(measured, name, split):
    got, expected = measured[0][name][split], plain(name, split)
    for metric in {*next(iter(expected.values()))[1]} - {"popularity_of_history"}:
        assert got[metric].mean == pytest.approx(np.mean([m[metric] for _, m, _, _ in expected.values()]))
        assert got[metric].n == len(expected)
    for k in CONFIG.ks:
        distinct = {i for ranked, *_ in expected.values() for i in ranked[:k]}
        assert got[f"coverage@{k}"].mean == pytest.approx(len(distinct) / CATALOGUE)
    errors = np.array([e for _, _, es, _ in expected.values() for e in es])
    assert len(errors) > 5
    assert got["rmse"].mean == pytest.approx(np.sqrt(np.mean(errors**2)), rel=1e-5)
    assert got["mae"].mean == pytest.approx(np.mean(np.abs(errors)), rel=1e-5)
    assert got["rmse"].n == len(errors)
    for error in ("rmse", "mae"):
        assert got[error].low < got[error].mean < got[error].high
    counts = [sum(i in ranked[:5] for ranked, *_ in expected.values()) for i in range(1, CATALOGUE + 1)]
    assert got["gini@5"].mean == pytest.approx(gini(counts))
    assert got["entropy@5"].mean == pytest.approx(shannon_entropy(counts))
    assert got["coverage@5"].n == len(expected)
    of = [[m[name] for _, m, _, _ in expected.values()] for name in ("popularity@5", "popularity_of_history")]
    lift = got["popularity_lift@5"]
    assert lift.mean == pytest.approx(popularity_lift(*of)) and lift.low < lift.mean < lift.high
    assert "popularity_of_history" not in got and lift.n == len(expected)


@EVERY
def test_slices_are_means_over_their_users(measured, name, split):
    sliced, expected = slice_results(measured[1], CONFIG, SEED)[name][split], plain(name, split)
    names = {s for *_, slices in expected.values() for s in slices}
    assert names >= {"activity=1-4", "activity=5-19", "device=phone", "item=head", "item=tail", "item=cold"}
    assert sliced.keys() == names
    for s in names:
        values = {u: slices[s] for u, (*_, slices) in expected.items() if s in slices}
        interval = bootstrap_sums(list(values.values()), list(values), CONFIG.replicates, SEED).interval(0.9)
        assert (sliced[s].mean, sliced[s].n) == (pytest.approx(np.mean(list(values.values()))), len(values))
        assert (sliced[s].low, sliced[s].high) == pytest.approx((interval.low, interval.high))


@EVERY
def test_intervals_are_the_numpy_bootstrap(measured, name, split):
    expected = plain(name, split)
    for metric in ("ndcg@5", "recall@2"):
        values = [m[metric] for _, m, _, _ in expected.values()]
        interval = bootstrap_sums(values, list(expected), CONFIG.replicates, SEED).interval(CONFIG.confidence)
        got = measured[0][name][split][metric]
        assert (got.low, got.high) == pytest.approx((interval.low, interval.high))
        assert got.low < got.mean < got.high


def flat(results):
    """Figures in one mapping; NaN as None so that equality works."""
    return {
        (model, split, metric, end): None if value != value else pytest.approx(value)
        for model, splits in to_json(results).items() for split, metrics in splits.items()
        for metric, interval in metrics.items() for end, value in interval.items()
    }  # fmt: skip


@pytest.mark.parametrize("partitions", [1, 5])
def test_summary_does_not_depend_on_partitions(measured, partitions):
    results, users = measured
    again = summarise(users.repartition(partitions), CATALOGUE, CONFIG, SEED)
    assert flat(again) == flat(results)


def test_compare_is_the_paired_difference(measured):
    results, users = measured
    a, b = plain("als", "test"), plain("popularity", "test")
    values = [[m["ndcg@5"] for _, m, _, _ in x.values()] for x in (a, b)]
    expected = paired_difference(*values, list(a), CONFIG.replicates, SEED, CONFIG.confidence)
    got = compare(users, "als", "popularity", "ndcg@5", CONFIG, SEED)
    assert (got.mean, got.low, got.high) == pytest.approx((expected.mean, expected.low, expected.high))
    assert got.n == len(a)
    assert got.mean == pytest.approx(
        results["als"]["test"]["ndcg@5"].mean - results["popularity"]["test"]["ndcg@5"].mean
    )


def test_compare_takes_users_that_both_have(measured):
    users = measured[1]
    some = users.where("model = 'als' or user_id > 15")
    both = [u for u in plain("als", "test") if u > 15]
    got = compare(some, "als", "popularity", "ndcg@5", CONFIG, SEED)
    assert got.n == len(both)
    nobody = compare(users, "als", "nobody", "ndcg@5", CONFIG, SEED)
    assert nobody.n == 0
    assert math.isnan(nobody.mean)


def test_a_champion_may_know_items_that_the_night_does_not(measured):
    results = summarise(measured[1], 3, CONFIG, SEED)
    assert results["als"]["test"]["coverage@5"].mean == 1.0


def test_lists_that_are_all_empty_cover_nothing(measured):
    users = measured[1].where("model = 'als' and split = 'test'").withColumn("items", F.expr("slice(items, 1, 0)"))
    found = summarise(users, CATALOGUE, CONFIG, SEED)["als"]["test"]
    assert found["coverage@5"].mean == 0.0 and math.isnan(found["gini@5"].mean) and math.isnan(found["entropy@5"].mean)


def test_results_survive_json(measured):
    assert flat(from_json(to_json(measured[0]))) == flat(measured[0])


def test_labels_say_what_a_history_does_not(spark):
    """A literal table; the run date is day 100, and a day begins with its first second."""
    day = 86_400
    rows = [
        # user, split, seconds
        (1, "train", 94 * day), (1, "valid", 99 * day), (2, "train", 94 * day - 1), (3, "valid", 71 * day),
        (3, "test", 0), (4, "gap", 10 * day), (4, "train", 70 * day), (5, "train", 10 * day - 1),
        (6, "test", 5), (9, "train", 99 * day),
    ]  # fmt: skip
    interactions = spark.createDataFrame(rows, "user_id int, split string, timestamp long")
    trained = spark.createDataFrame([(u,) for u in (1, 2, 4, 5)], "user_id int")
    often = [(u, f"v{min(u, 31)}") for u in range(1, 33)]
    attributes = {
        "device": spark.createDataFrame([(1, "phone"), (4, "tablet")], "user_id int, segment string"),
        "city": spark.createDataFrame([*often, (100, "v31")], "user_id int, segment string"),
    }
    wanted = ["tenure", "user", "activity", "item"]
    found = user_labels(interactions, trained, attributes, wanted, dt.date(1970, 4, 11))
    assert {r.user_id: r.labels for r in found.collect()} == {
        1: ["tenure=0-6 days", "user=warm", "device=phone", "city=v1"],
        2: ["tenure=7-29 days", "user=warm", "city=v2"],
        3: ["tenure=7-29 days", "user=cold", "city=v3"],
        4: ["tenure=90+ days", "user=warm", "device=tablet", "city=v4"],
        5: ["tenure=90+ days", "user=warm", "city=v5"],
        9: ["tenure=0-6 days", "user=cold", "city=other"],  # v9 is the last of 31, by users and name
    }
    named = user_labels(interactions, trained, {"city": attributes["city"]}, [], dt.date(1970, 4, 11))
    assert {r.user_id: r.labels for r in named.collect()}[5] == ["city=v5"]


def test_the_head_is_the_fewest_items_with_half_of_the_rows():
    classes = item_classes(np.array([0, 2, 6, 2, 0, 2]))
    assert [ITEM_CLASSES[c] for c in classes[1:]] == ["tail", "head", "tail", "cold", "tail"]  # 6 of 12
    assert [ITEM_CLASSES[c] for c in item_classes(np.array([0, 1, 1, 1]))[1:]] == ["head", "head", "tail"]
    assert not item_classes(np.zeros(3, int)).any()
