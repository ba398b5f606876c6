"""What each of the two stages counts: the blend against plain Python, its ends, and the weight that is chosen."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_ranking_models import ENCODING, FEATURES, LENGTH, SIDE, moment, trained
from test_two_stage import config_of, write_moment

from recsys_spark.errors import ConfigError, DataError
from recsys_spark.models import check_models, fm, load
from recsys_spark.models.base import NO_OPINION, UserBlock
from recsys_spark.models.popularity import Popularity
from recsys_spark.models.torch_ranker import TorchRanker
from recsys_spark.models.two_stage import TwoStage, best_of, weigh
from recsys_spark.recommendation.select import recommend_block
from recsys_spark.training.two_stage import WEIGHTS, choose_weight, join_stages, try_weights
from recsys_spark.training.validate import Validation
from recsys_spark.warehouse import Warehouse


def z(values, over):
    """Plain numbers by id, on the scale of those that `over` names."""
    there = [values[i] for i in over if i in values]
    mean, spread = (float(np.mean(there)), float(np.std(there))) if there else (0.0, 0.0)
    return {i: (v - mean) / spread if spread > 1e-6 * abs(mean) else 0.0 for i, v in values.items()}


def plain(ranked, found, offered, weight):
    """The score of each item of one user, from dictionaries of what the stages say."""
    if weight in (0, 1):
        return dict(found if weight else ranked)
    a, b = z(ranked, offered), z(found, offered)
    return {i: (1 - weight) * a.get(i, 0.0) + weight * b.get(i, 0.0) for i in a.keys() | b.keys()}


def stated(row):
    return {i: float(v) for i, v in enumerate(row) if v > NO_OPINION}


def draw(rng, shape, step):
    scores = rng.normal(3, 2, shape)
    scores = np.round(scores / step) * step if step else scores
    scores[rng.random(shape) < 0.15] = NO_OPINION
    scores[-1] = NO_OPINION
    scores[-2] = 4.0
    return scores.astype(np.float32)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([0.0, 0.05, 0.3, 0.95, 1.0]), st.sampled_from([0.0, 1.0]))
def test_a_score_is_the_formula(seed, weight, step):
    rng = np.random.default_rng(seed)
    ranked, found = draw(rng, (5, 12), step), draw(rng, (5, 12), step)[::-1]
    offered = rng.random((5, 12)) < 0.6
    scores = weigh(ranked, found, offered, weight)
    assert scores.dtype == np.float32
    for b in range(5):
        expected = plain(stated(ranked[b]), stated(found[b]), np.flatnonzero(offered[b]).tolist(), weight)
        assert stated(scores[b]) == pytest.approx(expected, rel=1e-4, abs=1e-5)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 14))
def test_the_best_are_those_of_a_sorted_list(seed, n):
    scores = draw(np.random.default_rng(seed), (4, 12), 1.0)
    for row, best in zip(scores, best_of(scores, n), strict=True):
        wanted = sorted(stated(row), key=lambda i: (-row[i], i))[:n]
        assert np.flatnonzero(best).tolist() == sorted(wanted)


# --- a model of two stages that say of items what they are told to ---


def retriever_of(values):
    """Popularity, so that everyone is offered the same; an item of value 0 it does not know."""
    counts = np.append(0, values).astype(np.float32)
    return Popularity(counts, np.full(SIDE + 1, np.nan, np.float32))


def ranker_of(values):
    """A factorisation machine of one feature: the item's own number."""
    network = fm.Network(fm.Config(features=["item_id"], dim=1), FEATURES)
    with torch.no_grad():
        network.embed.tables["item_id"].weight.zero_()
        network.linear.bias.zero_()
        network.linear.embed.tables["item_id"].weight[1:, 0] = torch.tensor(np.asarray(values), dtype=torch.float32)
    known = np.arange(SIDE + 1) > 0
    return TorchRanker("fm", network, known, known, ENCODING, LENGTH)


def stages_of_values(seed=1):
    rng = np.random.default_rng(seed)
    return rng.integers(1, 9, SIDE), rng.normal(size=SIDE)


