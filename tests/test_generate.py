"""The embedded log: reproducible, as large and as dirty as asked, and worth learning from."""

from __future__ import annotations

import datetime as dt
import json
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from recsys_spark.config import DirtConfig, GeneratorConfig
from recsys_spark.errors import ConfigError, DataError
from recsys_spark.evaluation.metrics.probability import gauc
from recsys_spark.log import generate, item_texts
from recsys_spark.log import hidden_acts as acts
from recsys_spark.log import hidden_world as world
from recsys_spark.log.hidden_truth import Truth

DIRT = DirtConfig(
    duplicates=0.02, late=0.01, bad_timestamp=0.006, unknown_type=0.006, truncated=0.006, nulls=0.006, bots=0.02
)
CONFIG = GeneratorConfig(users=500, items=300, days=6, events=40_000, categories=8, dirt=DIRT)
SEED = 11
TYPES = set(acts.EVENT_TYPES)


def read_lines(path: Path) -> list[tuple[str, str]]:
    """Return (day of arrival, line) of a whole log, sorted."""
    return sorted(
        (file.parent.name.removeprefix("date="), line)
        for file in path.glob("events/date=*/*.jsonl")
        for line in file.read_text(encoding="utf-8").splitlines()
    )


@pytest.fixture(scope="module")
def log(spark, tmp_path_factory):
    path = tmp_path_factory.mktemp("embedded") / "log"
    counts = generate.generate_log(spark, CONFIG, path, SEED)
    return path, counts


@pytest.fixture(scope="module")
def lines(log):
    return read_lines(log[0])


@pytest.fixture(scope="module")
def truth(log):
    users = pd.read_parquet(log[0] / "truth" / "users").sort_values("user_id").set_index("user_id")
    return users, pd.read_parquet(log[0] / "truth" / "items").set_index("item_id")


@pytest.fixture(scope="module")
def rows(lines, truth):
    """Every line that parses, one row each, with `time` NaT where there is no time within the log."""
    parsed = []
    for arrived, line in lines:
        try:
            parsed.append({**json.loads(line), "arrived": arrived})
        except ValueError:
            continue
    rows = pd.DataFrame(parsed)
    time = pd.to_datetime(rows.timestamp, format="%Y-%m-%dT%H:%M:%S.%fZ", errors="coerce")
    rows["time"] = time.where(time.dt.year == CONFIG.start.year)
    rows["day"] = (rows.time.dt.normalize() - pd.Timestamp(CONFIG.start)).dt.days
    rows["arrived"] = (pd.to_datetime(rows.arrived) - pd.Timestamp(CONFIG.start)).dt.days
    rows["is_bot"] = rows.user_id.isin(truth[0].index[truth[0].is_bot])
    return rows


@pytest.fixture(scope="module")
def events(rows):
    """The valid human events, each once."""
    whole = rows.user_id.notna() & rows.item_id.notna() & rows.time.notna() & rows.event_type.isin(TYPES)
    return rows[whole & ~rows.is_bot].sort_values("arrived").drop_duplicates("event_id")


def test_the_same_seed_gives_the_same_log_however_spark_splits_the_work(log, lines, spark, tmp_path, monkeypatch):
    assert world.block_count(CONFIG) > 2, "too small to tell"
    monkeypatch.setattr(type(spark.sparkContext), "defaultParallelism", property(lambda self: 1))
    before = spark.conf.get("spark.sql.shuffle.partitions")
    spark.conf.set("spark.sql.shuffle.partitions", "3")
    (tmp_path / "log").mkdir()  # an empty folder is no obstacle
    try:
        counts = generate.generate_log(spark, CONFIG, tmp_path / "log", SEED)
    finally:
        spark.conf.set("spark.sql.shuffle.partitions", before)
    assert counts == log[1]
    assert read_lines(tmp_path / "log") == lines
    for name in ("items.jsonl", "kg.jsonl"):
        assert (tmp_path / "log" / name).read_bytes() == (log[0] / name).read_bytes()
    tastes = pd.read_parquet(tmp_path / "log" / "truth" / "users").sort_values("user_id").set_index("user_id")
    pd.testing.assert_frame_equal(tastes, pd.read_parquet(log[0] / "truth" / "users").set_index("user_id").sort_index())

    # Another seed is another log, and takes the place of this one; nothing is left beside it.
    generate.generate_log(spark, CONFIG, tmp_path / "log", SEED + 1)
    other = read_lines(tmp_path / "log")
    assert not {line for _, line in other} & {line for _, line in lines}
    assert {p.name for p in tmp_path.iterdir()} == {"log", ".log.lock"}


