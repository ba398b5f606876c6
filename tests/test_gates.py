"""Every gate with a fault planted in a day that is sound otherwise, and the stage that acts on what they find."""

import dataclasses
import datetime as dt
import json
import random
import statistics
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from event_tables import event, publish
from mlflow.tracking import MlflowClient
from pydantic import ValidationError

from recsys_spark.config import GatesConfig, Limit
from recsys_spark.log.gates import exceeded, judge_day
from recsys_spark.log.key_sample import KeySample
from recsys_spark.log.profile import Histogram, Profile
from recsys_spark.pipeline import job
from recsys_spark.pipeline.stages import STAGES
from recsys_spark.tracking.gates_report import gates_markdown, gates_plot, gates_table, summary
from recsys_spark.warehouse import Warehouse

CONFIG = GatesConfig(null_share={"device": Limit(warn=0.1)})
TYPES = Histogram(False, {"impression": 6_000, "view": 3_000, "click": 1_000})


def sample(first: int, n: int) -> KeySample:
    return KeySample.of(np.arange(first, first + n, dtype=np.int64) * 7_919)


def sound(number: int, **changes: object) -> Profile:
    """The day of January, 10,000 events more or less, with 50 users and 5 items that the day before had not."""
    profile = Profile(
        batch=f"2026-01-{number:02}",
        events=10_000 + 100 * (number % 3),
        late=10,
        rows_in=10_500,
        quarantined=100,
        duplicates=50,
        bots=200,
        kept=10_010,
        nulls={"device": 300},
        last=dt.datetime(2026, 1, number, 23, 30, tzinfo=dt.UTC),
        histograms={
            "event_type": TYPES,
            "device": Histogram(False, {"tv": 5_000, "mobile": 5_000}),
            "country": Histogram(False, {"NL": 7_000, "DE": 3_000}),
            "position": Histogram(True, {f"{p}.0e+00": 1_000 for p in range(1, 9)}, 0, 2_000),
            "rating": Histogram(True, {"4.0e+00": 10, "5.0e+00": 10}, 0, 9_980),
            "hour": Histogram(False, {f"{h:02}": 400 for h in range(24)}),
        },
        users=sample(50 * number, 1_000),
        items=sample(10_000 + 5 * number, 200),
    )
    return dataclasses.replace(profile, **changes)


TRAILING = [sound(n) for n in range(7, 14)]


def judged(profile: Profile, config: GatesConfig = CONFIG, trailing=None, unknown: float | None = 0.01, **more):
    days = TRAILING if trailing is None else trailing
    results = judge_day(profile, days, more.get("reference", days[0] if days else None), config, unknown)
    assert all("\n" not in r.text and r.text.startswith(profile.batch) for r in results)
    return {r.gate: r for r in results}


def drifted(**histograms: Histogram) -> Profile:
    return sound(14, histograms={**sound(14).histograms, **histograms})


def test_a_sound_day_passes_every_gate():
    found = judged(sound(14))
    assert {r.status for r in found.values()} == {"pass"}
    assert list(found) == [
        "volume_drop", "volume_rise", "bad_share", "null_share.device", "unknown_share", "users_drop", "items_drop",
        "new_users", "new_items", "bot_share", "mix", "stale_hours",
        *(f"drift.{c}" for c in CONFIG.drift_columns),
    ]  # fmt: skip
    usual = statistics.median(p.events for p in TRAILING)
    assert found["volume_drop"].value == pytest.approx(1 - 10_200 / usual) == -found["volume_rise"].value
    assert found["bad_share"].value == 100 / 10_500 and found["bot_share"].value == 200 / 10_210
    assert found["new_users"].value == pytest.approx(50 / 1_000)
    assert found["new_items"].value == pytest.approx(5 / 200)
    assert found["null_share.device"].value == pytest.approx(300 / 10_200)
    assert found["stale_hours"].value == 0.5 and found["unknown_share"].value == 0.01


