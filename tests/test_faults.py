"""What breaks a night, and what it makes of it: one line, a remedy, and everything as it was before.

Nights with these faults, one after the other, are `make soak`.
"""

from __future__ import annotations

import datetime as dt
import errno
import json
import os

import mlflow.exceptions
import numpy as np
import pyarrow.parquet as pq
import pytest
import requests
import servers
from night import write_config

from recsys_spark.config import load_config
from recsys_spark.errors import DataError, RunError
from recsys_spark.models import als
from recsys_spark.pipeline import job
from recsys_spark.pipeline.causes import known_cause
from recsys_spark.pipeline.context import StageResult
from recsys_spark.pipeline.night import stage_run
from recsys_spark.pipeline.rollback import roll_back
from recsys_spark.tracking.runs import TrackedRun, closing
from recsys_spark.training.sound import check_scores
from recsys_spark.warehouse import MANIFEST, Slot, Warehouse
from recsys_spark.warehouse.leftovers import leftovers


@pytest.fixture
def config(tmp_path):
    return load_config(write_config(tmp_path, tracking="{uri: 'http://127.0.0.1:1'}"))


def of(cause, error):
    """An error that came of another."""
    error.__cause__ = cause
    return error


SERVER = "API request to http://127.0.0.1:1/api failed with exception Max retries exceeded"


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/w/part-0.parquet"), RunError, "make room"),
        (OSError(errno.EDQUOT, "over the quota"), RunError, "make room"),
        (of(OSError(errno.ENOSPC, "x"), RuntimeError("the writer has failed")), RunError, "make room"),
        (Exception("a task failed\nCaused by: java.io.IOException: No space left on device\n"), RunError, "make room"),
        (mlflow.exceptions.MlflowException("(sqlite3) database or disk is full"), RunError, "make room"),
        (mlflow.exceptions.MlflowException(SERVER), RunError, "http://127.0.0.1:1: the tracking server does not"),
        (
            of(
                requests.exceptions.RetryError("too many 503 error responses"),
                mlflow.exceptions.MlflowException(SERVER),
            ),
            RunError,
            "http://127.0.0.1:1: the tracking server fails whatever it is asked (too many 503 error responses)",
        ),
        (requests.ConnectionError("refused"), RunError, "start it, and run the same command again"),
        (
            Exception("[FAILED_READ_FILE.NO_HINT] Encountered error while reading file file:///w/part-0.parquet. SQL"),
            DataError,
            "/w/part-0.parquet: is damaged",
        ),
        (Exception("pyarrow.lib.ArrowInvalid: Parquet magic bytes not found in footer."), DataError, "verify names"),
    ],
)
def test_what_has_a_known_cause_is_one_line(config, error, kind, words):
    found = known_cause(error, config)
    assert type(found) is kind and words in str(found) and "\n" not in str(found)


@pytest.mark.parametrize(
    "error",
    [
        KeyError("x"),
        OSError(errno.EACCES, "not allowed"),
        mlflow.exceptions.MlflowException("no such run", mlflow.protos.databricks_pb2.RESOURCE_DOES_NOT_EXIST),
    ],
)
def test_what_has_none_is_not_explained(config, error):
    assert known_cause(error, config) is None


def test_a_job_on_a_full_disk_shows_no_stack_trace(tmp_path, capfd):
    """A real one: every write to this device fails as on a disk without space."""

    def stage(context, _):
        with open("/dev/full", "w") as file:
            file.write("x")

    config = write_config(tmp_path, tracking=f"{{uri: 'sqlite:///{tmp_path}/mlflow.db'}}")
    assert job.run("ingest", stage, "", ["--config", str(config)]) == 1
    said = capfd.readouterr().err
    assert "Traceback" not in said and "No space left on device" in said and "make room" in said


