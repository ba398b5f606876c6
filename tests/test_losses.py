"""Every loss against its formula written out in numpy, and what negatives are drawn and with what probability."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from recsys_spark.models import losses
from recsys_spark.models.negatives import NegativeSampler, hardest

LOGIT = st.floats(-8, 8, width=32)
FEW = settings(max_examples=30, deadline=None)


@st.composite
def logits(draw):
    """Positive [B] and negative [B, n] logits."""
    B, n = draw(st.integers(1, 5)), draw(st.integers(1, 6))
    return draw(arrays(np.float32, B, elements=LOGIT)), draw(arrays(np.float32, (B, n), elements=LOGIT))


def sigmoid(x):
    return 1 / (1 + np.exp(-np.asarray(x, np.float64)))


def value(loss, *arguments):
    return loss(*(torch.from_numpy(np.asarray(a)) for a in arguments)).item()


@FEW
@given(logits())
def test_bce(drawn):
    positive, negative = drawn
    rows = [-np.log(sigmoid(p)) - np.log(1 - sigmoid(n)).sum() for p, n in zip(positive, negative, strict=True)]
    assert value(losses.bce, positive, negative) == pytest.approx(np.mean(rows) / (1 + negative.shape[1]), rel=1e-4)


@FEW
@given(logits())
def test_bpr(drawn):
    positive, negative = drawn
    terms = [-np.log(sigmoid(np.float64(p) - s)) for p, n in zip(positive, negative, strict=True) for s in n]
    assert value(losses.bpr, positive, negative) == pytest.approx(np.mean(terms), rel=1e-4, abs=1e-6)


@FEW
@given(logits())
def test_sampled_softmax(drawn):
    positive, negative = (x.astype(np.float64) for x in drawn)
    share = np.exp(positive) / (np.exp(positive) + np.exp(negative).sum(axis=1))
    assert value(losses.sampled_softmax, *drawn) == pytest.approx(-np.log(share).mean(), rel=1e-4, abs=1e-5)


@FEW
@given(logits(), st.floats(0, 1), st.integers(20, 1000))
def test_gbce(drawn, calibration, catalogue):
    positive, negative = drawn
    n = negative.shape[1]
    alpha = n / (catalogue - 1)
    beta = alpha * (calibration * (1 - 1 / alpha) + 1 / alpha)
    likelihood = sigmoid(positive) ** beta * np.prod(1 - sigmoid(negative), axis=1)
    expected = -np.log(likelihood).mean() / (1 + n)
    assert value(losses.gbce(catalogue, calibration), positive, negative) == pytest.approx(expected, rel=1e-3)


@FEW
@given(logits())
def test_gbce_without_calibration_is_bce(drawn):
    assert value(losses.gbce(100, 0.0), *drawn) == pytest.approx(value(losses.bce, *drawn), rel=1e-5)


def test_gbce_in_full_weighs_a_positive_by_the_share_that_is_drawn():
    """t = 1: β is n / (catalogue - 1); a positive's gradient is that much smaller, a negative's the same."""
    for calibration, beta in ((0.0, 1.0), (1.0, 4 / 100)):
        positive, negative = torch.zeros(1, requires_grad=True), torch.zeros(1, 4, requires_grad=True)
        losses.gbce(101, calibration)(positive, negative).backward()
        assert positive.grad.item() == pytest.approx(-0.5 * beta / 5)
        np.testing.assert_allclose(negative.grad.numpy(), [[0.5 / 5] * 4])


@FEW
@given(logits(), st.data())
def test_full_softmax(drawn, data):
    _, scores = drawn
    target = data.draw(arrays(np.int64, len(scores), elements=st.integers(0, scores.shape[1] - 1)))
    z = np.exp(scores.astype(np.float64))
    expected = -np.log(z[np.arange(len(z)), target] / z.sum(axis=1)).mean()
    assert value(losses.full_softmax, scores, target) == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_sampled_softmax_against_everything_else_is_the_full_one():
    scores, target = np.random.default_rng(1).normal(size=(6, 9)).astype(np.float32), np.arange(6)
    others = np.stack([np.delete(row, t) for row, t in zip(scores, target, strict=True)])
    sampled = value(losses.sampled_softmax, scores[np.arange(6), target], others)
    assert sampled == pytest.approx(value(losses.full_softmax, scores, target), rel=1e-5)


@FEW
@given(logits())
def test_corrected_takes_log_q_from_each(drawn):
    log_q, scores = drawn[1][0], drawn[1]
    corrected = losses.corrected(torch.from_numpy(scores), torch.from_numpy(log_q)).numpy()
    np.testing.assert_allclose(np.exp(corrected), np.exp(scores) / np.exp(log_q), rtol=1e-3)


def test_corrected_logits_of_drawn_items_sum_to_the_catalogues():
    """E over draws by q of exp(s - log q) is the sum of exp(s) over all items: what the correction is for."""
    counts = torch.tensor([0, 50, 20, 5, 1, 0, 9])
    scores = torch.tensor([9.0, 0.3, -1.0, 2.0, 1.0, 9.0, -0.5])
    sampler = NegativeSampler(7, by="popularity")
    sampler.prepare(counts, None)
    drawn = sampler.shared(200_000, torch.Generator().manual_seed(1))
    estimate = losses.corrected(scores[drawn], sampler.log_q[drawn]).exp().mean()
    assert estimate.item() == pytest.approx(scores[counts > 0].exp().sum().item(), rel=0.03)


@FEW
@given(st.integers(1, 6), st.data())
def test_in_batch_softmax(B, data):
    scores = data.draw(arrays(np.float32, (B, B), elements=LOGIT))
    item = data.draw(arrays(np.int64, B, elements=st.integers(1, 4)))
    log_q = -np.linspace(1, 2, B, dtype=np.float32)
    rows = []
    for b in range(B):
        z = {c: np.exp(np.float64(scores[b, c]) - log_q[c]) for c in range(B) if c == b or item[c] != item[b]}
        rows.append(-np.log(z[b] / sum(z.values())))
    assert value(losses.in_batch_softmax, scores, item, log_q) == pytest.approx(np.mean(rows), rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("loss", [losses.bce, losses.bpr, losses.sampled_softmax, losses.gbce(100, 0.75)])
def test_losses_of_far_logits_are_finite_and_a_masked_negative_counts_for_nothing(loss):
    far = loss(torch.tensor([-1e4, 1e4]), torch.tensor([[1e4, -1e4], [1e4, -1e4]]))
    assert torch.isfinite(far)
    positive = torch.tensor([0.5, -1.0], requires_grad=True)
    negative = torch.tensor([[0.2, 1.0], [0.3, -torch.inf]], requires_grad=True)
    value = loss(positive, negative)
    value.backward()
    assert torch.isfinite(value)
    assert torch.isfinite(positive.grad).all() and torch.isfinite(negative.grad).all()
    assert negative.grad[1, 1] == 0


# --- negatives ---

COUNTS = torch.tensor([0, 81, 16, 0, 1, 256])
WEIGHTS = np.array([0, 81**0.75, 16**0.75, 0, 1, 256**0.75])  # 27, 8, 1 and 64


def sampler_of(by):
    sampler = NegativeSampler(len(COUNTS), by)
    sampler.prepare(COUNTS, None)
    return sampler


@pytest.mark.parametrize(("by", "weights"), [("uniform", COUNTS.numpy() > 0), ("popularity", WEIGHTS)])
def test_items_are_drawn_as_often_as_they_should_be(by, weights):
    sampler, n = sampler_of(by), 40_000
    q = weights / weights.sum()
    for drawn in (
        sampler.shared(n, torch.Generator().manual_seed(3)),
        sampler(torch.arange(4), n // 4, torch.Generator().manual_seed(4)).flatten(),
    ):
        shares = np.bincount(drawn.numpy(), minlength=len(COUNTS)) / n
        np.testing.assert_allclose(shares, q, atol=5 * np.sqrt(0.25 / n))
        assert (shares[weights == 0] == 0).all()
    np.testing.assert_allclose(sampler.log_q.exp().numpy()[weights > 0], q[weights > 0], rtol=1e-5)
    assert (sampler.log_q.numpy()[weights == 0] == 0).all()


@pytest.mark.parametrize("by", ["uniform", "popularity"])
def test_shared_negatives_follow_from_the_generator(by):
    sampler = sampler_of(by)
    one, again, other = (sampler.shared(50, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert one.shape == (50,)
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


def test_popular_negatives_avoid_what_the_user_has_had():
    sampler = NegativeSampler(len(COUNTS), "popularity")
    sampler.prepare(COUNTS, torch.tensor([1 * 6 + 5]))  # user 1 has had item 5, which is 64 of 100 draws
    drawn = sampler(torch.tensor([1, 2]), 4000, torch.Generator().manual_seed(1))
    shares = (drawn == 5).float().mean(dim=1)
    assert shares[0].item() == pytest.approx(0.64**5, abs=0.03)
    assert shares[1].item() == pytest.approx(0.64, abs=0.05)


@FEW
@given(arrays(np.float32, (4, 7), elements=LOGIT, unique=True), st.integers(1, 7))
def test_hardest_are_those_that_score_highest(scores, n):
    at = hardest(torch.from_numpy(scores), n).numpy()
    np.testing.assert_array_equal(at, np.argsort(-scores, axis=1)[:, :n])
