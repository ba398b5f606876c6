"""The whole nightly DAG, run by Airflow against spark-submit: three days in a row, and the middle one once more.

Takes some minutes: every task of every night starts a Spark application of its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from night import published, write_config  # noqa: E402

DAYS = ("2026-01-05", "2026-01-06", "2026-01-07")
NEXT = {"2026-01-05": "2026-01-06", "2026-01-06": "2026-01-07", "2026-01-07": "2026-01-08"}
# 2026-01-05 is a Monday, and so small a log that it looks like a loss of events after a weekend
GENERATED = "generate: {users: 120, items: 60, days: 7, events: 9000}\n  gates: {volume_drop: {warn: null, stop: null}}"


def run(config: Path, *command: str) -> str:
    """Run a command with the DAGs on a configuration; returns what it said."""
    environment = {
        **os.environ, "RECSYS_CONFIG": str(config), "RECSYS_DRIVER_MEMORY": "1g", "RECSYS_RETRY_MINUTES": "0.05",
        "RECSYS_DEADLINE_HOURS": "0",  # see recsys_tasks.py
        "DRIVER_MEMORY": "1g",
    }  # fmt: skip
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=3_000)
    assert done.returncode == 0, done.stdout[-6_000:] + done.stderr[-3_000:]
    return done.stdout + done.stderr


def night(config: Path, day: str) -> str:
    """Run the DAG as its schedule would: at 03:00 of the day after."""
    said = run(config, "airflow", "dags", "test", "recsys_nightly", f"{NEXT[day]}T03:00:00+00:00")
    assert "state=success" in said or "success" in said
    return said


def versions(root: Path) -> dict[str, dict[str, str]]:
    """Every version of every table with the checksums of its files."""
    found = {}
    for path in (root / "warehouse/tiny").glob("**/_manifest.json"):
        contents = json.loads(path.read_text()).get("contents", {})
        name = str(path.parent.relative_to(root))
        found[name] = {file: entry["sha256"] for file, entry in contents.items()}
    return found


@pytest.fixture(scope="module")
def nights(tmp_path_factory):
    """Three nights in a row; the folder, and what was published after each."""
    root = tmp_path_factory.mktemp("nights")
    config = write_config(root)
    text = config.read_text()
    text = text.replace("generate: {users: 120, items: 60, days: 5, events: 8000}", GENERATED)
    config.write_text(text.replace("epochs: 2", "epochs: 1") + f"export: {{jsonl: {root}/export}}\n")
    assert GENERATED in config.read_text()
    run(config, "scripts/submit.sh", "generate_log", "--config", str(config))
    after = {}
    for day in DAYS:
        night(config, day)
        after[day] = (published(root), (root / "export/_current").read_text().strip())
    return root, config, after


@pytest.mark.timeout(6_000)
def test_each_night_publishes_its_day_and_the_middle_one_again_changes_nothing(nights):
    root, config, after = nights
    recommendations = root / "warehouse/tiny/recommendations"
    for day in DAYS:
        rows, exported = after[day]
        assert {str(row[-1]) for row in rows} == {day} and exported.startswith(day)
    live = (recommendations / "_current").read_text()
    assert live.startswith(DAYS[-1])
    before = versions(root)
    assert sum(name.startswith("warehouse/tiny/recommendations/") for name in before) == len(DAYS)

    night(config, DAYS[1])
    # evaluate measures the champion of now as well, so that it may have a version more; nothing else is made
    made = {name for name in versions(root) if name not in before}
    assert all("/user_metrics/" in name or "/recommendations/2026-01-06" in name for name in made), made
    assert {name: found for name, found in versions(root).items() if name in before} == before
    assert (recommendations / "_current").read_text() == live and published(root) == after[DAYS[-1]][0]
    assert (root / "export/_current").read_text().strip() == after[DAYS[-1]][1]
