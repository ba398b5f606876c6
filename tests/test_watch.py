"""What a job leaves for those who watch it: JSON lines, Prometheus' text, the scheduler's file; no secret in any."""

from __future__ import annotations

import json
import re
import sys

import pytest
from night import write_config

from recsys_spark.errors import DataError
from recsys_spark.pipeline import job, prometheus
from recsys_spark.pipeline.context import StageResult
from recsys_spark.pipeline.redaction import without_secrets

SECRET = "hunter2-and-more"


def run(stage, config, *arguments):
    return job.run("recommend", lambda context, _: stage(context), "", ["--config", str(config), *arguments])


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """One MLflow store for all: making one takes longer than a test."""
    return f"{{uri: 'sqlite:///{tmp_path_factory.mktemp('mlflow')}/mlflow.db'}}"


@pytest.fixture
def watched(tmp_path, monkeypatch, store):
    """A configuration whose jobs are watched, and where they leave what."""
    monkeypatch.setenv("RECSYS_STATUS", str(tmp_path / "status" / "last.json"))
    monkeypatch.setenv("RECSYS_RUN_ID", "night-1")
    monkeypatch.setenv("STORE_PASSWORD", SECRET)
    settings = [f"observability.log={tmp_path}/logs/jobs.jsonl", f"observability.metrics={tmp_path}/textfile"]
    return write_config(tmp_path, tracking=store), ["--date", "2026-01-05", *settings]


def records(tmp_path):
    return [json.loads(line) for line in (tmp_path / "logs/jobs.jsonl").read_text().splitlines()]


def good(context):
    print("warning: 2026-01-05: the log's columns changed", file=sys.stderr)
    print("fitting", end="", file=sys.stderr)
    print(" als", file=sys.stderr)
    figures = {"als": {"feed_wait_share": 0.25, "reused": False}, "model": "als", "model_age_days": 3, "coverage": 0.5}
    return StageResult(counts={"users": 7, "rows": 35}, metrics=figures)


def parse(text):
    """Read the exposition format as its description has it: (name, labels) -> value; refuses anything else."""
    samples, described = {}, {}
    for line in text.splitlines():
        if line.startswith("# "):
            _, kind, name, rest = line.split(" ", 3)
            assert kind in ("HELP", "TYPE") and (kind, name) not in described
            described[kind, name] = rest
            continue
        found = re.fullmatch(r'([a-z_]+)\{((?:[a-z_]+="(?:[^"\\\n]|\\["\\n])*",?)*)\} (\S+)', line)
        assert found, line
        assert described["TYPE", found[1]] == "gauge" and ("HELP", found[1]) in described
        labels = tuple(re.findall(r'([a-z_]+)="((?:[^"\\]|\\.)*)"', found[2]))
        assert (found[1], labels) not in samples, "twice the same"
        samples[found[1], labels] = float(found[3])
    assert text.endswith("\n")
    return samples


def test_json_lines_have_the_run_the_stage_and_every_line_of_stderr(watched, tmp_path, capfd):
    config, arguments = watched
    assert run(good, config, *arguments) == 0
    found = records(tmp_path)
    assert [(r["level"], r["message"]) for r in found] == [
        ("info", "started"),
        ("warning", "warning: 2026-01-05: the log's columns changed"),
        ("info", "fitting als"),
        ("info", "finished"),
    ]
    assert {(r["run"], r["stage"], r["run_date"]) for r in found} == {("night-1", "recommend", "2026-01-05")}
    assert found[-1]["counts"] == {"users": 7, "rows": 35}
    assert "fitting als" in capfd.readouterr().err, "people still see it"


def test_prometheus_has_rows_seconds_wait_and_age(watched, tmp_path):
    config, arguments = watched
    assert run(good, config, *arguments) == 0
    samples = parse((tmp_path / "textfile/recsys_tiny_recommend.prom").read_text())
    own = (("dataset", "tiny"), ("stage", "recommend"))
    assert samples["recsys_rows", (*own, ("kind", "users"))] == 7
    assert samples["recsys_feed_wait_share", (("dataset", "tiny"), ("model", "als"))] == 0.25
    assert samples["recsys_model_age_days", own[:1]] == 3
    assert samples["recsys_figure", (*own, ("name", "coverage"))] == 0.5
    assert samples["recsys_run_date_seconds", own] == 1767571200  # 2026-01-05T00:00:00Z
    assert samples["recsys_seconds", own] > 0
    assert not [p for p in (tmp_path / "textfile").iterdir() if p.suffix != ".prom"]


