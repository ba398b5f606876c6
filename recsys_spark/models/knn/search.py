"""The neighbours of a block of documents."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from recsys_spark.models.knn.kernel import nearest
from recsys_spark.models.knn.similarity import Similarity


def neighbours(
    rows: Sequence[np.ndarray], own: np.ndarray, lists: Sequence[np.ndarray], config: Similarity
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the neighbours of R documents in CSR: indptr [R + 1], ids and similarities.

    Args:
        rows: their indptr [R + 1], terms and values [E] and sizes [R].
        own: a document that is no neighbour of each: itself, [R].
        lists: the documents of every term in the same way: indptr [T + 1], documents, values, and all sizes [D].
    """
    shape = len(own), min(config.neighbours, len(lists[-1]))
    ids, similarities, found = np.zeros(shape, np.int32), np.zeros(shape, np.float32), np.zeros(len(own), np.int64)
    jaccard = config.similarity == "jaccard"
    nearest(*rows, own, *lists, jaccard, config.shrinkage, ids, similarities, found)  # type: ignore[call-arg]
    there = np.arange(shape[1]) < found[:, None]
    return np.concatenate([[0], np.cumsum(found)]), ids[there], similarities[there]