def test_the_layout_is_a_few_files_a_day(log):
    path, _ = log
    days = sorted(p.name for p in (path / "events").iterdir())
    assert days == [f"date={CONFIG.start + dt.timedelta(days=d)}" for d in range(CONFIG.days)]
    for day in days:
        names = [p.name for p in (path / "events" / day).iterdir()]
        assert len(names) == 1 and names[0].endswith(".jsonl")


def test_counts_are_what_the_files_hold(log, lines, rows, events):
    counts = log[1]
    per_id = rows.groupby("event_id")
    first = rows.loc[per_id.arrived.idxmin()]
    assert counts == {
        "lines": len(lines),
        "events": len(events),
        "interactions": int((events.event_type != "impression").sum()),
        "duplicates": len(lines) - len({line for _, line in lines}),
        "late": int((first.arrived > first.day).sum()),
        "bad_timestamp": int(rows.time.isna().sum()),
        "unknown_type": int((~rows.event_type.isin(TYPES)).sum()),
        "truncated": len(lines) - len(rows),
        "nulls": int((rows.user_id.isna() | rows.item_id.isna()).sum()),
        "bots": int(rows.is_bot.sum()),
        "bot_users": rows[rows.is_bot].user_id.nunique(),
        "users": CONFIG.users,
        "items": CONFIG.items,
        "days": CONFIG.days,
    }


def test_as_many_events_as_asked_for(log):
    assert log[1]["events"] == pytest.approx(CONFIG.events, rel=0.03)
    assert 0.30 <= log[1]["interactions"] / log[1]["events"] <= 0.45


@pytest.mark.parametrize("kind", generate.DIRT)
def test_every_kind_of_dirt_has_its_share(log, kind):
    share = getattr(DIRT, kind)
    expected = share * CONFIG.events
    if kind == "late":
        expected *= 1 - 1 / CONFIG.days  # what is late on the last day has not arrived
    assert log[1][kind] == pytest.approx(expected, abs=4 * math.sqrt(expected) + 0.05 * expected)


def test_every_form_of_dirt_occurs(lines, rows):
    assert set(rows[rows.time.isna()].timestamp) == set(generate.BAD_TIMES)
    assert set(rows[~rows.event_type.isin(TYPES)].event_type) == set(generate.UNKNOWN_TYPES)
    assert any(line.startswith('{"user_id":null,') for _, line in lines)
    assert any(line.startswith('{"item_id":null,') for _, line in lines)
    copies = rows[rows.duplicated("event_id", keep=False)].groupby("event_id").arrived
    assert set(copies.count()) == {2}
    assert set(copies.max() - copies.min()) == {0, 1}
    first = rows.sort_values("arrived").drop_duplicates("event_id")
    assert set((first.arrived - first.day).dropna()) == set(range(min(5, CONFIG.days - 1) + 1))


def test_an_event_has_the_fields_of_its_type(events):
    listed = events.event_type.isin(["impression", "click"])
    assert events[listed].position.between(1, acts.SLATE).all()
    assert events[~listed].position.isna().all()
    rated = events.event_type == "rating"
    assert set(events[rated].rating) == {1, 2, 3, 4, 5}
    assert events[~rated].rating.isna().all()
    assert events.user_id.str.fullmatch(r"u\d{7}").all() and events.item_id.str.fullmatch(r"i\d{7}").all()
    assert set(events.device) == set(world.DEVICES)
    assert events.country.value_counts(normalize=True).iloc[0] > 0.2


