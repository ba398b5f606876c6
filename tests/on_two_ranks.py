"""What each of two real ranks does, started by `horovodrun`; `test_two_ranks.py` reads what it leaves in a folder."""

import shutil
import sys
from pathlib import Path

import horovod.torch as hvd
import torch
from small_training import small_job
from torch import nn

from recsys_spark.training.loop import train
from recsys_spark.training.rows import exchange

LOOKED_UP = {0: [1, 4, 1], 1: []}, {0: [], 1: []}, {0: [5], 1: [0, 5]}
"""Rows that each rank looks up in three steps; the gradient of rank r's k-th is r + 1 + k / 10."""
EVERY_ROW = {"batch_size": 48, "epochs": 4, "negatives": 40, "clip_norm": 1e-3}
TRAININGS = {
    "dense": (EVERY_ROW, {}),
    "rows": ({**EVERY_ROW, "sparse_gradients": True}, {}),
    "compressed": (EVERY_ROW, {"compression": "fp16"}),
    "compressed rows": ({**EVERY_ROW, "sparse_gradients": True}, {"compression": "fp16"}),
    "scaled": ({**EVERY_ROW, "warmup_steps": 2}, {"scale_learning_rate": True}),
    "averaged": ({"batch_size": 4, "epochs": 4, "average": 0.99, "learning_rate": 0.1}, {}),
    "half": ({**EVERY_ROW, "sparse_gradients": True}, {"precision": "float16"}),
}
GO_ON = ("rows", "averaged")


def exchanged(rows):
    """Return a table's gradient after it was exchanged."""
    table = nn.Parameter(torch.zeros(6, 2))
    values = [[hvd.rank() + 1 + k / 10] * 2 for k in range(len(rows))]
    if rows:
        table.grad = torch.sparse_coo_tensor(torch.tensor([rows]), torch.tensor(values), (6, 2))
    exchange({"table": table})
    return table.grad


def main(data, out):
    hvd.init()
    gradients = [exchanged(step[hvd.rank()]) for step in LOOKED_UP]
    torch.save(gradients, out / f"gradients-{hvd.rank()}.pt")
    torch.set_default_dtype(torch.float64)  # Adam makes a whole step of a gradient that is rounding alone
    for name, (settings, how) in TRAININGS.items():
        train(small_job(data, out / name, settings=settings, **how))
    # and on from there, as after a kill: the other rank gets the state that rank 0 reads
    if hvd.rank() == 0:
        for name in GO_ON:
            shutil.copytree(out / name, out / f"{name}, resumed")
    hvd.barrier()
    for name in GO_ON:
        for how in ("resumed", "longer"):
            train(small_job(data, out / f"{name}, {how}", settings={**TRAININGS[name][0], "epochs": 6}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