MIX = Histogram(False, {"impression": 9_500, "view": 400, "click": 100})
FAULTS = {
    "volume_drop": (sound(14, events=7_200, nulls={"device": 0}), "28.7% fewer events than the median of 7 days"),
    "volume_rise": (sound(14, events=20_400), "102% more events than the median of 7 days"),
    "bad_share": (sound(14, quarantined=1_050), "10% of 10,500 rows are quarantined"),
    "null_share.device": (sound(14, nulls={"device": 5_100}), "50% of the events have no device"),
    "users_drop": (sound(14, users=sample(650, 500)), "50% fewer users than the median of 7 days (500 against 1,000"),
    "items_drop": (sound(14, items=sample(10_065, 100)), "50% fewer items"),
    "new_users": (sound(14, users=sample(1_350, 1_000)), "70% of the users are on none of the 7 days before"),
    "new_items": (sound(14, items=sample(90_000, 200)), "100% of the items"),
    "bot_share": (sound(14, bots=10_010), "50% of the events are of bots"),
    "mix": (drifted(event_type=MIX), "between the event types and those of the trailing days"),
    "stale_hours": (sound(14, last=dt.datetime(2026, 1, 14, 12, 0, tzinfo=dt.UTC)), "12 h from the last event"),
    "drift.event_type": (drifted(event_type=MIX), "PSI 0.892"),
    "drift.device": (drifted(device=Histogram(False, {"tv": 5_000, "phone": 5_000})), "device and those of 2026-01-07"),
    "drift.country": (drifted(country=Histogram(False, {"NL": 1_000}, missing=9_000)), "values of country"),
    "drift.position": (drifted(position=Histogram(True, {"1.0e+00": 8_000}, 0, 2_000)), "values of position"),
    "drift.rating": (drifted(rating=Histogram(True, {"4.0e+00": 5_000}, 0, 5_000)), "values of rating"),
    "drift.hour": (drifted(hour=Histogram(False, {f"{h:02}": 800 for h in range(12)})), "values of hour"),
}  # fmt: skip


@pytest.mark.parametrize("gate", [*FAULTS, "unknown_share"])
def test_a_planted_fault_trips_its_gate_and_no_other(gate):
    profile, words = FAULTS.get(gate, (sound(14), "40% of the events are of items that the catalogue lacks"))
    unknown = 0.4 if gate == "unknown_share" else 0.01
    found = judged(profile, unknown=unknown)
    tripped = {g for g, r in found.items() if r.status != "pass"}
    assert tripped == ({"mix", "drift.event_type"} if gate in ("mix", "drift.event_type") else {gate})
    result = found[gate]
    assert result.status == "warn" and result.value > result.warn
    assert words in result.text and f"{result.key}.warn is " in result.text
    assert result.text.endswith(", or raise the limit for this night") and "; " in result.text

    name, column = result.kind, gate.partition(".")[2]

    def limited(limit: Limit) -> GatesConfig:
        return CONFIG.model_copy(update={name: {column: limit} if name == "null_share" else limit})

    stopped = judged(profile, limited(Limit(warn=result.value / 2, stop=result.value * 0.99)), unknown=unknown)[gate]
    assert stopped.status == "stop" and f"{result.key}.stop is " in stopped.text
    assert judged(profile, limited(Limit(stop=result.value)), unknown=unknown)[gate].status == "pass", "up to the limit"
    never = judged(profile, limited(Limit()), unknown=unknown)[gate]
    assert (never.status, never.value, never.warn, never.stop) == ("pass", result.value, None, None)


