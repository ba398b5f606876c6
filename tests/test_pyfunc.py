"""A registered model alone: in a fresh process without this checkout, on Spark, and behind `mlflow models serve`."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recsys_spark.config import Config, LogConfig
from recsys_spark.models.als import AlsModel
from recsys_spark.models.als import Config as AlsConfig
from recsys_spark.models.base import UserBlock
from recsys_spark.models.popularity import Popularity
from recsys_spark.recommendation.select import recommend_block
from recsys_spark.tracking.registry import register
from recsys_spark.tracking.runs import closing, start_night
from recsys_spark.tracking.store import open_store

N_ITEMS = 16  # ids 1..15
HISTORIES = {"u1": [1, 2, 3], "u2": [4, 9], "u3": [], "u4": [5]}
POPULAR = [f"i{i}" for i in range(15, 0, -1)]
START_SECONDS = 90

# Run by every Python process at its start: takes this checkout (an editable install) off its path.
SITECUSTOMIZE = """
import sys
from pathlib import Path
sys.path[:] = [p for p in sys.path if not (Path(p or ".") / "recsys_spark").is_dir()]
sys.meta_path[:] = [f for f in sys.meta_path if "editable" not in getattr(f, "__module__", f.__class__.__module__)]
"""

PREDICT = """
import importlib.util, json, sys
import pandas as pd
assert importlib.util.find_spec("recsys_spark") is None, "the checkout is importable"
sys.modules["pyspark"] = sys.modules["torch"] = None  # to import either is now an error
import mlflow
model = mlflow.pyfunc.load_model(sys.argv[1])
answers = [model.predict(pd.DataFrame(rows)).to_dict("list") for rows in json.loads(sys.argv[2])]
import recsys_spark
print(json.dumps({"answers": answers, "file": recsys_spark.__file__}))
"""


def als_model():
    rng = np.random.default_rng(6)
    known = np.arange(N_ITEMS) > 0
    return AlsModel(rng.normal(size=(N_ITEMS, 3)).astype(np.float32) * known[:, None], known, AlsConfig(rank=3))


@pytest.fixture(scope="module")
def registered(tmp_path_factory):
    """(folder of the registered model on disk, its environment without the checkout, an empty working folder)."""
    root = tmp_path_factory.mktemp("pyfunc")
    for name in ("als-v1", "popularity-v1", "serving", "site", "cwd"):
        (root / name).mkdir()
    als_model().save(root / "als-v1")
    Popularity(np.arange(N_ITEMS, dtype=np.float32), np.full(N_ITEMS, np.nan, np.float32)).save(root / "popularity-v1")
    histories = list(HISTORIES.values())
    users = pa.table({
        "id": pa.array(range(1, 5), pa.int32()),
        "raw_id": list(HISTORIES),
        "items": pa.array(histories, pa.list_(pa.int32())),
        "weights": pa.array([[1.0] * len(h) for h in histories], pa.list_(pa.float32())),
        "ratings": pa.array([[float("nan")] * len(h) for h in histories], pa.list_(pa.float32())),
    })  # fmt: skip
    items = pa.table({"raw_id": [f"i{i}" for i in range(1, N_ITEMS)], "id": pa.array(range(1, N_ITEMS), pa.int32())})
    for name, rows in (("users", users), ("items", items)):
        (root / "serving" / name).mkdir()
        pq.write_table(rows, root / "serving" / name / "part-0.parquet")
    store = open_store(Config(name="tests", root=str(root / "tables" / "tests"), log=LogConfig(path="log")))
    with closing(start_night(store, None)) as run:
        made = register(run, "als", root / "als-v1", root / "serving", root / "popularity-v1", "2026-01-01", "a-b")
    with store.active():
        model = mlflow.artifacts.download_artifacts(
            f"models:/{store.model_name}/{made.number}", dst_path=str(root / "downloaded")
        )
    # what it was made from is gone: the registered model has to carry all it needs
    for folder in ("als-v1", "popularity-v1", "serving"):
        (root / folder).rename(root / f"gone-{folder}")
    (root / "site" / "sitecustomize.py").write_text(SITECUSTOMIZE, encoding="utf-8")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "MLFLOW_TRACKING", "MLFLOW_REGISTRY"))}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    env = {**kept, "PATH": path, "PYTHONPATH": str(root / "site"), "MLFLOW_DISABLE_TELEMETRY": "true"}
    return Path(model), env, root / "cwd"


def expected(user, k):
    items, scores = recommend_block(als_model(), UserBlock.of([1], [HISTORIES[user]]), k)
    return [f"i{i}" for i in items[0] if i], [float(s) for i, s in zip(items[0], scores[0], strict=True) if i]


def test_a_fresh_process_without_the_checkout(registered):
    """Nor with Spark or torch: what is not needed to answer for ALS must not be asked for."""
    model, env, cwd = registered
    asked = [
        {"user_id": ["u1", "stranger", "u3", "u2"], "k": [3, 2, 20, 0]},
        {"user_id": ["u4", "stranger"]},
        {"user_id": ["u1"], "k": [100]},
    ]
    done = subprocess.run(
        [sys.executable, "-c", PREDICT, str(model), json.dumps(asked)],
        cwd=cwd, env=env, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    assert Path(said["file"]).is_relative_to(model / "code")

    each, default, many = said["answers"]
    items, scores = expected("u1", 3)
    assert each["items"] == [items, POPULAR[:2], POPULAR, []]
    assert each["scores"][0] == pytest.approx(scores, rel=1e-5)
    assert each["scores"][1] == [15, 14]
    assert default["items"] == [expected("u4", 10)[0], POPULAR[:10]]  # no k: ten
    assert many["items"][0] == expected("u1", N_ITEMS)[0]  # no more than there are, and none that was had
    assert len(many["items"][0]) == 12


def test_no_part_of_it_is_a_pickle(registered):
    """By name, and by the first bytes of a pickle of protocol 2 or later; a zip is what torch and numpy write."""
    files = [f for f in registered[0].rglob("*") if f.is_file() and f.suffix not in (".py", ".pyc", ".nbi", ".nbc")]
    assert len(files) > 8
    assert [f.name for f in files if f.suffix in (".pkl", ".pickle") or f.read_bytes()[:1] == b"\x80"] == []


def test_a_row_without_k_or_with_a_senseless_one(registered):
    """Behind the signature, which lets no null through: what the model itself makes of it."""
    model = mlflow.pyfunc.load_model(str(registered[0])).unwrap_python_model()
    answer = model.predict(None, pd.DataFrame({"user_id": ["u1", "u1", "u1"], "k": [None, 2, -3]}))
    assert [len(items) for items in answer["items"]] == [10, 2, 0]
    assert answer["items"][0][:2] == answer["items"][1]


def test_spark_udf(registered, spark):
    kind = "struct<items:array<string>,scores:array<double>>"
    recommend = mlflow.pyfunc.spark_udf(spark, str(registered[0]), result_type=kind, env_manager="local")
    rows = spark.createDataFrame([("u1", 3), ("stranger", 2), ("u2", 4)], "user_id string, k long").repartition(2)
    answers = {r.user_id: r.answer for r in rows.withColumn("answer", recommend("user_id", "k")).collect()}
    assert answers["stranger"]["items"] == POPULAR[:2]
    for user, k in (("u1", 3), ("u2", 4)):
        items, scores = expected(user, k)
        assert answers[user]["items"] == items
        assert answers[user].scores == pytest.approx(scores, rel=1e-5)


def post(url, body):
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


@pytest.fixture
def endpoint(registered):
    """URL of `mlflow models serve` on a free port; the server and its children are killed at the end."""
    model, env, cwd = registered
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", str(model), "-h", "127.0.0.1", "-p", str(port)]
    log = cwd / "serve.log"
    with open(log, "wb") as output:
        server = subprocess.Popen(
            [*command, "--env-manager", "local", "--workers", "1"],
            cwd=cwd, env=env, stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    try:
        until = time.monotonic() + START_SECONDS
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/ping", timeout=5).close()
                break
            except OSError:
                assert server.poll() is None and time.monotonic() < until, log.read_text(errors="replace")
                time.sleep(0.3)
        yield f"http://127.0.0.1:{port}/invocations"
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait(10)


def test_mlflow_models_serve(endpoint):
    rows = {"columns": ["user_id", "k"], "data": [["u1", 3], ["stranger", 2]]}
    first, second = post(endpoint, {"dataframe_split": rows})["predictions"]
    items, scores = expected("u1", 3)
    assert first["items"] == items
    assert first["scores"] == pytest.approx(scores, rel=1e-5)
    assert second == {"items": POPULAR[:2], "scores": [15, 14]}

    without_k = post(endpoint, {"dataframe_split": {"columns": ["user_id"], "data": [["u2"]]}})["predictions"]
    assert without_k[0]["items"] == expected("u2", 10)[0]

    with pytest.raises(urllib.error.HTTPError) as error:  # the signature refuses what is no question
        post(endpoint, {"dataframe_split": {"columns": ["k"], "data": [[3]]}})
    assert error.value.code == 400
    error.value.close()
