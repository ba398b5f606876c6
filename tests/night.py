"""A tiny night for the integration tests: its configuration, and how to run jobs and read what they left."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

REPOSITORY = Path(__file__).parent.parent
STAGES = (
    "generate_log", "ingest", "check_log", "build_dataset", "train_baseline", "train_deep", "evaluate", "promote",
    "recommend", "report",
)  # fmt: skip

CONFIG = """\
name: tiny
root: {root}/warehouse/tiny
log:
  path: {root}/log/events
  event_types: {{impression: 0, view: 1, click: 1, purchase: 3, rating: 1}}
  generate: {{users: 120, items: 60, days: 5, events: 8000}}
  items: {{path: {root}/log/items.jsonl}}
dataset: {{k_core: 2, history_length: 10, feed_files: 4}}
models:
  als: {{rank: 8, iterations: 4, blocks: 2}}
  neumf: {{dim: 8, hidden: [16, 8], epochs: 2, batch_size: 256}}
evaluation: {{replicates: 200}}
promotion: {{min_slice_users: 5}}
publish: {{k: 5}}
spark: {{master: "local[2]", driver_memory: 2g, shuffle_partitions: 2}}
"""


def write_config(root: Path, **more: str) -> Path:
    """Write the tiny night's configuration into a folder, which is also where everything of it goes.

    Args:
        more: sections that it lacks, as YAML of one line.
    """
    root.mkdir(parents=True, exist_ok=True)
    path = root / "tiny.yaml"
    sections = "".join(f"{name}: {value}\n" for name, value in more.items())
    path.write_text(CONFIG.format(root=root) + sections, encoding="utf-8")
    return path


def environment() -> dict[str, str]:
    """The environment of `scripts/with_env.sh`."""
    bin_folder = str(Path(sys.executable).parent)
    return {
        **os.environ,
        "PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}",
        "PYSPARK_PYTHON": sys.executable,
        "PYSPARK_DRIVER_PYTHON": sys.executable,
        "SPARK_LOCAL_IP": "127.0.0.1",
    }


def submit(
    job: str, *arguments: str, master: str | None = None, timeout: float = 280
) -> subprocess.CompletedProcess[str]:
    """Run a job through spark-submit and wait for it."""
    command = ["spark-submit", *(["--master", master] if master else []), f"jobs/{job}.py", *arguments]
    return subprocess.run(command, cwd=REPOSITORY, env=environment(), capture_output=True, text=True, timeout=timeout)


def last_line(stdout: str) -> dict[str, Any]:
    """Parse the last line of a job's output."""
    return json.loads(stdout.strip().splitlines()[-1])


def published(root: Path) -> list[tuple[Any, ...]] | None:
    """Return the live recommendations, sorted, or None where nothing is published."""
    folder = root / "warehouse" / "tiny" / "recommendations"
    if not (folder / "_current").exists():
        return None
    version = (folder / "_current").read_text().strip()
    rows = pq.read_table(folder / version / "data").to_pandas()
    return sorted(rows.itertuples(index=False, name=None))
