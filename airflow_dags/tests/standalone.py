"""Airflow as `make airflow` starts it, for the tests: asked for runs, and looked at, through its API."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx

ROOT = Path(__file__).parents[2]
_OVER = ("success", "failed")


class Airflow:
    """Scheduler, DAG processor, API server and triggerer of their own, for as long as the `with` lasts.

    Args:
        home: the folder for its database and logs.
        environment: variables beside those of this process.
    """

    def __init__(self, home: Path, **environment: str) -> None:
        self.home, self.port = home, _free_port()
        self.environment = {
            **os.environ, **environment, "AIRFLOW_HOME": str(home), "PORT": str(self.port),
            # else it would come into the way of an Airflow that is at work on this machine
            "AIRFLOW__LOGGING__WORKER_LOG_SERVER_PORT": str(_free_port()),
            "AIRFLOW__LOGGING__TRIGGER_LOG_SERVER_PORT": str(_free_port()),
        }  # fmt: skip

    def __enter__(self) -> Airflow:
        self.process = subprocess.Popen(
            [ROOT / "scripts/airflow.sh", "start"],
            env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        with contextlib.ExitStack() as failed:
            failed.callback(self.stop)
            self.client = self._log_in()
            failed.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    def stop(self) -> None:
        """End all of it."""
        self.process.send_signal(signal.SIGTERM)
        self.process.communicate(timeout=60)

    def _log_in(self) -> httpx.Client:
        assert self.process.stdout
        said = ""
        for line in self.process.stdout:  # it says where it is, and the login, when it is up
            said += line
            found = re.search(r"(http://\S+)\s+login: (\S+) / (\S+)", line)
            if found:
                break
        else:
            raise AssertionError(f"make airflow did not start:\n{said}")
        url, user, password = found.groups()
        answer = httpx.post(f"{url}/auth/token", json={"username": user, "password": password}, timeout=60)
        answer.raise_for_status()
        token = answer.json()["access_token"]
        return httpx.Client(base_url=f"{url}/api/v2", timeout=60, headers={"Authorization": f"Bearer {token}"})

    def call(self, method: str, path: str, **body: Any) -> dict[str, Any]:
        """Call the API; returns its answer."""
        answer = self.client.request(method, path, json=body or None)
        assert answer.is_success, f"{method} {path}: {answer.status_code} {answer.text}"
        found: dict[str, Any] = answer.json()
        return found

    def until(self, what: str, seconds: float, look: Any) -> Any:
        """Return what `look` finds, as soon as it finds something."""
        end = time.monotonic() + seconds
        while not (found := look()):
            assert self.process.poll() is None, f"Airflow ended before {what}"
            assert time.monotonic() < end, f"{what} did not come within {seconds} s"
            time.sleep(0.5)
        return found

    def trigger(self, dag: str, logical_date: str | None = None, **conf: str) -> str:
        """Ask for a run; returns its id."""
        run = self.call("POST", f"dags/{dag}/dagRuns", logical_date=logical_date, conf=conf)
        return str(run["dag_run_id"])

    def tasks(self, dag: str, run: str) -> dict[str, dict[str, Any]]:
        """Return the newest try of every task of a run, by its name."""
        found = self.call("GET", f"dags/{dag}/dagRuns/{run}/taskInstances")["task_instances"]
        return {task["task_id"]: task for task in found}

    def ended(self, dag: str, run: str, seconds: float) -> dict[str, Any]:
        """Wait until a run is over; returns it."""

        def look() -> dict[str, Any] | None:
            found = self.call("GET", f"dags/{dag}/dagRuns/{run}")
            return found if found["state"] in _OVER else None

        over: dict[str, Any] = self.until(f"the end of {dag} {run}", seconds, look)
        return over

    def succeeded(self, dag: str, run: str, seconds: float) -> dict[str, Any]:
        """Wait until a run is over, and show the logs of what failed, if anything did."""
        over = self.ended(dag, run, seconds)
        logs = self.home.glob(f"logs/dag_id={dag}/run_id={run}/**/*.log")
        assert over["state"] == "success", "\n".join(f"{log}:\n{log.read_text()[-3_000:]}" for log in logs)
        return over


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
