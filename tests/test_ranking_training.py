"""A ranker through the training loop: what it validates by, what it resumes from, and what is wrong with its feed."""

from __future__ import annotations

import json
import math

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import log_loss, roc_auc_score
from test_ranking_models import ENCODING, LENGTH, MANIFEST, impressions, some

from recsys_spark.errors import DataError
from recsys_spark.evaluation.metrics.probability import auc, gauc_sums, logit_log_loss_sum
from recsys_spark.models import module_of
from recsys_spark.models.torch_ranker import load
from recsys_spark.training import checkpoint
from recsys_spark.training.job import Epoch, TrainingJob
from recsys_spark.training.launch import _save
from recsys_spark.training.loop import train
from recsys_spark.training.ranking import RankingValidation, columns, new_ranker
from recsys_spark.warehouse import MANIFEST as MANIFEST_FILE

# --- metrics ---

ROWS = st.lists(st.tuples(st.integers(1, 4), st.sampled_from([-1.0, 0.0, 0.25, 0.5, 2.0]), st.booleans()), min_size=1)


@settings(max_examples=200, deadline=None)
@given(ROWS)
def test_auc_and_gauc_are_those_of_another_library(rows):
    users, scores, labels = (np.array(column, float) for column in zip(*rows, strict=True))
    both = len(set(labels)) == 2
    found = auc(labels, scores)
    assert found == pytest.approx(roc_auc_score(labels, scores)) if both else math.isnan(found)
    total = weight = 0.0
    for user in set(users):
        mine = users == user
        if len(set(labels[mine])) == 2:
            total += mine.sum() * roc_auc_score(labels[mine], scores[mine])
            weight += mine.sum()
    assert gauc_sums(labels, scores, users.astype(int)) == pytest.approx((total, weight))
    p = 1 / (1 + np.exp(-scores))
    assert logit_log_loss_sum(labels, scores) / len(rows) == pytest.approx(log_loss(labels, p, labels=[0, 1]))


def test_of_no_rows_there_is_no_auc():
    assert gauc_sums([], [], []) == (0, 0) and logit_log_loss_sum([], []) == 0


# --- the loop ---

KINDS = {"label_click": pa.float32(), "label_purchase": pa.float32(), "history": pa.list_(pa.int32())}
FLOATS = ("user_activity", "item_price")