def people(seed=2, n=30):
    """Users with histories of any length, the first of whom has none, and the last of whom has had all but two."""
    rng = np.random.default_rng(seed)
    histories = [
        sorted(rng.choice(np.arange(1, SIDE + 1), rng.integers(0, 12), replace=False).tolist()) for _ in range(n)
    ]
    histories[0], histories[-1] = [], list(range(1, SIDE - 1))
    return UserBlock.of(range(1, n + 1), histories), histories


def plain_list(found, ranked, seen, candidates, k, weight):
    """Retrieve, rank, filter for one user, an item at a time."""
    fresh = sorted((i for i in found if i not in seen), key=lambda i: (-found[i], i))
    asked, offered = fresh[: max(k, candidates)], fresh[:candidates]
    scores = plain({i: ranked[i] for i in asked}, {i: found[i] for i in asked}, offered, weight)
    best = sorted(scores, key=lambda i: (-np.float32(round(scores[i], 5)), i))[:k]
    return best, [scores[i] for i in best]


@pytest.mark.parametrize("weight", [0.0, 0.35, 1.0])
@pytest.mark.parametrize(("candidates", "k"), [(7, 3), (7, 12), (SIDE, 5), (1, 2)])
def test_lists_and_scores_are_those_of_one_user_at_a_time(weight, candidates, k):
    popular, liked = stages_of_values()
    popular[4] = 0  # the retriever does not know item 5
    model = TwoStage(retriever_of(popular), ranker_of(liked), candidates, moment(), weight)
    found = {i: float(v) for i, v in enumerate(popular, start=1) if v}
    ranked = {i: float(v) for i, v in enumerate(liked, start=1)}
    users, histories = people()
    items, scores = recommend_block(model, users, k)
    catalogue = model.score(users)
    assert (catalogue[:, [0, 5]] == NO_OPINION).all() and np.isfinite(np.delete(catalogue, [0, 5], axis=1)).all()
    for b, seen in enumerate(histories):
        best, values = plain_list(found, ranked, seen, candidates, k, weight)
        assert items[b].tolist() == best + [0] * (k - len(best))
        np.testing.assert_allclose(scores[b, : len(best)], values, rtol=1e-4, atol=1e-5)
        # the numbers of the catalogue are those of the list, however long the list is
        np.testing.assert_allclose(catalogue[b, best], values, rtol=1e-4, atol=1e-5)


