"""The DAGs run by a real scheduler and real spark-submit: three nights in a row, the middle one again, and the rest.

Takes minutes: every task of every night starts a Spark application of its own. The tests build on one another.
"""

from __future__ import annotations

import datetime as dt
import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from standalone import ROOT, Airflow

sys.path.insert(0, str(ROOT / "tests"))

from night import published, write_config

NIGHTLY = "recsys_nightly"
DAYS = ("2026-01-05", "2026-01-06", "2026-01-07")
TASKS = (
    "ingest", "check_log", "build_dataset", "train_baseline", "train_deep", "evaluate", "promote", "recommend",
    "export",
)  # fmt: skip
# 2026-01-05 is a Monday, and so small a log that it looks like a loss of events after a weekend
GENERATED = "generate: {users: 120, items: 60, days: 7, events: 9000}\n  gates: {volume_drop: {warn: null, stop: null}}"
NIGHT_SECONDS = 900


@dataclass
class Nights:
    """What the nights left: the folder, and by day its run and what was published after it."""

    root: Path
    airflow: Airflow
    runs: dict[str, str] = field(default_factory=dict)
    after: dict[str, tuple[Any, str]] = field(default_factory=dict)

    def live(self) -> tuple[str, str, Any]:
        """Return what is live: the version of the lists, the exported one, and the lists."""
        lists = (self.root / "warehouse/tiny/recommendations/_current").read_text().strip()
        return lists, (self.root / "export/_current").read_text().strip(), published(self.root)

    def heard(self) -> list[str]:
        """Return the lines that the people on call have got."""
        path = self.root / "heard"
        return path.read_text().splitlines() if path.exists() else []


def versions(root: Path) -> dict[str, dict[str, str]]:
    """Return every version of every table with the checksums of its files."""
    found = {}
    for path in (root / "warehouse/tiny").glob("**/_manifest.json"):
        contents = json.loads(path.read_text()).get("contents", {})
        found[str(path.parent.relative_to(root))] = {file: entry["sha256"] for file, entry in contents.items()}
    return found


