"""From exposures and events to off-policy estimates: the join, and Spark's estimate against numpy's."""

from __future__ import annotations

import contextlib
import datetime as dt
import io
import json

import numpy as np
import pytest
from event_tables import event
from night import write_config

from recsys_spark.config import ExplorationConfig, OffPolicyConfig
from recsys_spark.evaluation import off_policy
from recsys_spark.evaluation.evaluate import Candidate
from recsys_spark.evaluation.feedback import by_user, estimate, rewarded
from recsys_spark.evaluation.off_policy import Rounds
from recsys_spark.models.base import UserBlock
from recsys_spark.models.popularity import Popularity
from recsys_spark.pipeline import job, stages
from recsys_spark.pipeline import off_policy as off_policy_stage
from recsys_spark.pipeline.context import StageResult
from recsys_spark.pipeline.nightly import nightly
from recsys_spark.recommendation.exploration import explore, propensities
from recsys_spark.recommendation.select import recommend_block
from recsys_spark.schemas import EVENTS, EXPOSURES, HISTORIES

NIGHT = dt.date(2026, 1, 5)
NOON = dt.datetime(2026, 1, 6, 12, tzinfo=dt.UTC)
DRAWN = "epsilon 0.4 of 6"


def table(spark, schema, rows):
    return spark.createDataFrame([tuple(row.get(name) for name in schema.names) for row in rows], schema)


def exposed(user, items, policy=DRAWN):
    return [
        {"user_id": user, "rank": rank, "item_id": item, "score": 1.0, "model": "popularity", "run_date": NIGHT,
         "policy": policy, "propensity": 0.1 * rank}
        for rank, item in enumerate(items, start=1)
    ]  # fmt: skip


def test_a_click_on_the_item_by_the_user_within_the_window_is_a_reward_and_nothing_else(spark):
    shown = [
        *exposed("clicks", ["i1", "i2", "i3"]), *exposed("looks", ["i1", "i2", "i3"]), *exposed("stays_away", ["i1"]),
        *exposed("not_drawn", ["i1"], "greedy"),
    ]  # fmt: skip
    day = dt.timedelta(days=1)
    events = [
        event(1, NOON, user_id="clicks", item_id="i2", event_type="click"),
        event(2, NOON, user_id="clicks", item_id="i2", event_type="click"),  # twice is once
        event(3, NOON, user_id="clicks", item_id="i3", event_type="click"),  # beyond the ranks that count
        event(
            4, NOON - day, user_id="clicks", item_id="i1", event_type="click"
        ),  # on the run date: before it was shown
        event(5, NOON + day, user_id="clicks", item_id="i1", event_type="click"),  # after the window
        event(6, NOON, user_id="looks", item_id="i1", event_type="view"),
        event(7, NOON, user_id="looks", item_id="i9", event_type="click"),  # never shown
        event(8, NOON + day, user_id="stays_away", item_id="i1", event_type="click"),
        event(9, NOON, user_id="not_drawn", item_id="i1", event_type="click"),
    ]
    found = rewarded(
        table(spark, EXPOSURES.schema, shown),
        table(spark, EVENTS.schema, events),
        OffPolicyConfig(ranks=2),
        NOON.date(),
    )
    assert sorted((r.user_id, r.rank, r.item_id, round(r.propensity, 6), r.reward) for r in found.collect()) == [
        ("clicks", 1, "i1", 0.1, 0.0), ("clicks", 2, "i2", 0.2, 1.0),
        ("looks", 1, "i1", 0.1, 0.0), ("looks", 2, "i2", 0.2, 0.0),
    ]  # fmt: skip


def popularity(path, counts):
    model = Popularity(np.array(counts, np.float32), np.full(len(counts), np.nan, np.float32))
    path.mkdir()
    model.save(path)
    return model


