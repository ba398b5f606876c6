"""Sparse gradients: sums of rows, an Adam for each row, and trainings that must be those with dense gradients."""

import collections
import itertools

import horovod.torch as hvd
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_training import ITEMS, USERS, small_job, write_data
from torch import nn

from recsys_spark.models import module_of
from recsys_spark.training import checkpoint
from recsys_spark.training.loop import train
from recsys_spark.training.rows import RowAdam, exchange, row_tables, summed
from recsys_spark.training.schedule import learning_rate

SPARSE = ("neumf", "two_tower", "bpr")


@pytest.fixture(scope="module", autouse=True)
def one_rank():
    hvd.init()


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(-8, 8)), max_size=40), st.integers(1, 3))
@settings(max_examples=60, deadline=None)
def test_what_belongs_to_a_row_is_added_up(entries, width):
    rows = torch.tensor([row for row, _ in entries], dtype=torch.long)
    values = torch.tensor([[float(v)] * width for _, v in entries]).reshape(-1, width)
    expected = collections.Counter()
    for row, value in entries:
        expected[row] += value
    distinct, sums = summed(rows, values)
    assert distinct.tolist() == sorted({row for row, _ in entries})
    assert sums.tolist() == [[float(expected[row])] * width for row in distinct.tolist()]


def touched(rng, n):
    """Rows that a step looks up, some of them several times, and their gradients."""
    rows = rng.integers(0, n, rng.integers(0, 2 * n))
    return torch.from_numpy(rows), torch.from_numpy(rng.normal(size=(len(rows), 3)).astype("f4"))


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_a_rows_path_is_that_of_an_adam_that_sees_this_row_alone(weight_decay):
    rng = np.random.default_rng(5)
    start = torch.from_numpy(rng.normal(size=(7, 3)).astype("f4"))
    table = nn.Parameter(start.clone())
    optimizer = RowAdam([table], lr=0.05, weight_decay=weight_decay)
    alone = [nn.Parameter(start[r].clone()) for r in range(7)]
    adams = [torch.optim.Adam([p], lr=0.05, weight_decay=weight_decay) for p in alone]
    for _ in range(30):
        rows, values = touched(rng, 7)
        table.grad = torch.sparse_coo_tensor(rows[None], values, table.shape)
        exchange({"table": table})
        optimizer.step()
        for row in set(rows.tolist()):
            alone[row].grad = values[rows == row].sum(dim=0)
            adams[row].step()
    torch.testing.assert_close(table.data, torch.stack([p.data for p in alone]), atol=2e-6, rtol=2e-6)


def test_rows_that_nobody_looked_up_stay_and_so_do_their_means():
    table = nn.Parameter(torch.ones(5, 2))
    optimizer = RowAdam([table], lr=0.1)
    for rows in ([1, 3], [3], []):
        table.grad = torch.sparse_coo_tensor(torch.tensor([rows], dtype=torch.long), torch.ones(len(rows), 2), (5, 2))
        exchange({"table": table})
        optimizer.step()
    state = optimizer.state[table]
    assert state["updates"].tolist() == [0, 1, 0, 2, 0]
    assert (table[[0, 2, 4]] == 1).all() and not state["mean"][[0, 2, 4]].any()
    torch.testing.assert_close(table[1], torch.full((2,), 0.9), msg="a row's first step is as long as the rate")


def test_a_dense_gradient_where_rows_are_expected_is_named():
    network = nn.ModuleDict({"item": nn.Embedding(4, 2, sparse=True)})
    network["item"].weight.sum().backward()
    with pytest.raises(TypeError, match=r"item\.weight is a table of sparse gradients"):
        exchange(row_tables(network))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("data"))


@pytest.fixture
def double():
    """Weights of 64 bits: Adam makes a whole step of a gradient that is rounding alone."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def both(model):
    """The same network with dense and with sparse gradients, and a batch."""
    networks = []
    for sparse in (False, True):
        torch.manual_seed(1)
        module = module_of(model)
        network = module.Network(module.Config(dim=4, sparse_gradients=sparse), USERS, ITEMS).eval()
        network.prepare(torch.arange(ITEMS), torch.arange(20) * 7)
        networks.append(network)
    rng = np.random.default_rng(1)
    batch = {"user_id": rng.integers(1, USERS, 30), "item_id": rng.integers(1, ITEMS, 30)}
    batch["history"] = rng.integers(0, ITEMS, (30, 5))
    return *networks, {name: torch.from_numpy(values) for name, values in batch.items()}


@pytest.mark.parametrize("model", SPARSE)
def test_the_gradients_of_a_loss_are_the_same_dense_and_sparse(model):
    dense, sparse, batch = both(model)
    tables = row_tables(sparse)
    assert not row_tables(dense) and len(tables) == {"neumf": 4, "two_tower": 2, "bpr": 3}[model]
    for network in (dense, sparse):
        network.loss(batch, torch.Generator().manual_seed(2)).backward()
    exchange(tables)
    of_dense = dict(dense.named_parameters())
    for name, parameter in sparse.named_parameters():
        assert parameter.grad.is_sparse == (name in tables)
        torch.testing.assert_close(
            parameter.grad.to_dense(),
            of_dense[name].grad,
            atol=1e-6,
            rtol=1e-5,
            msg=lambda m, name=name: f"{name}: {m}",
        )


@pytest.mark.parametrize("model", SPARSE)
def test_where_every_row_is_looked_up_in_every_step_training_is_the_same(data, tmp_path, model, double, monkeypatch):
    """One batch of all rows, cut and warmed up: every user and item has a gradient in every step."""
    monkeypatch.setattr(torch, "rand", lambda n, **_: torch.zeros(n))  # the towers hide no id, for a step, of anyone
    weights = {}
    for sparse in (False, True):
        how = {"sparse_gradients": sparse, "batch_size": 96, "epochs": 4, "clip_norm": 1e-3, "warmup_steps": 3}
        how |= {"negatives": 40} if model != "two_tower" else {"dropout": 0.0}
        job = small_job(data, tmp_path / str(sparse), model, how)
        train(job)
        weights[sparse] = checkpoint.load(job.folder, checkpoint.LAST)["network"]
    for name, value in weights[False].items():
        torch.testing.assert_close(
            value, weights[True][name], atol=1e-9, rtol=1e-9, msg=lambda m, name=name: f"{name}: {m}"
        )


@given(st.floats(1e-4, 1.0), st.integers(0, 50), st.integers(1, 16))
@settings(deadline=None)
def test_the_step_size_grows_to_that_of_all_ranks_and_stays(base, warmup, ranks):
    rates = [learning_rate(n, base, warmup, ranks) for n in range(warmup + 3)]
    assert rates == sorted(rates) and rates[-1] == pytest.approx(base * ranks)
    assert rates[0] >= (base if ranks > 1 else base / max(warmup, 1)) * 0.999
    assert len({round(b - a, 9) for a, b in itertools.pairwise(rates[:warmup])}) <= 1, "in equal parts"