def test_a_session_is_one_users_and_hangs_together(rows, events):
    # Spoilt lines leave holes, so gaps are looked at over all lines that have a time.
    timed = rows[~rows.is_bot & rows.time.notna()].drop_duplicates("event_id").sort_values("time")
    sessions = timed.groupby("session_id")
    assert (sessions.user_id.nunique() == 1).all() and (sessions.day.nunique() == 1).all()
    assert sessions.time.agg(lambda t: t.max() - t.min()).max() < pd.Timedelta(hours=3)
    assert sessions.time.diff().max() < pd.Timedelta(minutes=6)
    shown = timed[timed.event_type == "impression"]
    assert (shown.groupby("session_id").position.min() == 1).mean() > 0.95  # but for spoilt lines: all
    hours = events.time.dt.hour.value_counts()
    assert hours[[19, 20, 21]].sum() > 4 * hours[[2, 3, 4]].sum()


def test_a_step_follows_the_one_before():
    """Impression, click, view, purchase, rating: in this order, and none without those before it."""
    items = world.draw_items(CONFIG, SEED)
    users = world.draw_users(CONFIG, items, SEED, block=0)
    steps = pd.DataFrame(acts.simulate(CONFIG, items, users, SEED, block=0, sessions=400))
    steps["type"] = np.array(acts.EVENT_TYPES)[steps["type"]]
    times = steps.pivot_table(index=["session", "item"], columns="type", values="ms", aggfunc="min")
    for step, before in (("click", "impression"), ("view", "click"), ("purchase", "view"), ("rating", "view")):
        taken = times[times[step].notna()]
        assert len(taken) > 20 and (taken[before] < taken[step]).all(), step
    # Without dirt, every session shows its first list from position 1 on.
    assert (steps[steps.type == "impression"].sort_values("ms").groupby("session").position.first() == 1).all()


def test_nothing_happens_before_a_user_came_or_an_item_was_launched(rows, truth):
    users, items = truth
    timed = rows[rows.time.notna() & rows.user_id.notna() & rows.item_id.notna()]
    assert (timed.day >= users.first_day.loc[timed.user_id].to_numpy()).all()
    assert (timed.day >= items.launch_day.loc[timed.item_id].to_numpy()).all()
    assert (users.first_day > 0).mean() == pytest.approx(CONFIG.new_user_share, abs=0.07)
    assert (items.launch_day > 0).mean() == pytest.approx(CONFIG.new_item_share, abs=0.07)
    assert set(users.first_day) == set(items.launch_day) == set(range(CONFIG.days))


