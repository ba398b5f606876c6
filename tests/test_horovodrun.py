"""Real two-rank Horovod: it trains, resumes after kill -9 as if never killed, and ends soon after one rank died."""

import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import psutil
import pytest
import torch
from night import REPOSITORY, environment, last_line, write_config

from recsys_spark.pipeline import job, stages

EPOCHS = 4


@pytest.fixture(scope="module")
def prepared(spark, tmp_path_factory):
    """A data set, and the popularity that every registered model carries."""
    root = tmp_path_factory.mktemp("horovodrun")
    config = write_config(root)
    for name in ("generate_log", "ingest", "build_dataset", "train_baseline"):
        arguments = ["--config", str(config), "train.baselines=[popularity]"]
        assert job.run(name, lambda context, _, name=name: stages.STAGES[name](context), "", arguments) == 0
    return root, config


def horovodrun(config, *overrides):
    command = ["horovodrun", "-np", "2", "--gloo", sys.executable, "jobs/train_deep.py", "--config", str(config)]
    return subprocess.Popen(
        [*command, f"models.neumf.epochs={EPOCHS}", "train.patience=9", *overrides], cwd=REPOSITORY,
        env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip


def weights(root, model="neumf"):
    path = next((root / f"warehouse/tiny/models/{model}").glob("date=*/2026*/weights.pt"))
    return torch.load(path, weights_only=True)


def test_two_ranks_train_and_one_reports(prepared):
    root, config = prepared
    process = horovodrun(config)
    out, _ = process.communicate(timeout=250)
    assert process.returncode == 0, out[-3000:]
    lines = [line.split("<stdout>:", 1)[1] for line in out.splitlines() if '{"stage"' in line]
    assert len(lines) == 1, "one last line, from rank 0"
    line = last_line(lines[0])
    assert line["metrics"]["neumf"]["epochs"] == EPOCHS
    assert not line["metrics"]["neumf"]["reused"]

    # Killed after a checkpoint and run again, the weights are those of the run that was never killed.
    expected = weights(root)
    for folder in ("models/neumf", "checkpoints/neumf"):
        (root / "warehouse/tiny" / folder).rename(root / folder.replace("/", "-"))
    killed = horovodrun(config)
    deadline = time.monotonic() + 200
    checkpoints = root / "warehouse/tiny/checkpoints/neumf"
    try:
        while not any(f.read_text().count("\n") >= 2 for f in checkpoints.glob("*/epochs.jsonl")):
            assert killed.poll() is None, killed.communicate()[0][-3000:]
            assert time.monotonic() < deadline
            time.sleep(0.01)  # polling real processes
    finally:
        os.killpg(killed.pid, signal.SIGKILL)
        subprocess.run(["pkill", "-9", "-f", f"jobs/train_deep.py --config {config}"], check=False)
        killed.communicate()
    assert not (root / "warehouse/tiny/models/neumf").exists() or not list(
        (root / "warehouse/tiny/models/neumf").glob("date=*/2026*/weights.pt")
    ), "the kill came too late to test anything"
    resumed = horovodrun(config)
    out, _ = resumed.communicate(timeout=250)
    assert resumed.returncode == 0, out[-3000:]
    got = weights(root)
    assert expected.keys() == got.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(value.numpy(), got[name].numpy(), err_msg=name)


def rank_process(above, rank):
    """Return the Python process of a rank among the descendants of a process, if it is there."""
    for child in psutil.Process(above).children(recursive=True):
        try:
            # its launcher's shell has the same environment
            if child.environ().get("HOROVOD_RANK") == str(rank) and not child.children() and "python" in child.name():
                return child
        except psutil.Error:
            continue
    return None


def kill_in_mid_epoch(above, rank, folder, killed):
    """Kill a rank of a training that is to come once its first epoch is over, and note when."""
    before = set(folder.glob("*"))
    deadline = time.monotonic() + 150
    while time.monotonic() < deadline:
        process = rank_process(above, rank)
        if process is not None and any(f.parent not in before for f in folder.glob("*/epochs.jsonl")):
            process.kill()
            killed.append(time.monotonic())
            return
        time.sleep(0.05)  # polling real processes


ENDLESS = ["models.neumf.epochs=100000", "train.patience=100000", "models.neumf.batch_size=32"]


def test_a_rank_of_spark_that_dies_ends_the_job_within_a_minute(prepared, capfd):
    root, config = prepared
    killed = []
    arguments = (os.getpid(), 1, root / "warehouse/tiny/checkpoints/neumf", killed)
    threading.Thread(target=kill_in_mid_epoch, args=arguments, daemon=True).start()
    code = job.run("train_deep", lambda c, _: stages.STAGES["train_deep"](c), "", ["--config", str(config), *ENDLESS])
    assert code == 1 and time.monotonic() - killed[0] < 60
    (line,) = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error")]
    assert "training neumf failed: rank 1 died without a word" in line and "ranks.log" in line


@pytest.mark.slow
def test_a_rank_of_horovodrun_that_dies_ends_all_within_a_minute(prepared):
    root, config = prepared
    process = horovodrun(config, *ENDLESS, "seed=7")
    killed = []
    try:
        kill_in_mid_epoch(process.pid, 1, root / "warehouse/tiny/checkpoints/neumf", killed)
        out, _ = process.communicate(timeout=60)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert killed and process.returncode != 0
    assert "Process 1 exit with status code" in out
    assert rank_process(os.getpid(), 0) is None