@pytest.mark.parametrize("number", range(8, 15))
def test_half_a_day_stops_whichever_day_of_a_week_with_a_weekend(number):
    """Weekends a third above the other days: half of one is not so far from the trailing median."""

    def events(n: int) -> int:
        return 13_300 if dt.date(2026, 1, n).weekday() >= 5 else 10_000

    trailing = [sound(n, events=events(n)) for n in range(number - 7, number)]
    whole = judged(sound(number, events=events(number)), trailing=trailing)
    assert {whole[g].status for g in ("volume_drop", "volume_rise")} == {"pass"}
    half = judged(sound(number, events=events(number) // 2), trailing=trailing)["volume_drop"]
    assert half.status == "stop"
    assert "fewer events than the median of 7 days" in half.text and "log.gates.volume_drop.stop is 33%" in half.text
    assert "deliver the day again, or raise the limit for this night" in half.text


def test_a_day_without_an_event_stops():
    nothing = sound(14, events=0, kept=0, bots=0, nulls={"device": 0}, last=None, histograms={}, users=None, items=None)
    found = judged(nothing, unknown=None)
    assert found["volume_drop"].status == "stop" and found["volume_drop"].value == 1
    assert {found[g].value for g in ("users_drop", "items_drop")} == {1.0} and found["stale_hours"].value == 24
    rest = ("null_share.device", "unknown_share", "new_users", "mix", "drift.hour")
    assert {found[g].status for g in rest} == {"not judged"}


def test_what_needs_days_before_is_not_judged_without_them():
    needs = {"volume_drop", "volume_rise", "users_drop", "items_drop", "new_users", "new_items", "mix"}
    found = judged(sound(14), trailing=TRAILING[:2])
    assert {g for g, r in found.items() if r.status == "not judged"} == needs
    assert all("2 trailing days" in found[g].text and "least_days is 3" in found[g].text for g in needs)
    assert judged(sound(14), trailing=TRAILING[:3])["volume_drop"].status == "pass"
    first = judged(sound(14), trailing=[])
    assert {r.status for g, r in first.items() if g.startswith("drift.")} == {"not judged"}

    whole = judged(dataclasses.replace(sound(14), batch="all", histograms={}, users=None, items=None))
    judged_still = {g for g, r in whole.items() if r.status != "not judged"}
    assert judged_still == {"bad_share", "null_share.device", "unknown_share", "bot_share"}
    assert "whole log" in whole["volume_drop"].text
    assert judged(sound(14), unknown=None)["unknown_share"].status == "not judged"


def test_so_few_users_that_chance_alone_drifts_are_not_judged():
    """A thousand events each, but of people who have one country."""
    few = sample(700, 60)
    countries = Histogram(False, {f"c{i}": 1_000 for i in range(10)})
    day = dataclasses.replace(drifted(country=countries), users=few)
    found = judged(day, reference=day)["drift.country"]
    assert found.status == "not judged" and "PSI 0.3 by chance alone" in found.text
    assert judged(drifted(country=countries), reference=drifted(country=countries))["drift.country"].status == "pass"
    free = CONFIG.model_copy(update={"drift": Limit()})
    assert judged(day, free, reference=day)["drift.country"].value == 0


def test_limits_are_compared_as_numbers_are():
    """The declared schema against `>`."""
    rng = random.Random(1)
    values = {f"g{i}": rng.choice([None, -0.5, 0.0, 0.3, 0.5, rng.random()]) for i in range(200)}
    limits = {g: Limit(warn=rng.choice([None, 0.0, 0.3]), stop=rng.choice([None, 0.3, 0.5])) for g in values}
    wanted = {}
    for gate, value in values.items():
        for status in ("warn", "stop"):
            bound = getattr(limits[gate], status)
            if value is not None and bound is not None and value > bound:
                wanted[gate] = status
    assert exceeded(values, limits) == wanted and len(set(wanted.values())) == 2


def test_limits_that_cannot_be_meant_are_refused():
    for gates in ({"mix": Limit(warn=0.5, stop=0.3)}, {"null_share": {"device": Limit(warn=0.5, stop=0.3)}}):
        with pytest.raises(ValidationError, match=r"log\.gates\.(mix|null_share\.device) warns above 0.5"):
            GatesConfig(**gates)
    with pytest.raises(ValidationError, match="least_days 8"):
        GatesConfig(least_days=8)


def test_a_limit_that_is_not_named_stays_as_it_is():
    def limits(**gates):
        limit = GatesConfig.model_validate({"volume_drop": gates}).volume_drop
        return limit.warn, limit.stop

    assert limits(warn=0.1) == (0.1, 0.33) and limits(stop=0.5) == (0.25, 0.5) and limits(stop=0.2) == (0.2, 0.2)
    assert limits(warn=None) == (None, 0.33) and limits(stop=None) == (0.25, None)
    assert limits(warn=None, stop=None) == (None, None)
    assert GatesConfig(volume_drop=Limit(warn=0.1)).volume_drop == Limit(warn=0.1)


def test_the_report_shows_every_gate(tmp_path):
    results = list(judged(sound(14, events=5_000, bots=10_010)).values())
    table = gates_table(results)
    assert list(table["gate"]) == [r.gate for r in results] and table["value"].notna().all()
    assert "1 warn, 1 stop" in summary(results)
    text = gates_markdown(results)
    assert "**stop** volume_drop" in text and "**warn** bot_share" in text and "mix" not in text
    for name, trailing in (("days.png", TRAILING), ("first.png", [])):
        gates_plot(
            results if trailing else list(judged(sound(14), trailing=[]).values()),
            sound(14),
            trailing,
            CONFIG,
            tmp_path / name,
        )
        assert (tmp_path / name).read_bytes()[:4] == b"\x89PNG"


# ---- the stage


def write_config(root, name="tiny"):
    log = {"path": f"{root}/none", "event_types": {"view": 1, "click": 1}, "items": {"path": "none"}}
    (root / f"{name}.yaml").write_text(yaml.safe_dump({"name": name, "root": f"{root}/warehouse/{name}", "log": log}))
    return root / f"{name}.yaml"


def check(config, *arguments):
    stage = STAGES["check_log"]
    return job.run("check_log", lambda context, _: stage(context), "", ["--config", str(config), *arguments])


def a_day(number: int, n: int = 60) -> list[dict]:
    start = dt.datetime(2026, 1, number, tzinfo=dt.UTC)
    return [
        event(i, start + dt.timedelta(minutes=1_439 * i / n), user_id=f"u{i % 20}", item_id=f"i{(i + number) % 30}",
              event_type=("view", "click")[i % 2], device="tv")
        for i in range(n)
    ]  # fmt: skip


@pytest.fixture(scope="module")
def night(spark, tmp_path_factory):
    """Seven days; the last is half of one. Half of the items are in the catalogue."""
    root = tmp_path_factory.mktemp("gates")
    config = write_config(root)
    warehouse = Warehouse(root / "warehouse/tiny")
    for number in range(1, 8):
        publish(warehouse, f"2026-01-0{number}", a_day(number, 30 if number == 7 else 60))

    def items(path):
        spark.createDataFrame([(f"i{i}",) for i in range(15)], "item_id string").write.parquet(str(path / "data"))
        return {"rows": 15}

    warehouse.slot("items").materialize("v1", items)
    return root, config


def stage_runs(root):
    mlflow = MlflowClient(f"sqlite:///{root}/mlflow/mlflow.db", f"sqlite:///{root}/mlflow/mlflow.db")
    experiment = mlflow.get_experiment_by_name("tiny")
    runs = mlflow.search_runs([experiment.experiment_id], "attributes.run_name = 'check_log'")
    return mlflow, runs  # the newest first


def test_half_a_day_ends_the_night_with_one_line_and_everything_is_logged(night, capfd, tmp_path):
    root, config = night
    assert check(config) == 3
    err = capfd.readouterr().err.splitlines()
    (line,) = [text for text in err if text.startswith("error")]
    assert line == (
        "error: 2026-01-07: 50% fewer events than the median of 6 days (30 against 60; "
        "log.gates.volume_drop.stop is 33%); deliver the day again, or raise the limit for this night"
    )
    warned = [text for text in err if text.startswith("warning")]
    assert len(warned) == 1 and "50% of the events are of items that the catalogue lacks" in warned[0]
    assert not [text for text in err if "Traceback" in text]

    mlflow, (run, *_) = stage_runs(root)
    assert run.info.status == "FAILED"
    assert run.data.tags["recsys.gates.stop"] == "volume_drop"
    assert run.data.metrics["gate/volume_drop"] == 0.5 and run.data.metrics["gate/unknown_share"] == 0.5
    files = {f.path for f in mlflow.list_artifacts(run.info.run_id, "gates")}
    assert files == {"gates/gates.json", "gates/gates.png"}
    logged = json.loads(Path(mlflow.download_artifacts(run.info.run_id, "gates/gates.json", str(tmp_path))).read_text())
    table = pd.DataFrame(logged["data"], columns=logged["columns"]).set_index("gate")
    assert table.loc["volume_drop", "status"] == "stop" and "2026-01-07" in table.loc["volume_drop", "text"]
    parent = mlflow.get_run(run.data.tags["mlflow.parentRunId"])
    assert "1 stop" in parent.data.tags["recsys.gates"]


def test_for_this_night_the_limit_can_be_raised(night, capfd):
    root, config = night
    assert check(config, "log.gates.volume_drop.stop=0.6") == 0
    out, err = capfd.readouterr()
    line = json.loads(out.strip().splitlines()[-1])
    assert line["outputs"]["warned"] == ["volume_drop", "unknown_share"] and line["metrics"]["volume_drop"] == 0.5
    assert line["counts"]["events"] == 30 and line["inputs"]["trailing"] == [f"2026-01-0{n}" for n in range(1, 7)]
    assert sum(text.startswith("warning") for text in err.splitlines()) == 2
    assert stage_runs(root)[1][0].info.status == "FINISHED"
    assert check(config, "log.gates.volume_drop={warn: null, stop: null}") == 0
    assert json.loads(capfd.readouterr().out.strip().splitlines()[-1])["outputs"]["warned"] == ["unknown_share"]


def test_an_earlier_day_sees_the_days_before_it_alone(night, capfd):
    root, config = night
    nulls = "log.gates.null_share={user_id: {warn: 0.5}}"
    assert check(config, "--date", "2026-01-05", "log.gates.trailing_days=3", nulls) == 0
    line = json.loads(capfd.readouterr().out.strip().splitlines()[-1])
    assert line["metrics"]["null_share.user_id"] == 0
    kept = [path.read_text() for path in root.glob("warehouse/tiny/profiles/*/*/profile.json")]
    assert kept and not any('"u1"' in text for text in kept), "counting nulls keeps nobody's id"
    assert line["inputs"]["trailing"] == ["2026-01-02", "2026-01-03", "2026-01-04"]
    assert line["metrics"]["volume_drop"] == 0


@pytest.mark.parametrize(
    ("code", "words", "override"),
    [
        (2, ["log.gates.drift_columns", "'colour'", "device"], "log.gates.drift_columns=[colour]"),
        (2, ["log.gates.drift_columns", "'session_id' names people"], "log.gates.drift_columns=[session_id]"),
        (2, ["log.gates.null_share", "'hour'"], "log.gates.null_share={hour: {warn: 0.1}}"),
        (2, ["log.gates.volume_drop", "warns above 0.9 and stops above 0.33"], "log.gates.volume_drop.warn=0.9"),
        (3, ["log.gates.reference_day", "2025-12-01 has no events"], "log.gates.reference_day=2025-12-01"),
    ],
)
def test_gates_that_cannot_be_read_say_so(night, capfd, code, words, override):
    _, config = night
    assert check(config, override) == code
    (line,) = [text for text in capfd.readouterr().err.splitlines() if text.startswith("error")]
    assert all(word in line for word in words), line


def test_a_whole_log_is_judged_by_itself(night, capfd):
    root, _ = night
    config = write_config(root, "whole")
    publish(Warehouse(root / "warehouse/whole"), "all", a_day(1) + a_day(2), quarantined=30, rows_in=150)
    assert check(config) == 0
    out, err = capfd.readouterr()
    metrics = json.loads(out.strip().splitlines()[-1])["metrics"]
    assert {g for g, v in metrics.items() if v is not None} == {"bad_share", "bot_share"}
    (warning,) = [text for text in err.splitlines() if text.startswith("warning")]
    assert "all: 20% of 150 rows are quarantined" in warning
