"""kill -9 at every stage of the night: nothing half-published, and the next run ends in the same table."""

import os
import signal
import subprocess
import time

import pytest
from night import REPOSITORY, STAGES, environment, last_line, published, submit, write_config


def start(config, log):
    """Start a night in a process group of its own; spark-submit puts a job's messages on its stdout."""
    command = ["spark-submit", "jobs/nightly.py", "--config", str(config)]
    return subprocess.Popen(
        command, cwd=REPOSITORY, env=environment(), stdout=log, stderr=subprocess.STDOUT, start_new_session=True
    )


def kill_at(config, stage, messages, delay):
    """Kill the night `delay` seconds into a stage."""
    with messages.open("w") as log:
        process = start(config, log)
        deadline = time.monotonic() + 200
        while f"] {stage} …" not in messages.read_text():
            assert process.poll() is None, f"the night ended before {stage}:\n{messages.read_text()[-2000:]}"
            assert time.monotonic() < deadline, f"{stage} never came"
            time.sleep(0.05)  # polling a real process: there is nothing to wait on
        time.sleep(delay)  # into the stage
        assert process.poll() is None, f"the night ended before it could be killed in {stage}"
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_killed_again_and_again_the_night_ends_in_the_same_table(tmp_path):
    whole = write_config(tmp_path / "whole")
    done = submit("nightly", "--config", str(whole))
    assert done.returncode == 0, done.stdout[-2000:]
    expected = published(tmp_path / "whole")
    assert expected

    killed = write_config(tmp_path / "killed")
    for number, stage in enumerate(STAGES):
        kill_at(killed, stage, tmp_path / f"{stage}.log", delay=0.2 + 0.3 * (number % 3))
        # the lists may stand already where the kill came after the last flip; a part of them may not
        assert published(tmp_path / "killed") in (None, expected)
    again = submit("nightly", "--config", str(killed))
    assert again.returncode == 0, again.stdout[-2000:]
    assert published(tmp_path / "killed") == expected
    assert last_line(done.stdout)["counts"] == last_line(again.stdout)["counts"]
