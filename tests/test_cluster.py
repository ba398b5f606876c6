"""The chain on a real Spark standalone cluster: a master and two workers, through spark-submit."""

import json
import os
import socket
import subprocess
import urllib.request
from dataclasses import dataclass

import pytest
from night import REPOSITORY, environment, last_line, published, submit, write_config

pytestmark = pytest.mark.slow


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@dataclass
class Master:
    url: str
    page: str

    def applications(self):
        """Return the names of those that ran on the cluster and are over."""
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(self.page, timeout=10) as answer:
            return [app["name"] for app in json.load(answer)["completedapps"] if app["state"] == "FINISHED"]


@pytest.fixture
def master(tmp_path):
    port = free_port()
    env = {**environment(), "PORT": str(port), "UI_PORT": str(free_port()), "CLUSTER_DIR": str(tmp_path / "cluster")}
    env["WORKER_MEMORY"] = "2g"

    def cluster(action):
        done = subprocess.run(
            ["scripts/cluster.sh", action], cwd=REPOSITORY, env=env, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stdout + done.stderr

    cluster("start")
    yield Master(f"spark://127.0.0.1:{port}", f"http://127.0.0.1:{env['UI_PORT']}/json/")
    cluster("stop")


@pytest.mark.timeout(600)
def test_the_chain_runs_on_a_cluster(master, tmp_path):
    config = write_config(tmp_path)
    done = submit("nightly", "--config", str(config), master=master.url)
    assert done.returncode == 0, done.stdout[-3000:]
    assert master.applications() == ["recsys nightly tiny"]  # there, and not in the driver as the configuration says
    assert last_line(done.stdout)["stage"] == "nightly"
    assert published(tmp_path)
    assert os.environ.get("SPARK_MASTER") is None  # nothing but --master said where to run


@pytest.mark.timeout(300)
def test_als_survives_an_executor_that_is_killed_in_mid_iteration(master, tmp_path):
    """The tasks of the lost executor are run again by the other, and the factors are the same to the bit."""
    script = str(REPOSITORY / "tests" / "kill_an_executor.py")
    command = ["spark-submit", "--master", master.url, "--driver-memory", "1g", script, str(tmp_path)]
    env = {**environment(), "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert last_line(done.stdout) == {"executors": 2, "lost_before_the_end": True, "same": True}