def test_spark_estimates_what_numpy_does(spark, tmp_path):
    """Lists drawn around one order of popularity, asked about another; some users have no history."""
    old = popularity(tmp_path / "old", [0, 9, 8, 7, 6, 5, 4, 3, 2, 1])
    new = popularity(tmp_path / "new", [0, 1, 2, 9, 8, 7, 6, 5, 4, 3])
    logging = ExplorationConfig(policy="epsilon", epsilon=0.4, candidates=6)
    target = ExplorationConfig(policy="plackett_luce", temperature=0.8, candidates=8)
    config = OffPolicyConfig(ranks=3, cap=4.0)
    r, n = np.random.default_rng(1), 60
    ids = np.arange(1, n + 1)
    histories = [r.choice(np.arange(1, 10), r.integers(1, 4), replace=False).tolist() if u % 5 else [] for u in ids]
    block = UserBlock.of(ids, histories)
    shown, _, chances, _ = explore(*recommend_block(old, block, 6), ids, 3, logging, NIGHT)
    reward = (r.random(shown.shape) < 0.1 * shown / 3).astype(float)

    rows = [
        (int(ids[u]), j + 1, int(shown[u, j]), float(chances[u, j]), float(reward[u, j]))
        for u in range(n) for j in range(3) if shown[u, j]
    ]  # fmt: skip
    frame = spark.createDataFrame(rows, "user_id int, rank int, item_id int, propensity double, reward double")
    known = [
        {"known": "valid", "user_id": int(u), "items": h, "weights": [1.0] * len(h), "ratings": [float("nan")] * len(h)}
        for u, h in zip(ids, histories, strict=True) if h
    ]  # fmt: skip
    users = by_user(frame, table(spark, HISTORIES.schema, known)).repartition(3).persist()
    got = estimate(users, Candidate("new", "v1", tmp_path / "new"), tmp_path / "old", target, config, 7, 0.9)

    there = shown > 0
    asked = propensities(*recommend_block(new, block, 8), shown, target)
    of, rank = (np.broadcast_to(x, shown.shape)[there] for x in (ids[:, None], np.arange(3)))
    rounds = Rounds.of(reward[there], chances[there], asked[there], of, of, rank)
    for name, want in {
        "logging": off_policy.on_policy(rounds, 0.9), "ips": off_policy.ips(rounds, 0.9),
        "snips": off_policy.snips(rounds, 0.9), "clipped": off_policy.clipped_ips(rounds, 4.0, 0.9),
    }.items():  # fmt: skip
        found = getattr(got, name)
        np.testing.assert_allclose([found.mean, found.low, found.high], [want.mean, want.low, want.high], rtol=1e-6)
        assert found.n == want.n
    assert got.rounds == len(rows) and got.effective < got.rounds

    # the predictions are the rates of a rank among the users of the other half
    predicted = {row.user_id: row.predicted for row in users.collect()}
    halves = {tuple(p) for p in predicted.values() if len(p) == 3}
    assert len(halves) == 2
    (a, b) = (sorted(u for u, p in predicted.items() if tuple(p) == half) for half in sorted(halves))
    for mine, others in ((a, b), (b, a)):
        rates = [np.mean([reward[u - 1, j] for u in others if shown[u - 1, j]]) for j in range(3)]
        assert predicted[mine[0]] == pytest.approx(rates, abs=0.03)  # the other half has users with shorter lists, too
    full = np.array([np.pad(predicted[u], (0, 3 - len(predicted[u]))) for u in ids])[there]
    want = off_policy.doubly_robust(rounds, full, full, 0.9)
    assert (got.doubly_robust.mean, got.doubly_robust.low) == pytest.approx((want.mean, want.low), rel=1e-6)

    own = estimate(users, Candidate("old", "v1", tmp_path / "old"), tmp_path / "old", logging, config, 50, 0.9)
    assert own.ips.mean == pytest.approx(own.logging.mean) and own.effective == pytest.approx(own.rounds)
    assert own.gain.mean == pytest.approx(0, abs=1e-12)
    users.unpersist()


def test_nobody_gives_an_estimate_of_nothing(spark, tmp_path):
    popularity(tmp_path / "one", [0, 1, 2])
    rows = spark.createDataFrame([], "user_id int, rank int, item_id int, propensity double, reward double")
    users = by_user(rows, spark.createDataFrame([], HISTORIES.schema))
    got = estimate(
        users,
        Candidate("one", "v1", tmp_path / "one"),
        tmp_path / "one",
        ExplorationConfig(),
        OffPolicyConfig(),
        9,
        0.9,
    )
    assert got.rounds == 0 and np.isnan(got.ips.mean)


@pytest.mark.slow
def test_the_night_after_one_that_explored_estimates_what_its_models_would_have_earned(tmp_path, spark):
    config = write_config(tmp_path)
    fast = ("train.deep=[]", "train.baselines=[popularity]", "evaluation.replicates=100")
    drawn = ("publish.exploration.policy=plackett_luce", "publish.exploration.candidates=20")

    def run(stage, *arguments):
        out = io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
            code = job.run("test", lambda c, _: stage(c), "", ["--config", str(config), *fast, *drawn, *arguments])
        assert code == 0, out.getvalue()[-3000:]
        return json.loads(out.getvalue().strip().splitlines()[-1])

    first = run(nightly, "--date", "2026-01-04")
    assert first["outputs"]["exposures"].endswith("date=2026-01-04")
    assert run(stages.evaluate, "--date", "2026-01-04")["outputs"]["off_policy"] == {}  # nothing was drawn before it
    run(nightly, "--date", "2026-01-05")
    (found,) = run(stages.evaluate, "--date", "2026-01-05")["outputs"]["off_policy"].values()
    told = run(lambda c: StageResult(outputs=off_policy_stage.told(c, "popularity")), "--date", "2026-01-05")
    assert told["outputs"] == found  # what the decision is told
    assert found["rounds"] > 50 and 0 < found["mean_weight"] < 3
    assert found["logging"]["mean"] == pytest.approx(found["ips"]["mean"], abs=0.3)
