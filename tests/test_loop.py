"""The training loop on one rank: what an update is made of, and what stops it."""

from __future__ import annotations

import itertools
import resource

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from small_training import ITEMS, LENGTH, ROWS, small_job, write_data

from recsys_spark.errors import ConfigError, DataError, RunError
from recsys_spark.models import DEEP, neumf
from recsys_spark.training import checkpoint
from recsys_spark.training.loop import new_recommender, train
from recsys_spark.training.validate import Validation

INTS, LONGS = pa.list_(pa.int32()), pa.list_(pa.int64())


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("data"))


@pytest.fixture
def run(data, tmp_path):
    """A function that trains with some settings, and returns the epochs, the last weights and the job."""
    runs = iter(range(99))

    def go(folder=None, model="neumf", how=None, **settings):
        job = small_job(data, folder or tmp_path / str(next(runs)), model, settings, **(how or {}))
        epochs = train(job)
        return epochs, checkpoint.load(job.folder, checkpoint.LAST)["network"], job

    return go


def same(one, other, **tolerance):
    return all(torch.allclose(one[name], other[name], **tolerance) for name in one)


def without_draws(monkeypatch):
    """Let every positive have the same negatives, however the rows are cut into batches."""
    fixed = lambda self, user, n, generator: (user[:, None] + torch.arange(n)) % (ITEMS - 1) + 1  # noqa: E731
    monkeypatch.setattr(neumf.NegativeSampler, "forward", fixed)


@pytest.mark.parametrize("sparse", [False, True])
def test_accumulated_batches_are_one_as_large(run, monkeypatch, sparse):
    without_draws(monkeypatch)
    _, whole, _ = run(batch_size=32, loss="bce", sparse_gradients=sparse)
    _, parts, _ = run(batch_size=8, accumulate=4, loss="bce", sparse_gradients=sparse)
    _, single, _ = run(batch_size=8, loss="bce", sparse_gradients=sparse)
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
    np.testing.assert_allclose(rates, 0.01 * np.array([0.25, 0.5, 0.75, 1, 1, 1]))
    np.testing.assert_allclose(norms, 1e-3, rtol=1e-3)


