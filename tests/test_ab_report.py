"""The job `ab_report` on a warehouse written by hand: what is counted, what is written, what is refused."""

from __future__ import annotations

import contextlib
import datetime as dt
import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from event_tables import event, publish
from mlflow.tracking import MlflowClient

from recsys_spark.config import AssignmentsConfig, ExperimentConfig
from recsys_spark.errors import DataError
from recsys_spark.evaluation.ab.daily import COUNTS
from recsys_spark.evaluation.ab.users import moments_of_looks, read_assignments, user_days
from recsys_spark.log.privacy import as_pseudonyms, pseudonym
from recsys_spark.pipeline import ab_report, job
from recsys_spark.schemas import EVENTS, ITEMS
from recsys_spark.warehouse import Warehouse

FIRST = dt.date(2026, 3, 1)
DAYS = 12
BATCHES = (3, 7, 11)  # each with the four days up to it
CONFIG = """\
name: arms
root: {root}/warehouse/arms
log:
  path: {root}/no-log
  event_types: {{impression: 0, click: 1, purchase: 3}}
experiment:
  assignments: {{path: {root}/arms.csv}}
  guardrails: {{retention: 0.9}}
  retention_days: 2
  pre_days: 3
  expected_lift: 0.2
spark: {{master: "local[2]", driver_memory: 2g, shuffle_partitions: 2}}
"""


def at(day, hour=12):
    return dt.datetime.combine(FIRST + dt.timedelta(days=day), dt.time(hour), dt.UTC)


def simulate(users=300, lift=0.6, seed=1):
    """Events and arms: everyone is given an arm at noon of day 4 to 6 and comes on most days, before it too."""
    r, events, arms = np.random.default_rng(seed), [], []
    for number in range(users):
        user, arm = f"u{number:04d}", ("control", "new")[number % 2]
        given = int(r.integers(4, 7))
        arms.append((user, arm, at(given)))
        taste = r.beta(2, 6)
        for day in range(DAYS):
            for n in range(r.poisson(2)):
                time = at(day) + dt.timedelta(minutes=int(r.integers(-600, 600)))
                chance = taste * (1 + lift * (arm == "new" and time >= at(given)))
                of = {"user_id": user, "item_id": f"i{r.integers(1, 4)}"}
                number_of = len(events)
                events.append(event(number_of, time, event_type="impression", **of))
                if r.random() < chance:
                    events.append(event(number_of + 10**6, time, event_type="click", **of))
                    if n == 0:
                        events.append(event(number_of + 2 * 10**6, time, event_type="purchase", **of))
    return events, arms


PRICES = {"i1": 2.5, "i2": 4.0, "i3": None}


@pytest.fixture(scope="module")
def made(spark, tmp_path_factory):
    """A warehouse of three batches; a fifth of a batch's last day is delivered again with the next."""
    root = tmp_path_factory.mktemp("ab")
    events, arms = simulate()
    warehouse = Warehouse(root / "warehouse/arms")
    for day in BATCHES:
        date = FIRST + dt.timedelta(days=day)
        of = [e for e in events if (date - dt.timedelta(days=4)) < e["date"] <= date]
        again = [e for n, e in enumerate(events) if e["date"] == date - dt.timedelta(days=4) and n % 5 == 0]
        publish(warehouse, str(date), of + again)

    def items(path):
        (path / "data").mkdir()
        rows = [
            {"item_id": i, "title": i, "description": None, "categories": [], "price": p} for i, p in PRICES.items()
        ]
        fields = [(n, pa.list_(pa.string()) if n == "categories" else pa.string()) for n in ITEMS.schema.names[:-1]]
        pq.write_table(
            pa.Table.from_pylist(rows, pa.schema([*fields, ("price", pa.float32())])), path / "data/0.parquet"
        )
        return {"rows": len(rows)}

    warehouse.slot("items").materialize("v1", items)
    lines = ["user_id,arm,assigned_at", *(f"{u},{a},{t:%Y-%m-%d %H:%M:%S}" for u, a, t in arms)]
    lines += [
        "u0000,control,2026-03-11 00:00:00",
        "late,new,2026-04-01 00:00:00",
        "twice,new,2026-03-05",
        "twice,control,2026-03-06",
    ]
    lines += ["silent,new,2026-03-05"]
    (root / "arms.csv").write_text("\n".join(lines), encoding="utf-8")
    (root / "arms.yaml").write_text(CONFIG.format(root=root), encoding="utf-8")
    return root, events, arms


