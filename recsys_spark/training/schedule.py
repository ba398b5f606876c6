"""The step size of each update: warm-up, and the growth with the number of ranks."""

from __future__ import annotations

WARMUP_EPOCHS = 5
"""In which a step size that grows with the ranks gets there, as in Goyal et al. 2017, where the model says no steps."""


def learning_rate(number: int, base: float, warmup: int, ranks: int = 1) -> float:
    """Return the step size of an update, counted from 0.

    With one rank it grows in `warmup` equal parts from base / warmup to base. With more it grows, in as many, from base
    to base × ranks: a batch over k ranks is k times as large, and so may be the step (the linear scaling rule; Goyal
    et al. 2017, "Accurate, large minibatch SGD: training ImageNet in 1 hour", sections 2.1 and 2.2).

    Args:
        base: the model's `learning_rate`.
        warmup: updates in which it grows; 0 = none.
        ranks: by how much it is scaled, 1 = not at all.

    >>> [learning_rate(n, 0.4, 4) for n in (0, 1, 3, 9)]
    [0.1, 0.2, 0.4, 0.4]
    >>> [learning_rate(n, 1.0, 2, ranks=5) for n in (0, 1, 9)]
    [3.0, 5.0, 5.0]
    """
    share = min(1.0, (number + 1) / warmup) if warmup else 1.0
    if ranks == 1:
        return base * share
    return base * (1 + (ranks - 1) * share)
