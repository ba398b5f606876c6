"""Decide, promote, roll back and register, with a real MLflow store in a SQLite file."""

from __future__ import annotations

import dataclasses
import socket
import time
import uuid

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import TEMPORARILY_UNAVAILABLE
from mlflow.tracking import MlflowClient

from recsys_spark.config import Config, LogConfig, TrackingConfig
from recsys_spark.errors import RunError
from recsys_spark.evaluation.bootstrap import Interval
from recsys_spark.models.popularity import Popularity
from recsys_spark.tracking import promotion
from recsys_spark.tracking.promotion import decide, promote, rollback
from recsys_spark.tracking.registry import CHALLENGER, CHAMPION, PREVIOUS, Registered, find, register, resolve
from recsys_spark.tracking.runs import closing, start_night
from recsys_spark.tracking.store import open_store

NAN = float("nan")


def config_of(root, uri=None):
    return Config(
        name="tests", root=str(root / "tables" / "tests"), log=LogConfig(path="log"), tracking=TrackingConfig(uri=uri)
    )


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    return open_store(config_of(tmp_path_factory.mktemp("mlflow")))


@pytest.fixture
def store(opened):
    """The store, with a registered model for this test alone."""
    name = f"recsys-{uuid.uuid4().hex}"
    opened.client.create_registered_model(name)
    return dataclasses.replace(opened, model_name=name)


def version_of(store, name):
    tags = {"recsys.model": "als", "recsys.version": name, "recsys.night": "2026-01-01"}
    made = store.client.create_model_version(store.model_name, source=f"file:///nowhere/{name}", tags=tags)
    return Registered(str(made.version), "als", name, "2026-01-01")


def aliases(store):
    found = {alias: resolve(store, alias) for alias in (CHAMPION, CHALLENGER, PREVIOUS)}
    return {alias: registered.version for alias, registered in found.items() if registered}


# --- decide ---


@pytest.mark.parametrize(
    ("low", "margin", "promoted"),
    [
        (0.01, 0.0, True),
        (-0.01, 0.0, False),
        (0.0, 0.0, False),
        (0.01, 0.01, False),
        (0.011, 0.01, True),
        (NAN, 0.0, False),
    ],
)
def test_decide_asks_for_a_lower_bound_above_the_margin(low, margin, promoted):
    decision = decide("neumf", "als", Interval(0.02, low, 0.05, 321), margin)
    assert decision.promoted is promoted
    assert all(word in decision.why for word in ("neumf", "als", "321 users", f"{margin:g}"))
    assert "\n" not in decision.why


def test_decide_without_users_keeps_the_champion():
    assert not decide("neumf", "als", Interval(NAN, NAN, NAN, 0), 0.0).promoted


# --- promote and roll back ---


def test_the_first_champion_has_nobody_before_it(store):
    promote(store, version_of(store, "a"), None)
    assert aliases(store) == {CHAMPION: "a", CHALLENGER: "a"}


def test_promote_keeps_the_previous_champion(store):
    a, b, c = (version_of(store, name) for name in "abc")
    promote(store, a, None)
    promote(store, b, a)
    assert aliases(store) == {CHAMPION: "b", CHALLENGER: "b", PREVIOUS: "a"}
    promote(store, c, b)
    assert aliases(store) == {CHAMPION: "c", CHALLENGER: "c", PREVIOUS: "b"}


def test_champion_is_the_last_alias_to_move(store, monkeypatch):
    """Killed at any step, the champion is the old one until everything else stands."""
    a, b = version_of(store, "a"), version_of(store, "b")
    promote(store, a, None)
    moved, set_alias = [], promotion.set_alias

    def killed_at_champion(to, alias, registered):
        moved.append(alias)
        if alias == CHAMPION:
            raise KeyboardInterrupt
        set_alias(to, alias, registered)

    monkeypatch.setattr(promotion, "set_alias", killed_at_champion)
    with pytest.raises(KeyboardInterrupt):
        promote(store, b, a)
    assert moved[-1] == CHAMPION
    assert aliases(store) == {CHAMPION: "a", CHALLENGER: "b", PREVIOUS: "a"}
    with pytest.raises(RunError):  # champion and previous are the same: nothing to go back to
        rollback(store)
    monkeypatch.undo()
    promote(store, b, resolve(store, CHAMPION))  # the night that runs again
    assert aliases(store) == {CHAMPION: "b", CHALLENGER: "b", PREVIOUS: "a"}


