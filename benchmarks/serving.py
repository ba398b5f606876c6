"""`mlflow models serve` under load: how long a client waits for one user's list and for a hundred, alone or not.

A champion is registered in a store of its own, an ALS model whose factors are drawn; or `--model
models:/NAME@champion` of the store that `--uri` names is served. The clients are threads of this process on connections
that stay open, each of which asks again as soon as it has its answer. The other side of a row is the same model in this
process, without a server.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from _report import Row, finish, parser

from recsys_spark.config import Config, LogConfig
from recsys_spark.models.als import AlsModel
from recsys_spark.models.als import Config as AlsConfig
from recsys_spark.models.popularity import Popularity
from recsys_spark.tracking.registry import CHAMPION, register, set_alias
from recsys_spark.tracking.runs import closing, start_night
from recsys_spark.tracking.store import open_store

K, RANK, HISTORY = 20, 64, 30
USERS_PER_REQUEST = (1, 100)
_REQUESTS = 200
"""Bodies that are asked for in turn; each client begins at another one."""


def champion(folder: Path, users: int, items: int) -> tuple[str, str]:
    """Register a drawn ALS model as champion; returns the store's address and the model's."""
    rng = np.random.default_rng(1)
    known = np.arange(items) > 0
    parts = {n: folder / n for n in ("als-v1", "popularity-v1", "serving/users", "serving/items")}
    for part in parts.values():
        part.mkdir(parents=True)
    factors = rng.normal(size=(items, RANK)).astype(np.float32) * known[:, None]
    AlsModel(factors, known, AlsConfig(rank=RANK)).save(parts["als-v1"])
    counts = rng.pareto(1.0, items).astype(np.float32)
    Popularity(counts, np.full(items, np.nan, np.float32)).save(parts["popularity-v1"])
    lengths = np.minimum(rng.geometric(1 / HISTORY, users), items - 1)
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32))
    entries = int(lengths.sum())
    columns = {
        "items": pa.array(rng.integers(1, items, entries).astype(np.int32)),
        "weights": pa.array(np.ones(entries, np.float32)),
        "ratings": pa.array(np.full(entries, np.nan, np.float32)),
    }
    lists = {name: pa.ListArray.from_arrays(offsets, values) for name, values in columns.items()}
    ids = pa.array(np.arange(1, users + 1, dtype=np.int32))
    people = pa.table({"id": ids, "raw_id": [f"u{i}" for i in range(1, users + 1)], **lists})
    things = pa.table(
        {"id": pa.array(np.arange(1, items, dtype=np.int32)), "raw_id": [f"i{i}" for i in range(1, items)]}
    )
    pq.write_table(people, parts["serving/users"] / "part-0.parquet")
    pq.write_table(things, parts["serving/items"] / "part-0.parquet")
    store = open_store(Config(name="bench", root=str(folder / "tables" / "bench"), log=LogConfig(path="log")))
    with closing(start_night(store, None)) as run:
        made = register(run, "als", parts["als-v1"], folder / "serving", parts["popularity-v1"], "2026-01-01", "a-b")
    set_alias(store, CHAMPION, made)
    return store.uri, f"models:/{store.model_name}@{CHAMPION}"


@contextlib.contextmanager
def served(uri: str, model: str, workers: int) -> Iterator[int]:
    """Serve a registered model on a free port of the loopback interface."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", model, "-h", "127.0.0.1", "-p", str(port)]
    env = {**os.environ, "MLFLOW_TRACKING_URI": uri, "MLFLOW_DISABLE_TELEMETRY": "true"}
    with tempfile.TemporaryFile() as said:
        server = subprocess.Popen(
            [*command, "--env-manager", "local", "--workers", str(workers)], env=env, start_new_session=True,
            stdout=said, stderr=said,
        )  # fmt: skip
        try:
            until = time.monotonic() + 180
            while True:
                with contextlib.suppress(OSError, http.client.HTTPException):
                    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
                    connection.request("GET", "/ping")
                    if connection.getresponse().status == 200:
                        break
                if server.poll() is not None or time.monotonic() > until:
                    said.seek(0)
                    sys.exit(f"mlflow models serve did not start: {said.read().decode(errors='replace')[-2000:]}")
                time.sleep(0.2)
            yield port
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(server.pid, signal.SIGKILL)
            server.wait(10)