def test_a_damaged_file_of_a_table_ends_a_job_with_3_and_is_named(spark, tmp_path, capfd):
    spark.range(1000).write.parquet(str(tmp_path / "table"))
    file = max((tmp_path / "table").glob("*.parquet"), key=lambda f: f.stat().st_size)
    os.truncate(file, file.stat().st_size // 2)

    def stage(context, _):
        spark.read.schema("id long").parquet(str(tmp_path / "table")).count()

    config = write_config(tmp_path, tracking=f"{{uri: 'sqlite:///{tmp_path}/mlflow.db'}}")
    assert job.run("ingest", stage, "", ["--config", str(config)]) == 3
    said = capfd.readouterr().err
    assert "Traceback" not in said and f"{file}: is damaged" in said


def test_a_store_that_is_gone_does_not_hide_why_a_run_failed():
    class Gone:
        client = property(lambda self: (_ for _ in ()).throw(requests.ConnectionError("refused")))

    with pytest.raises(ValueError, match="the true cause"), closing(TrackedRun(Gone(), "1")):
        raise ValueError("the true cause")


@pytest.mark.slow
def test_a_tracking_server_that_is_killed_in_mid_stage_ends_the_job_with_one_line(tmp_path, capfd):
    """Really killed, and started again: the same command goes through, on the run that was left open."""
    (tmp_path / "server").mkdir()
    server = servers.Mlflow(tmp_path / "server")
    server.start()
    try:
        config = write_config(tmp_path, tracking=f"{{uri: '{server.address}'}}")

        def stage(context, _, kill=True):
            with stage_run(context, "evaluate") as run:
                run.metrics({"x": 1.0})
                if kill:
                    server.kill()
                run.metrics({"y": 2.0})
            return StageResult()

        arguments = ["--config", str(config), "--date", "2026-01-05"]
        assert job.run("evaluate", stage, "", arguments) == 1
        said = capfd.readouterr().err
        (line,) = [line for line in said.splitlines() if line.startswith("error")]
        assert f"{server.address}: the tracking server does not answer any more" in line and "start it" in line
        assert "Traceback" not in said
        assert job.run("evaluate", stage, "", arguments) == 1, "and before anything is done where it is still away"
        assert "no tracking server answers" in capfd.readouterr().err
        server.start()
        assert job.run("evaluate", lambda context, _: stage(context, _, kill=False), "", arguments) == 0
    finally:
        server.kill()


def made(slot, name):
    return slot.materialize(name, lambda path: {"table": "t"})[0]


def test_a_clock_that_is_set_back_does_not_change_the_order_of_versions(tmp_path):
    warehouse = Warehouse(tmp_path)
    slot = warehouse.slot("recommendations")
    for name in ("v1", "v2"):
        version = made(slot, name)
    tomorrow = (dt.datetime.now(dt.UTC) + dt.timedelta(days=1)).isoformat()
    (version.path / MANIFEST).write_text(json.dumps({**version.manifest, "created_at": tomorrow}))
    made(slot, "v3"), made(slot, "v4")
    assert [v.name for v in slot.versions()] == ["v1", "v2", "v3", "v4"]
    roll_back(warehouse, slot, None)
    assert slot.current().name == "v3", "the one before, and not the one that the clock calls so"
    slot.flip(slot.version("v4"))
    assert slot.expire(keep=2) == ["v1", "v2"]


def histories(path, users):
    import pandas as pd

    rows = {
        "user_id": np.arange(1, users + 1, dtype=np.int32), "items": [[1, 2]] * users,
        "weights": [np.ones(2, np.float32)] * users, "ratings": [np.full(2, np.nan, np.float32)] * users,
    }  # fmt: skip
    path.mkdir()
    pd.DataFrame(rows).to_parquet(path / "part-0.parquet", index=False)
    assert pq.read_metadata(path / "part-0.parquet").num_rows == users
    return path


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_model_that_scores_nan_is_not_made(tmp_path, bad):
    known = histories(tmp_path / "known=train", 5)
    factors = np.random.default_rng(1).normal(size=(9, 4)).astype(np.float32)
    trained = np.arange(9) > 0
    check_scores(als.AlsModel(factors, trained, als.Config(rank=4)), "als", known)
    unknown = factors.copy()
    unknown[0] = bad  # an item that nobody is recommended
    check_scores(als.AlsModel(unknown, trained, als.Config(rank=4)), "als", known)
    factors[7, 2] = bad
    with pytest.raises(DataError, match=r"als: .* vectors are no number, so it is not made"):
        check_scores(als.AlsModel(factors, trained, als.Config(rank=4)), "als", known)


class Matrix:
    """A model that has no vectors."""

    dot_product = False
    n_items = 3

    def __init__(self, scores):
        self.scores = np.float32(scores)

    def score(self, users):
        return np.tile(self.scores, (len(users), 1))


def test_without_a_history_nobody_is_scored(tmp_path):
    check_scores(Matrix([np.nan] * 3), "m", tmp_path / "known=train")


def test_having_no_opinion_is_no_fault_and_scoring_nan_is_one(tmp_path):
    known = histories(tmp_path / "known=train", 4)
    check_scores(Matrix([-np.inf, 1, -np.inf]), "m", known)
    with pytest.raises(DataError, match=r"m: 4 of 12 scores are no number.*models\.m"):
        check_scores(Matrix([-np.inf, np.nan, 1]), "m", known)


def test_what_killed_runs_left_behind_goes_when_nothing_can_go_on_from_it(tmp_path):
    stays = [
        "events/batch=1/v1/data", "checkpoints/neumf/2026-01-05-a", "checkpoints/neumf/.2026-01-05-a.lock",
        "recommendations/.topk-v", ".leases",
    ]  # fmt: skip
    goes = [
        ".spark-checkpoints/x", "checkpoints/neumf/2026-01-04-b", "checkpoints/neumf/.2026-01-04-b.lock",
        "events/batch=1/.tmp-1", "trials/als/date=2026-01-05/.v/.tmp-2", "recommendations/.tmp-3",
    ]  # fmt: skip
    for name in (*stays, *goes):
        (tmp_path / name).mkdir(parents=True)
    assert {p.relative_to(tmp_path).as_posix() for p in leftovers(tmp_path, "2026-01-05")} == set(goes)
    assert not {p for p in leftovers(tmp_path, None) if "checkpoints/neumf" in p.as_posix()}
    assert Slot(tmp_path / "events/batch=1").versions() == []
