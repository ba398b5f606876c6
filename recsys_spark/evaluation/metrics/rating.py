"""Errors of predicted ratings, over the elements that have an actual one.

NaN actuals are ignored, and none left gives NaN; a NaN prediction is a fault of the model and makes the result NaN.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from recsys_spark.evaluation.metrics.hits import Floats


def mse(predicted: ArrayLike, actual: ArrayLike) -> float:
    """Mean squared error, `mean((predicted - actual)^2)`.

    >>> mse([1.0, 2.0, 9.0], [4.0, 6.0, float("nan")])
    12.5
    """
    return _mean(np.square(_errors(predicted, actual)))


def rmse(predicted: ArrayLike, actual: ArrayLike) -> float:
    """Root mean squared error, `sqrt(mean((predicted - actual)^2))`.

    >>> rmse([1.0, 2.0, 9.0], [4.0, 6.0, float("nan")]) == 12.5**0.5
    True
    """
    return float(np.sqrt(mse(predicted, actual)))


def mae(predicted: ArrayLike, actual: ArrayLike) -> float:
    """Mean absolute error, `mean(|predicted - actual|)`.

    >>> mae([1.0, 2.0, 9.0], [4.0, 6.0, float("nan")])
    3.5
    """
    return _mean(np.abs(_errors(predicted, actual)))


def r2(predicted: ArrayLike, actual: ArrayLike) -> float:
    """Share of the ratings' variance that is explained: `1 - sum(errors^2) / sum((actual - mean(actual))^2)`.

    Below 0 where the mean would have predicted better. NaN where all actual ratings are the same.

    >>> r2([1.0, 2.0, 4.0], [1.0, 2.0, 3.0])
    0.5
    """
    rated = np.asarray(actual, float)
    rated = rated[~np.isnan(rated)]
    total = float(np.square(rated - rated.mean()).sum()) if rated.size else 0.0
    return 1.0 - float(np.square(_errors(predicted, actual)).sum()) / total if total else float("nan")


def _errors(predicted: ArrayLike, actual: ArrayLike) -> Floats:
    known = ~np.isnan(np.asarray(actual, float))
    difference: Floats = np.asarray(predicted, float)[known] - np.asarray(actual, float)[known]
    return difference


def _mean(values: Floats) -> float:
    return float(values.mean()) if values.size else float("nan")