def bodies(users: list[str], size: int) -> list[bytes]:
    """Requests for `size` users each, drawn from those that the model knows."""
    rng = np.random.default_rng(size)
    chosen = (rng.choice(len(users), size) for _ in range(_REQUESTS))
    rows = ({"columns": ["user_id", "k"], "data": [[users[i], K] for i in picked]} for picked in chosen)
    return [json.dumps({"dataframe_split": asked}).encode() for asked in rows]


def load(port: int, asked: list[bytes], size: int, clients: int, seconds: float) -> tuple[np.ndarray, float]:
    """Let clients ask for a while; returns the milliseconds of every request, and how many were answered a second."""
    found: list[list[float]] = [[] for _ in range(clients)]
    faults: list[str] = []
    until = time.perf_counter() + seconds

    def client(number: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        turn = number * len(asked) // clients
        while (start := time.perf_counter()) < until and not faults:
            connection.request("POST", "/invocations", asked[turn % len(asked)], {"Content-Type": "application/json"})
            answer = connection.getresponse()
            text = answer.read()
            found[number].append((time.perf_counter() - start) * 1000)
            # the first one is looked at: parsing every answer would be load of our own
            first = len(found[number]) == 1
            if answer.status != 200 or (first and len(json.loads(text)["predictions"]) != size):
                faults.append(f"{answer.status}: {text[:200]!r}")
            turn += 1
        connection.close()

    threads = [threading.Thread(target=client, args=(n,)) for n in range(clients)]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if faults:
        sys.exit(f"the server answered {faults[0]}")
    done = np.concatenate([np.array(times) for times in found])
    return done, len(done) / (time.perf_counter() - start)


def alone(model: mlflow.pyfunc.PyFuncModel, asked: list[bytes]) -> np.ndarray:
    """Milliseconds of the same requests in this process, from table to table."""
    times = []
    for body in asked:
        question = json.loads(body)["dataframe_split"]
        table = pd.DataFrame(question["data"], columns=question["columns"])
        start = time.perf_counter()
        model.predict(table)
        times.append((time.perf_counter() - start) * 1000)
    return np.array(times[len(times) // 10 :])  # the first ones compile


def measure(uri: str, model: str, args: argparse.Namespace) -> list[Row]:
    """Return a row for each size of a request, number of clients, and figure."""
    mlflow.set_tracking_uri(uri)
    mlflow.set_registry_uri(uri)
    loaded = mlflow.pyfunc.load_model(model)
    users = sorted(loaded.unwrap_python_model().rows)
    rows: list[Row] = []
    with served(uri, model, args.workers) as port:
        for size in USERS_PER_REQUEST:
            asked = bodies(users, size)
            own = alone(loaded, asked)
            load(port, asked, size, args.clients, args.seconds / 4)  # every worker has compiled by then
            for clients in sorted({1, args.clients}):
                times, rate = load(port, asked, size, clients, args.seconds)
                about = f"{size} user{'s' if size > 1 else ''} a request, {clients} client{'s' if clients > 1 else ''}"
                for q in (50, 99):
                    ours, peer = float(np.percentile(times, q)), float(np.percentile(own, q))
                    rows.append(Row(f"{about}, p{q}", ours, "ms", "in this process, one by one", peer, ours / peer))
                rows.append(Row(f"{about}, answered", rate, "requests/s"))
                if size > 1:
                    rows.append(replace(rows[-1], work=f"{about}, lists", ours=rate * size, unit="lists/s"))
    return rows


def main() -> None:
    options = parser(__doc__ or "")
    options.add_argument("--uri", help="the store of a model of your own")
    options.add_argument("--model", help="such as models:/recsys-embedded@champion")
    options.add_argument("--users", type=int, default=20_000, help="of the drawn model")
    options.add_argument("--items", type=int, default=25_000, help="of the drawn model")
    options.add_argument("--clients", type=int, default=8, help="at a time")
    options.add_argument("--workers", type=int, default=2, help="processes of the server")
    options.add_argument("--seconds", type=float, default=20.0, help="of each measurement")
    args = options.parse_args()
    if bool(args.uri) != bool(args.model):
        options.error("--uri and --model go together")
    with tempfile.TemporaryDirectory() as folder:
        where = (args.uri, args.model) if args.uri else champion(Path(folder), args.users, args.items)
        rows = measure(*where, args)
    finish("serving", rows, args.out)


if __name__ == "__main__":
    main()
