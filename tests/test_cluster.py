"""The chain on a real Spark standalone cluster: a master and two workers, through spark-submit."""

import os
import socket
import subprocess

import pytest
from night import REPOSITORY, environment, last_line, published, submit, write_config


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


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
    yield f"spark://127.0.0.1:{port}"
    cluster("stop")


@pytest.mark.timeout(600)
def test_the_chain_runs_on_a_cluster(master, tmp_path):
    config = write_config(tmp_path)
    done = submit("nightly", "--config", str(config), master=master)
    assert done.returncode == 0, done.stdout[-3000:]
    assert last_line(done.stdout)["stage"] == "nightly"
    assert published(tmp_path)
    assert os.environ.get("SPARK_MASTER") is None  # nothing but --master said where to run
