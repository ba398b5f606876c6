"""The shape of production: its configuration, MLflow on PostgreSQL with two nights at once, event logs, rotation."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import mlflow
import psycopg
import pyarrow.parquet as pq
import pytest
import servers
from mlflow.tracking import MlflowClient
from night import REPOSITORY, environment, last_line, published, submit, write_config

from recsys_spark.config import Config, LogConfig, TrackingConfig, load_config
from recsys_spark.erasure.artifacts import find_registry
from recsys_spark.errors import RunError
from recsys_spark.models import check_models
from recsys_spark.pipeline.context import Context, StageResult
from recsys_spark.pipeline.watch import Watch
from recsys_spark.session import _event_log
from recsys_spark.tracking.registry import _create_model
from recsys_spark.tracking.store import Store, open_store

NIGHTS = ("one", "two")


@contextlib.contextmanager
def script(name, log, **variables):
    """Run a script of this checkout that stays in the foreground; it and its children are gone at the end."""
    with open(log, "wb") as output:
        process = subprocess.Popen(
            [f"scripts/{name}.sh"], cwd=REPOSITORY, env={**environment(), **variables}, start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
        )  # fmt: skip
    try:
        servers.wait_for(int(variables["PORT"]), process)
        yield f"http://127.0.0.1:{variables['PORT']}"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(30)


def answer(url):
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=10) as said:
        return json.load(said)


def refused(name, **variables):
    """What a script says that does not start."""
    command, env = [f"scripts/{name}.sh"], {**environment(), **variables}
    done = subprocess.run(command, cwd=REPOSITORY, env=env, capture_output=True, text=True, timeout=30)
    assert len(done.stderr.splitlines()) == 1
    return done.returncode, done.stderr


# --- configuration ---


@pytest.mark.parametrize("base", [p.name for p in sorted((REPOSITORY / "conf").glob("*.yaml"))])
def test_the_services_fit_every_configuration(base, tmp_path):
    path = tmp_path / "prod.yaml"
    path.write_text(f"extends: [{REPOSITORY}/conf/{base}, {REPOSITORY}/conf/prod/services.yaml]\n", encoding="utf-8")
    config = load_config(path)
    check_models(config)
    assert config.tracking.uri and config.spark.event_log and config.observability.log


def test_the_night_of_production_loads():
    config = load_config(REPOSITORY / "conf/prod/nightly.yaml")
    check_models(config)
    assert config.name == "production" and config.promotion.max_slice_loss == 0.02
    assert config.log.generate is not None  # it can be tried as it is


def test_event_logs_get_their_folder(tmp_path):
    assert _event_log(None) == {}
    made = _event_log(str(tmp_path / "a b" / "events"))
    assert (tmp_path / "a b" / "events").is_dir() and made["spark.eventLog.dir"].startswith("file:///")
    assert _event_log("hdfs://host/events")["spark.eventLog.dir"] == "hdfs://host/events"
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match=r"cannot be made.*set spark\.event_log"):
        _event_log(str(tmp_path / "file" / "events"))


def test_a_log_that_is_rotated_goes_on_in_the_new_file(tmp_path):
    """As logrotate does it, without telling the job: the next line opens the file anew."""
    log = tmp_path / "recsys.jsonl"
    config = Config(
        name="tiny", root=str(tmp_path / "w"), log=LogConfig(path="log"), observability={"log": str(log)}  # type: ignore[arg-type]
    )  # fmt: skip
    watch = Watch("ingest", None)
    with watch.follow(Context(config, "ingest")):
        log.rename(tmp_path / "recsys.jsonl.1")
    watch.done(StageResult(), "{}", 1.0)
    old, new = (
        [json.loads(line)["message"] for line in p.read_text().splitlines()] for p in (tmp_path / "recsys.jsonl.1", log)
    )
    assert (old, new) == (["started"], ["finished"])


# --- the services ---


def test_services_refuse_in_one_line_what_cannot_be(tmp_path):
    secret = "postgresql://mlflow:hunter2@db/mlflow"
    code, said = refused("mlflow_server", BACKEND=secret)
    assert code == 2 and "holds a password" in said and "hunter2" not in said
    assert "postgresql://" in refused("mlflow_server", BACKEND="sqlite:///mlflow.db")[1]
    assert "no event logs yet" in refused("history", DIR=str(tmp_path / "none"))[1]
    assert "DAYS=x" in refused("history", DIR=str(tmp_path), DAYS="x")[1]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_nights_at_once_through_mlflow_on_postgresql(tmp_path):
    """Different logs, data sets and warehouses, one server and one folder of event logs; they never mix."""
    port, events = str(servers.free_port()), tmp_path / "events"
    artifacts = tmp_path / "artifacts"
    with (
        servers.postgres() as database,
        script("mlflow_server", tmp_path / "mlflow.log", BACKEND=database, ARTIFACTS=str(artifacts), PORT=port) as uri,
    ):
        many_at_once_make_one(uri)
        configs = {n: write_config(tmp_path / n, tracking=f"{{uri: '{uri}'}}", train="{deep: []}") for n in NIGHTS}

        def night(name):
            users = 120 + 40 * NIGHTS.index(name)
            return submit(
                "nightly", "--config", str(configs[name]), f"name={name}", f"seed={users}", "spark.master=local[1]",
                f"spark.event_log={events}", f"log.generate.users={users}",
                *([f"tracking.artifacts=file://{tmp_path}/shared"] if name == "two" else []), timeout=700,
            )  # fmt: skip

        before = os.umask(0o027)  # as scripts/submit.sh sets it
        with ThreadPoolExecutor(2) as pool, contextlib.ExitStack() as undo:
            undo.callback(os.umask, before)
            done = dict(zip(NIGHTS, pool.map(night, NIGHTS), strict=True))
        for name in NIGHTS:
            assert done[name].returncode == 0, done[name].stderr[-3000:]
        client = MlflowClient(uri, uri)
        for name in NIGHTS:
            whole_and_alone(client, name, tmp_path / name, last_line(done[name].stdout))
        with psycopg.connect(database) as connection:  # it really is there
            found = connection.execute("SELECT name FROM registered_models ORDER BY name").fetchall()
            assert [n for (n,) in found] == ["recsys-crowd", "recsys-one", "recsys-two"]
        assert any(artifacts.rglob("model.json"))
    for written in [tmp_path / "shared", *(tmp_path / n / "warehouse" for n in NIGHTS)]:
        files = [f for f in written.rglob("*") if "code" not in f.parts and f.suffix != ".py"]  # copied as it is
        assert len(files) > 20 and [f for f in files if f.stat().st_mode & 0o007] == []
    assert published(tmp_path / "one") != published(tmp_path / "two")
    in_the_history(events, tmp_path)


def many_at_once_make_one(uri):
    """Jobs that start together on a server that has never heard of their data set."""
    config = Config(name="crowd", root="crowd", log=LogConfig(path="log"), tracking=TrackingConfig(uri=uri))
    with ThreadPoolExecutor(8) as pool:
        stores = list(pool.map(lambda _: open_store(config), range(8)))
        list(pool.map(_create_model, stores))
    assert len({store.experiment_id for store in stores}) == 1


def whole_and_alone(client, name, root, line):
    """One night of this experiment, finished; its models are of its own warehouse, and its champion serves."""
    experiment = client.get_experiment_by_name(name)
    runs = client.search_runs([experiment.experiment_id])
    assert {r.info.status for r in runs} == {"FINISHED"}
    by_name = {r.data.tags["mlflow.runName"]: r for r in runs}
    stages = {"check_log", "evaluate", "promote", "recommend"}
    assert set(by_name) >= {f"nightly {line['run_date']}", "train popularity", "train als", *stages}
    assert len(by_name) == len(runs)  # each once
    parent = by_name.pop(f"nightly {line['run_date']}")
    assert {r.data.tags["mlflow.parentRunId"] for r in by_name.values()} == {parent.info.run_id}
    assert parent.data.metrics["ingest_events"] == line["counts"]["events"]

    versions = client.search_model_versions(f"name = 'recsys-{name}'")
    assert {v.tags["recsys.model"] for v in versions} == {"popularity", "als"}
    for version in versions:
        model, made = version.tags["recsys.model"], version.tags["recsys.version"]
        assert (root / "warehouse/tiny/models" / model / f"date={line['run_date']}" / made / "_manifest.json").exists()
        assert version.run_id == by_name[f"train {model}"].info.run_id
    champion = client.get_model_version_by_alias(f"recsys-{name}", "champion")
    assert champion.version == line["outputs"]["champion"]["number"]
    # one's are handed out by the server, wherever they lie; two's are on a disk where an erasure can reach them
    assert parent.info.artifact_uri.startswith("mlflow-artifacts:" if name == "one" else "file:")
    store = Store(client.tracking_uri, experiment.experiment_id, f"recsys-{name}")
    found = find_registry(store)
    elsewhere = [f"pages of nights below {experiment.artifact_location}"]
    elsewhere += [f"registered model recsys-{name}/{version.version}" for version in versions]
    assert sorted(found.unreachable) == (sorted(elsewhere) if name == "one" else [])
    assert len(found.folders) == (0 if name == "one" else 2)
    (root / "downloaded").mkdir()
    with store.active():
        users = mlflow.artifacts.download_artifacts(
            f"models:/recsys-{name}/{champion.version}/artifacts/users", dst_path=str(root / "downloaded")
        )
    told = pq.read_table(users).column("raw_id").to_pylist()
    assert {user for user, *_ in published(root)} == set(told)


def in_the_history(events, folder):
    """Both nights, from the history server; its own log rolls beside it."""
    port, log = str(servers.free_port()), folder / "history-server.log"
    with script("history", folder / "history.out", DIR=str(events), PORT=port, LOG=str(log)) as page:
        deadline, apps = time.monotonic() + 60, []
        while len(apps) < len(NIGHTS):
            assert time.monotonic() < deadline, apps
            time.sleep(0.5)
            with contextlib.suppress(json.JSONDecodeError):  # it listens before it has all of its pages
                apps = answer(f"{page}/api/v1/applications?status=completed")
        assert {app["name"] for app in apps} == {f"recsys nightly {name}" for name in NIGHTS}
        for app in apps:
            jobs = answer(f"{page}/api/v1/applications/{app['id']}/jobs")
            assert jobs and {job["status"] for job in jobs} == {"SUCCEEDED"}
    assert "HistoryServer" in log.read_text()