def run(root, *arguments):
    """Run the job in this process: its exit code, its last line, and everything it said."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        code = job.run("ab_report", ab_report.ab_report, "", ["--config", str(root / "arms.yaml"), *arguments],
                       flags=ab_report.FLAGS)  # fmt: skip
    text = out.getvalue()
    return code, json.loads(text.strip().splitlines()[-1]) if code == 0 else None, text


def expected(events, arms, arm, last):
    """Clicks, impressions, purchases, revenue and retained users of an arm up to a day, in plain Python."""
    given = {u: t for u, a, t in arms if a == arm}
    mine = [e for e in events if e["user_id"] in given and e["timestamp"] >= given[e["user_id"]] and e["date"] <= last]
    kinds = [e["event_type"] for e in mine]
    paid = sum(PRICES[e["item_id"]] or 0.0 for e in mine if e["event_type"] == "purchase")
    over = {u for u, t in given.items() if t.date() + dt.timedelta(days=3) <= last}
    back = {e["user_id"] for e in mine if (e["date"] - given[e["user_id"]].date()).days in (2, 3)} & over
    return {
        "ctr": kinds.count("click") / kinds.count("impression"), "cvr": kinds.count("purchase") / kinds.count("click"),
        "revenue": paid / (len(given) + (arm == "new")), "retention": len(back) / (len(over) + (arm == "new")),
    }  # fmt: skip


def test_the_figures_are_those_of_plain_python_and_the_verdict_is_right(made):
    root, events, arms = made
    code, line, text = run(root)
    assert code == 0, text[-3000:]
    assert line["run_date"] == str(FIRST + dt.timedelta(days=DAYS - 1))
    assert line["counts"] == {"users_control": 150, "users_new": 151, "crossed": 1}  # with `silent`, without `late`
    assert "1 users were given more than one arm" in text
    report = json.loads(Path(line["outputs"]["figures"]).read_text())
    last = FIRST + dt.timedelta(days=DAYS - 1)
    for arm, side in (("control", "control"), ("new", "treatment")):
        for metric, value in expected(events, arms, arm, last).items():
            assert report["effects"]["new"][metric][side]["value"] == pytest.approx(value), (arm, metric)
    assert report["effects"]["new"]["ctr"]["variance_left"] < 1
    assert line["metrics"]["verdicts"] == {"new": "ship"} and "Ship: ctr" in text
    assert next(iter(report["lift_by_day"])) == "2026-03-05"
    assert Path(line["outputs"]["picture"]).exists()
    assert "NaN" not in Path(line["outputs"]["figures"]).read_text()
    client = MlflowClient(f"sqlite:///{root}/mlflow/mlflow.db")
    (logged,) = client.search_runs([client.get_experiment_by_name("arms").experiment_id])
    assert logged.data.metrics["new_ctr_lift"] == pytest.approx(report["effects"]["new"]["ctr"]["lift"]["value"])
    assert {f.path for f in client.list_artifacts(logged.info.run_id)} == {"report.md", "report.json", "report.png"}

    again = run(root)[1]
    assert again["outputs"]["reused"] and {k: v for k, v in again["metrics"].items()} == line["metrics"]

    earlier = FIRST + dt.timedelta(days=7)
    code, line, text = run(root, "--date", str(earlier))
    assert code == 0, text[-3000:]
    report = json.loads(Path(line["outputs"]["figures"]).read_text())
    value = report["effects"]["new"]["ctr"]["treatment"]["value"]
    assert value == pytest.approx(expected(events, arms, "new", earlier)["ctr"])


def test_a_plan_needs_no_assignments(made):
    root, _, _ = made
    code, line, text = run(root, "--plan", "experiment.assignments=null", "experiment.days=5")
    assert code == 0, text[-3000:]
    assert line["metrics"]["ctr"]["needed"]["0.2"] > 0 and "| ctr |" in text
    assert line["counts"]["users_ctr"] <= 300


@pytest.mark.parametrize(
    ("overrides", "code", "message"),
    [
        (["experiment.assignments=null"], 2, "experiment.assignments is not set"),
        (["experiment.control=old"], 2, "experiment.control 'old' is no arm"),
        (["experiment.shares={control: 0.5, other: 0.5}"], 2, "experiment.shares names control, other"),
        (["experiment.assignments.path=/nowhere.csv"], 3, "/nowhere.csv: no such assignment table"),
        (["experiment.assignments.format=parquet"], 3, "arms.csv: cannot be read as parquet"),
        (["experiment.assignments.columns={arm: variant}"], 3, "has no column 'variant'"),
        (["--date", "2026-03-04"], 3, "nobody was given an arm by 2026-03-04"),
    ],
)
def test_bad_input_is_one_line_and_the_right_exit_code(made, overrides, code, message):
    root, _, _ = made
    got, _, text = run(root, *overrides)
    assert got == code and message in text
    assert [line for line in text.splitlines() if line.startswith("error:")] == text.strip().splitlines()[-1:]
    assert "Traceback" not in text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("user_id,arm,assigned_at\n", "gives nobody an arm"),
        ("user_id,arm,assigned_at\nu1,,2026-03-01\n", "1 rows lack a user, an arm"),
        ("user_id,arm,assigned_at\nu1,a,10:00\nu2,a,2026-03-01\n", "1 rows lack a user, an arm, or a time"),
    ],
)
def test_an_assignment_table_with_a_hole_is_refused(spark, tmp_path, text, message):
    (tmp_path / "arms.csv").write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=message):
        read_assignments(spark, AssignmentsConfig(path=str(tmp_path / "arms.csv")))


def test_an_assignment_table_in_parquet_and_pseudonyms(spark, tmp_path, monkeypatch):
    rows = pa.table(
        {"who": ["anna", "bob"], "arm": ["a", "b"], "since": pa.array([at(0), at(1)], pa.timestamp("us", "UTC"))}
    )
    pq.write_table(rows, tmp_path / "arms.parquet")
    config = AssignmentsConfig(
        path=str(tmp_path / "arms.parquet"), format="parquet", columns={"user_id": "who", "assigned_at": "since"}
    )
    given = read_assignments(spark, config)
    assert {(r.user_id, r.arm) for r in given.rows.collect()} == {("anna", "a"), ("bob", "b")} and given.crossed == 0
    from recsys_spark.config import PrivacyConfig

    monkeypatch.setenv("RECSYS_PSEUDONYM_KEY", "ab" * 32)
    hidden = as_pseudonyms(given.rows, PrivacyConfig(pseudonymise=True))
    assert {r.user_id for r in hidden.collect()} == {pseudonym(bytes.fromhex("ab" * 32), u) for u in ("anna", "bob")}
    assert hidden.columns == given.rows.columns


def test_an_event_counts_from_the_moment_of_the_assignment_on(spark):
    noon = at(5)
    times = {
        "before": noon - dt.timedelta(seconds=1),
        "at": noon,
        "long_before": noon - dt.timedelta(days=3, seconds=1),
    }
    events = [{**event(n, time), "event_type": "click"} for n, time in enumerate(times.values())]
    events.append({**event(9, noon), "event_type": "purchase", "attributes": {"paid": "3.25"}})
    events.append({**event(10, noon), "event_type": "purchase", "attributes": {"paid": "nothing"}})
    frame = spark.createDataFrame([tuple(e[n] for n in EVENTS.schema.names) for e in events], EVENTS.schema)
    assigned = spark.createDataFrame([("u1", "a", noon)], "user_id string, arm string, assigned_at timestamp")
    config = ExperimentConfig(pre_days=3, retention_days=1, revenue_attribute="paid")
    days = user_days(assigned, frame, spark.createDataFrame([], ITEMS.schema), config, noon.date())
    sums = {pre: {c: sum(r[c] for r in days.collect() if r.pre == pre) for c in COUNTS} for pre in (True, False)}
    assert sums[True] == {"impressions": 0, "clicks": 1, "purchases": 0, "revenue": 0, "active": 1, "retained": 0}
    assert sums[False] == {"impressions": 0, "clicks": 1, "purchases": 2, "revenue": 3.25, "active": 1, "retained": 0}
    found = moments_of_looks(days, noon.date(), noon.date(), 1)
    assert found[noon.date(), "a", "revenue"].mean.tolist() == [3.25, 1, 0, 1]
    assert (noon.date(), "a", "retention") not in found
