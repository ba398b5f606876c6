"""The DAGs as Airflow reads them: they import, and have the order, dates, tries, pools and assets that are promised."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
import recsys_alerts as alerts
import recsys_operators as operators
import recsys_tasks as tasks
from airflow.dag_processing.dagbag import DagBag
from airflow.sdk.exceptions import AirflowException, AirflowFailException

ROOT = Path(__file__).parents[2]
NIGHT = [
    "ingest", "check_log", "build_dataset", "train_baseline", "train_deep", "evaluate", "promote", "recommend",
    "export", "report",
]  # fmt: skip


@pytest.fixture(scope="module")
def dags():
    bag = DagBag(dag_folder=str(ROOT / "airflow_dags"))
    assert bag.import_errors == {}
    return bag.dags


def test_there_are_five_and_none_runs_twice_at_a_time(dags):
    assert set(dags) == {
        "recsys_nightly", "recsys_weekly_tuning", "recsys_backfill", "recsys_erase_user", "recsys_expire",
    }  # fmt: skip
    for dag in dags.values():
        assert dag.max_active_runs == 1 and not dag.catchup and dag.doc_md


def test_a_night_is_a_chain_of_its_jobs(dags):
    night = dags["recsys_nightly"]
    assert [task.task_id for task in night.topological_sort()] == NIGHT
    for task, after in zip(NIGHT, [*NIGHT[1:], None], strict=True):
        assert night.get_task(task).downstream_task_ids == ({after} if after else set())
    assert night.deadline, "a night that is late is said to be"


def test_every_task_is_a_job_with_tries_a_pool_and_docs(dags):
    for dag in dags.values():
        for task in dag.tasks:
            assert (ROOT / "jobs" / f"{task.task_id}.py").exists()
            assert task.application == f"{tasks.HOME}/jobs/{task.task_id}.py"
            assert task.application_args[:2] == ["--config", str(tasks.CONFIG)]
            assert task.retries == 3 and task.retry_exponential_backoff and task.execution_timeout >= timedelta(hours=1)
            assert task.pool in tasks.POOLS and task.on_failure_callback
            assert "MLflow run" in task.doc_md and "runbook" in task.doc_md
            assert task._deploy_mode == "client", "Airflow waits for the job, and ends it when it is to end"


def test_the_date_is_said_and_a_try_waits_for_the_one_before_it(dags):
    for task in dags["recsys_nightly"].tasks:
        arguments = task.application_args
        assert arguments[arguments.index("--date") + 1] == tasks.YESTERDAY and "--wait" in arguments
    assert "--wait" not in dags["recsys_expire"].get_task("warehouse").application_args
    backfill = dags["recsys_backfill"].get_task("backfill").application_args
    assert backfill[2:6] == ["--first", "{{ params.first }}", "--last", "{{ params.last }}"]


def test_published_tables_are_assets(dags):
    found = {o.name for dag in dags.values() for task in dag.tasks for o in task.outlets}
    assert {"recsys_events", "recsys_interactions", "recsys_recommendations", "recsys_exports"} <= found
    assert [o.uri for o in dags["recsys_nightly"].get_task("recommend").outlets] == [
        "x-recsys://warehouse/recommendations"
    ]


def test_no_personal_id_goes_through_airflow(dags):
    assert list(dags["recsys_erase_user"].params) == ["users_file"]


def test_one_variable_makes_them_bash_and_no_parameter_is_code(tmp_path):
    """Runs the command as Airflow fills it in, with a scripts/submit.sh that only repeats its arguments."""
    (tmp_path / "scripts").mkdir()
    submit = tmp_path / "scripts/submit.sh"
    submit.write_text("#!/bin/sh\nprintf '%s\\n' \"$@\"\n")
    submit.chmod(0o755)
    (tmp_path / "jobs").symlink_to(ROOT / "jobs")
    environment = {**os.environ, "RECSYS_OPERATOR": "bash", "RECSYS_HOME": str(tmp_path)}
    evil = "x'; touch pwned; '$(touch pwned)`touch pwned`\" {{ dag }}\n-e"
    command = [sys.executable, "-c", FILLED_IN, str(ROOT / "airflow_dags"), evil]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=True)
    said = json.loads(done.stdout.strip().splitlines()[-1])
    config = str(tmp_path / "conf/embedded.yaml")
    arguments = ["erase_user", "--config", config, "--users-file", evil, "--wait", "7200"]
    assert said == ["BashJob", "\n".join(arguments) + "\n"]
    assert not (tmp_path / "pwned").exists()


FILLED_IN = """
import json, subprocess, sys
from airflow.dag_processing.dagbag import DagBag
bag = DagBag(dag_folder=sys.argv[1])
assert not bag.import_errors, bag.import_errors
task = bag.dags["recsys_erase_user"].get_task("erase_user")
task.env = {name: value for name, value in task.env.items() if name.startswith("ARG_")}
task.render_template_fields({"params": {"users_file": sys.argv[2]}, "dag": "a template within"})
done = subprocess.run(["bash", "-c", task.bash_command], env=task.env, cwd=task.cwd, capture_output=True, text=True)
print(json.dumps([type(task).__name__, done.stdout]))
"""


def test_a_port_that_is_taken_and_an_unknown_command_are_one_line():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        for arguments, words in (
            (["start"], f"port {port} is in use; choose another: make airflow PORT={port + 1}"),
            (["begin"], "begin: no such command"),
        ):
            command = [ROOT / "scripts/airflow.sh", *arguments]
            done = subprocess.run(command, env={**os.environ, "PORT": str(port)}, capture_output=True, text=True)
            assert done.returncode == 1 and done.stderr.count("\n") == 1 and words in done.stderr


class Task:
    outlets = ()


@pytest.mark.parametrize(
    ("code", "kind"), [(1, AirflowException), (2, AirflowFailException), (3, AirflowFailException)]
)
def test_what_is_of_no_use_again_is_not_tried_again(tmp_path, code, kind):
    path = tmp_path / "deep" / "status.json"

    def execute(context):
        path.write_text(json.dumps({"exit_code": code, "error": "publish.k: unknown key; mend it"}))
        raise AirflowException("Cannot execute: spark-submit …")

    with pytest.raises(kind, match=r"^publish\.k: unknown key; mend it$") as error:
        operators.run_job(Task(), str(path), execute, {})
    assert type(error.value) is kind


def test_a_job_that_was_killed_is_tried_again(tmp_path):
    (tmp_path / "status.json").write_text(json.dumps({"exit_code": 3, "error": "of an earlier try"}))

    def execute(context):
        raise AirflowException("Error code is: 137.")

    with pytest.raises(AirflowException, match="137") as error:
        operators.run_job(Task(), str(tmp_path / "status.json"), execute, {})
    assert not isinstance(error.value, AirflowFailException)


def test_a_job_that_went_well_gives_its_line_its_run_and_its_assets(tmp_path):
    path, extra = tmp_path / "status.json", {}
    line = {"run_date": "2026-01-05", "outputs": {"version": "v1", "live": True}}

    def execute(context):
        path.write_text(json.dumps({"exit_code": 0, "last_line": line, "mlflow": {"experiment": "3", "run": "abc"}}))

    task = Task()
    task.outlets = [tasks.asset("recommendations")]
    events = {task.outlets[0]: type("Event", (), {"extra": extra})()}
    assert operators.run_job(task, str(path), execute, {"outlet_events": events}) == line
    assert extra == {"run_date": "2026-01-05", "outputs": line["outputs"]}
    assert operators.MLflowRun().get_link(task, ti_key=None) == "http://127.0.0.1:5000/#/experiments/3/runs/abc"


def test_whom_it_concerns_hears_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("RECSYS_ALERT_COMMAND", f"tee {tmp_path}/heard")
    ran = type("Ran", (), {"dag_id": "recsys_nightly", "task_id": "ingest"})()
    alerts.failed({"task_instance": ran, "run_id": "r1", "exception": AirflowException("no day 2031-01-01\nmore")})
    assert (tmp_path / "heard").read_text() == "recsys_nightly r1: ingest failed: no day 2031-01-01\n"
    asyncio.run(alerts.late({"dag_run": {"dag_id": "recsys_nightly", "dag_run_id": "r2"}}))
    assert (tmp_path / "heard").read_text() == "recsys_nightly r2: is late, and not over yet\n"