def test_rollback_restores_the_previous_champion(store):
    a, b = version_of(store, "a"), version_of(store, "b")
    promote(store, a, None)
    promote(store, b, a)
    left, serves = rollback(store)
    assert (left.version, serves.version) == ("b", "a")
    assert aliases(store)[CHAMPION] == "a"
    with pytest.raises(RunError):
        rollback(store)
    assert aliases(store)[CHAMPION] == "a"


@pytest.mark.parametrize("champions", [0, 1])
def test_rollback_without_a_previous_says_so(store, champions):
    if champions:
        promote(store, version_of(store, "a"), None)
    with pytest.raises(RunError, match="no previous champion") as error:
        rollback(store)
    assert "\n" not in str(error.value)
    assert aliases(store) == ({CHAMPION: "a", CHALLENGER: "a"} if champions else {})


# --- the store and the registry ---


def test_a_server_that_does_not_answer_fails_within_seconds(tmp_path):
    with socket.socket() as taken:  # bound but not listening: nobody else can take the port meanwhile
        taken.bind(("127.0.0.1", 0))
        uri = f"http://127.0.0.1:{taken.getsockname()[1]}"
        start = time.perf_counter()
        with pytest.raises(RunError, match="tracking") as error:
            open_store(config_of(tmp_path, uri))
    assert time.perf_counter() - start < 15
    assert uri in str(error.value)
    assert "\n" not in str(error.value)


def test_a_store_is_opened_twice_with_one_experiment(opened, tmp_path):
    assert open_store(config_of(tmp_path, opened.uri)) == opened


def test_register_twice_registers_once(store, tmp_path):
    version = tmp_path / "2026-01-01-abc"
    (tmp_path / "serving").mkdir()
    version.mkdir()
    Popularity(np.array([0, 2, 1], np.float32), np.full(3, np.nan, np.float32)).save(version)
    none = pa.array([[]], pa.list_(pa.float32()))
    users = {
        "id": [1],
        "raw_id": ["u1"],
        "items": pa.array([[]], pa.list_(pa.int32())),
        "weights": none,
        "ratings": none,
    }
    pq.write_table(pa.table(users), tmp_path / "serving" / "users")
    pq.write_table(pa.table({"id": [1, 2], "raw_id": ["i1", "i2"]}), tmp_path / "serving" / "items")
    assert find(store, version.name) is None

    with closing(start_night(store, None)) as run:
        first = register(run, "popularity", version, tmp_path / "serving", version, "2026-01-01", "a-b")
        again = register(run, "popularity", version, tmp_path / "serving", version, "2026-01-01", "a-b")
        assert store.client.get_run(run.run_id).info.status == "RUNNING"  # the caller goes on logging
    assert first == again == find(store, version.name)
    assert (first.model, first.version, first.run_date) == ("popularity", "2026-01-01-abc", "2026-01-01")
    assert len(store.client.search_model_versions(f"name = '{store.model_name}'")) == 1
    assert resolve(store, CHAMPION) is None  # to be registered is not to serve
    assert store.client.get_run(run.run_id).info.status == "FINISHED"


def test_a_registry_that_is_away_is_not_one_without_a_champion(store, monkeypatch):
    assert resolve(store, CHAMPION) is None  # no such alias
    assert resolve(dataclasses.replace(store, model_name="never-registered"), CHAMPION) is None

    def away(*_):
        raise MlflowException("the server is being restarted", error_code=TEMPORARILY_UNAVAILABLE)

    monkeypatch.setattr(MlflowClient, "get_model_version_by_alias", away)
    with pytest.raises(RunError, match=r"alias 'champion' cannot be read: .*restarted"):
        resolve(store, CHAMPION)
