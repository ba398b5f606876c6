"""Real servers for a test: Redis and PostgreSQL on free ports of the loopback interface, gone when it is over."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

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


@contextlib.contextmanager
def postgres() -> Iterator[str]:
    """Run PostgreSQL; yields the address of its database. It refuses to run as root, so root gives itself up first."""
    port, folder = free_port(), Path(tempfile.mkdtemp())
    root = os.geteuid() == 0
    if root:
        os.chown(folder, _NOBODY, _NOBODY)
    who = {"user": _NOBODY, "group": _NOBODY, "extra_groups": []} if root else {}
    made = [program("initdb", "postgresql"), "-D", str(folder / "data"), "-U", "me", "-A", "trust", "--no-sync"]
    subprocess.run(made, check=True, capture_output=True, cwd=folder, **who)
    command = [program("postgres", "postgresql"), "-D", str(folder / "data"), "-p", str(port), "-h", "127.0.0.1"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen([*command, "-k", str(folder), "-F"], cwd=folder, **quiet, **who)
    try:
        wait_for(port, process)
        ready = [program("pg_isready", "postgresql"), "-h", "127.0.0.1", "-p", str(port), "-q"]
        while subprocess.run(ready).returncode:  # it listens before it lets anybody in
            assert process.poll() is None, "the server did not start"
            time.sleep(0.05)
        yield f"postgresql://me@127.0.0.1:{port}/postgres"
    finally:
        process.send_signal(2)  # fast: does not wait for clients
        process.wait(30)
        shutil.rmtree(folder, ignore_errors=True)