def test_a_stage_alone_keeps_its_order_to_the_bit_and_its_scores():
    ranker, users = trained("fm")[0], people()[0]
    popular, _ = stages_of_values()
    retriever = retriever_of(popular)
    alone = TwoStage(retriever, ranker, 9, None, 1.0)  # without features: the ranker is not asked
    for mine, theirs in zip(recommend_block(alone, users, 6), recommend_block(retriever, users, 6), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    first, scores = recommend_block(TwoStage(retriever, ranker, 9, moment()), users, 6)
    offered = np.sort(recommend_block(retriever, users, 9)[0], axis=1)
    ranked = ranker.rank(users, offered, moment())
    for b in range(len(users)):
        best = sorted((-v, i) for i, v in zip(offered[b].tolist(), ranked[b].tolist(), strict=True) if i)[:6]
        assert first[b].tolist() == [i for _, i in best] + [0] * (6 - len(best))
        assert scores[b, : len(best)].tolist() == [-v for v, _ in best]


def test_equal_scores_go_to_the_smaller_item_and_no_opinion_to_nobody():
    level = TwoStage(retriever_of(np.ones(SIDE)), ranker_of(np.zeros(SIDE)), 6, moment(), 0.4)
    items, scores = recommend_block(level, UserBlock.of([1, 2], [[], [1, 3]]), 4)
    assert items.tolist() == [[1, 2, 3, 4], [2, 4, 5, 6]] and not scores.any()
    silent = TwoStage(retriever_of(np.zeros(SIDE)), ranker_of(np.arange(SIDE)), 6, moment(), 0.4)
    users = UserBlock.of([1], [[2]])
    assert not recommend_block(silent, users, 3)[0].any() and (silent.score(users) == NO_OPINION).all()


def test_a_saved_model_keeps_its_weight_and_one_from_before_has_the_rankers_order(tmp_path):
    popular, liked = stages_of_values()
    TwoStage(retriever_of(popular), ranker_of(liked), 7, None, 0.35).save(tmp_path)
    card = json.loads((tmp_path / "model.json").read_text("utf-8"))
    assert load(tmp_path).weight == card.pop("weight") == 0.35
    (tmp_path / "model.json").write_text(json.dumps(card), "utf-8")
    load.cache_clear()
    again = load(tmp_path, write_moment(tmp_path / "moment"))
    before = TwoStage(retriever_of(popular), ranker_of(liked), 7, moment(), 0.0)
    users = people()[0]
    assert again.weight == 0
    np.testing.assert_array_equal(recommend_block(again, users, 5)[0], recommend_block(before, users, 5)[0])


@pytest.mark.parametrize(("weight", "says"), [(1.01, "1.01"), (-1, "-1"), ("most", "'most'"), (float("nan"), "nan")])
def test_a_weight_that_is_none_is_one_line(weight, says):
    both = {"dataset": {"feeds": ["pairs", "impressions"]}, "train": {"rankers": ["fm"]}}
    with pytest.raises(ConfigError, match=rf"^models\.two_stage\.weight: {says} is neither 'auto'") as error:
        check_models(config_of(**both, models={"two_stage": {"weight": weight}}))
    assert "\n" not in str(error.value)


# --- the choice ---


def ndcg(items, truth):
    gain = sum(1 / np.log2(rank + 2) for rank, item in enumerate(items[:10]) if item in truth)
    return gain / sum(1 / np.log2(rank + 2) for rank in range(min(len(truth), 10)))


def histories_of(folder, histories, truth):
    """The table `histories` below a folder: what was known before the validation part, and what is held out."""
    n = len(histories)
    lists = {name: [[1.0] * len(h) for h in histories] for name in ("weights", "ratings")}
    table = pa.table({
        "user_id": pa.array(range(1, n + 1), pa.int32()), "items": pa.array(histories, pa.list_(pa.int32())),
        **{name: pa.array(rows, pa.list_(pa.float32())) for name, rows in lists.items()},
        "held_out": pa.array(truth, pa.list_(pa.int32())),
    })  # fmt: skip
    (folder / "known=train").mkdir(parents=True)
    pq.write_table(table, folder / "known=train" / "part.parquet")
    return folder


def saved(model, folder):
    folder.mkdir(parents=True)
    model.save(folder)
    return folder


def planted(tmp_path, popular, liked, weight):
    """Both stages, saved, and users who next have the two best items by a blend of the two."""
    _, histories = people(n=140)
    histories[0], histories[-1] = [3], [4]
    truth = []
    for seen in histories:
        found, ranked = ({i: float(v) for i, v in enumerate(values, start=1)} for values in (popular, liked))
        truth.append(sorted(plain_list(found, ranked, seen, 16, 2, weight)[0]))
    return (
        histories_of(tmp_path / "histories", histories, truth),
        saved(retriever_of(popular), tmp_path / "retriever"),
        saved(ranker_of(liked), tmp_path / "ranker"),
        write_moment(tmp_path / "impressions" / "moments" / "known=train").parent,
    )


def test_the_blend_that_was_planted_is_found(spark, tmp_path):
    popular, liked = stages_of_values(7)
    histories, retriever, ranker, moments = planted(tmp_path, popular, liked, 0.4)
    valid = Validation(histories, 0, 1, 1000, 1)
    weight, figures = choose_weight(spark, valid, retriever, ranker, 16, moments / "known=train")
    tried = []
    for w in WEIGHTS:
        model = TwoStage(retriever_of(popular), ranker_of(liked), 16, moment(), float(w))
        lists = recommend_block(model, valid.users, 10)[0]
        tried.append(np.mean([ndcg(row.tolist(), truth) for row, truth in zip(lists, valid.truth, strict=True)]))
    assert 0 < weight < 1 and weight == WEIGHTS[int(np.argmax(tried))]
    assert figures["valid_ndcg_10"] == pytest.approx(max(tried)) == pytest.approx(1.0)
    assert figures["valid_ndcg_10_ranker"] == pytest.approx(tried[0]) and tried[0] < 0.97
    assert figures["valid_ndcg_10_retriever"] == pytest.approx(tried[-1]) and tried[-1] < 0.97


@pytest.mark.parametrize(("planted_weight", "chosen"), [(0.0, 0.0), (1.0, 0.55)])
def test_the_better_stage_is_found_and_of_equals_the_ranker_counts_most(spark, tmp_path, planted_weight, chosen):
    """The stages contradict each other, so that any weight above one half is the retriever's order."""
    popular = np.random.default_rng(3).permutation(SIDE) + 1
    histories, retriever, ranker, moments = planted(tmp_path, popular, -popular, planted_weight)
    valid = Validation(histories, 0, 1, 1000, 1)
    weight, figures = choose_weight(spark, valid, retriever, ranker, SIDE, moments / "known=train")
    assert weight == chosen
    ends = figures["valid_ndcg_10_ranker"], figures["valid_ndcg_10_retriever"]
    assert figures["valid_ndcg_10"] == max(ends) == ends[int(planted_weight)] > min(ends)


def test_whoever_the_retriever_does_not_know_gains_nothing_by_any_weight():
    silent = TwoStage(retriever_of(np.zeros(SIDE)), ranker_of(np.arange(SIDE)), 6, moment())
    found = try_weights(silent, UserBlock.of([1, 2], [[2], []]), [[3], [4]])
    assert found.shape == (2, len(WEIGHTS)) and not found.any()


def joined(spark, tmp_path, parts, log=None, users=1000, **two_stage):
    histories, retriever, ranker, moments = parts
    feeds = {"feeds": ["pairs", "impressions"]}
    trained_on = {"train": {"baselines": ["popularity"], "rankers": ["fm"], "valid_users": users}, "dataset": feeds}
    config = config_of(**trained_on, models={"two_stage": {"retriever": "popularity", "candidates": 16, **two_stage}})
    warehouse = Warehouse(tmp_path / "warehouse")
    for name, path in (("popularity", retriever), ("fm", ranker)):

        def build(into, path=path):
            for file in path.iterdir():
                (into / file.name).write_bytes(file.read_bytes())
            return {"dataset": "2026-01-01-x"}

        warehouse.slot(f"models/{name}", date="2026-01-01").materialize("2026-01-01-y", build)
    dataset = SimpleNamespace(
        name="2026-01-01-x", histories=SimpleNamespace(data=str(histories)),
        feeds={"impressions": SimpleNamespace(path=moments.parent)},
    )  # fmt: skip
    return join_stages(spark, warehouse, config, dataset, None if log is None else lambda s, f: log.append((s, f)))


def test_what_was_chosen_is_in_the_version_its_card_and_the_log(spark, tmp_path):
    parts = planted(tmp_path, *stages_of_values(7), 0.4)
    log: list = []
    version, made = joined(spark, tmp_path, parts, log)
    ((step, figures),) = log
    assert made and step == 1 and 0 < figures["weight"] < 1 and figures["valid_ndcg_10"] > 0.99
    assert load(version.path).weight == figures["weight"] and version.manifest["config"]["weight"] == "auto"
    again, made = joined(spark, tmp_path, parts, log)
    assert again == version and not made and log[0] == log[1]
    fixed, made = joined(spark, tmp_path, parts, log, weight=figures["weight"])
    assert made and fixed.name != version.name and log[2] == (1, {"weight": figures["weight"]})
    assert load(fixed.path).weight == figures["weight"]
    few, made = joined(spark, tmp_path, parts, log, users=3)
    assert made and few.name not in (version.name, fixed.name)


def test_nobody_to_choose_by_is_one_line_and_a_number_needs_nobody(spark, tmp_path):
    parts = planted(tmp_path, *stages_of_values(), 0.4)
    nobody = (histories_of(tmp_path / "nobody", [[], [1]], [[3], []]), *parts[1:])
    with pytest.raises(DataError, match=r"set models\.two_stage\.weight to a number") as error:
        joined(spark, tmp_path, nobody)
    assert "\n" not in str(error.value)
    version, made = joined(spark, tmp_path, nobody, weight=0.25)
    assert made and load(Path(version.path)).weight == 0.25
