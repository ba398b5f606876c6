"""The training loop on one rank: what an update is made of, and what stops it."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from recsys_spark.errors import DataError
from recsys_spark.models import neumf
from recsys_spark.training import checkpoint
from recsys_spark.training.job import TrainingJob
from recsys_spark.training.loop import train
from recsys_spark.warehouse import MANIFEST

USERS, ITEMS, ROWS, FILES = 12, 15, 96, 4
PLAIN = {"dim": 4, "hidden": [8], "dropout": 0.0, "negatives": 2, "epochs": 2, "learning_rate": 0.01}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A feed of pairs and histories with something held out, as the data set station writes them."""
    root = tmp_path_factory.mktemp("data")
    keys = np.random.default_rng(1).choice((USERS - 1) * (ITEMS - 1), ROWS, replace=False)
    user, item = (keys // (ITEMS - 1) + 1).astype("i4"), (keys % (ITEMS - 1) + 1).astype("i4")
    (root / "feed" / "data").mkdir(parents=True)
    files = []
    for part, rows in enumerate(np.array_split(np.arange(ROWS), FILES)):
        name = f"part-{part}.parquet"
        pq.write_table(pa.table({"user_id": user[rows], "item_id": item[rows]}), root / "feed" / "data" / name)
        files.append({"file": name, "rows": len(rows), "row_groups": 1})
    for name, key, values in (("users", "user_id", user), ("items", "item_id", item)):
        ids, counts = np.unique(values, return_counts=True)
        (root / "feed" / name).mkdir()
        pq.write_table(pa.table({key: ids, "count": counts.astype("i4")}), root / "feed" / name / "part.parquet")
    manifest = {
        "rows": ROWS, "row_groups": FILES, "files": files, "history_length": 5,
        "schema": [["user_id", "int32"], ["item_id", "int32"]],
    }  # fmt: skip
    (root / "feed" / MANIFEST).write_text(json.dumps(manifest))
    known = [item[user == u].tolist() for u in range(1, USERS)]
    held = [sorted(set(range(1, ITEMS)) - set(items))[:1] for items in known]
    histories = {
        "user_id": pa.array(range(1, USERS), pa.int32()), "items": pa.array(known, pa.list_(pa.int32())),
        "weights": pa.array([[1.0] * len(k) for k in known], pa.list_(pa.float32())),
        "ratings": pa.array([[float("nan")] * len(k) for k in known], pa.list_(pa.float32())),
        "held_out": pa.array(held, pa.list_(pa.int32())),
    }  # fmt: skip
    (root / "histories" / "known=train").mkdir(parents=True)
    pq.write_table(pa.table(histories), root / "histories" / "known=train" / "part.parquet")
    return root


@pytest.fixture
def run(data, tmp_path):
    """A function that trains with some settings, and returns the epochs, the last weights and the job."""
    runs = iter(range(99))

    def go(folder=None, **settings):
        folder = folder or tmp_path / str(next(runs))
        folder.mkdir(exist_ok=True)
        config = neumf.Config(**{**PLAIN, **settings}).model_dump()
        feed = data / "feed"
        job = TrainingJob("neumf", config, feed, feed, data / "histories", folder, 3, 99, 1, 100, 1, "petastorm")
        epochs = train(job)
        return epochs, checkpoint.load(folder, checkpoint.LAST)["network"], job

    return go


def same(one, other, **tolerance):
    return all(torch.allclose(one[name], other[name], **tolerance) for name in one)


def without_draws(monkeypatch):
    """Let every positive have the same negatives, however the rows are cut into batches."""
    fixed = lambda self, user, n, generator: (user[:, None] + torch.arange(n)) % (ITEMS - 1) + 1  # noqa: E731
    monkeypatch.setattr(neumf.NegativeSampler, "forward", fixed)


def test_accumulated_batches_are_one_as_large(run, monkeypatch):
    without_draws(monkeypatch)
    _, whole, _ = run(batch_size=32, loss="bce")
    _, parts, _ = run(batch_size=8, accumulate=4, loss="bce")
    _, single, _ = run(batch_size=8, loss="bce")
    assert same(whole, parts, atol=1e-5) and not same(whole, single, atol=1e-3)


def test_an_epochs_last_update_may_be_of_fewer_batches(run, monkeypatch):
    """96 rows are 12 batches of 8: two updates of 5 and one of 2, each the mean of its batches."""
    without_draws(monkeypatch)
    seen = []
    step = torch.optim.Adam.step

    def watched(self, *args, **kwargs):
        gradients = [p.grad.clone() for group in self.param_groups for p in group["params"]]
        seen.append(torch.cat([g.flatten() for g in gradients]).norm().item())
        return step(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.Adam, "step", watched)
    run(batch_size=8, accumulate=5, epochs=1, learning_rate=1e-9)
    assert seen.pop(0) == 0  # Horovod's, which makes the optimizer's state
    assert len(seen) == 3 and max(seen) < 2 * min(seen)


def test_the_step_size_warms_up_and_gradients_are_cut(run, monkeypatch):
    rates, norms = [], []
    step = torch.optim.Adam.step

    def watched(self, *args, **kwargs):
        rates.append(self.param_groups[0]["lr"])
        norms.append(torch.cat([p.grad.flatten() for p in self.param_groups[0]["params"]]).norm().item())
        return step(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.Adam, "step", watched)
    run(batch_size=32, warmup_steps=4, clip_norm=1e-3)
    assert norms.pop(0) == 0 and rates.pop(0) == 0.01  # Horovod's, which makes the optimizer's state
    np.testing.assert_allclose(rates, 0.01 * np.array([0.25, 0.5, 0.75, 1, 1, 1]))
    np.testing.assert_allclose(norms, 1e-3, rtol=1e-3)


def test_six_epochs_are_three_and_three_more(run, tmp_path):
    """Warm-up and all: the second half begins where the first ended."""
    settings = {"batch_size": 16, "warmup_steps": 30, "clip_norm": 0.5}
    epochs, whole, _ = run(epochs=6, **settings)
    run(folder=tmp_path / "halves", epochs=3, **settings)
    resumed, halves, _ = run(folder=tmp_path / "halves", epochs=6, **settings)
    assert [e.loss for e in epochs] == [e.loss for e in resumed] and len(resumed) == 6
    assert all(torch.equal(whole[name], halves[name]) for name in whole)


def test_a_loss_that_is_no_number_stops_and_leaves_its_batch(run, monkeypatch, tmp_path):
    usual, calls = neumf.Network.loss, []

    def spoilt(self, batch, generator):
        calls.append(batch)
        return usual(self, batch, generator) * (float("nan") if len(calls) == 5 else 1)

    monkeypatch.setattr(neumf.Network, "loss", spoilt)
    with pytest.raises(DataError, match=r"neumf: the loss is nan in epoch 1; .*refused-batch-0\.pt") as error:
        run(folder=tmp_path / "bad", batch_size=32)
    assert "\n" not in str(error.value)
    left = torch.load(tmp_path / "bad" / "refused-batch-0.pt", weights_only=True)
    assert all(torch.equal(left[name], calls[-1][name]) for name in left) and set(left) == {"user_id", "item_id"}
    assert checkpoint.load(tmp_path / "bad", checkpoint.LAST)["epochs"][-1]["epoch"] == 0  # the last whole one
