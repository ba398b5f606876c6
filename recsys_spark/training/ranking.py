"""What is particular to the training of a ranking model: what it reads, how it is made, and how it is validated."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch

from recsys_spark import models
from recsys_spark.dataset.features.encoding import FILE
from recsys_spark.errors import DataError
from recsys_spark.evaluation.metrics.probability import auc, gauc, gauc_sums, logit_log_loss_sum
from recsys_spark.feed.columns import as_numpy
from recsys_spark.models.features import Features
from recsys_spark.models.ranking import columns_of
from recsys_spark.models.torch_ranker import TorchRanker
from recsys_spark.training.job import TrainingJob
from recsys_spark.warehouse import MANIFEST


def read_manifest(feed: Path) -> dict[str, Any]:
    """Read the manifest of a feed."""
    return json.loads((feed / MANIFEST).read_text(encoding="utf-8"))


def columns(job: TrainingJob) -> tuple[str, ...]:
    """Return the columns that a deep model or a ranker reads.

    Raises:
        ConfigError: the feed lacks a feature or a label that the ranker asks for.
    """
    module = models.module_of(job.model)
    if job.model not in models.RANKERS:
        return module.Network.columns
    config = module.Config.model_validate(job.config)
    return columns_of(job.model, module.Network, config, read_manifest(job.feed))


def new_ranker(job: TrainingJob) -> tuple[TorchRanker, Any]:
    """Build an untrained network and the ranker around it, knowing what the feed will train."""
    module = models.module_of(job.model)
    manifest = read_manifest(job.feed)
    sizes = {"user_id": manifest["n_users"], "item_id": manifest["n_items"]}
    trained = {name: np.zeros(size, bool) for name, size in sizes.items()}
    for entry in manifest["files"]:
        rows = pq.read_table(job.feed / "data" / entry["file"], columns=list(sizes))
        for name in sizes:
            trained[name][rows[name].to_numpy()] = True
    network = module.Network(module.Config.model_validate(job.config), Features.of(manifest))
    encoding = json.loads((job.feed / FILE).read_text(encoding="utf-8"))
    model = TorchRanker(
        job.model, network, trained["user_id"], trained["item_id"], encoding, manifest["history_length"]
    )
    return model, network


class RankingValidation:
    """One rank's share of the users of a part of the impressions, read once.

    What decides is GAUC: the AUC within each user's impressions, for this is the order that is served. Of several
    labels it is their mean.
    """

    def __init__(
        self, part: Path, columns: Sequence[str], labels: Sequence[str], rank: int, size: int, most: int, seed: int
    ) -> None:
        """Read the impressions of this rank's users.

        Args:
            part: folder of the rows, such as `valid/` of the feed.
            columns: what the network reads, `labels` among it.
            most: users over all ranks; more are sampled down to it, the same sample on every rank.
        """
        rows = as_numpy(pq.read_table(part, columns=sorted({*columns, "user_id"})))
        users = np.unique(rows["user_id"])
        if len(users) > most:
            users = np.sort(np.random.default_rng(seed).choice(users, most, replace=False))
        mine = np.isin(rows["user_id"], users[rank::size])
        self.rows = {name: values[mine] for name, values in rows.items()}
        self.labels = tuple(labels)

    def sums(self, model: TorchRanker) -> list[float]:
        """Return the sums of GAUC and of the log-loss over this rank's rows, of each label, and how many rows they are.

        They come one label after the other.
        """
        logits = self.logits(model)
        sums: list[float] = []
        for t, label in enumerate(self.labels):
            truth, scores = self.rows[label], logits[:, t]
            sums += [*gauc_sums(truth, scores, self.rows["user_id"]), logit_log_loss_sum(truth, scores)]
        return [*sums, float(len(logits))]

    def figures(self, sums: Sequence[float]) -> dict[str, float]:
        """Turn the ranks' sums into figures.

        Raises:
            DataError: no user has rows of both kinds, so no epoch can be chosen.
        """
        by_label = np.array(sums[:-1]).reshape(-1, 3)
        there = by_label[:, 1] > 0
        if not there.any():
            raise DataError(
                f"no user of the validation part has impressions with and without {' or '.join(self.labels)}, so no "
                "epoch can be chosen; mend dataset.split, or choose another --date"
            )
        gauc = float((by_label[there, 0] / by_label[there, 1]).mean())
        return {"valid_gauc": gauc, "valid_log_loss": float(by_label[:, 2].sum()) / sums[-1]}

    def report(self, model: TorchRanker) -> dict[str, float]:
        """Return AUC, GAUC and log-loss of each label, of a part that one process has read."""
        logits = self.logits(model)
        found: dict[str, float] = {}
        for t, label in enumerate(self.labels):
            truth, scores, name = self.rows[label], logits[:, t], label.removeprefix("label_")
            found |= {
                f"auc_{name}": auc(truth, scores),
                f"gauc_{name}": gauc(truth, scores, self.rows["user_id"]),
                f"log_loss_{name}": logit_log_loss_sum(truth, scores) / max(len(truth), 1),
            }
        return found

    def logits(self, model: TorchRanker) -> np.ndarray:
        """Return the scores of the rows, `[n, labels]`."""
        batch = {name: torch.from_numpy(np.array(values)) for name, values in self.rows.items()}
        return model.score_rows(batch).reshape(-1, len(self.labels))