def test_what_is_measured_and_saved_is_the_moving_average_of_the_weights(run, monkeypatch):
    after = []
    step = torch.optim.Adam.step

    def watched(self, *args, **kwargs):
        weights = self.param_groups[0]["params"]
        if not after:
            after.append([w.detach().double().numpy().copy() for w in weights])
        done = step(self, *args, **kwargs)
        after.append([w.detach().double().numpy().copy() for w in weights])
        return done

    monkeypatch.setattr(torch.optim.Adam, "step", watched)
    epochs, last, job = run(batch_size=16, epochs=8, average=0.5)
    plain = [0.0 for _ in after[0]]
    measured = [e.valid_ndcg_at_10 for e in epochs]
    for n, weights in enumerate(after[: 1 + 6 * (measured.index(max(measured)) + 1)]):
        decay = min(0.5, (1 + n) / (10 + n)) if n else 0.0
        plain = [decay * mean + (1 - decay) * w for mean, w in zip(plain, weights, strict=True)]
    best = checkpoint.load(job.folder, checkpoint.BEST)["network"]
    names = [name for name, _ in new_recommender(job, neumf, LENGTH)[1].named_parameters()]
    for name, expected, raw in zip(names, plain, after[-1], strict=True):
        np.testing.assert_allclose(best[name], expected, rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(last[name].double(), raw)
    model, network = new_recommender(job, neumf, LENGTH)
    network.load_state_dict(best)
    network.eval()
    total, users, *_ = Validation(job.histories, 0, 1, 100, 3).sums(model)
    assert total / users == pytest.approx(max(measured))


def test_tables_of_rows_are_not_averaged():
    with pytest.raises(ValueError, match="average: whole tables are averaged, which sparse_gradients spares"):
        neumf.Config(sparse_gradients=True, average=0.9)


@pytest.mark.parametrize(
    ("sparse", "precision", "average"),
    [(False, "float32", 0.0), (True, "float32", 0.0), (True, "float16", 0.0), (False, "float32", 0.9)],
)
def test_six_epochs_are_three_and_three_more(run, tmp_path, sparse, precision, average):
    """Warm-up and all: the second half begins where the first ended."""
    settings = {"batch_size": 16, "warmup_steps": 30, "clip_norm": 0.5, "sparse_gradients": sparse, "average": average}
    settings["how"] = {"precision": precision}
    epochs, whole, _ = run(epochs=6, **settings)
    run(folder=tmp_path / "halves", epochs=3, **settings)
    resumed, halves, _ = run(folder=tmp_path / "halves", epochs=6, **settings)
    told = [[(e.loss, e.valid_ndcg_at_10) for e in each] for each in (epochs, resumed)]
    assert told[0] == told[1] and len(resumed) == 6
    assert all(torch.equal(whole[name], halves[name]) for name in whole)


def test_a_loss_that_is_no_number_stops_and_leaves_its_batch(run, monkeypatch, tmp_path):
    usual, calls = neumf.Network.loss, []

    def spoilt(self, batch, generator):
        calls.append(batch)
        return usual(self, batch, generator) * (float("nan") if len(calls) == 5 else 1)

    monkeypatch.setattr(neumf.Network, "loss", spoilt)
    with pytest.raises(DataError, match=r"neumf: the loss is nan in epoch 1: lower .*refused-batch-0\.pt") as error:
        run(folder=tmp_path / "bad", batch_size=32)
    assert "\n" not in str(error.value)
    left = torch.load(tmp_path / "bad" / "refused-batch-0.pt", weights_only=True)
    assert all(torch.equal(left[name], calls[-1][name]) for name in left) and set(left) == {"user_id", "item_id"}
    assert checkpoint.load(tmp_path / "bad", checkpoint.LAST)["epochs"][-1]["epoch"] == 0  # the last whole one


def test_a_number_that_is_none_in_the_feed_stops_the_training(tmp_path, monkeypatch):
    """From the Parquet file to the error: a loss that reads the column meets it in one batch of six."""
    weight = np.ones(ROWS, "f4")
    weight[40] = np.nan
    data = write_data(tmp_path / "data", weight=weight)
    usual = neumf.Network.loss
    monkeypatch.setattr(neumf.Network, "columns", ("user_id", "item_id", "weight"))
    monkeypatch.setattr(neumf.Network, "loss", lambda self, b, g: usual(self, b, g) * b["weight"].mean())
    with pytest.raises(
        DataError, match=r"nan in epoch 0: column 'weight' .* no number in row \d+; .*refused-batch-0\.pt"
    ):
        train(small_job(data, tmp_path / "run", settings={"batch_size": 16}))
    left = torch.load(tmp_path / "run" / "refused-batch-0.pt", weights_only=True)
    assert left["weight"].isnan().sum() == 1


@pytest.mark.parametrize("column", ["user_id", "item_id", "history"])
@pytest.mark.parametrize("value", [99, -1])
@pytest.mark.parametrize("statistics", [True, False])
def test_an_id_past_its_table_is_found_before_the_first_step(tmp_path, column, value, statistics):
    data = write_data(tmp_path / "data")
    file = data / "feed" / "data" / "part-2.parquet"
    rows = pq.read_table(file)
    values = rows[column].to_pylist()
    values[3] = value if column != "history" else [value, *values[3][1:]]
    rows = rows.set_column(rows.schema.get_field_index(column), column, pa.array(values, rows[column].type))
    pq.write_table(rows, file, write_statistics=statistics)
    says = rf"part-2\.parquet: '{column}' has ids from .*{value}.*, the table of \w+ has rows 0 to 1[14]; "
    with pytest.raises(DataError, match=says):
        train(small_job(data, tmp_path / "run", "two_tower"))


def test_a_checkpoint_of_another_configuration_is_refused_and_stays(run, tmp_path):
    run(folder=tmp_path / "one", dim=4)
    before = (tmp_path / "one" / checkpoint.LAST).read_bytes()
    says = r"last\.pt: .* training with models\.neumf\.dim=4, this one has models\.neumf\.dim=8; remove"
    with pytest.raises(ConfigError, match=says):
        run(folder=tmp_path / "one", dim=8)
    with pytest.raises(ConfigError, match=r"with precision=float32, this one has precision=bfloat16"):
        run(folder=tmp_path / "one", how={"precision": "bfloat16"})
    assert (tmp_path / "one" / checkpoint.LAST).read_bytes() == before


def test_a_damaged_checkpoint_is_named(run, tmp_path):
    run(folder=tmp_path / "one")
    path = tmp_path / "one" / checkpoint.LAST
    for content in (path.read_bytes()[:-100], b""):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"last\.pt: the checkpoint cannot be read .* remove"):
            run(folder=tmp_path / "one")


