"""What a business counts: ratios of totals, which add up over users and days before they are divided.

Totals may be numbers or arrays, say one of each user or day. Nothing in the denominator is NaN.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from recsys_spark.evaluation.metrics.hits import Floats


def click_through_rate(clicks: ArrayLike, impressions: ArrayLike) -> Floats:
    """CTR: `clicks / impressions`.

    >>> float(click_through_rate(3, 120))
    0.025
    """
    return _rate("clicks", clicks, "impressions", impressions)


def conversion_rate(conversions: ArrayLike, clicks: ArrayLike) -> Floats:
    """CVR: `conversions / clicks`; above 1 where a click can lead to several.

    >>> float(conversion_rate(1, 4))
    0.25
    """
    return _rate("conversions", conversions, "clicks", clicks)


def revenue_per_thousand(revenue: ArrayLike, impressions: ArrayLike) -> Floats:
    """RPM: `1000 x revenue / impressions`, in the currency of the revenue.

    >>> float(revenue_per_thousand(6.0, 2_000))
    3.0
    """
    return 1_000 * _rate("revenue", revenue, "impressions", impressions)


def _rate(of: str, numerator: ArrayLike, over: str, denominator: ArrayLike) -> Floats:
    top, bottom = np.asarray(numerator, float), np.asarray(denominator, float)
    if (top < 0).any() or (bottom < 0).any():
        raise ValueError(f"{of} and {over} must not be negative")
    if ((bottom == 0) & (top > 0)).any():
        raise ValueError(f"{of} without any {over}")
    return np.where(bottom > 0, top / np.where(bottom > 0, bottom, 1), np.nan)[()]