def test_a_failed_run_keeps_the_figures_of_the_good_one_and_tells_the_scheduler(watched, tmp_path):
    config, arguments = watched
    assert run(good, config, *arguments) == 0
    status = json.loads((tmp_path / "status/last.json").read_text())
    assert (status["exit_code"], status["error"], status["last_line"]["counts"]["rows"]) == (0, None, 35)
    before = (tmp_path / "textfile/recsys_tiny_recommend.prom").read_text()

    def bad(context):
        raise DataError("events: no such day; run ingest")

    assert run(bad, config, *arguments) == 3
    assert (tmp_path / "textfile/recsys_tiny_recommend.prom").read_text() == before
    last = parse((tmp_path / "textfile/recsys_tiny_recommend_run.prom").read_text())
    assert last["recsys_exit_code", (("dataset", "tiny"), ("stage", "recommend"))] == 3
    status = json.loads((tmp_path / "status/last.json").read_text())
    assert (status["exit_code"], status["error"]) == (3, "events: no such day; run ingest")
    assert records(tmp_path)[-1]["exit_code"] == 3 and records(tmp_path)[-1]["level"] == "error"


def test_a_bad_configuration_reaches_the_scheduler(watched, tmp_path):
    config, arguments = watched
    assert run(good, config, *arguments, "publish.kk=1") == 2
    assert "publish.kk" in json.loads((tmp_path / "status/last.json").read_text())["error"]


def test_no_secret_in_anything_that_is_written(watched, tmp_path, capfd):
    config, arguments = watched

    def leaky(context):
        print(f"warning: connecting to postgresql://me:{SECRET}@db/lists", file=sys.stderr)
        print(f"password={SECRET}", file=sys.stderr)
        raise DataError(f"redis://:{SECRET}@cache refused {SECRET}; mend export.redis")

    def broken(context):
        raise ValueError(f"cannot log in with password={SECRET}")

    def counted(context):
        return StageResult(metrics={"why": f"token={SECRET}"}, outputs={"url": f"redis://x:{SECRET}@cache"})

    assert run(leaky, config, *arguments) == 3
    assert run(broken, config, *arguments) == 1
    assert run(counted, config, *arguments) == 0
    said = capfd.readouterr()
    line = next(line for line in said.err.splitlines() if line.startswith("error"))
    assert SECRET not in line and "redis://:***@cache refused ***" in line
    after = said.err.partition("Traceback")[2]
    assert SECRET not in after and "cannot log in" in after and SECRET not in said.out
    written = [p for p in tmp_path.rglob("*") if p.is_file()]
    assert len(written) > 4 and [p for p in written if SECRET.encode() in p.read_bytes()] == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("postgresql://me:a@b@host/x", "postgresql://me:***@host/x"),
        ("redis://:pw@h:6379/0", "redis://:***@h:6379/0"),
        ("http://host:5000/path@x", "http://host:5000/path@x"),
        ("AWS_SECRET_ACCESS_KEY=abc def", "AWS_SECRET_ACCESS_KEY=*** def"),
        ("api_token: 'a b', next", "api_token: ***, next"),
        ("a key of 3 tokens", "a key of 3 tokens"),
    ],
)
def test_secrets_by_their_form(text, expected):
    assert without_secrets(text) == expected


def test_nothing_is_written_where_nothing_is_asked_for(tmp_path, monkeypatch, store):
    monkeypatch.delenv("RECSYS_STATUS", raising=False)
    config = write_config(tmp_path, tracking=store)
    assert run(good, config) == 0
    assert {p.name for p in tmp_path.iterdir()} == {"tiny.yaml", "warehouse"}


def test_a_log_that_cannot_be_written_stops_nothing(watched, tmp_path):
    config, _ = watched
    (tmp_path / "file").write_text("")
    blocked = [f"observability.log={tmp_path}/file/x.jsonl", f"observability.metrics={tmp_path}/file/m"]
    assert run(good, config, *blocked) == 0


def test_gates_are_numbers():
    samples = prometheus.of_stage("d", "check_log", {}, {"events": 10.0, "nulls/user_id": None}, 1.0)
    assert ("recsys_gate_value", {"dataset": "d", "gate": "events"}, 10.0) in samples and len(samples) == 2
    assert [value for *_, value in prometheus.of_gates("d", ["a", "b"], ["b"])] == [0.0, 1.0]


def test_a_command_is_not_run_beside_itself(watched, tmp_path, capfd):
    config, arguments = watched
    codes = {}

    def nested(context):
        codes["same"] = run(good, config, *arguments)
        codes["patient"] = run(good, config, *arguments, "--wait", "0.3")
        codes["other date"] = run(good, config, *arguments[2:], "--date", "2026-01-06")
        codes["other override"] = run(good, config, *arguments, "publish.k=7")
        return StageResult()

    assert run(nested, config, *arguments) == 0
    assert codes == {"same": 1, "patient": 1, "other date": 0, "other override": 0}
    lines = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error")]
    assert len(lines) == 2 and all(
        "recommend of 2026-01-05: another run of it is alive (process" in one for one in lines
    )
    assert run(good, config, *arguments) == 0
