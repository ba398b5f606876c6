"""Real two-rank Horovod, started by horovodrun: it trains, and resumes after kill -9 as if never killed."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
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
