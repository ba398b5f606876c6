"""The native half of the neighbourhood models: whose neighbours are whose, and what neighbours add up to."""

from __future__ import annotations

import numpy as np

from recsys_spark.native import kernel


@kernel
def nearest(  # type: ignore[no-untyped-def]
    indptr, terms, values, sizes, own, list_indptr, list_documents, list_values, list_sizes, jaccard, shrinkage,
    ids, similarities, counts,
):  # fmt: skip
    """Find the n most similar documents of every row; equal similarities go to the smaller id.

    A document is an item and its terms are the users who had it, or the other way round. With v the values, C the
    number of terms that two documents share and |.| the sizes, the similarity of a and b is

        (sum over shared terms of v_a v_b) / (|a| |b|)    or, jaccard,    C / (|a| + |b| - C)

    times C / (C + shrinkage). Sums are taken in double precision and rounded once, so that rounding makes no
    difference between documents that are equally similar.

    Args:
        indptr, terms, values: the rows in CSR, [R + 1] and twice [E].
        sizes: of the rows, float64 [R].
        own: a document that is never found, for each row: itself, [R].
        list_indptr, list_documents, list_values: the documents of every term, in CSR.
        list_sizes: of all documents, float64 [D].
        ids, similarities: where the answers go, by id, int32 and float32 [R, n].
        counts: how many they are, [R].
    """
    D = len(list_sizes)
    dot, common, touched = np.zeros(D), np.zeros(D, np.int32), np.empty(D, np.int32)
    candidates, found = np.empty(D, np.int32), np.empty(D, np.float32)
    for r in range(len(indptr) - 1):
        m = 0
        for e in range(indptr[r], indptr[r + 1]):
            value = np.float64(values[e])
            for at in range(list_indptr[terms[e]], list_indptr[terms[e] + 1]):
                d = list_documents[at]
                if common[d] == 0:
                    touched[m] = d
                    m += 1
                common[d] += 1
                dot[d] += value * np.float64(list_values[at])
        n = 0
        for i in range(m):
            d = touched[i]
            shared = np.float64(common[d])
            if jaccard:
                similarity = shared / (sizes[r] + list_sizes[d] - shared)
            elif dot[d] > 0:  # or else a size may be 0
                similarity = dot[d] / (sizes[r] * list_sizes[d])
            else:
                similarity = 0.0
            similarity *= shared / (shared + shrinkage)
            if similarity > 0 and d != own[r]:
                candidates[n], found[n] = d, similarity
                n += 1
            dot[d], common[d] = 0, 0
        counts[r] = _largest(candidates[:n], found[:n], ids[r], similarities[r])


@kernel
def _largest(candidates, found, ids, similarities):  # type: ignore[no-untyped-def]
    """Put the largest into `ids` and `similarities`, in the order of their ids, and return how many they are."""
    n, k = len(candidates), len(ids)
    least, ties = np.float32(0), 0
    if n > k:
        least = np.partition(found, n - k)[n - k]
        ties = k
        for i in range(n):
            ties -= found[i] > least
    order = np.argsort(candidates)
    m = 0
    for i in order:
        tied = found[i] == least
        if found[i] > least or (tied and ties > 0):
            ids[m], similarities[m] = candidates[i], found[i]
            m += 1
            ties -= tied
    return m


@kernel
def spread(indptr, rows, weights, list_indptr, list_columns, list_values, scores):  # type: ignore[no-untyped-def]
    """Add to every row of `scores` [B, n] the lists of what it holds, each times its weight.

    Args:
        indptr, rows, weights: what each of the B holds, in CSR: a number of a list, and its weight.
        list_indptr, list_columns, list_values: the lists, in CSR.
    """
    for b in range(len(indptr) - 1):
        out = scores[b]
        for e in range(indptr[b], indptr[b + 1]):
            for at in range(list_indptr[rows[e]], list_indptr[rows[e] + 1]):
                out[list_columns[at]] += weights[e] * list_values[at]
