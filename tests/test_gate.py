"""The gate on planted worlds: nothing, a gain, a leak, a loss in one slice. Each has one right decision."""

from __future__ import annotations

import json
import math

import numpy as np
import pandas as pd
import pytest
from pyspark.sql import functions as F

from recsys_spark.config import EvaluationConfig, PromotionConfig
from recsys_spark.evaluation.bootstrap import Interval, bootstrap_sums, bootstrap_sums_by_name
from recsys_spark.evaluation.bootstrap_rows import paired_sums, paired_values
from recsys_spark.evaluation.cost import Cost, block_times, milliseconds, size_of
from recsys_spark.evaluation.off_policy import OffPolicy
from recsys_spark.evaluation.permutation import sign_flip_sums
from recsys_spark.evaluation.power import minimal_detectable_effect
from recsys_spark.evaluation.results import compare
from recsys_spark.tracking.guardrails import guardrails, slice_losses
from recsys_spark.tracking.promotion import decide
from recsys_spark.tracking.record import Evidence, decision_record, record_markdown
from recsys_spark.tracking.registry import Registered

STRICT = PromotionConfig(max_slice_loss=0.02, min_coverage_ratio=0.5, max_gain=5.0, min_slice_users=50)
COUNTRIES = ("FI", "SE", "NO", "DK")
CONFIDENCE, REPLICATES, SEED = 0.95, 400, 11
CHEAP = Cost(0.1, 1_000_000)


def ndcg(chance, users, rng):
    """What NDCG@10 looks like where one item is held out: mostly 0, else 1 / log2(rank + 1)."""
    hit = rng.random(users) < chance
    return np.where(hit, 1 / np.log2(rng.integers(2, 12, users)), 0.0)


def world(seed, chance_a, chance_b, users=2000, shared=0.5):
    """Values of challenger and opponent on the same users; a share of the users is as easy for both."""
    rng = np.random.default_rng(seed)
    a, b = ndcg(chance_a, users, rng), ndcg(chance_b, users, rng)
    same = rng.random(users) < shared
    return np.where(same, b, a), b


def outcome(a, b, countries, config=STRICT, coverage=(0.3, 0.3), cost=CHEAP):
    """The decision on two models' values."""
    ids = np.arange(len(a))
    slices = {f"country={c}": np.where(countries == c, a - b, np.nan) for c in COUNTRIES}
    of_slices = bootstrap_sums_by_name({"all": a - b, **slices}, ids, REPLICATES, SEED)
    difference = of_slices.pop("all")
    of_a, of_b = (
        {"ndcg@10": Interval(float(v.mean()), 0, 1, len(v)), "coverage@10": Interval(c, 0, 1, len(v))}
        for v, c in zip((a, b), coverage, strict=True)
    )
    checks = guardrails(config, of_a, of_b, of_slices, CONFIDENCE, cost)
    return decide("a", "b", difference.interval(CONFIDENCE), config.margin, checks)


def countries_of(users):
    return np.array(COUNTRIES)[np.arange(users) % len(COUNTRIES)]


def test_a_planted_null_is_promoted_as_rarely_as_the_confidence_says():
    """600 worlds without a difference: the lower bound of a 95 % interval is above 0 in 2.5 %, 4 binomial sd."""
    promoted = sum(outcome(*world(s, 0.2, 0.2, users=600), countries_of(600)).promoted for s in range(600))
    assert promoted and abs(promoted / 600 - 0.025) < 4 * math.sqrt(0.025 * 0.975 / 600)


def test_a_planted_gain_of_the_minimal_detectable_effect_is_promoted_in_80_percent():
    """200 worlds whose true gain is what the standard error says can be seen."""
    a, b = world(1, 0.2, 0.2, users=200_000)
    error = (a - b).std() / math.sqrt(2000)
    shown = np.mean(1 / np.log2(np.arange(2, 12)))
    gain = minimal_detectable_effect(error, CONFIDENCE, 0.8) / (shown * 0.5)  # half the users can differ
    promoted = sum(outcome(*world(s, 0.2 + gain, 0.2), countries_of(2000)).promoted for s in range(200))
    assert abs(promoted / 200 - 0.8) < 4 * math.sqrt(0.8 * 0.2 / 200)


def test_a_large_planted_gain_is_promoted():
    decision = outcome(*world(1, 0.4, 0.2), countries_of(2000))
    assert decision.promoted and [c.passed for c in decision.checks] == [True, True, True]


def test_a_planted_leak_is_held_back():
    """A model that has seen the truth puts it first: it beats the opponent by far more than a model can."""
    _, b = world(1, 0.2, 0.1)
    decision = outcome(np.ones(2000), b, countries_of(2000))
    assert not decision.promoted
    assert "held back by promotion.max_gain" in decision.why and "leak" in decision.why
    loose = STRICT.model_copy(update={"max_gain": None})
    assert outcome(np.ones(2000), b, countries_of(2000), loose).promoted  # nothing else would have seen it


