"""What networks minimise: each loss a function of logits, with its formula and its source.

Shapes: B rows, n negatives for each. `positive` are the logits of what happened, [B]; `negative` those of what was
drawn against it, [B, n]. Every loss is the mean over the rows. Logits of 16 bits are widened first: their sums and
exponentials leave what those hold.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

Loss = Callable[[Tensor, Tensor], Tensor]


def wide(logits: Tensor) -> Tensor:
    """Return logits of 16 bits as float32, and others as they are."""
    return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits


def bce(positive: Tensor, negative: Tensor) -> Tensor:
    """Binary cross-entropy: -log σ(s⁺) - Σ log(1 - σ(s⁻)), per row over its 1 + n logits.

    He et al. 2017, "Neural collaborative filtering", equation 7.
    """
    positive, negative = wide(positive), wide(negative)
    return (F.softplus(-positive) + F.softplus(negative).sum(dim=1)).mean() / (1 + negative.shape[1])


def bpr(positive: Tensor, negative: Tensor) -> Tensor:
    """Bayesian personalised ranking: -log σ(s⁺ - s⁻), mean over the negatives.

    Rendle et al. 2009, "BPR: Bayesian personalized ranking from implicit feedback".
    """
    return F.softplus(wide(negative) - wide(positive)[:, None]).mean()


def sampled_softmax(positive: Tensor, negative: Tensor) -> Tensor:
    """Softmax of the positive among its negatives: -log(e^{s⁺} / (e^{s⁺} + Σ e^{s⁻})).

    Jean et al. 2015, "On using very large target vocabulary for neural machine translation". Where negatives are not
    drawn uniformly, the logarithm of what each is expected to be drawn has been taken from its logit: see `corrected`.
    """
    positive, negative = wide(positive), wide(negative)
    return (torch.logsumexp(torch.cat([positive[:, None], negative], dim=1), dim=1) - positive).mean()


def full_softmax(logits: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy over the whole catalogue: logits [B, n_items], the items that happened [B]."""
    return F.cross_entropy(wide(logits), target)


def gbce(catalogue: int, calibration: float) -> Callable[[Tensor, Tensor], Tensor]:
    """Return generalised binary cross-entropy: -log σ(s⁺)^β - Σ log(1 - σ(s⁻)), per row over its 1 + n logits.

    β = α (t (1 - 1/α) + 1/α) with α = n / (catalogue - 1), the share of the items that is drawn, and the calibration t:
    0 is `bce`, 1 makes up for the sampling in full.
    Petrov & Macdonald 2023, "gSASRec: reducing overconfidence in sequential recommendation trained with negative
    sampling".
    """

    def loss(positive: Tensor, negative: Tensor) -> Tensor:
        positive, negative = wide(positive), wide(negative)
        share = negative.shape[1] / max(catalogue - 1, 1)
        beta = share * (calibration * (1 - 1 / share) + 1 / share)
        return (beta * F.softplus(-positive) + F.softplus(negative).sum(dim=1)).mean() / (1 + negative.shape[1])

    return loss


def corrected(logits: Tensor, log_q: Tensor) -> Tensor:
    """Take from each logit how likely its item is to be drawn: s - log q, [..., n] and [n] or of the same shape.

    Bengio & Senécal 2008; for in-batch negatives Yi et al. 2019, "Sampling-bias-corrected neural modeling for large
    corpus item recommendations". A softmax over items drawn by q is then one over all of them, in expectation.
    """
    return logits - log_q


def in_batch_softmax(logits: Tensor, item: Tensor, log_q: Tensor) -> Tensor:
    """Softmax of each row's item among the batch's: logits [B, B] of user b and item c, corrected by log q [B].

    Another row's item is no negative where it is the row's own.
    """
    same = item[:, None] == item[None, :]
    same.fill_diagonal_(False)
    own = torch.arange(len(item), device=item.device)
    return F.cross_entropy(corrected(wide(logits), log_q).masked_fill(same, -math.inf), own)


def l2(*rows: Tensor) -> Tensor:
    """Half the squared length of all that is given, [B, ...] each, as the mean over the rows: ½ Σ ‖x‖² / B."""
    return sum((wide(r).square().sum() for r in rows), torch.zeros((), device=rows[0].device)) / (2 * len(rows[0]))


def products(users: Tensor, items: Tensor) -> Tensor:
    """Return the logits [B, m] that are products of each user's vector [B, D] with those of its items [B, m, D]."""
    return (users[:, None] * items).sum(dim=-1)