@pytest.fixture(scope="module")
def nights(tmp_path_factory):
    """Airflow at work on a small log, with nothing run yet."""
    root = tmp_path_factory.mktemp("nights")
    config = write_config(root)
    text = config.read_text().replace("generate: {users: 120, items: 60, days: 5, events: 8000}", GENERATED)
    assert GENERATED in text
    text = text.replace("epochs: 2", "epochs: 1") + f"export: {{jsonl: {root}/export}}\n"
    # a rank of its own process for each needs more of the machine than it is worth here; tests/test_two_ranks.py has it
    text = text.replace("spark: {", "train: {ranks: 1}\nspark: {conf: {spark.sql.codegen.wholeStage: 'false'}, ")
    text += "tune: {trials: 1, space: {rank: [4]}}\nexpiry: {versions: 1, days: 1}\n"
    config.write_text(text)
    command = ["scripts/submit.sh", "generate_log", "--config", str(config)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    settings = {
        "RECSYS_CONFIG": str(config), "RECSYS_DRIVER_MEMORY": "1g", "RECSYS_RETRY_MINUTES": "0.02",
        "RECSYS_ALERT_COMMAND": f"tee -a {root}/heard", "RECSYS_DEADLINE_HOURS": "0.01",
        "RECSYS_STATUS_DIR": str(root / "status"), "MASTER": "local[2]",
        # forty short lives of a JVM: compiling well takes longer than running; and the DAGs' files stay as they are
        "JAVA_TOOL_OPTIONS": "-XX:TieredStopAtLevel=1",
        "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "3600",
    }  # fmt: skip
    settings["AIRFLOW_CONN_SPARK_DEFAULT"] = json.dumps({"conn_type": "spark", "host": "local[2]"})
    with Airflow(root / "airflow", **settings) as airflow:
        airflow.until("the DAGs", 120, lambda: airflow.call("GET", "dags")["total_entries"] == 5)
        yield Nights(root, airflow)


def test_a_night_without_a_log_fails_in_one_line_and_is_not_tried_again(nights):
    """Switched on, it runs for yesterday, of which this log knows nothing; and not for all days since its start."""
    nights.airflow.call("PATCH", f"dags/{NIGHTLY}", is_paused=False)
    look = lambda: nights.airflow.call("GET", f"dags/{NIGHTLY}/dagRuns")["dag_runs"]  # noqa: E731
    (run,) = nights.airflow.until("the run of the schedule", 60, look)
    assert run["run_type"] == "scheduled"
    assert nights.airflow.ended(NIGHTLY, run["dag_run_id"], 120)["state"] == "failed"
    tasks = nights.airflow.tasks(NIGHTLY, run["dag_run_id"])
    assert tasks["ingest"]["state"] == "failed" and tasks["ingest"]["try_number"] == 1
    assert {tasks[name]["state"] for name in TASKS[1:]} == {"upstream_failed"}
    said = [line for line in nights.heard() if "failed" in line]
    assert len(said) == 1 and said[0].startswith(f"{NIGHTLY} {run['dag_run_id']}: ingest failed: "), said


def killed_in(nights: Nights, run: str, task: str) -> None:
    """Kill a task's job with signal 9 while it is at work."""
    running = lambda: nights.airflow.tasks(NIGHTLY, run)[task]["state"] == "running"  # noqa: E731
    nights.airflow.until(f"{task} of {run}", NIGHT_SECONDS, running)

    def holder() -> int | None:
        for lease in (nights.root / "warehouse/tiny/.leases").glob(f"{task}-{DAYS[1]}-*"):
            said = lease.read_text()
            return int(json.loads(said)["pid"]) if said else None
        return None

    os.kill(nights.airflow.until(f"the lease of {task}", 60, holder), signal.SIGKILL)


@pytest.mark.timeout(3_600)
def test_each_of_three_nights_publishes_its_day(nights):
    airflow = nights.airflow
    # as the schedule would run them: at 03:00 of the day after
    for day in DAYS:
        nights.runs[day] = airflow.trigger(NIGHTLY, f"{day[:-1]}{int(day[-1]) + 1}T03:00:00Z")
    ended = dt.datetime.min.replace(tzinfo=dt.UTC)
    for day, run in nights.runs.items():
        if day == DAYS[1]:
            killed_in(nights, run, "build_dataset")
        over = airflow.succeeded(NIGHTLY, run, NIGHT_SECONDS)
        lists, exported, rows = nights.live()
        nights.after[day] = (lists, exported, rows)
        assert lists.startswith(day) and exported.startswith(day)
        assert {str(row[-1]) for row in rows} == {day}
        # one night at a time, and one job at a time, in their order
        assert ended <= dt.datetime.fromisoformat(over["start_date"])
        tasks = airflow.tasks(NIGHTLY, run)
        for name in TASKS:
            assert ended <= dt.datetime.fromisoformat(tasks[name]["start_date"]), (day, name)
            ended = dt.datetime.fromisoformat(tasks[name]["end_date"])
            tries = 2 if (day, name) == (DAYS[1], "build_dataset") else 1
            assert tasks[name]["state"] == "success" and tasks[name]["try_number"] == tries, (day, name)
    found = versions(nights.root)
    assert sum(name.startswith("warehouse/tiny/recommendations/") for name in found) == len(DAYS)
    assert set(os.listdir(nights.root / "export")) >= {nights.after[day][1] for day in DAYS[1:]}


def test_what_people_and_other_dags_see_of_a_night(nights):
    airflow = nights.airflow
    events = airflow.call("GET", "assets/events?limit=100")["asset_events"]
    lists = [e for e in events if e["uri"] == "x-recsys://warehouse/recommendations"]
    extras = {e["extra"]["run_date"]: e["extra"]["outputs"] for e in lists}
    assert {day: extras[day]["version"] for day in extras} == {day: nights.after[day][0] for day in DAYS}
    assert all(outputs["live"] for outputs in extras.values())
    path = f"dags/{NIGHTLY}/dagRuns/{nights.runs[DAYS[0]]}/taskInstances/recommend/links"
    assert "/#/experiments/" in airflow.call("GET", path)["extra_links"]["MLflow run"]
    line = f"{NIGHTLY} {nights.runs[DAYS[0]]}: is late, and not over yet"
    airflow.until("the word that a night was late", 60, lambda: line in nights.heard())


@pytest.mark.timeout(1_200)
def test_the_middle_night_again_changes_nothing(nights):
    airflow, before, live = nights.airflow, versions(nights.root), nights.live()
    rows = {table: ids(nights.root, table) for table in ("user_ids", "item_ids")}
    run = nights.runs[DAYS[1]]
    airflow.call("POST", f"dags/{NIGHTLY}/dagRuns/{run}/clear", dry_run=False, only_failed=False)
    airflow.succeeded(NIGHTLY, run, NIGHT_SECONDS)
    assert {task["try_number"] for task in airflow.tasks(NIGHTLY, run).values()} == {2, 3}, "all ran once more"
    # evaluate measures the champion of now as well, so that it may have a version more, and the page with it
    made = {name for name in versions(nights.root) if name not in before}
    may = ("/user_metrics/", "/reports/", f"/recommendations/{DAYS[1]}")
    assert all(any(part in name for part in may) for name in made), made
    assert {name: found for name, found in versions(nights.root).items() if name in before} == before
    assert nights.live() == live == nights.after[DAYS[2]], "the day after stays live"
    assert {table: ids(nights.root, table) for table in rows} == rows


def ids(root: Path, table: str) -> list[tuple[Any, ...]]:
    """Return the rows of a live dictionary, sorted."""
    folder = root / "warehouse/tiny" / table
    rows = pq.read_table(folder / (folder / "_current").read_text().strip() / "data").to_pylist()
    return sorted(tuple(row.values()) for row in rows)


def last_line(nights: Nights, dag: str, run: str) -> dict[str, Any]:
    """Return the last line of the one job of a run, after it has gone well."""
    nights.airflow.succeeded(dag, run, 300)
    (task,) = nights.airflow.tasks(dag, run).values()
    path = f"dags/{dag}/dagRuns/{run}/taskInstances/{task['task_id']}/xcomEntries/return_value?stringify=false"
    found = nights.airflow.call("GET", path)["value"]
    line: dict[str, Any] = json.loads(found) if isinstance(found, str) else found
    return line


@pytest.mark.timeout(600)
def test_the_weekly_tuning_writes_what_it_has_found(nights):
    nights.airflow.call("PATCH", "dags/recsys_weekly_tuning", is_paused=False)
    run = nights.airflow.trigger("recsys_weekly_tuning", run_date=DAYS[2], model="als")
    line = last_line(nights, "recsys_weekly_tuning", run)
    assert line["counts"]["finished"] == 1
    assert (nights.root / "warehouse/tiny/tuned/als.yaml").exists()


@pytest.mark.timeout(600)
def test_a_backfill_makes_up_for_days_and_leaves_what_is_live(nights):
    live = nights.live()
    nights.airflow.call("PATCH", "dags/recsys_backfill", is_paused=False)
    run = nights.airflow.trigger("recsys_backfill", first="2026-01-03", last="2026-01-04")
    line = last_line(nights, "recsys_backfill", run)
    assert line["counts"] == {"nights": 2} and list(line["outputs"]) == ["2026-01-03", "2026-01-04"]
    made = [path.name for path in (nights.root / "warehouse/tiny/recommendations").iterdir()]
    assert {name[:10] for name in made if name.startswith("2026")} == {"2026-01-03", "2026-01-04", *DAYS}
    assert nights.live() == live


def by_bash(nights: Nights, dag: str, **conf: str) -> subprocess.CompletedProcess[str]:
    """Run a DAG with BashOperator in the place of SparkSubmitOperator."""
    environment = {**nights.airflow.environment, "RECSYS_OPERATOR": "bash", "AIRFLOW_HOME": os.environ["AIRFLOW_HOME"]}
    command = ["airflow", "dags", "test", dag, "-c", json.dumps(conf)]
    return subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)