def test_a_planted_regression_in_one_slice_is_held_back_and_named():
    """Better on the whole by far, worse for one country in four."""
    a, b = world(1, 0.5, 0.2, shared=0.0)
    countries = countries_of(2000)
    a = np.where(countries == "SE", b * 0.3, a)
    decision = outcome(a, b, countries)
    assert (a - b).mean() > 0.05
    assert not decision.promoted and "country=SE" in decision.why and "max_slice_loss" in decision.why
    assert "\n" not in decision.why
    assert outcome(a, b, countries, STRICT.model_copy(update={"max_slice_loss": None})).promoted
    assert outcome(a, b, countries, STRICT.model_copy(update={"min_slice_users": 501})).promoted  # too few to judge


def test_a_slice_may_lose_what_is_allowed():
    """A loss of 0.05 that is sure: too much where 0.02 is allowed, not where 0.1 is."""
    a, b = world(1, 0.5, 0.2, shared=0.0)
    countries = countries_of(2000)
    a = np.where(countries == "SE", b - 0.05, a)
    assert not outcome(a, b, countries).promoted
    assert outcome(a, b, countries, STRICT.model_copy(update={"max_slice_loss": 0.1})).promoted


def test_slices_without_a_loss_hold_nobody_back():
    """200 worlds with a gain and no slice that loses: one of four is taken for a loser in at most 5 %."""
    held = 0
    strict = STRICT.model_copy(update={"max_slice_loss": 0.0})
    for seed in range(200):
        a, b = world(seed, 0.2, 0.2, users=800)
        held += any(not c.passed for c in outcome(a, b, countries_of(800), strict).checks)
    assert held / 200 < 0.05 + 4 * math.sqrt(0.05 * 0.95 / 200)


def test_a_challenger_that_shows_next_to_nothing_is_held_back():
    decision = outcome(*world(1, 0.4, 0.2), countries_of(2000), coverage=(0.1, 0.3))
    assert not decision.promoted and "min_coverage_ratio: coverage@10 0.1000 is 0.33" in decision.why


def test_a_challenger_that_costs_too_much_is_held_back():
    """Whatever it gains; at the limit itself it passes, and a time that was not measured is no time that is met."""
    worlds = (*world(1, 0.4, 0.2), countries_of(2000))
    limits = PromotionConfig(max_score_ms=2.0, max_model_mb=1.0)
    for cost, failed in (
        (Cost(2.0, 1_000_000), []),
        (Cost(2.1, 1_000_000), ["max_score_ms"]),
        (Cost(2.0, 1_000_001), ["max_model_mb"]),
        (Cost(math.nan, 9_000_000), ["max_score_ms", "max_model_mb"]),
    ):
        decision = outcome(*worlds, limits, cost=cost)
        assert [c.name for c in decision.checks] == ["max_score_ms", "max_model_mb"]
        assert [c.name for c in decision.checks if not c.passed] == failed
        assert decision.promoted == (not failed)
    assert "promotion.max_model_mb: the model has 9 MB, 1 MB are allowed" in decision.why


def test_the_time_of_a_user_is_the_median_over_users(spark):
    """From tasks as from a list; blocks that come twice, and one slow first block, do not move it."""
    blocks = [(1000, 5.0), *[(1000, 0.001 * ms * 1000) for ms in (2, 3, 4)], (3, 0.9)]
    assert milliseconds(blocks) == milliseconds(blocks * 2) == pytest.approx(4)
    assert milliseconds(blocks[1:]) == pytest.approx(3)
    assert math.isnan(milliseconds([])) and math.isnan(milliseconds([(0, 1.0)]))
    times = block_times(spark.sparkContext)
    spark.sparkContext.parallelize(blocks, 3).foreach(lambda block: times.add([block]))
    assert sorted(times.value) == sorted(blocks)


def test_the_size_of_a_model_is_that_of_its_files(tmp_path):
    (tmp_path / "parts").mkdir()
    for name, size in (("model.json", 10), ("parts/weights.npy", 300), ("_manifest.json", 7), (".weights.crc", 5)):
        (tmp_path / name).write_bytes(b"x" * size)
    assert size_of(tmp_path) == 310


def test_by_default_no_guardrail_is_asked_for():
    decision = outcome(*world(1, 0.4, 0.2), countries_of(2000), PromotionConfig(), coverage=(0.0, 0.3))
    assert decision.promoted and decision.checks == ()


def test_a_slice_where_all_differ_alike_has_a_p_value():
    ids = np.arange(200)
    sums = bootstrap_sums_by_name({"lost": np.full(200, -0.1), "same": np.zeros(200)}, ids, 100, 1)
    assert slice_losses(sums, 0.05, 50) == {"lost": 0.0, "same": 1.0}
    assert slice_losses(sums, 0.05, 201) == {}


# --- on Spark, and the record ---


