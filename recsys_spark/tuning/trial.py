"""A trial: a model with some parameters, fitted as a night fits it, and its NDCG@10 on the valid part.

What a trial came to is kept, as a version of `trials/NAME` that is nothing but a manifest, so that a search that was
interrupted runs no finished trial again. The model itself is a version of `models/NAME` that is not live: a night
with the same parameters finds it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pyspark.sql import SparkSession

from recsys_spark import models
from recsys_spark.config import Config
from recsys_spark.dataset.build import Dataset
from recsys_spark.errors import DataError
from recsys_spark.training.baselines import baseline_version, train_baseline
from recsys_spark.training.job import Epoch, read_epochs
from recsys_spark.training.launch import StopTraining, train_deep, training_job
from recsys_spark.training.validate import Validation
from recsys_spark.warehouse import Warehouse, fingerprint

Report = Callable[[int, float], None]
"""Takes an epoch and its validation NDCG@10; raises `StopTraining` where the trial is not worth another one."""

_CODE = ("training/validate.py", "evaluation/metrics", "recommendation/select.py", "models/base.py")


@dataclass(frozen=True)
class Outcome:
    """What a trial came to."""

    value: float | None
    """NDCG@10 on the valid part; None where the trial was ended early."""
    reports: list[tuple[int, float]]
    """What it reported, by epoch."""
    version: str
    """Version of `models/NAME`; one that was ended early does not stand."""
    seconds: float
    """Of the training."""
    reused: bool
    """It was finished before, by this search or another."""


class Trials:
    """The trials of one model on one data set; may be run on several threads, but for deep models."""

    def __init__(self, spark: SparkSession, warehouse: Warehouse, config: Config, dataset: Dataset) -> None:
        """Take what all trials have in common.

        Raises:
            DataError: nothing is held out that they could be judged by.
        """
        if not dataset.histories.manifest["users_with_held_out"]["valid"]:
            raise DataError(
                "no user has anything held out in the validation part, so no trial can be judged; "
                "mend dataset.split, or choose another --date"
            )
        self.spark, self.warehouse, self.config, self.dataset = spark, warehouse, config, dataset
        self.name = config.tune.model
        self.deep = self.name in models.DEEP

    @cached_property
    def _validation(self) -> Validation:
        config = self.config
        return Validation(Path(self.dataset.histories.data), 0, 1, config.train.valid_users, config.seed)

    def parameters(self, chosen: dict[str, Any]) -> dict[str, Any]:
        """Return what the configuration says of the model, with the parameters of a trial."""
        return {**self.config.models.get(self.name, {}), **chosen}

    def run(self, chosen: dict[str, Any], report: Report, log: Callable[[Epoch], None]) -> Outcome:
        """Run a trial, or find that it was run before.

        Args:
            chosen: parameters by name, in the place of those that the configuration says.
            report: told of each epoch of a deep model; baselines are judged once, at their end.
            log: told of each epoch too.
        """
        config = self.config.model_copy(update={"models": {**self.config.models, self.name: self.parameters(chosen)}})
        if self.deep:
            version = training_job(self.warehouse, config, self.dataset, self.name)[1]
        else:
            version = baseline_version(self.warehouse, config, self.dataset, self.name)[0]

        def build(_: Path) -> dict[str, Any]:
            found = self._deep(config, report, log) if self.deep else self._baseline(config)
            model = self.warehouse.slot(f"models/{self.name}", date=self.dataset.name[:10]).version(version)
            parents = self.warehouse.parents(self.dataset.histories, model)
            return {"table": "trials", "model": self.name, "version": version, "parameters": chosen, **found, **parents}

        slot = self.warehouse.slot(f"trials/{self.name}", date=self.dataset.name[:10])
        record, made = slot.materialize(self._record(version), build, flip=False, beside=True)
        found = record.manifest
        reports = [(int(step), float(value)) for step, value in found["reports"]]
        return Outcome(found["value"], reports, version, found["seconds"], not made)

    def _record(self, version: str) -> str:
        """Name what is kept of a trial. Whether one is ended early hangs on the others, and so on the search."""
        tune = self.config.tune
        search = (tune.sampler, tune.prune_after, {n: s.model_dump() for n, s in tune.space.items()}, self.config.seed)
        parts = (version, self.config.train.valid_users, search if self.deep else None)
        return f"{self.dataset.name[:10]}-{fingerprint(_CODE, *parts)}"

    def _baseline(self, config: Config) -> dict[str, Any]:
        version, _ = train_baseline(self.spark, self.warehouse, config, self.dataset, self.name, live=False)
        summed, users = self._validation.ndcg_sum(models.load(version.path))
        return {"value": summed / users, "reports": [], "seconds": version.manifest["seconds"]}

    def _deep(self, config: Config, report: Report, log: Callable[[Epoch], None]) -> dict[str, Any]:
        epochs: dict[int, Epoch] = {}

        def on_epoch(done: Epoch) -> None:
            try:
                if done.epoch not in epochs:  # told again where the tracking server was away
                    epochs[done.epoch] = done
                    report(done.epoch, done.measured[1])
            finally:
                log(done)

        value = None
        try:
            trained = train_deep(self.warehouse, config, self.dataset, self.name, on_epoch, live=False)
            assert trained is not None  # only rank 0 searches
            version, made = trained
            for done in [] if made else read_epochs(version.path):
                on_epoch(done)
            value = max(e.measured[1] for e in epochs.values())
        except StopTraining:
            pass
        reports = [(e.epoch, e.measured[1]) for e in epochs.values()]
        return {"value": value, "reports": reports, "seconds": sum(e.seconds for e in epochs.values())}