@pytest.mark.timeout(600)
def test_somebody_is_erased_by_bash_and_no_name_of_a_file_is_code(nights, tmp_path):
    person = nights.live()[2][0][0]
    people = tmp_path / "x'; touch pwned; '\".txt"
    people.write_text(person + "\n")
    done = by_bash(nights, "recsys_erase_user", users_file=str(people))
    assert done.returncode != 0 and "Invalid input for param users_file" in done.stderr
    assert not (ROOT / "pwned").exists() and not (nights.root / "status/recsys_erase_user").exists()

    done = by_bash(nights, "recsys_erase_user", users_file=str(people.rename(tmp_path / "people.txt")))
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-2_000:]
    (status,) = (nights.root / "status/recsys_erase_user").glob("*/erase_user-*.json")
    line = json.loads(status.read_text())["last_line"]
    assert line["counts"]["people"] == 1 and line["counts"]["left"] == 0 and line["counts"]["rows"] > 0
    assert person not in {row[0] for row in nights.live()[2]}


@pytest.mark.timeout(600)
def test_old_versions_expire_and_what_is_live_stays(nights):
    before, live = versions(nights.root), nights.live()
    nights.airflow.call("PATCH", "dags/recsys_expire", is_paused=False)
    look = lambda: nights.airflow.call("GET", "dags/recsys_expire/dagRuns")["dag_runs"]  # noqa: E731
    (run,) = nights.airflow.until("the run of the schedule", 60, look)
    last_line(nights, "recsys_expire", run["dag_run_id"])
    left = versions(nights.root)
    assert set(left) < set(before) and {name: before[name] for name in left} == left
    assert nights.live() == live