@pytest.fixture(scope="module")
def users(spark):
    """`user_metrics` of two models; Sweden loses. Some users were measured on one model only."""
    a, b = world(2, 0.5, 0.2, users=900, shared=0.0)
    countries = countries_of(900)
    a = np.where(countries == "SE", b * 0.2, a)
    slices = [f"country={c}" for c in countries]
    frames = [
        pd.DataFrame({"model": m, "split": "test", "user_id": range(900), "value": v, "slice": slices})
        for m, v in (("a", a), ("b", b))
    ]
    frames[1] = frames[1].iloc[:880]
    rows = spark.createDataFrame(pd.concat(frames))
    return (a[:880], b[:880], countries[:880]), rows.select(
        "model", "split", "user_id", F.create_map(F.lit("ndcg@10"), "value").alias("metrics"),
        F.create_map("slice", "value").alias("slices"),
    ).repartition(3)  # fmt: skip


def test_differences_on_spark_are_those_of_numpy(users):
    (a, b, countries), rows = users
    ids = np.arange(880)
    found = paired_sums(rows, "a", "b", "slices", REPLICATES, SEED)
    assert sorted(found) == [f"country={c}" for c in sorted(COUNTRIES)]
    for country in COUNTRIES:
        here = countries == country
        expected = bootstrap_sums((a - b)[here], ids[here], REPLICATES, SEED).interval(0.9)
        got = found[f"country={country}"].interval(0.9)
        assert (got.mean, got.low, got.high) == pytest.approx((expected.mean, expected.low, expected.high))
        assert got.n == here.sum()
    at, values = paired_values(rows, "a", "b", "ndcg@10")
    np.testing.assert_array_equal(at, ids)
    np.testing.assert_allclose(values, a - b)
    config = EvaluationConfig(replicates=REPLICATES)
    assert compare(rows, "a", "b", "ndcg@10", config, SEED).mean == pytest.approx((a - b).mean())
    assert compare(rows, "a", "b", "nothing", config, SEED).n == 0


def test_the_record_says_all_that_the_gate_saw(users):
    _, rows = users
    metrics, slices = (paired_sums(rows, "a", "b", column, REPLICATES, SEED) for column in ("metrics", "slices"))
    ids, differences = paired_values(rows, "a", "b", "ndcg@10")
    p_value = sign_flip_sums(differences, ids, REPLICATES, SEED).p_value()
    earned = OffPolicy(*[Interval(0.1, 0.05, 0.15, 50)] * 5, Interval(0.02, -0.01, 0.05, 50), 500, 80.0, 1.0, 0.0)
    gates = "12 passed, 1 warned"
    evidence = Evidence(metrics, slices, p_value, (Cost(2.5, 3_000_000), CHEAP), gates, earned.to_json())
    means = {"ndcg@10": Interval(0.2, 0.1, 0.3, 880), "coverage@10": Interval(0.3, 0.2, 0.4, 880)}
    checks = guardrails(STRICT, means, means, slices, CONFIDENCE, CHEAP)
    decision = decide("a", "b", metrics["ndcg@10"].interval(CONFIDENCE), 0.0, checks)
    settings = {"confidence": CONFIDENCE, "replicates": REPLICATES, "seed": SEED, "promotion": STRICT.model_dump()}
    record = decision_record(decision, Registered("7", "als", "v1", "2026-01-05"), "the champion", evidence, settings)
    again = json.loads(json.dumps(record, allow_nan=False))
    assert again["promoted"] is False and again["challenger"]["number"] == "7"
    assert [c["name"] for c in again["checks"] if not c["passed"]] == ["max_slice_loss"]
    assert again["p_permutation"] == pytest.approx(1 / (1 + REPLICATES))
    assert again["slices"]["country=SE"]["p_loss"] < 0.05 < again["slices"]["country=FI"]["p_loss"]
    assert again["metrics"]["ndcg@10"]["p_adjusted"] < 0.05
    assert again["costs"]["challenger"] == {"score_ms": 2.5, "bytes": 3_000_000}
    page = record_markdown(record)
    assert page.index("| country=SE |") < page.index("| country=FI |")  # worst first
    assert "| ms to score a user | 2.5 | 0.1 |" in page and "| MB | 3 | 1 |" in page
    assert again["data_gates"] == gates and f"Data gates: {gates}." in page
    assert again["off_policy"]["gain"]["high"] == 0.05
    assert "over 500 lists drawn by chance (worth 80): 0.1 a list, +0.0200 [-0.0100, +0.0500] beside" in page
    assert "| max_slice_loss | NO |" in page and "held back" in page.splitlines()[0]


def test_a_record_of_one_user_has_no_nan():
    """With one user there is no spread, and most figures are unknown."""
    one = {"ndcg@10": bootstrap_sums([0.5], [1], 100, 1)}
    decision = decide("a", "b", one["ndcg@10"].interval(0.95), 0.0)
    settings = {"confidence": 0.95, "promotion": PromotionConfig().model_dump()}
    record = decision_record(
        decision,
        Registered("1", "als", "v", "d"),
        "b",
        Evidence(one, {}, math.nan, (Cost(math.nan, 1), CHEAP)),
        settings,
    )
    json.dumps(record, allow_nan=False)
    page = record_markdown(record)
    assert "Data gates: not asked." in page and "Off-policy" not in page
    assert "p = unknown" in page and "| ms to score a user | unknown | 0.1 |" in page