def write_part(folder, rows, files=1):
    """Write rows as the feed has them, and return the manifest's entries of the files."""
    folder.mkdir(parents=True)
    entries = []
    for part, at in enumerate(np.array_split(np.arange(len(rows["user_id"])), files)):
        columns = {
            name: pa.array(values[at].tolist(), pa.float32() if name in FLOATS else KINDS.get(name, pa.int32()))
            for name, values in rows.items()
        }
        pq.write_table(pa.table(columns), folder / f"part-{part}.parquet")
        entries.append({"file": f"part-{part}.parquet", "rows": len(at), "row_groups": 1})
    return entries


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Feeds of impressions and pairs; users 1 to 4 are in the valid part, and 5 and item 20 in no training row."""
    root = tmp_path_factory.mktemp("data")
    rows = impressions()
    held = (rows["user_id"] < 5) & (rows["item_id"] > 12)
    unseen = (rows["user_id"] == 5) | (rows["item_id"] == 20)
    training, valid = some(rows, ~held & ~unseen), some(rows, held)
    training = some(training, slice(len(training["user_id"]) // 2 * 2))  # two ranks then get as many rows each
    feed = root / "impressions"
    entries = write_part(feed / "data", training, 4)
    for part in ("valid", "test"):
        write_part(feed / part, valid)
    schema = [
        [n, "float" if n in FLOATS or n.startswith("label") else "list<int32>" if n == "history" else "int32"]
        for n in rows
    ]
    n = len(training["user_id"])
    manifest = {
        **MANIFEST, "rows": n, "row_groups": 4, "files": entries, "schema": schema, "history_length": LENGTH,
        "parts": {"train": n, "valid": len(valid["user_id"]), "test": len(valid["user_id"])},
    }  # fmt: skip
    (feed / MANIFEST_FILE).write_text(json.dumps(manifest))
    (feed / "encoding.json").write_text(json.dumps(ENCODING))
    clicked = some(training, training["label_click"] > 0)
    write_part(root / "pairs" / "data", {name: clicked[name] for name in ("user_id", "item_id")})
    return root


def job_of(data, folder, name="fm", **parameters):
    config = module_of(name).Config(**{"dim": 4, "epochs": 3, "batch_size": 64, "learning_rate": 0.02, **parameters})
    folder.mkdir(parents=True, exist_ok=True)
    return TrainingJob(
        name, config.model_dump(), data / "impressions", data / "pairs", data / "none", folder, 3, 99, 1, 100, 1,
        "arrow",
    )  # fmt: skip


def test_a_ranker_is_trained_and_judged_by_gauc(data, tmp_path):
    job = job_of(data, tmp_path / "job", epochs=6)
    epochs = train(job)
    assert [e.measured[0] for e in epochs] == ["GAUC"] * 6 and all(e.valid_ndcg_at_10 is None for e in epochs)
    assert epochs[-1].loss < epochs[0].loss
    best = max(epochs, key=lambda e: e.measured[1])

    (tmp_path / "model").mkdir()
    card = _save(job, tmp_path / "model")
    assert card["best_epoch"] == best.epoch and card["measured"]["test_gauc_click"] == pytest.approx(best.valid_gauc)
    model = load(tmp_path / "model")
    assert not model.users[5] and not model.items[20] and model.users[6] and model.items[19]
    assert model.encoding == ENCODING and model.length == LENGTH
    valid = pq.read_table(data / "impressions" / "valid").to_pandas()
    batch = {name: torch.tensor(np.stack(valid[name].to_numpy())) for name in columns(job)}
    logits = model.score_rows(batch)
    areas = [(len(g), roc_auc_score(g.label_click, logits[g.index])) for _, g in valid.groupby("user_id")]
    assert best.valid_gauc == pytest.approx(np.average([a for _, a in areas], weights=[n for n, _ in areas]))
    p = 1 / (1 + np.exp(-logits.astype(float)))
    assert best.valid_log_loss == pytest.approx(log_loss(valid.label_click, p), rel=1e-5)
    assert card["measured"]["test_auc_click"] == pytest.approx(roc_auc_score(valid.label_click, logits))


def test_six_epochs_are_three_and_three_more(data, tmp_path):
    parameters = {"hidden": [8], "dropout": 0.2, "tower": 4}
    whole = train(job_of(data, tmp_path / "whole", "mmoe", epochs=6, **parameters))
    train(job_of(data, tmp_path / "halves", "mmoe", epochs=3, **parameters))
    halves = train(job_of(data, tmp_path / "halves", "mmoe", epochs=6, **parameters))
    assert [(e.loss, e.valid_gauc, e.valid_log_loss) for e in whole] == [
        (e.loss, e.valid_gauc, e.valid_log_loss) for e in halves
    ]
    one, other = (checkpoint.load(tmp_path / f, checkpoint.LAST)["network"] for f in ("whole", "halves"))
    assert all(torch.equal(one[n], other[n]) for n in one)


def test_the_ranks_sums_are_the_figures_of_all_users(data, tmp_path):
    """Users are dealt out whole, so that GAUC over the ranks is GAUC."""
    job = job_of(data, tmp_path / "job", "ple", hidden=[8], tower=4)
    torch.manual_seed(1)
    model, network = new_ranker(job)
    part, labels = data / "impressions" / "valid", network.config.labels
    parts = [RankingValidation(part, network.columns, labels, rank, 3, 100, 1) for rank in range(3)]
    summed = np.sum([p.sums(model) for p in parts], axis=0).tolist()
    alone = RankingValidation(part, network.columns, labels, 0, 1, 100, 1)
    assert parts[0].figures(summed) == pytest.approx(alone.figures(alone.sums(model)))
    assert sum(len(p.rows["user_id"]) for p in parts) == len(alone.rows["user_id"])
    few = RankingValidation(part, network.columns, labels, 0, 1, 2, 1)
    assert len(set(few.rows["user_id"])) == 2
    found = alone.report(model)
    assert set(found) == {f"{m}_{label}" for m in ("auc", "gauc", "log_loss") for label in ("click", "purchase")}
    assert found["log_loss_click"] + found["log_loss_purchase"] == pytest.approx(
        alone.figures(alone.sums(model))["valid_log_loss"]
    )


def test_a_valid_part_of_one_kind_is_one_line(data, tmp_path):
    model, network = new_ranker(job_of(data, tmp_path / "job"))
    valid = RankingValidation(data / "impressions" / "valid", network.columns, ["label_click"], 0, 1, 100, 1)
    valid.rows["label_click"] = np.zeros_like(valid.rows["label_click"])
    with pytest.raises(DataError, match="no user of the validation part has impressions with and without label_click"):
        valid.figures(valid.sums(model))


def test_an_epoch_says_what_decides():
    plain = dict(epoch=0, loss=1.0, samples_per_second=1.0, feed_wait_share=0.0, rss_mb=1.0, seconds=1.0)
    assert Epoch(**plain, valid_ndcg_at_10=0.25).measured == ("NDCG@10", 0.25)
    assert Epoch(**plain, valid_ndcg_at_10=None, valid_gauc=0.75).measured == ("GAUC", 0.75)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["deepfm", "din"])
def test_two_ranks_reach_the_losses_of_one_with_the_doubled_batch(data, tmp_path, name):
    """Real Horovod; a step is the whole feed, so that both see the same rows in it."""
    import horovod

    rows = json.loads((data / "impressions" / MANIFEST_FILE).read_text())["rows"]
    parameters = {"hidden": [8], "dropout": 0.0, "epochs": 8}
    alone = train(job_of(data, tmp_path / "one", name, batch_size=2 * rows, **parameters))
    job = job_of(data, tmp_path / "two", name, batch_size=rows, **parameters)
    both = horovod.run(train, args=(job,), np=2, use_gloo=True)
    assert len(both) == 2 and both[0] == both[1]
    np.testing.assert_allclose([e.loss for e in both[0]], [e.loss for e in alone], rtol=1e-5)
    np.testing.assert_allclose([e.valid_gauc for e in both[0]], [e.valid_gauc for e in alone], rtol=1e-3)