def test_on_a_full_disk_the_last_whole_checkpoint_stays_and_training_goes_on_from_it(run, tmp_path):
    """A limit on the size of files stands for the disk: what is written beyond it fails half-way."""
    whole, expected, _ = run(folder=tmp_path / "whole", epochs=4)
    folder = tmp_path / "one"
    run(folder=folder, epochs=2)
    kept = {name: (folder / name).read_bytes() for name in (checkpoint.LAST, checkpoint.BEST)}
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(kept[checkpoint.BEST]) // 2, before[1]))
    try:
        with pytest.raises(RunError, match=r"\.pt: the checkpoint cannot be written .*, the one before it stands; "):
            run(folder=folder, epochs=4)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert {name: (folder / name).read_bytes() for name in kept} == kept
    assert not list(folder.glob(".*pt*")), "nothing half-written is left"
    epochs, got, _ = run(folder=folder, epochs=4)
    assert [e.loss for e in epochs] == [e.loss for e in whole] and same(expected, got, atol=0)


@pytest.fixture(scope="module")
def all_columns(tmp_path_factory):
    items = np.random.default_rng(4).integers(1, ITEMS, (ROWS, LENGTH)).tolist()
    times = np.sort(np.random.default_rng(5).integers(1, 9, (ROWS, LENGTH))).tolist()
    columns = {"items": pa.array(items, INTS), "times": pa.array(times, LONGS)}
    columns["length"] = np.full(ROWS, LENGTH, "i4")
    return write_data(tmp_path_factory.mktemp("all"), **columns)


@pytest.mark.parametrize("model", DEEP)
@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_lower_precision_is_the_losss_alone(all_columns, tmp_path, model, precision):
    losses = {}
    for name in ("float32", precision):
        job = small_job(all_columns, tmp_path / name, model, precision=name)
        losses[name] = [e.loss for e in train(job)]
    state = checkpoint.load(job.folder, checkpoint.LAST)
    floats = [value for value in state["network"].values() if value.is_floating_point()]
    assert all(value.dtype == torch.float32 for value in floats)
    assert bool(state["updates"]["scaler"]) == (precision == "float16")
    # later losses may differ by the updates that float16's loss scale leaves out until it has found itself
    np.testing.assert_allclose(losses[precision][0], losses["float32"][0], rtol=0.01)
    assert np.isfinite(losses[precision]).all()
    # what has no matrix product, and torch's GRU on a CPU, is computed as ever
    assert (losses[precision] != losses["float32"]) or model in ("bpr", "lightgcn", "gru4rec")


def test_an_update_whose_gradients_overflow_is_left_out_and_the_loss_scale_halved(run, monkeypatch):
    usual, calls = neumf.Network.loss, []

    def spiked(self, batch, generator):
        calls.append(self.out_gmf.weight.detach().clone())
        return usual(self, batch, generator) * (1e36 if len(calls) == 2 else 1)

    monkeypatch.setattr(neumf.Network, "loss", spiked)
    _, _, job = run(batch_size=32, epochs=2, how={"precision": "float16"}, sparse_gradients=True)
    moved = [not torch.equal(a, b) for a, b in itertools.pairwise(calls)]
    assert moved == [True, False, True, True, True]
    assert checkpoint.load(job.folder, checkpoint.LAST)["updates"]["scaler"]["scale"] == 2**15


def test_deterministic_operations_are_asked_for_while_training_alone(run, monkeypatch):
    usual, seen = neumf.Network.loss, []

    def watched(self, batch, generator):
        seen.append(torch.are_deterministic_algorithms_enabled())
        return usual(self, batch, generator)

    monkeypatch.setattr(neumf.Network, "loss", watched)
    run(epochs=1)
    _, one, _ = run(epochs=1, how={"deterministic": True}, sparse_gradients=True)
    _, two, _ = run(epochs=1, how={"deterministic": True}, sparse_gradients=True)
    assert seen == [False, True, True] and not torch.are_deterministic_algorithms_enabled()
    assert same(one, two, atol=0)


def test_a_batch_of_empty_histories_says_so(tmp_path):
    """The station writes no window of fewer than two items; what came otherwise has nothing to predict."""
    none = [[0] * 5] * ROWS
    data = write_data(tmp_path / "data", items=pa.array(none, INTS), times=pa.array(none, LONGS))
    with pytest.raises(
        DataError, match=r"sasrec: the loss is nan .* no row .* two values in 'items', .*; mend the feed"
    ):
        train(small_job(data, tmp_path / "run", "sasrec"))


def test_some_empty_histories_leave_a_loss_to_the_others(tmp_path):
    items = [[0] * 5 if row % 3 else [1 + row % 9, 2, 3, 4, 5] for row in range(ROWS)]
    times = [[0] * 5 if row % 3 else [1, 2, 3, 4, 5] for row in range(ROWS)]
    data = write_data(tmp_path / "data", items=pa.array(items, INTS), times=pa.array(times, LONGS))
    epochs = train(small_job(data, tmp_path / "run", "sasrec", {"batch_size": 32}))
    assert np.isfinite([e.loss for e in epochs]).all()
