"""Two real ranks: rows that are exchanged, and trainings that differ in how gradients are kept, sent and scaled."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from night import REPOSITORY, environment
from on_two_ranks import GO_ON, LOOKED_UP
from small_training import PLAIN, write_data

from recsys_spark.training import checkpoint
from recsys_spark.training.job import read_epochs


@pytest.fixture(scope="module")
def left(tmp_path_factory):
    """The folder that the two ranks have filled."""
    root = tmp_path_factory.mktemp("ranks")
    data = write_data(root / "data")
    script = Path(__file__).with_name("on_two_ranks.py")
    env = {**environment(), "PYTHONPATH": str(REPOSITORY)}
    command = ["horovodrun", "-np", "2", "--gloo", sys.executable, str(script), str(data), str(root)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    return root


def weights(folder):
    return checkpoint.load(folder, checkpoint.LAST)["network"]


def test_rows_are_the_mean_over_the_ranks_whoever_looked_up_what(left):
    for step, looked_up in enumerate(LOOKED_UP):
        expected = torch.zeros(6, 2)
        for rank, rows in looked_up.items():
            for k, row in enumerate(rows):
                expected[row] += (rank + 1 + k / 10) / 2
        for rank in (0, 1):
            gradient = torch.load(left / f"gradients-{rank}.pt")[step]
            assert gradient.is_coalesced()
            assert gradient.indices()[0].tolist() == sorted({row for rows in looked_up.values() for row in rows})
            torch.testing.assert_close(gradient.to_dense(), expected)


def losses(folder):
    return [e.loss for e in read_epochs(folder)]


def test_where_every_row_is_looked_up_sparse_and_dense_are_the_same_over_two_ranks(left):
    dense, rows = weights(left / "dense"), weights(left / "rows")
    for name, value in dense.items():
        torch.testing.assert_close(rows[name], value, atol=1e-9, rtol=1e-9, msg=lambda m, name=name: f"{name}: {m}")
    assert losses(left / "dense")[3] < losses(left / "dense")[0]


@pytest.mark.parametrize("kind", GO_ON)
def test_training_that_goes_on_is_the_one_that_never_stopped(left, kind):
    resumed, longer = (read_epochs(left / f"{kind}, {how}") for how in ("resumed", "longer"))
    assert len(longer) == 6
    for one, other in zip(resumed, longer, strict=True):
        assert (one.loss, one.valid_ndcg_at_10) == (other.loss, other.valid_ndcg_at_10)
    for name, value in weights(left / f"{kind}, longer").items():
        assert torch.equal(weights(left / f"{kind}, resumed")[name], value), name


def test_compression_rounds_what_layers_send_and_leaves_rows_alone(left):
    dense, rows = weights(left / "dense"), weights(left / "rows")
    compressed, compressed_rows = weights(left / "compressed"), weights(left / "compressed rows")
    assert not torch.equal(dense["user_in.weight"], compressed["user_in.weight"])
    assert not torch.equal(rows["user_in.weight"], compressed_rows["user_in.weight"])
    torch.testing.assert_close(losses(left / "compressed"), losses(left / "dense"), atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(losses(left / "compressed rows"), losses(left / "dense"), atol=1e-3, rtol=1e-3)


def test_the_step_size_is_multiplied_by_the_ranks(left):
    state = checkpoint.load(left / "scaled", checkpoint.LAST)["updates"]["layers"]
    assert state["param_groups"][0]["lr"] == pytest.approx(2 * PLAIN["learning_rate"])


def test_a_lower_precision_runs_on_two_ranks(left):
    state = checkpoint.load(left / "half", checkpoint.LAST)
    assert state["updates"]["scaler"]["scale"] > 0
    assert all(value.isfinite().all() for value in state["network"].values())