def test_few_items_and_few_users_make_most_of_the_log(events):
    acted = events[events.event_type != "impression"]
    for key, low, high, n in (("item_id", 0.30, 0.75, CONFIG.items), ("user_id", 0.20, 0.60, CONFIG.users)):
        share = acted[key].value_counts().head(n // 10).sum() / len(acted)
        assert low < share < high, key


def test_what_was_bought_is_hardly_touched_again(events):
    bought = events[events.event_type == "purchase"].groupby(["user_id", "item_id"]).time.min().rename("bought")
    clicks = events[events.event_type.isin(["impression", "click"])].join(bought, on=["user_id", "item_id"])
    clicks = clicks.assign(after=clicks.time > clicks.bought, is_click=clicks.event_type == "click")
    rate = clicks.groupby("after").is_click.mean()
    assert rate[True] < 0.25 * rate[False]


def test_ratings_rise_with_affinity(events, truth):
    users, items = truth
    rated = events[events.event_type == "rating"]
    taste = np.stack(users.start.loc[rated.user_id])
    match = (taste * np.stack(items.vector.loc[rated.item_id])).sum(axis=1)
    assert np.corrcoef(match, rated.rating)[0, 1] > 0.3


def test_bots_are_regular_and_known_to_the_truth(rows, truth):
    users, _ = truth
    assert users.is_bot.sum() == round(DIRT.bots * CONFIG.events / 1_000)
    gaps = rows[rows.is_bot].sort_values("time").groupby("user_id").time.diff().dropna()
    assert gaps.nunique() == 1 and gaps.iloc[0] <= pd.Timedelta(seconds=3)
    assert (rows[rows.is_bot].event_type == "view").all()


def test_the_oracle_beats_popularity_by_far(events, truth):
    users, items = truth
    last = CONFIG.days - 1
    acted = events[events.event_type != "impression"]
    row, column = users.index.get_indexer(acted.user_id), items.index.get_indexer(acted.item_id)
    before = (acted.day < last).to_numpy()
    seen, held_out = np.zeros((2, len(users), len(items)), bool)
    seen[row[before], column[before]] = True
    held_out[row[~before], column[~before]] = True
    held_out &= ~seen
    who = np.flatnonzero(held_out.any(axis=1))
    assert len(who) > 50
    utility = world.affinity(
        np.stack(users.start), np.stack(users.end), np.stack(items.vector), items.popularity.to_numpy(), last,
        CONFIG.days,
    )  # fmt: skip
    popularity = np.broadcast_to(np.bincount(column[before], minlength=len(items)), seen.shape)

    def ndcg_at_10(scores):
        top = np.argsort(-np.where(seen, -np.inf, scores), axis=1, kind="stable")[who, :10]
        gain = 1 / np.log2(np.arange(2, 12))
        best = np.cumsum(gain)[np.minimum(held_out[who].sum(axis=1), 10) - 1]
        return ((np.take_along_axis(held_out[who], top, axis=1) @ gain) / best).mean()

    assert ndcg_at_10(utility) > 0.2
    assert ndcg_at_10(utility) > 2.5 * ndcg_at_10(popularity)


def test_the_truth_knows_the_utility_of_single_pairs(log):
    read, items = Truth.read(log[0]), world.draw_items(CONFIG, SEED)
    blocks = [world.draw_users(CONFIG, items, SEED, block) for block in range(world.block_count(CONFIG))]
    start, end = (np.concatenate([getattr(users, name) for users in blocks]) for name in ("start", "end"))
    rng = np.random.default_rng(SEED)
    user, item = rng.integers(CONFIG.users, size=2_000), rng.integers(CONFIG.items, size=2_000)
    day = rng.integers(CONFIG.days, size=2_000)
    begin = dt.datetime.combine(CONFIG.start, dt.time(), dt.UTC).timestamp()
    last = 86_400 * day + 86_399
    assert (read.day(begin + 86_400 * day) == day).all() and (read.day(begin + last) == day).all()
    found = read.utility([f"u{n:07d}" for n in user], [f"i{n:07d}" for n in item], day)
    by_day = np.stack([
        world.affinity(start, end, items.vectors, items.popularity, d, CONFIG.days) for d in range(CONFIG.days)
    ])  # fmt: skip
    np.testing.assert_allclose(found, by_day[day, user, item], atol=1e-5)  # the truth is written in float32


def test_clicks_follow_the_truth(log, events):
    truth, clicks = Truth.read(log[0]), events[events.event_type == "click"]
    shown = events[events.event_type == "impression"].sort_values("time")
    shown = shown.drop_duplicates(["session_id", "item_id"])  # a second list of a session may show it again
    keys = ["session_id", "item_id"]
    clicked = pd.MultiIndex.from_frame(shown[keys]).isin(pd.MultiIndex.from_frame(clicks[keys]))
    utility = truth.utility(shown.user_id, shown.item_id, truth.day(shown.time.astype("datetime64[s]").astype("int64")))
    assert utility[clicked].mean() > utility[~clicked].mean() + 0.5

    def known(kind):
        first = events[events.event_type == kind].groupby(["user_id", "item_id"]).time.min().rename("first")
        return (shown.join(first, on=["user_id", "item_id"])["first"] < shown.time).to_numpy()

    expected = world.click_probability(utility, shown.position.to_numpy())
    expected *= acts.repeat_share(known("click"), known("purchase"))
    for n, part in enumerate(np.array_split(np.argsort(expected), 5)):
        error = math.sqrt((expected[part] * (1 - expected[part])).sum()) / len(part)
        assert clicked[part].mean() == pytest.approx(expected[part].mean(), abs=4 * error + 0.015), n

    users = pd.factorize(shown.user_id)[0]
    rows = pd.DataFrame({"user": users, "clicked": clicked, "utility": utility})
    judged = [of for _, of in rows.groupby("user") if of.clicked.nunique() == 2]
    aucs, weights = [roc_auc_score(of.clicked, of.utility) for of in judged], [len(of) for of in judged]
    assert gauc(clicked, utility, users) == pytest.approx(np.average(aucs, weights=weights), abs=1e-12)
    assert gauc(clicked, expected, users) > gauc(clicked, utility, users) > 0.5


def test_the_truth_does_not_know_strangers(log, tmp_path):
    read = Truth.read(log[0])
    with pytest.raises(DataError, match="no item 'i0000300'; take the log that the warehouse was made from"):
        read.utility(["u0000001", "u0000002"], ["i0000299", "i0000300"], [0, 1])
    with pytest.raises(DataError, match="no user 'x'"):
        read.utility(["x"], ["i0000000"], [0])
    with pytest.raises(DataError, match=r"holds no embedded log .*; write one with jobs/generate_log.py"):
        Truth.read(tmp_path)


def test_drift_moves_tastes_as_far_as_asked():
    def distance(drift):
        config = CONFIG.model_copy(update={"drift": drift})
        users = world.draw_users(config, world.draw_items(config, SEED), SEED, block=0)
        np.testing.assert_allclose(np.linalg.norm([users.start, users.end], axis=-1), 1.0)
        return 1 - (users.start * users.end).sum(axis=1).mean()

    assert distance(0.0) == pytest.approx(0.0, abs=1e-12)
    assert 0.02 < distance(0.3) < distance(0.6) < distance(1.0)
    assert distance(1.0) > 0.5


def test_the_catalogue_agrees_with_the_hidden_vectors(log, truth):
    _, hidden = truth
    items = pd.read_json(log[0] / "items.jsonl", lines=True)
    triples = pd.read_json(log[0] / "kg.jsonl", lines=True)
    assert list(items.item_id) == list(hidden.index) and items.title.is_unique
    for item in items.itertuples():
        assert all(category in item.description for category in item.categories)
    has = triples[triples.relation == "has_category"].groupby("head")["tail"].agg(list)
    assert has.loc[items.item_id].tolist() == items.categories.tolist()
    assert items.price.gt(0).all() and items.price.nunique() > len(items) / 3
    made_by = triples[triples.relation == "made_by"].set_index("head")["tail"].loc[items.item_id]
    main = items.categories.str[0]
    assert main.groupby(made_by.to_numpy()).nunique().max() <= 2
    names = item_texts.category_names(CONFIG.categories)
    near = triples[triples.relation == "related_to"]
    assert Counter(near["head"]) == dict.fromkeys(names, 2) and set(near["tail"]) <= set(names)
    vectors = np.stack(hidden.vector)
    cosine = vectors @ vectors.T
    same = main.to_numpy()[:, None] == main.to_numpy()
    assert cosine[same].mean() > cosine[~same].mean() + 0.4
    same_maker = same & (made_by.to_numpy()[:, None] == made_by.to_numpy()) & ~np.eye(len(items), dtype=bool)
    assert cosine[same_maker].mean() > cosine[same].mean()


def test_a_log_that_stands_is_not_made_again(log, spark, monkeypatch):
    monkeypatch.setattr(generate, "_write", lambda *_: pytest.fail("made again"))
    assert generate.generate_log(spark, CONFIG, log[0], SEED) == log[1]


@pytest.mark.parametrize("stands", [False, True])
def test_a_failed_run_changes_nothing(stands, tmp_path, monkeypatch):
    path = tmp_path / "log"
    mark = json.dumps({"format": generate.FORMAT, "seed": 1, "config": {}, "counts": {}})
    if stands:
        path.mkdir()
        (path / generate.MARK).write_text(mark)

    def fail(spark, config, folder, seed):
        (folder / "half").write_text("written")
        raise KeyboardInterrupt

    monkeypatch.setattr(generate, "_write", fail)
    with pytest.raises(KeyboardInterrupt):
        generate.generate_log(None, CONFIG, path, SEED)
    assert {p.name for p in tmp_path.iterdir()} == {".log.lock"} | ({"log"} if stands else set())
    if stands:
        assert [p.name for p in path.iterdir()] == [generate.MARK] and (path / generate.MARK).read_text() == mark


def test_an_older_log_comes_back_if_the_new_one_cannot_take_its_place(tmp_path, monkeypatch):
    path = tmp_path / "log"
    path.mkdir()
    (path / generate.MARK).write_text(json.dumps({"format": generate.FORMAT, "seed": 1, "config": {}, "counts": {}}))
    rename = generate.os.rename

    def refuse(source, target):
        if Path(source).name == ".log.new":
            raise OSError("disk gone")
        rename(source, target)

    monkeypatch.setattr(generate, "_write", lambda *_: {})
    monkeypatch.setattr(generate.os, "rename", refuse)
    with pytest.raises(OSError, match="disk gone"):
        generate.generate_log(None, CONFIG, path, SEED)
    assert json.loads((path / generate.MARK).read_text())["seed"] == 1
    assert {p.name for p in tmp_path.iterdir()} == {"log", ".log.lock"}


@pytest.mark.parametrize("foreign", ["folder", "file", "mark"])
def test_what_it_did_not_write_is_left_alone(foreign, tmp_path):
    path = tmp_path / "log"
    if foreign == "file":
        path.write_text("mine")
    else:
        path.mkdir()
        (path / ("notes.txt" if foreign == "folder" else generate.MARK)).write_text("mine")
    with pytest.raises(ConfigError, match="not an embedded log; move it away"):
        generate.generate_log(None, CONFIG, path, SEED)
    assert [p.read_text() for p in tmp_path.rglob("*") if p.is_file() and p.name != ".lock"] == ["mine"]


def test_more_dirt_than_events_is_refused(tmp_path):
    dirt = DirtConfig(duplicates=0.5, late=0.5)
    with pytest.raises(ConfigError, match="add up to"):
        generate.generate_log(None, CONFIG.model_copy(update={"dirt": dirt}), tmp_path / "log", SEED)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "extreme",
    [
        dict(users=2, items=10, days=2, events=100, categories=2),
        dict(users=30, items=10, days=3, events=2_000, categories=40),
        dict(users=20, items=50, events=60_000),
        dict(new_user_share=1.0, new_item_share=1.0, drift=1.0, users=300, events=20_000),
    ],
)
def test_extreme_configurations_work(extreme):
    config = GeneratorConfig(**extreme)
    items = world.draw_items(config, SEED)
    sessions = generate._sessions_per_block(config, items, SEED)
    blocks = [generate._block_lines(config, items, SEED, b, n) for b, n in enumerate(sessions)]
    kinds = Counter(kind for block in blocks for kind in block["kind"])
    valid = sum(kinds[k] for k in (generate._CLEAN, *(1 + generate.DIRT.index(d) for d in ("late", "duplicates"))))
    assert valid == pytest.approx(config.events, rel=0.25 if config.events < 1_000 else 0.05)
    assert all(block["number"].nunique() == len(block) - (block["kind"] == generate._COPY).sum() for block in blocks)
