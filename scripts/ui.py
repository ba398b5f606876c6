"""Open the MLflow UI on the runs of this checkout, on the loopback interface only."""

from __future__ import annotations

import argparse
import contextlib
import os
import socket
import sqlite3
import sys
from pathlib import Path


def problem(store: Path, port: int) -> str | None:
    """Return what keeps the UI from being of use, as one line, or None."""
    if not _has_runs(store):
        return f"{store}: no runs yet; make some with `make nightly`"
    with socket.socket() as probe:
        # As the server does it: else the port would seem in use for a minute after the last UI.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            return f"port {port} cannot be used ({error.strerror}); choose another: make ui PORT={port + 1}"
    return None


def _has_runs(store: Path) -> bool:
    if not store.exists():
        return False
    try:
        with contextlib.closing(sqlite3.connect(f"{store.absolute().as_uri()}?mode=ro", uri=True)) as connection:
            return connection.execute("SELECT 1 FROM runs LIMIT 1").fetchone() is not None
    except sqlite3.OperationalError:  # made, but MLflow has not created its tables
        return False


def main() -> int:
    """Check, then become the server; return the exit code where there is nothing to serve."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=5000)
    parser.add_argument("--store", type=Path, default=Path("build/mlflow/mlflow.db"), help="the SQLite store")
    args = parser.parse_args()
    found = problem(args.store, args.port)
    if found:
        print(f"ui: {found}", file=sys.stderr)
        return 1
    print(f"[ui] http://127.0.0.1:{args.port} (stop with Ctrl-C)", flush=True)
    # Seven helper processes with a gigabyte between them, for jobs that this project has none of.
    os.environ.setdefault("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false")
    os.environ.setdefault("PYTHONWARNINGS", "ignore")
    command = [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", f"sqlite:///{args.store.absolute()}"]
    os.execv(sys.executable, [*command, "--host", "127.0.0.1", "--port", str(args.port), "--workers", "1"])


if __name__ == "__main__":
    sys.exit(main())
