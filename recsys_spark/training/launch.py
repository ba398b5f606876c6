"""Start the ranks: inside `horovodrun` this process is one of them, else Spark starts them."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tqdm import tqdm

from recsys_spark import models
from recsys_spark.config import Config
from recsys_spark.dataset.build import Dataset
from recsys_spark.errors import ConfigError, DataError
from recsys_spark.feed.check import check_feed
from recsys_spark.log.suppression import erased_count
from recsys_spark.training.job import STOP, Epoch, TrainingJob, read_epochs, write_epochs
from recsys_spark.training.ranks import on_spark
from recsys_spark.training.sound import check_scores
from recsys_spark.warehouse import MANIFEST, Slot, Version, Warehouse, exclusive, fingerprint

OnEpoch = Callable[[Epoch], None]
"""Hears of an epoch; may raise `StopTraining`."""

_CODE = (
    "training",
    "feed",
    "models/base.py",
    "models/dropout.py",
    "models/losses.py",
    "models/negatives.py",
    "models/torch_recommender.py",
    "recommendation/select.py",
)
_REGISTER_TIMEOUT = 1800
_POLL_SECONDS = 0.5


class StopTraining(Exception):
    """Raised by who hears of an epoch and wants no further one: the ranks stop, and there is no model."""


def under_horovodrun() -> bool:
    """Whether this process is one of several that `horovodrun` started."""
    return "HOROVOD_RANK" in os.environ


def rank_count(config: Config) -> int:
    """How many processes train: as many as `horovodrun` started, else `train.ranks`."""
    return int(os.environ["HOROVOD_SIZE"]) if under_horovodrun() else config.train.ranks


def training_job(warehouse: Warehouse, config: Config, dataset: Dataset, name: str) -> tuple[TrainingJob, str]:
    """Describe the training of a deep model, and name the version it makes."""
    settings = models.model_config(name, config).model_dump()
    train = config.train
    # ranks change how rows are dealt out and so the weights, and a reader may; threads change sums' order at most
    how = (train.scale_learning_rate, train.precision, train.compression, train.deterministic)
    fixed = (settings, config.seed, rank_count(config), train.patience, train.valid_users, train.reader, how)
    inputs = (dataset.name, *fixed, erased_count(warehouse))
    version = f"{dataset.name[:10]}-{fingerprint((*_CODE, *models.code_of(name)), *inputs)}"
    folder = warehouse.root.absolute() / "checkpoints" / name / version
    feed = feed_of(name, dataset)
    job = TrainingJob(
        name, settings, feed.path, dataset.feed.path, Path(dataset.histories.data), folder, config.seed, train.patience,
        train.threads, train.valid_users, train.feed_workers, train.reader, *how,
    )  # fmt: skip
    return job, version


def feed_of(name: str, dataset: Dataset) -> Version:
    """Return the feed that a deep model trains on.

    Raises:
        ConfigError: the data set was built without it.
    """
    kind = models.feed_of(name)
    if kind not in dataset.feeds:
        raise ConfigError(f"{name} trains on the feed {kind}, which the data set lacks; add {kind} to dataset.feeds")
    return dataset.feeds[kind]


def train_deep(
    warehouse: Warehouse,
    config: Config,
    dataset: Dataset,
    name: str,
    on_epoch: OnEpoch | None = None,
    *,
    live: bool = True,
) -> tuple[Version, bool] | None:
    """Train a deep model on all ranks and write it as a version of `models/<name>`.

    Under `horovodrun` every rank calls this; all but rank 0 return None. Else the ranks are tasks of the
    running Spark session. `on_epoch` hears of each epoch, in this process.

    Args:
        live: make it the night's version of the model; a trial of a search must not.

    Returns:
        The version, and whether it was made now.

    Raises:
        StopTraining: `on_epoch` did; the training is over and its checkpoints are gone.
    """
    job, version = training_job(warehouse, config, dataset, name)
    slot = warehouse.slot(f"models/{name}", date=dataset.name[:10])
    if slot.version(version) is None and not _valid(name, dataset):
        raise DataError(
            "no user has anything held out in the validation part, so no epoch can be chosen; "
            "mend dataset.split, or choose another --date"
        )
    # beside the folder, which goes when the model stands; a second run must not train in it meanwhile
    lock = exclusive(job.folder.with_name(f".{version}.lock")) if is_rank_zero() else contextlib.nullcontext()
    with lock:
        return _train_once(warehouse, config, dataset, job, slot, version, on_epoch, live)


def _valid(name: str, dataset: Dataset) -> int:
    """Count what epochs can be judged by: impressions for a ranker, users for the others."""
    if name in models.RANKERS:
        return feed_of(name, dataset).manifest["parts"]["valid"]
    return dataset.histories.manifest["users_with_held_out"]["valid"]


def _train_once(
    warehouse: Warehouse,
    config: Config,
    dataset: Dataset,
    job: TrainingJob,
    slot: Slot,
    version: str,
    on_epoch: OnEpoch | None,
    live: bool,
) -> tuple[Version, bool] | None:
    standing = slot.version(version)
    if standing is not None and not is_rank_zero():
        return None
    if standing is None:
        # here, where it still is one line and its own exit code; a rank's error is Horovod's by the time it is seen
        from recsys_spark.training import ranking

        manifest = feed_of(job.model, dataset).manifest
        check_feed(job.feed, manifest, ranking.columns(job), job.config["batch_size"], rank_count(config))
        job.folder.mkdir(parents=True, exist_ok=True)
        start = time.perf_counter()
        (job.folder / STOP).unlink(missing_ok=True)  # of a search that was killed before it tidied up
        with _bar(job, on_epoch) as report:
            if under_horovodrun():
                _as_rank(job, report)
            else:
                with _watching(job, report):
                    on_spark(job, config.train.ranks)
            seconds = time.perf_counter() - start
            if not is_rank_zero():
                return None
            report.catch_up()
        if report.stopped is not None:
            shutil.rmtree(job.folder, ignore_errors=True)
            raise report.stopped

    def build(path: Path) -> dict[str, Any]:
        parents = warehouse.parents(job.feed, dataset.feed, dataset.histories)
        return _save(job, path) | {"dataset": dataset.name, "seconds": seconds, **parents}

    made = slot.materialize(version, build, flip=live, beside=not live)
    shutil.rmtree(job.folder, ignore_errors=True)  # the model stands: nothing will resume from its checkpoints
    return made


def is_rank_zero() -> bool:
    """Whether this process is the one that writes."""
    return int(os.environ.get("HOROVOD_RANK", "0")) == 0


class _Report:
    """Tells of epochs while the ranks train; who fails to listen then is told again when they are through.

    A tracking server that is away for a minute must not end a training of hours, and must never leave the
    other ranks waiting for rank 0 in an allreduce.
    """

    def __init__(self, bar: tqdm, folder: Path, on_epoch: OnEpoch | None) -> None:
        self.bar = bar
        self.folder = folder
        self.on_epoch = on_epoch
        self.missed: list[Epoch] = []
        self.stopped: StopTraining | None = None

    def __call__(self, done: Epoch) -> None:
        if self.stopped is not None:  # the ranks had begun another epoch
            return
        self.bar.update(done.epoch + 1 - self.bar.n)
        metric, value = done.measured
        rate = f"{done.samples_per_second:,.0f} samples/s"
        self.bar.set_postfix_str(f"loss {done.loss:.4f}, {metric} {value:.4f}, {rate}")
        try:
            self._tell(done)
        except StopTraining as stop:
            self.stopped = stop
            (self.folder / STOP).touch()
        except Exception as error:
            self.missed.append(done)
            self.bar.write(f"epoch {done.epoch} is not tracked yet, training goes on: {error}", file=sys.stderr)

    def _tell(self, done: Epoch) -> None:
        if self.on_epoch is not None:
            self.on_epoch(done)

    def catch_up(self) -> None:
        """Tell of the epochs that were missed; this time a failure is one."""
        for done in self.missed:
            self._tell(done)


@contextlib.contextmanager
def _bar(job: TrainingJob, on_epoch: OnEpoch | None) -> Iterator[_Report]:
    with tqdm(
        total=job.config["epochs"], desc=f"train {job.model}", unit="epoch", file=sys.stderr, dynamic_ncols=True,
        disable=not is_rank_zero(),
    ) as bar:  # fmt: skip
        yield _Report(bar, job.folder, on_epoch)


def _as_rank(job: TrainingJob, report: OnEpoch) -> None:
    import horovod.torch as hvd

    from recsys_spark.training import loop

    # between two models rank 0 registers the first one, and the others wait for it at the second's start
    os.environ.setdefault("HOROVOD_GLOO_TIMEOUT_SECONDS", str(_REGISTER_TIMEOUT))
    loop.train(job, report)
    hvd.shutdown()  # what follows is rank 0's alone: the others leave instead of waiting for it


@contextlib.contextmanager
def _watching(job: TrainingJob, report: OnEpoch) -> Iterator[None]:
    """Report the epochs that rank 0, in another process, writes down meanwhile."""
    over = threading.Event()
    watcher = threading.Thread(target=_watch, args=(job, report, over), daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()


def _watch(job: TrainingJob, report: OnEpoch, over: threading.Event) -> None:
    reported = 0
    while True:
        last_look = over.wait(_POLL_SECONDS)
        epochs = read_epochs(job.folder)
        for done in epochs[reported:]:
            report(done)
        reported = len(epochs)
        if last_look:
            return


def _save(job: TrainingJob, path: Path) -> dict[str, Any]:
    """Put the best epoch's weights into the recommender and save it."""
    from recsys_spark.training import checkpoint, loop

    epochs = read_epochs(job.folder)
    length = json.loads((job.feed / MANIFEST).read_text(encoding="utf-8"))["history_length"]
    model, network = loop.new_recommender(job, models.module_of(job.model), length)
    best = checkpoint.load(job.folder, checkpoint.BEST)
    assert best is not None, f"{job.folder}: training left no checkpoint"
    network.load_state_dict(best["network"])
    if job.model not in models.RANKERS:
        check_scores(model, job.model, job.histories / "known=train")
    model.save(path)
    write_epochs(path, epochs)
    top = max(epochs, key=lambda e: e.measured[1])
    return {
        "model": job.model, "config": job.config, "epochs": len(epochs), "best_epoch": top.epoch,
        "measured": _on_test(job, model) if job.model in models.RANKERS else {},
    }  # fmt: skip


def _on_test(job: TrainingJob, model: Any) -> dict[str, float]:
    """Measure a ranker on the test part of its feed."""
    from recsys_spark.training.ranking import RankingValidation

    network = model.network
    part = RankingValidation(job.feed / "test", network.columns, network.config.labels, 0, 1, job.valid_users, job.seed)
    return {f"test_{name}": value for name, value in part.report(model).items() if value == value}
