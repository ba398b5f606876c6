"""What another policy would have earned, from what was shown, how probable that was, and what came of it.

A *round* is one shown item. The policy that showed it gave it the probability p, the *target* policy that is asked
about would have given it q, both given the user and the items above it. What came of an item may depend on the items
above it, and not on those below; so a round's weight is the product over its list down to its rank (McInerney et al.
2020, "Counterfactual evaluation of slate recommendations with sequential reward interactions", RIPS):

    w_j = prod over i <= j of q_i / p_i

A weight of q_j / p_j alone would mix the target at rank j with lists that the logging policy began.

What every estimate rests on: p is what the item was really drawn with, and p > 0 wherever q > 0. Where the target
shows what was never logged, IPS takes its reward for 0; the mean weight, 1 otherwise, falls short by just that share.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from recsys_spark.evaluation.bootstrap import Interval
from recsys_spark.evaluation.user_sums import Floats, Moments, sum_by_user

Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Rounds:
    """N shown items of any number of users; build it with `of`, which checks them."""

    reward: Floats
    logging: Floats
    target: Floats
    above: Floats
    """Weight of the items above it in its list; 1 at the first rank."""
    users: Ints

    @classmethod
    def of(
        cls, reward: ArrayLike, logging: ArrayLike, target: ArrayLike, users: ArrayLike | None = None,
        lists: ArrayLike | None = None, ranks: ArrayLike | None = None,
    ) -> Rounds:  # fmt: skip
        """Check and take rounds; every argument is `[N]`.

        Args:
            reward: what came of it, such as 1 for a click.
            logging: probability of the item under the policy that showed it, above 0.
            target: probability of the item under the other policy.
            users: whose round it is; users are independent of each other, a user's rounds need not be. None =
                every round a user of its own.
            lists, ranks: which list a round is of and its rank there, in any order; None = lists of one item.

        Raises:
            ValueError: shapes differ, a reward is no number, or a probability is none.
        """
        r, p, q = (np.asarray(x, np.float64) for x in (reward, logging, target))
        n = np.arange(len(r))
        u, of_list, rank = (np.asarray(x if x is not None else n, np.int64) for x in (users, lists, ranks))
        if any(x.shape != (len(r),) for x in (r, p, q, u, of_list, rank)):
            raise ValueError("reward, logging, target, users, lists and ranks must all be [N]")
        if not np.isfinite(r).all():
            raise ValueError("a reward is no finite number")
        if not ((p > 0) & (p <= 1)).all():
            raise ValueError("a logging propensity is not in (0, 1]: what was shown had a probability")
        if not ((q >= 0) & (q <= 1)).all():
            raise ValueError("a target propensity is not in [0, 1]")
        above = weights_above(q / p, of_list, rank) if lists is not None else np.ones(len(r))
        return cls(r, p, q, above, u)

    @property
    def weight(self) -> Floats:
        """[N]: how much more often the target shows the list down to here."""
        return self.above * self.target / self.logging


def weights_above(ratio: Floats, lists: Ints, ranks: Ints) -> Floats:
    """Return the product of the ratios above each round in its list, [N]; 1 at the first rank.

    >>> weights_above(np.array([2.0, 3.0, 5.0, 7.0]), np.array([1, 1, 2, 1]), np.array([1, 2, 1, 3])).tolist()
    [1.0, 2.0, 1.0, 6.0]
    """
    order = np.lexsort((ranks, lists))
    of_list = lists[order]
    place = np.arange(len(order)) - np.searchsorted(of_list, of_list)
    product = np.ones(len(order))
    for depth in range(1, int(place.max(initial=0)) + 1):  # not a running product over all: that would overflow
        at = np.flatnonzero(place == depth)
        product[at] = product[at - 1] * ratio[order[at - 1]]
    above = np.empty(len(order))
    above[order] = product
    return above


def effective_sample_size(weights: ArrayLike) -> float:
    """Return how many evenly weighted rounds would tell as much: `(Σ w)² / Σ w²` (Kish 1965); 0 without any weight.

    >>> effective_sample_size([1, 1, 1, 1]), effective_sample_size([8, 0, 0, 0])
    (4.0, 1.0)
    """
    w = np.asarray(weights, np.float64)
    return float(w.sum() ** 2 / (w**2).sum()) if w.any() else 0.0


def on_policy(rounds: Rounds, confidence: float) -> Interval:
    """Return what the logging policy earned per round: the mean reward."""
    return _interval(rounds.reward, np.ones_like(rounds.reward), rounds.users, confidence)


def ips(rounds: Rounds, confidence: float) -> Interval:
    """Inverse propensity scoring: `(1/N) Σ w r` (Horvitz & Thompson 1952). Unbiased; its spread grows with w."""
    return _interval(rounds.weight * rounds.reward, np.ones_like(rounds.reward), rounds.users, confidence)


def snips(rounds: Rounds, confidence: float) -> Interval:
    """Self-normalised: `Σ w r / Σ w` (Swaminathan & Joachims 2015).

    Never outside the range of the rewards; biased by the order of 1/N, and with less spread than IPS. NaN where the
    target would have shown nothing of what was shown.
    """
    return _interval(rounds.weight * rounds.reward, rounds.weight, rounds.users, confidence)


def clipped_ips(rounds: Rounds, cap: float, confidence: float) -> Interval:
    """IPS with weights of at most `cap`: `(1/N) Σ min(w, cap) r` (Ionides 2008, truncated importance sampling).

    With rewards in [0, 1] it is too low by `E[(w - cap)+]` at most, which the interval does not contain.
    """
    capped = np.minimum(rounds.weight, _cap(cap))
    return _interval(capped * rounds.reward, np.ones_like(rounds.reward), rounds.users, confidence)


def doubly_robust(rounds: Rounds, predicted: ArrayLike, expected: ArrayLike, confidence: float) -> Interval:
    """Doubly robust: `(1/N) Σ (w_above m + w (r - r̂))` (Dudík, Langford & Li 2011).

    For lists it is the cascade form of Kiyohara et al. 2022. Unbiased where the propensities or the predictions are
    right; good predictions take away spread. They must not have learnt from the rounds that they predict.

    Args:
        predicted: r̂, the predicted reward of the item that was shown, [N].
        expected: m, the mean of the predicted reward over the items that the target would show at this rank, given
            those above, [N].
    """
    terms = doubly_robust_terms(rounds, np.asarray(predicted, np.float64), np.asarray(expected, np.float64))
    return _interval(terms, np.ones_like(terms), rounds.users, confidence)


def doubly_robust_terms(rounds: Rounds, predicted: Floats, expected: Floats) -> Floats:
    """Return what each round adds to the doubly robust estimate, [N]."""
    if predicted.shape != rounds.reward.shape or expected.shape != rounds.reward.shape:
        raise ValueError("predicted and expected must be [N], as the rewards are")
    return rounds.above * expected + rounds.weight * (rounds.reward - predicted)


def _cap(cap: float) -> float:
    if not cap > 0:
        raise ValueError(f"cap must be above 0, got {cap}")
    return cap


def _interval(numerator: Floats, denominator: Floats, users: Ints, confidence: float) -> Interval:
    """Sum by user, then the ratio of the sums with its interval."""
    sums = sum_by_user(np.stack([numerator, denominator], axis=1), users)
    return Moments.of(sums).ratio(0, 1).interval(confidence)


SUMS = ("rounds", "reward", "weight", "weighted", "clipped", "robust", "gain", "weight_squared", "removed")
"""What is summed of each user, so that estimates add up across partitions."""


def user_sums(rounds: Rounds, cap: float, predicted: Floats | None = None, expected: Floats | None = None) -> Floats:
    """Return the columns `SUMS` of each user, [U, 9]: for `Moments.of`, then `read`.

    Without predictions of rewards, the doubly robust column is IPS.
    """
    w, r = rounds.weight, rounds.reward
    capped = np.minimum(w, _cap(cap))
    robust = w * r
    if predicted is not None and expected is not None:
        robust = doubly_robust_terms(rounds, predicted, expected)
    columns = [np.ones_like(r), r, w, w * r, capped * r, robust, robust - r, w**2, w - capped]
    return sum_by_user(np.stack(columns, axis=1), rounds.users)


@dataclass(frozen=True)
class OffPolicy:
    """Every estimate of a target policy's reward per round, and how far to trust them."""

    logging: Interval
    """What the logging policy earned."""
    ips: Interval
    snips: Interval
    clipped: Interval
    doubly_robust: Interval
    gain: Interval
    """Doubly robust - logging, of the same users: what the target would earn more."""
    rounds: int
    effective: float
    """Effective sample size of the weights; some tens are too few for any interval."""
    mean_weight: float
    """1 where the target shows nothing that could not have been logged; what is missing earns 0 in IPS."""
    clipping_bias: float
    """With rewards in [0, 1], the clipped estimate is too low by this at most."""

    def to_json(self) -> dict[str, object]:
        """Return plain values, for a manifest."""
        return asdict(self)


def read(moments: Moments, confidence: float) -> OffPolicy:
    """Return the estimates from the moments of `user_sums`."""
    at: Mapping[str, int] = {name: i for i, name in enumerate(SUMS)}
    total = moments.mean * moments.n
    squares, rounds = total[at["weight_squared"]], round(float(total[at["rounds"]]))

    def ratio(name: str, over: str = "rounds") -> Interval:
        return moments.ratio(at[name], at[over]).interval(confidence)

    return OffPolicy(
        ratio("reward"), ratio("weighted"), ratio("weighted", "weight"), ratio("clipped"), ratio("robust"),
        gain=ratio("gain"),
        rounds=rounds,
        effective=float(total[at["weight"]] ** 2 / squares) if squares else 0.0,
        mean_weight=moments.ratio(at["weight"], at["rounds"]).value,
        clipping_bias=moments.ratio(at["removed"], at["rounds"]).value,
    )  # fmt: skip
