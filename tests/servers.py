"""Real servers for a test: Redis, PostgreSQL and MLflow on free ports of the loopback interface."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

_NOBODY = 65534


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def program(name: str, package: str) -> str:
    """Find a server's program; Debian keeps PostgreSQL's off the PATH."""
    found = shutil.which(name) or next(map(str, sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))), None)
    assert found, f"this test needs {name}: apt-get install -y {package}"
    return found


def wait_for(port: int, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 60
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        assert process.poll() is None, "the server did not start"
        assert time.monotonic() < deadline, "the server does not answer"
        time.sleep(0.05)


@contextlib.contextmanager
def redis(password: str) -> Iterator[str]:
    """Run Redis with a password; yields its address without it."""
    port, folder = free_port(), tempfile.mkdtemp()
    command = [program("redis-server", "redis-server"), "--port", str(port), "--bind", "127.0.0.1", "--save", ""]
    process = subprocess.Popen([*command, "--requirepass", password, "--dir", folder], stdout=subprocess.DEVNULL)
    try:
        wait_for(port, process)
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        process.kill()
        process.wait()
        shutil.rmtree(folder, ignore_errors=True)


class Server:
    """A server that may be killed, and started again on the port and the data that it had."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self.process: subprocess.Popen | None = None

    def _launch(self, command: list[str], **more: object) -> None:
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "stdin": subprocess.DEVNULL}
        self.process = subprocess.Popen(command, start_new_session=True, **quiet, **more)
        wait_for(self.port, self.process)

    def kill(self) -> None:
        """End it with SIGKILL, and every process that it started."""
        assert self.process is not None
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def rss_mb(self) -> float:
        """Resident memory of it and its children, MiB."""
        assert self.process is not None
        parent = psutil.Process(self.process.pid)
        return sum(p.memory_info().rss for p in [parent, *parent.children(recursive=True)]) / 2**20


class Postgres(Server):
    """PostgreSQL on a folder of its own. It refuses to run as root, so root gives itself up first."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        root = os.geteuid() == 0
        self.who = {"user": _NOBODY, "group": _NOBODY, "extra_groups": []} if root else {}
        if root:
            os.chown(folder, _NOBODY, _NOBODY)
        made = [program("initdb", "postgresql"), "-D", str(folder / "data"), "-U", "me", "-A", "trust", "--no-sync"]
        subprocess.run(made, check=True, capture_output=True, cwd=folder, **self.who)

    @property
    def address(self) -> str:
        return f"postgresql://me@127.0.0.1:{self.port}/postgres"

    def start(self) -> None:
        command = [program("postgres", "postgresql"), "-D", str(self.folder / "data"), "-p", str(self.port)]
        self._launch([*command, "-h", "127.0.0.1", "-k", str(self.folder), "-F"], cwd=self.folder, **self.who)
        ready = [program("pg_isready", "postgresql"), "-h", "127.0.0.1", "-p", str(self.port), "-q"]
        while subprocess.run(ready).returncode:  # it listens before it lets anybody in
            assert self.process is not None and self.process.poll() is None, "the server did not start"
            time.sleep(0.05)

    def stop(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGINT)  # fast: does not wait for clients
        self.process.wait(30)


class Mlflow(Server):
    """An MLflow server on a SQLite file and artifacts of its own."""

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        store = ["--backend-store-uri", f"sqlite:///{self.folder}/mlflow.db"]
        artifacts = ["--artifacts-destination", str(self.folder / "artifacts")]
        listen = ["--host", "127.0.0.1", "--port", str(self.port), "--workers", "1"]
        # a queue of jobs of its own, for language models, would be three processes more
        quiet = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
        self._launch([sys.executable, "-m", "mlflow", "server", *store, *artifacts, *listen], env=quiet)


@contextlib.contextmanager
def postgres() -> Iterator[str]:
    """Run PostgreSQL; yields the address of its database."""
    folder = Path(tempfile.mkdtemp())
    server = Postgres(folder)
    try:
        server.start()
        yield server.address
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)
