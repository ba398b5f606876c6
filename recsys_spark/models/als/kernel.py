"""The native half of ALS: the least squares problems of a block of users (or items), one after the other.

With the factors Y of the other side, row u of a block minimises

    implicit   sum_i c_ui (p_ui - x·y_i)^2 + lam_u |x|^2    c = 1 + e and p = 1 where it has an entry, else 1 and 0
    explicit   sum_i (r_ui - x·y_i)^2      + lam_u |x|^2    over the entries

with lam_u = regularization × n_u, or plain regularization (Hu, Koren & Volinsky 2008; Zhou et al. 2008). Both are
(B + Y_u' diag(left) Y_u + lam_u I) x = Y_u' right, with B = Y'Y, left = e and right = 1 + e, or B = 0, left = 1 and
right = r.
"""

from __future__ import annotations

import numpy as np

from recsys_spark.native import kernel

_GAP = 64
_NEAR = 2_048
"""Up to so many factors of a row's entries are copied next to each other, which pays while they fit a cache."""


@kernel
def solve_exactly(indptr, indices, left, right, others, base, regularization, scaled, solved):  # type: ignore[no-untyped-def]
    """Solve every row by Cholesky in float64; rows without an entry become 0.

    Args:
        indptr, indices, left, right: the block in CSR, [R + 1] and three times [E].
        others: factors of the other side, float32 [N, D].
        base: B, float64 [D, D].
        scaled: whether the regularization is multiplied by the row's number of entries.
        solved: where the answers go, float32 [R, D].

    Returns:
        x'Ax - 2 b'x summed over the rows (the objective up to what no x changes), and the sum of lam_u |x|^2.
    """
    D = others.shape[1]
    a, b, y = np.empty((D, D)), np.empty(D), np.empty((4, D))
    objective, penalty = 0.0, 0.0
    for u in range(len(indptr) - 1):
        lo, hi = indptr[u], indptr[u + 1]
        if lo == hi:
            solved[u] = 0
            continue
        lam = regularization * (hi - lo) if scaled else regularization
        a[:] = base
        b[:] = 0
        for i in range(lo, hi, 4):  # four at a time: a is read and written a quarter as often
            for j in range(4):
                if i + j < hi:
                    y[j] = others[indices[i + j]]
                    for d in range(D):
                        b[d] += right[i + j] * y[j, d]
                else:
                    y[j] = 0
            w0 = left[i]
            w1, w2, w3 = left[min(i + 1, hi - 1)], left[min(i + 2, hi - 1)], left[min(i + 3, hi - 1)]
            for c in range(D):
                f0, f1, f2, f3 = w0 * y[0, c], w1 * y[1, c], w2 * y[2, c], w3 * y[3, c]
                for d in range(c + 1):
                    a[c, d] += f0 * y[0, d] + f1 * y[1, d] + f2 * y[2, d] + f3 * y[3, d]
        for d in range(D):
            a[d, d] += lam
        _cholesky(a)
        square = 0.0
        for c in range(D):  # L z = b, so that b' A^-1 b = |z|^2
            z = b[c]
            for d in range(c):
                z -= a[c, d] * b[d]
            b[c] = z / a[c, c]
            square += b[c] * b[c]
        for c in range(D - 1, -1, -1):  # L' x = z
            b[c] /= a[c, c]
            for d in range(c):
                b[d] -= a[c, d] * b[c]
        objective -= square
        for d in range(D):
            penalty += lam * b[d] * b[d]
            solved[u, d] = b[d]
    return objective, penalty


@kernel
def _cholesky(a):  # type: ignore[no-untyped-def]
    """Replace the lower triangle of a by L with L L' = a; what rounding made no longer positive is lifted to it."""
    D = len(a)
    for c in range(D):
        for d in range(c):
            s = a[c, d]
            for k in range(d):
                s -= a[c, k] * a[d, k]
            a[c, d] = s / a[d, d]
        s = a[c, c]
        for k in range(c):
            s -= a[c, k] * a[c, k]
        a[c, c] = np.sqrt(max(s, 1e-12 * a[c, c] + 1e-30))


@kernel
def descend(indptr, indices, extra, others, gram, regularization, scaled, steps, solved):  # type: ignore[no-untyped-def]
    """Take some steps of conjugate gradient in every row's implicit problem, from where `solved` stands, in place.

    Takács, Pilászy & Tikk 2011, "Applications of the conjugate gradient method for implicit feedback collaborative
    filtering". Arguments and answer are those of `solve_exactly`, with extra = e, and gram = Y'Y in float32.
    """
    D = others.shape[1]
    # Loops over two arrays are compiled twice, for arrays apart and for arrays that may overlap, and the two round
    # differently. One buffer with gaps keeps the answer from depending on where the memory was found.
    width = D + _GAP
    buffer = np.empty(4 * width, np.float32)
    x, r, p, ap = buffer[:D], buffer[width:][:D], buffer[2 * width :][:D], buffer[3 * width :][:D]
    near, places = np.empty((_NEAR, D), np.float32), np.arange(_NEAR).astype(np.int32)
    objective, penalty = 0.0, 0.0
    for u in range(len(indptr) - 1):
        lo, n = indptr[u], indptr[u + 1] - indptr[u]
        if n == 0:
            solved[u] = 0
            continue
        lam = np.float32(regularization * n if scaled else regularization)
        y, at = others, indices[lo : lo + n]
        if n <= _NEAR:
            for i in range(n):
                near[i] = others[at[i]]
            y, at = near, places[:n]
        x[:] = solved[u]
        _times_gram(gram, lam, x, ap)
        value = 0.0  # x'Ax - 2 b'x
        for d in range(D):
            r[d] = -ap[d]
            value += x[d] * ap[d]
        for i in range(n):
            e, j = extra[lo + i], at[i]
            dot = np.float32(0)
            for d in range(D):
                dot += y[j, d] * x[d]
            value += e * dot * dot - 2 * (1 + e) * dot
            f = 1 + e - e * dot
            for d in range(D):
                r[d] += f * y[j, d]
        rr = np.float32(0)
        for d in range(D):
            p[d] = r[d]
            rr += r[d] * r[d]
        for _ in range(steps):
            if rr < 1e-20:
                break
            _times_gram(gram, lam, p, ap)
            for i in range(n):
                j = at[i]
                dot = np.float32(0)
                for d in range(D):
                    dot += y[j, d] * p[d]
                dot *= extra[lo + i]
                for d in range(D):
                    ap[d] += dot * y[j, d]
            pap = np.float32(0)
            for d in range(D):
                pap += p[d] * ap[d]
            step = rr / pap
            value -= float(step * rr)  # by so much an exact line search lowers x'Ax - 2 b'x
            fresh = np.float32(0)
            for d in range(D):
                x[d] += step * p[d]
                r[d] -= step * ap[d]
                fresh += r[d] * r[d]
            beta = fresh / rr
            for d in range(D):
                p[d] = r[d] + beta * p[d]
            rr = fresh
        objective += value
        for d in range(D):
            penalty += lam * x[d] * x[d]
            solved[u, d] = x[d]
    return objective, penalty


@kernel
def _times_gram(gram, lam, x, out):  # type: ignore[no-untyped-def]
    """Put (gram + lam I) x into `out`, for a symmetric gram, by its rows, which lie one behind the other."""
    D = len(x)
    for d in range(D):
        out[d] = lam * x[d]
    for c in range(D):
        f = x[c]
        for d in range(D):
            out[d] += f * gram[c, d]
