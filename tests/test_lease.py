"""The lease of a job and its date: no second run beside a live one, and none of a dead one."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time

import pytest

from recsys_spark.errors import RunError
from recsys_spark.warehouse.locks import LEASES, Busy, lease

HOLDER = """
import sys, time
from pathlib import Path
from recsys_spark.warehouse.locks import lease

with lease(Path(sys.argv[1]), "ingest", "2026-01-05"):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """A live run of ingest for 2026-01-05."""
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_a_second_run_is_told_who_has_it(tmp_path, holder):
    with pytest.raises(Busy) as error, lease(tmp_path, "ingest", "2026-01-05"):
        pass
    message = str(error.value)
    assert message.startswith("ingest of 2026-01-05: another run of it is alive (process ")
    assert str(holder.pid) in message and "\n" not in message and isinstance(error.value, RunError)
    with lease(tmp_path, "ingest", "2026-01-06"), lease(tmp_path, "recommend", "2026-01-05"):
        pass  # other dates and other jobs are free
    with lease(tmp_path, "ingest", None), lease(tmp_path, "ingest", "2026-01-05", ["seed=43"]):
        pass  # and so are other commands of the job


def test_it_dies_with_its_process_however_that_dies(tmp_path, holder):
    holder.send_signal(signal.SIGKILL)
    holder.wait(30)
    with lease(tmp_path, "ingest", "2026-01-05"):
        assert "pid" in (next((tmp_path / LEASES).iterdir())).read_text()


def test_a_patient_run_goes_on_when_the_first_one_ends(tmp_path, holder):
    threading.Timer(0.5, holder.kill).start()
    start = time.monotonic()
    with lease(tmp_path, "ingest", "2026-01-05", patience=30):
        assert 0.3 < time.monotonic() - start < 20


def test_patience_has_an_end(tmp_path, holder):
    start = time.monotonic()
    with pytest.raises(Busy), lease(tmp_path, "ingest", "2026-01-05", patience=0.5):
        pass
    assert time.monotonic() - start >= 0.5


def test_it_is_free_again_after_an_error(tmp_path):
    for _ in range(2):
        with pytest.raises(ValueError), lease(tmp_path, "ingest", None):
            raise ValueError
