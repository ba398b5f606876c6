"""Prove the set-up with the three parts that break when a pin moves: Petastorm, Horovod and Spark.

Each check does a little real work and prints one line; the first that fails prints its cause, exit 1.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

_RANK = """
import os, torch, horovod.torch as hvd
hvd.init()
assert hvd.size() == 2, f"{hvd.size()} ranks instead of 2"
total = hvd.allreduce(torch.tensor([float(hvd.rank() + 1)]), op=hvd.Sum).item()
assert total == 3.0, f"allreduce gave {total} instead of 3"
if hvd.rank() == 0:
    print("allreduce", total, flush=True)
hvd.shutdown()
"""


def petastorm() -> str:
    """Write Parquet with two row groups and count the rows that come back."""
    warnings.simplefilter("ignore")  # Petastorm's own use of deprecated calls; not the reader's business
    import pyarrow as pa
    import pyarrow.parquet as pq
    from petastorm import make_batch_reader

    rows = 1_000
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "part-0.parquet")
        pq.write_table(pa.table({"item_id": pa.array(range(rows), pa.int64())}), file, row_group_size=rows // 2)
        with make_batch_reader(file.as_uri(), workers_count=1, num_epochs=1) as reader:
            found = sum(len(batch.item_id) for batch in reader)
    if found != rows:
        raise RuntimeError(f"the reader gave {found} rows of {rows}")
    return f"{rows} rows read from Parquet"


def horovod() -> str:
    """Sum one number over two ranks that `horovodrun` starts on the loopback interface."""
    loopback = "lo0" if sys.platform == "darwin" else "lo"
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder, "rank.py")
        script.write_text(_RANK, encoding="utf-8")
        # The module, not the console script: its first line breaks where the path is long.
        command = [sys.executable, "-m", "horovod.runner.launch", "--gloo", "-np", "2"]
        done = subprocess.run(
            [*command, "--network-interfaces", loopback, sys.executable, str(script)],
            capture_output=True,
            text=True,
            timeout=180,
            stdin=subprocess.DEVNULL,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
    if done.returncode != 0 or "allreduce 3.0" not in done.stdout:
        lines = [line for line in (done.stderr + done.stdout).splitlines() if line.strip()]
        errors = [line for line in lines if "Error" in line]
        raise RuntimeError((errors or lines or ["no output"])[-1])
    return "allreduce over two ranks"


def spark() -> str:
    """Sum a range in the JVM and once more in a Python worker."""
    from recsys_spark.config import SparkConfig
    from recsys_spark.session import get_session

    config = SparkConfig(master="local[2]", driver_memory="1g", shuffle_partitions=2)
    with _silent_stderr(), get_session(config, "self-check") as session:
        version = session.version
        numbers = session.range(1_000)
        in_jvm = numbers.selectExpr("sum(id)").first()[0]
        in_python = numbers.rdd.map(lambda row: row.id).sum()
    if not in_jvm == in_python == 499_500:
        raise RuntimeError(f"the sum of a range is {in_jvm} in the JVM and {in_python} in Python, not 499500")
    return f"Spark {version} sums a range, in the JVM and in Python"


@contextlib.contextmanager
def _silent_stderr() -> Iterator[None]:
    """Keep the JVM's greetings off the terminal; what goes wrong comes as an exception."""
    kept = os.dup(2)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def main() -> int:
    """Run the checks in turn; return the exit code."""
    checks: list[Callable[[], str]] = [petastorm, horovod, spark]
    for check in checks:
        start = time.monotonic()
        try:
            result = check()
        except Exception as error:
            cause = " ".join(str(error).split())[:300]
            print(f"self-check: {check.__name__} failed: {type(error).__name__}: {cause}", file=sys.stderr)
            return 1
        print(f"[self-check] ok {check.__name__}: {result} ({time.monotonic() - start:.1f} s)", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
