"""Sampled metrics turn models round; the corrected estimator turns them back."""

from __future__ import annotations

import numpy as np
import pytest

from recsys_spark.evaluation.metrics import evaluate_lists
from recsys_spark.evaluation.sampled import RANK_METRICS, corrected_values, correction_weights, sampled_values

N, M, K = 2000, 100, 10


def draw(ranks, seed):
    """Sampled ranks as one gets them: negatives drawn from the other items, those that stand above counted."""
    others = np.random.default_rng(seed).integers(1, N, (len(ranks), M))  # ranks among the N - 1 others
    return 1 + (others < np.asarray(ranks)[:, None]).sum(axis=1)


def sharp_and_steady(users=20_000):
    """Two models: one is right at once or not at all, the other nearly right always."""
    rng = np.random.default_rng(4)
    sharp = np.where(rng.random(users) < 0.15, rng.integers(1, 5, users), rng.integers(200, N, users))
    steady = np.where(rng.random(users) < 0.03, rng.integers(1, 11, users), rng.integers(11, 150, users))
    return sharp, steady


@pytest.mark.parametrize("metric", RANK_METRICS)
def test_sampling_turns_two_models_round_and_the_correction_turns_them_back(metric):
    models = sharp_and_steady()
    full = [RANK_METRICS[metric](ranks.astype(float), K).mean() for ranks in models]
    drawn = [draw(ranks, seed) for seed, ranks in enumerate(models)]
    sampled = [sampled_values(r, metric, K).mean() for r in drawn]
    corrected = [corrected_values(r, metric, K, N, M).mean() for r in drawn]
    assert full[0] > full[1] and sampled[0] < sampled[1]
    assert corrected[0] > corrected[1]
    off, corrected_off = (np.abs(np.subtract(found, full)).max() for found in (sampled, corrected))
    assert corrected_off < off / 10


def test_the_weights_are_the_least_squares_answer():
    """Minimised by hand: no small step away from the weights makes the objective smaller."""
    from scipy.stats import binom

    n, m, variance = 60, 8, 0.05
    w = correction_weights("ndcg", 5, n, m, variance)
    table = np.array([binom.pmf(np.arange(m + 1), m, (r - 1) / (n - 1)) for r in range(1, n + 1)])
    f = np.array([(r <= 5) / np.log2(r + 1) for r in range(1, n + 1)])

    def objective(v):
        expected = table @ v
        return ((expected - f) ** 2).sum() + variance * (table @ v**2 - expected**2).sum()

    least, rng = objective(w), np.random.default_rng(1)
    assert all(objective(w + 1e-3 * rng.normal(size=m + 1)) > least for _ in range(200))


def test_more_variance_allowed_is_less_bias():
    ranks, _ = sharp_and_steady()
    drawn, truth = draw(ranks, 3), RANK_METRICS["ndcg"](ranks.astype(float), K).mean()
    found = [corrected_values(drawn, "ndcg", K, N, M, v) for v in (0.001, 0.1)]
    assert abs(found[0].mean() - truth) < abs(found[1].mean() - truth)
    assert found[0].std() > found[1].std()


def test_metrics_of_a_rank_are_those_of_a_list_with_one_relevant_item():
    for rank in (1, 4, 10, 11):
        ranked = np.arange(1, 16)[None]
        got = evaluate_lists(ranked, [np.array([rank])], [K])
        for metric in RANK_METRICS:
            assert sampled_values([rank], metric, K)[0] == pytest.approx(got[f"{metric}@{K}"][0])


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match=r"outside 1\.\.5"):
        corrected_values([6], "ndcg", 10, 100, 4)
    with pytest.raises(ValueError, match="variance must be above 0"):
        correction_weights("ndcg", 10, 100, 4, 0.0)
    with pytest.raises(ValueError, match="nothing to sample"):
        correction_weights("ndcg", 10, 1, 4)
