"""One loop for every torch model, on every Horovod rank.

All ranks take the same number of steps and the same decisions: what decides (the validation metric) is
summed over the ranks first. Only rank 0 writes. Nothing here knows MLflow: a tracking server that fails
must not leave the other ranks waiting in an allreduce.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import horovod.torch as hvd
import numpy as np
import psutil
import pyarrow.parquet as pq
import torch
from torch import Tensor

from recsys_spark.errors import DataError
from recsys_spark.feed.check import check_ids
from recsys_spark.feed.reader import Feed
from recsys_spark.models import RANKERS, module_of
from recsys_spark.models.torch_recommender import TorchRecommender
from recsys_spark.training import checkpoint, ranking
from recsys_spark.training.job import STOP, Epoch, TrainingJob, write_epochs
from recsys_spark.training.updates import Updates
from recsys_spark.training.validate import Validation


def train(job: TrainingJob, on_epoch: Callable[[Epoch], None] | None = None) -> list[Epoch]:
    """Train on this rank, together with all others; resumes from the folder's last checkpoint.

    Args:
        on_epoch: called on rank 0 after each epoch's checkpoint.

    Returns:
        The epochs' figures, the same on every rank. The best epoch's weights are in `folder/best.pt`.
    """
    hvd.init()
    torch.set_num_threads(job.threads)
    torch.manual_seed(job.seed)
    device = torch.device("cuda", hvd.local_rank()) if torch.cuda.is_available() else torch.device("cpu")
    with _deterministic(job.deterministic):
        run = _Run(job, device)
        run.resume()
        while not run.is_over():
            done = run.epoch(len(run.epochs))
            if on_epoch is not None and hvd.rank() == 0:
                on_epoch(done)
    return run.epochs


@contextlib.contextmanager
def _deterministic(wanted: bool) -> Iterator[None]:
    """Let torch take operations alone whose results do not depend on timing; it names one that has no such form."""
    before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    if wanted:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA's library is first used
        torch.use_deterministic_algorithms(True)
        torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        torch.backends.cudnn.benchmark = before[1]


class _Run:
    """The state of one training run on one rank."""

    def __init__(self, job: TrainingJob, device: torch.device) -> None:
        module = module_of(job.model)
        self.job, self.device = job, device
        self.config = module.Config.model_validate(job.config)
        self.model, network = new_recommender(job, module, ranking.read_manifest(job.feed)["history_length"])
        self.feed = Feed(
            job.feed, network.columns, self.config.batch_size, hvd.rank(), hvd.size(), job.seed,
            job.feed_workers, job.reader,
        )  # fmt: skip
        known = {"users": len(self.model.users), "items": len(self.model.items)}
        check_ids(job.feed, self.feed.manifest, network.columns, known)
        network.prepare(*_training_pairs(job.pairs, self.model.n_items))
        self.network: Any = network.to(device)
        self.updates = Updates(network, self.config, job, self.feed.steps, device)
        self.validation = _validation(job, network)
        self.epochs: list[Epoch] = []
        self.stopped = False
        self._agree_on_steps()

    def _agree_on_steps(self) -> None:
        steps = hvd.allgather(torch.tensor([self.feed.steps]), name="steps")
        if len(set(steps.tolist())) != 1:
            raise DataError(f"the ranks disagree on the steps per epoch ({steps.tolist()}); do they read one feed?")

    def resume(self) -> None:
        """Load the last epoch's state, if any, and give every rank rank 0's."""
        last = checkpoint.load(self.job.folder, checkpoint.LAST, self.device) if hvd.rank() == 0 else None
        if last is not None:
            checkpoint.check_origin(self.job.folder / checkpoint.LAST, last["origin"], self._origin())
            self.network.load_state_dict(last["network"])
            self.updates.load_state_dict(last["updates"])
            self.epochs = [Epoch(**e) for e in last["epochs"]]
            write_epochs(self.job.folder, self.epochs)  # a kill may have come between the two files
        self.epochs = hvd.broadcast_object(self.epochs, root_rank=0, name="epochs")
        if self.epochs:  # before the first one, the optimizers of all ranks know nothing
            self.updates.broadcast()
        hvd.broadcast_parameters(self.network.state_dict(), root_rank=0)

    def is_over(self) -> bool:
        """Whether all epochs are done, `patience` of them brought nothing better, or someone asked for no more."""
        n = len(self.epochs)
        return self.stopped or n >= self.config.epochs or (n > 0 and n - 1 - self._best() >= self.job.patience)

    def _best(self) -> int:
        return int(np.argmax([e.measured[1] for e in self.epochs]))

    def epoch(self, number: int) -> Epoch:
        """Train one epoch, validate, and checkpoint."""
        # every draw of the epoch follows from (seed, epoch, rank), so a resumed run draws the same
        draw_seed = (self.job.seed * 1_000_003 + number) * 1_009 + hvd.rank()
        torch.manual_seed(draw_seed)
        generator = torch.Generator(self.device).manual_seed(draw_seed)
        self.network.train()
        total, waited, rows = torch.zeros((), device=self.device), 0.0, 0
        start = before = time.perf_counter()
        together = self.config.accumulate
        whole = self.feed.steps // together * together
        for step, batch in enumerate(self.feed.epoch(number)):
            waited += time.perf_counter() - before
            on_device = {name: values.to(self.device, non_blocking=True) for name, values in batch.items()}
            with self.updates.precision():
                loss = self.network.loss(on_device, generator)
            if not torch.isfinite(loss):
                self._refuse(float(loss), number, batch)
            # the last update of an epoch may be of fewer batches
            self.updates.backward(loss, together if step < whole else self.feed.steps - whole)
            if (step + 1) % together == 0 or step + 1 == self.feed.steps:
                self.updates(number * self.updates.per_epoch + step // together)
            total += loss.detach()
            rows += len(next(iter(batch.values())))
            before = time.perf_counter()
        trained = time.perf_counter() - start

        with self.updates.averaged():
            self.network.eval()
            valid = self.validation.sums(self.model)
        sums = _allreduce_sum(torch.tensor([float(total), self.feed.steps, rows, *valid], dtype=torch.float64))
        figures: dict[str, Any] = {"valid_ndcg_at_10": None, **self.validation.figures(sums[3:].tolist())}
        done = Epoch(
            epoch=number,
            loss=float(sums[0] / sums[1]),
            samples_per_second=float(sums[2]) / trained,
            feed_wait_share=waited / trained,
            rss_mb=psutil.Process().memory_info().rss / 2**20,
            seconds=time.perf_counter() - start,
            **figures,
        )
        stop = (self.job.folder / STOP).exists()  # rank 0's look counts: the ranks have to agree
        done, self.stopped = hvd.broadcast_object((done, stop), root_rank=0, name=f"epoch{number}")
        self.epochs.append(done)
        if hvd.rank() == 0:
            self._checkpoint()
        return self.epochs[-1]

    def _refuse(self, loss: float, epoch: int, batch: dict[str, Tensor]) -> None:
        path = self.job.folder / f"refused-batch-{hvd.rank()}.pt"
        torch.save(batch, path)
        found = _suspect(batch)
        remedy = f"{found}; mend the feed, and" if found else "lower its learning_rate, or"
        raise DataError(f"{self.job.model}: the loss is {loss} in epoch {epoch}: {remedy} look at the batch in {path}")

    def _origin(self) -> dict[str, Any]:
        """Say what the weights are made by, as plain values: what goes on from them has to be made by the same."""
        job, model = self.job, f"models.{self.job.model}."
        config = {model + key: value for key, value in job.config.items() if key != "epochs"}  # more of them is fine
        how = ("seed", "reader", "scale_learning_rate", "precision", "compression", "deterministic")
        sizes = {"users": len(self.model.users), "items": self.model.n_items, "rows": self.feed.manifest["rows"]}
        return {"model": job.model, **config, "ranks": hvd.size(), **{key: getattr(job, key) for key in how}, **sizes}

    def _checkpoint(self) -> None:
        epochs = [dataclasses.asdict(e) for e in self.epochs]
        if self._best() == len(self.epochs) - 1:
            with self.updates.averaged():
                checkpoint.save(self.job.folder, checkpoint.BEST, {"network": self.network.state_dict()})
        state = {"network": self.network.state_dict(), "updates": self.updates.state_dict(), "epochs": epochs}
        checkpoint.save(self.job.folder, checkpoint.LAST, {**state, "origin": self._origin()})
        write_epochs(self.job.folder, self.epochs)


def _suspect(batch: dict[str, Tensor]) -> str | None:
    """Say what in a batch can make a loss that is no number, if there is anything."""
    for name, values in batch.items():
        if values.is_floating_point() and not values.isfinite().all():
            row = int((~values.isfinite()).reshape(len(values), -1).any(dim=1).nonzero()[0])
            return f"column {name!r} of the batch has a value that is no number in row {row}"
        if values.dim() == 2 and (values != 0).sum(dim=1).max() < 2:
            return f"no row of the batch has two values in {name!r}, so there is nothing to predict"
    return None


def _allreduce_sum(values: Tensor) -> Tensor:
    return hvd.allreduce(values, op=hvd.Sum, name="epoch sums")


def _training_pairs(pairs: Path, n_items: int) -> tuple[Tensor, Tensor]:
    """Read how often each item occurs [n_items], and every pair as a sorted key [rows]."""
    rows = pq.read_table(pairs / "data", columns=["user_id", "item_id"])
    user, item = (rows[c].to_numpy().astype(np.int64) for c in ("user_id", "item_id"))
    keys = np.sort(user * n_items + item)
    return torch.from_numpy(np.bincount(item, minlength=n_items)), torch.from_numpy(keys)


def _validation(job: TrainingJob, network: Any) -> Any:
    """Return this rank's validation: of the catalogue's order, or of the impressions'."""
    if job.model not in RANKERS:
        return Validation(job.histories, hvd.rank(), hvd.size(), job.valid_users, job.seed)
    share = (hvd.rank(), hvd.size(), job.valid_users, job.seed)
    return ranking.RankingValidation(job.feed / "valid", network.columns, network.config.labels, *share)


def new_recommender(job: TrainingJob, module: Any, length: int) -> tuple[Any, Any]:
    """Build an untrained network and the recommender or ranker around it, knowing what the feed will train."""
    if job.model in RANKERS:
        return ranking.new_ranker(job)
    counts = {}
    for name in ("users", "items"):
        table = pq.read_table(job.pairs / name).to_pandas()
        key, n = table.columns
        counts[name] = np.zeros(int(table[key].max()) + 1, np.int64)
        counts[name][table[key]] = table[n]
    config = module.Config.model_validate(job.config)
    network = module.Network(config, len(counts["users"]), len(counts["items"]))
    model = TorchRecommender(job.model, network, config, counts["users"] > 0, counts["items"] > 0, length)
    return model, network
