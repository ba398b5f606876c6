"""The sequential models against plain versions of their formulas, and what order, padding and time may change."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from recsys_spark.models import bert4rec, caser, gru4rec, module_of, sasrec
from recsys_spark.models.attention import Block
from recsys_spark.models.base import UserBlock
from recsys_spark.models.dropout import Dropout
from recsys_spark.models.sequence import to_front
from recsys_spark.models.torch_recommender import TorchRecommender

FORWARDS = ("sasrec", "gru4rec", "caser")
ALL = (*FORWARDS, "bert4rec")
N_ITEMS = 12
SMALL = {
    "sasrec": {"dim": 6, "heads": 2, "hidden": 7, "length": 8},
    "gru4rec": {"dim": 6, "hidden": 5},
    "bert4rec": {"dim": 6, "heads": 2, "hidden": 7, "length": 8},
    "caser": {"dim": 6, "window": 3, "horizontal": 4, "vertical": 2},
}
ROWS = torch.tensor([[0, 0, 3, 5, 4, 9], [1, 2, 3, 4, 5, 6], [0, 0, 0, 0, 11, 2]])
COUNTS = torch.tensor([0, 3, 5, 8, 1, 2, 9, 0, 0, 4, 0, 7])


def network_of(name, **settings):
    torch.manual_seed(4)
    module = module_of(name)
    config = module.Config(**{**SMALL[name], "dropout": 0.0, "shuffle_ties": False, **settings})
    network = module.Network(config, 5, N_ITEMS)
    with torch.no_grad():
        for parameter in network.parameters():  # far from the small initial values, where everything is about 0
            torch.nn.init.normal_(parameter, std=0.5)
        network.item.weight[0] = 0
    network.prepare(COUNTS)
    return network.eval()


def arrays_of(network):
    return {
        name.removeprefix("stack."): value.detach().double().numpy() for name, value in network.state_dict().items()
    }


def vectors(network, rows):
    with torch.inference_mode():
        return network.user_vectors(torch.zeros(len(rows), dtype=torch.long), torch.as_tensor(rows)).numpy()


# --- rows ---


def test_to_front_against_lists():
    rng = np.random.default_rng(1)
    rows = rng.integers(0, 4, (50, 7))
    for length in (1, 3, 7, 9):
        moved = to_front(torch.from_numpy(rows), length).tolist()
        for row, front in zip(rows.tolist(), moved, strict=True):
            newest = [i for i in row if i][-length:]
            assert front == newest + [0] * (length - len(newest))


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("more", [1, 30])
def test_padding_changes_no_score(name, more):
    """Neither a longer row nor unknown items within it."""
    network = network_of(name)
    plain = vectors(network, ROWS)
    assert np.std(plain) > 0.1
    np.testing.assert_allclose(vectors(network, torch.nn.functional.pad(ROWS, (more, 0))), plain, rtol=0, atol=1e-5)
    holes = torch.zeros(len(ROWS), 2 * ROWS.shape[1], dtype=torch.long)
    holes[:, ::2] = ROWS
    np.testing.assert_allclose(vectors(network, holes), plain, rtol=0, atol=1e-5)
    alone = np.concatenate([vectors(network, row[row > 0][None]) for row in ROWS])
    np.testing.assert_allclose(alone, plain, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("name", "reads"), [("sasrec", 8), ("bert4rec", 7), ("caser", 3), ("gru4rec", None)])
def test_how_far_back_a_vector_reads(name, reads):
    network = network_of(name)
    row = torch.arange(1, N_ITEMS)[None]
    for back in range(1, row.shape[1] + 1):
        other = row.clone()
        other[0, -back] = 1 + other[0, -back] % (N_ITEMS - 1)
        changed = not np.allclose(vectors(network, other), vectors(network, row), rtol=0, atol=1e-7)
        assert changed == (reads is None or back <= reads), back


@pytest.mark.parametrize("name", FORWARDS)
def test_a_later_item_changes_no_earlier_vector(name):
    network = network_of(name)
    row = torch.tensor([[1, 2, 3, 4, 5, 6]])
    with torch.inference_mode():
        before = network(row)[0]
        for at in range(row.shape[1]):
            other = row.clone()
            other[0, at] = 9
            difference = (network(other)[0] - before).abs().amax(dim=1)
            assert (difference[:at] == 0).all()
            assert difference[at] > 1e-3


def test_a_later_item_changes_what_fills_an_earlier_mask():
    network = network_of("bert4rec")
    with torch.inference_mode():
        one, other = (network(torch.tensor([[1, N_ITEMS, 3, last]]))[0, 1] for last in (4, 5))
    assert (one - other).abs().max() > 1e-3


@pytest.mark.parametrize("name", ("sasrec", "gru4rec", "bert4rec"))
def test_order_matters(name):
    one, other = vectors(network_of(name), [[1, 2, 3, 4], [2, 1, 3, 4]])
    assert np.abs(one - other).max() > 1e-3


@pytest.mark.parametrize("name", ALL)
def test_the_newest_vector_is_the_one_that_scores(name):
    network = network_of(name)
    if name in FORWARDS:
        with torch.inference_mode():
            by_hand = np.stack([network(row[row > 0][None])[0, -1].numpy() for row in ROWS])
        np.testing.assert_allclose(vectors(network, ROWS), by_hand, rtol=0, atol=1e-5)
    users = UserBlock.of([1, 2], [[3, 5, 4], [1, 2, 3, 4, 5, 6]])
    model = TorchRecommender(name, network, None, np.ones(5, bool), COUNTS.numpy() > 0, 6)
    assert model.dot_product
    product = model.user_vectors(users) @ model.item_vectors().T
    np.testing.assert_allclose(model.score(users)[:, COUNTS > 0], product[:, COUNTS > 0], rtol=1e-4, atol=1e-5)
    assert model.item_vectors().shape == (N_ITEMS, 6)


# --- networks against plain versions ---


def normalised(x, weight, bias):
    x = x - x.mean(axis=-1, keepdims=True)
    return x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + 1e-5) * weight + bias


def gelu(x):
    from scipy.special import erf

    return x * 0.5 * (1 + erf(x / np.sqrt(2)))


def plain_block(p, x, heads, seen, causal):
    """x [L, D] through a block, position by position and head by head."""
    L, D = x.shape
    inner = normalised(x, p["attention_norm.weight"], p["attention_norm.bias"])
    query, key, value = np.split(inner @ p["query_key_value.weight"].T + p["query_key_value.bias"], 3, axis=1)
    mixed = np.zeros_like(x)
    for head in np.split(np.arange(D), heads):
        for t in range(L):
            at = [s for s in range(L) if seen[s] and (s <= t or not causal)]
            weight = np.exp(key[at][:, head] @ query[t, head] / np.sqrt(len(head)))
            mixed[t, head] = weight / weight.sum() @ value[at][:, head]
    x = x + mixed @ p["out.weight"].T + p["out.bias"]
    inner = normalised(x, p["feed_norm.weight"], p["feed_norm.bias"])
    inner = gelu(inner @ p["feed.0.weight"].T + p["feed.0.bias"])
    return x + inner @ p["feed.2.weight"].T + p["feed.2.bias"]


@pytest.mark.parametrize("heads", [1, 2])
@pytest.mark.parametrize("causal", [True, False])
def test_attention_block(heads, causal):
    torch.manual_seed(2)
    block, x = Block(6, heads, 7, 0.3).eval(), torch.randn(2, 5, 6)
    seen = torch.tensor([[True] * 5, [True, True, True, False, False]])
    with torch.inference_mode():
        found = block(x, None if causal else seen).numpy()
    for b in range(2):
        expected = plain_block(
            arrays_of(block), x[b].double().numpy(), heads, [True] * 5 if causal else seen[b], causal
        )
        np.testing.assert_allclose(found[b], expected, rtol=0, atol=1e-5)


def plain_stack(p, x, heads, causal):
    for block in range(2):
        own = {name.removeprefix(f"blocks.{block}."): v for name, v in p.items() if name.startswith(f"blocks.{block}.")}
        x = plain_block(own, x, heads, [True] * len(x), causal)
    return normalised(x, p["norm.weight"], p["norm.bias"])


def test_sasrec_is_its_blocks_on_items_and_positions():
    network = network_of("sasrec")
    p, row = arrays_of(network), [3, 5, 4, 9]
    x = p["item.weight"][row] * np.sqrt(6) + p["position.weight"][:4]
    np.testing.assert_allclose(vectors(network, [row])[0], plain_stack(p, x, 2, True)[-1], rtol=0, atol=1e-5)


def test_bert4rec_appends_a_mask_and_reads_both_ways():
    network = network_of("bert4rec")
    p, row = arrays_of(network), [3, 5, 4, N_ITEMS]  # the mask comes after the last item id
    x = p["item.weight"][row] * np.sqrt(6) + p["position.weight"][[3, 2, 1, 0]]
    np.testing.assert_allclose(vectors(network, [row[:3]])[0], plain_stack(p, x, 2, False)[-1], rtol=0, atol=1e-5)
    assert network.item_vectors().shape == (N_ITEMS, 6)


@pytest.mark.parametrize(("cell", "step"), [("gru", torch.nn.GRUCell), ("lstm", torch.nn.LSTMCell)])
def test_gru4rec_is_its_cells_stepped_by_hand(cell, step):
    network = network_of("gru4rec", cell=cell, layers=2)
    layers = []
    for layer, width in enumerate((6, 5)):
        one = step(width, 5)
        one.load_state_dict({
            f"{kind}_{side}": network.cells.state_dict()[f"{kind}_{side}_l{layer}"]
            for kind in ("weight", "bias") for side in ("ih", "hh")
        })  # fmt: skip
        layers.append(one)
    state = [None, None]
    with torch.inference_mode():
        for item in (3, 5, 4, 9):
            x = network.item.weight[item][None]
            for layer, one in enumerate(layers):
                state[layer] = one(x, state[layer])
                x = state[layer][0] if cell == "lstm" else state[layer]
        expected = network.out(x)[0].numpy()
    np.testing.assert_allclose(vectors(network, [[0, 0, 3, 5, 4, 9]])[0], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("row", [[7, 3, 5, 4], [5]])
def test_caser_is_its_convolutions(row):
    """Over the window of the newest 3, in numpy; what a short history lacks is 0."""
    network = network_of("caser")
    p = arrays_of(network)
    E = p["item.weight"][[0, 0, *row][-3:]]  # [W, D]
    found = []
    for height in (1, 2, 3):
        filters, bias = p[f"horizontal.{height - 1}.weight"], p[f"horizontal.{height - 1}.bias"]  # [4, D, height]
        slides = [np.einsum("fdh,hd->f", filters, E[at : at + height]) + bias for at in range(3 - height + 1)]
        found.append(np.maximum(slides, 0).max(axis=0))
    sums = np.stack([weights @ E for weights in p["vertical.weight"]])  # [vertical, D]
    expected = p["out.weight"] @ np.concatenate([*found, sums.T.ravel()]) + p["out.bias"]
    np.testing.assert_allclose(vectors(network, [row])[0], expected, rtol=0, atol=1e-5)


# --- losses ---


def batch_of(rows, times=None):
    rows = torch.as_tensor(rows, dtype=torch.int32)
    return {"items": rows, "times": torch.zeros(rows.shape, dtype=torch.int64) if times is None else times}


@pytest.mark.parametrize("name", FORWARDS)
def test_loss_is_of_every_next_item_and_no_padding(name):
    network = network_of(name, loss="full_softmax")
    items = network.item_vectors().detach().double().numpy()
    terms = []
    for row in ROWS.tolist():
        row = [i for i in row if i]
        for t in range(1, len(row)):
            logits = items[1:] @ vectors(network, [row[:t]])[0]  # the unknown item is no candidate
            terms.append(np.log(np.exp(logits).sum()) - logits[row[t] - 1])
    assert len(terms) == 3 + 5 + 1
    found = network.loss(batch_of(ROWS), torch.Generator().manual_seed(1)).item()
    assert found == pytest.approx(np.mean(terms), rel=1e-5)


@pytest.mark.parametrize("by", ["uniform", "popularity"])
@pytest.mark.parametrize("kind", ["sampled_softmax", "bce", "gbce"])
def test_sampled_losses_by_hand(kind, by):
    """All positions have the same drawn items, but for the one that happened; none is drawn that was not trained."""
    network = network_of("sasrec", loss=kind, negatives=6, negatives_by=by, calibration=0.5)
    drawn = network.sampler.shared(6, torch.Generator().manual_seed(3)).tolist()
    assert set(drawn) <= set(COUNTS.nonzero().flatten().tolist())
    q = COUNTS.double().numpy() ** 0.75 if by == "popularity" else COUNTS.numpy() > 0
    q = q / q.sum()
    items = network.item_vectors().detach().double().numpy()
    terms, alpha = [], 6 / (N_ITEMS - 2)
    beta = alpha * (0.5 * (1 - 1 / alpha) + 1 / alpha)
    for row in ROWS.tolist():
        row = [i for i in row if i]
        for t in range(1, len(row)):
            vector = vectors(network, [row[:t]])[0]
            s, others = items[row[t]] @ vector, [j for j in drawn if j != row[t]]
            z = np.array([items[j] @ vector for j in others])
            if kind == "sampled_softmax":
                own, rest = np.exp(s) / q[row[t]], np.exp(z) / q[others]
                terms.append(-np.log(own / (own + rest.sum())))
            else:
                weight = beta if kind == "gbce" else 1
                terms.append((weight * np.log1p(np.exp(-s)) + np.log1p(np.exp(z)).sum()) / 7)
    found = network.loss(batch_of(ROWS), torch.Generator().manual_seed(3)).item()
    assert found == pytest.approx(np.mean(terms), rel=1e-4)


def test_bert4rec_loss_is_of_what_is_hidden():
    network = network_of("bert4rec", masked=0.5)
    front = to_front(ROWS, 6)
    hidden = network.mask(front, torch.Generator().manual_seed(5))
    p, terms = arrays_of(network), []
    for row, at in zip(front.tolist(), hidden.tolist(), strict=True):
        n = sum(i > 0 for i in row)
        shown = [N_ITEMS if hide else i for i, hide in zip(row, at, strict=True)][:n]
        x = p["item.weight"][shown] * np.sqrt(6) + p["position.weight"][np.arange(n)[::-1]]
        logits = plain_stack(p, x, 2, False) @ p["item.weight"][1:N_ITEMS].T
        terms += [np.log(np.exp(logits[t]).sum()) - logits[t, row[t] - 1] for t in range(n) if at[t]]
    found = network.loss(batch_of(ROWS), torch.Generator().manual_seed(5)).item()
    assert found == pytest.approx(np.mean(terms), rel=1e-4)


@pytest.mark.parametrize(("masked", "newest_only"), [(0.3, 0.25), (0.01, 0.0), (0.3, 1.0)])
def test_bert4rec_masks_as_many_as_it_is_told(masked, newest_only):
    network = network_of("bert4rec", masked=masked, newest_only=newest_only)
    rows = torch.ones(4000, 8, dtype=torch.long)
    rows[:, 6:] = 0
    hidden = network.mask(rows, torch.Generator().manual_seed(1))
    assert not hidden[:, 6:].any()
    assert hidden.any(dim=1).all()
    none = (1 - masked) ** 6  # rows that would hide nothing hide their newest
    newest = newest_only + (1 - newest_only) * (masked + none)
    assert hidden[:, 5].float().mean().item() == pytest.approx(newest, abs=0.03)
    assert hidden[:, :5].float().mean().item() == pytest.approx((1 - newest_only) * masked, abs=0.015)


@pytest.mark.parametrize("name", ALL)
def test_gradients_reach_every_parameter_but_padding(name):
    network = network_of(name).train()
    for seed in range(8):
        network.loss(batch_of(ROWS), torch.Generator().manual_seed(seed)).backward()
    for which, parameter in network.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), which
        assert parameter.grad.any(), which
    assert not network.item.weight.grad[0].any()
    assert network.item.weight.grad[1:].abs().sum(dim=1).min() > 0


@pytest.mark.parametrize("name", ALL)
def test_longer_rows_than_a_network_reads_are_trained(name):
    rows = torch.randint(1, N_ITEMS, (3, 40), generator=torch.Generator().manual_seed(1))
    assert torch.isfinite(network_of(name).loss(batch_of(rows), torch.Generator().manual_seed(1)))


def test_sasrec_trains_its_newest_positions():
    """Of a longer row: the newest 8 items as what comes in, each followed by the next."""
    network = network_of("sasrec")
    rows = torch.randint(1, N_ITEMS, (3, 20), generator=torch.Generator().manual_seed(1))
    losses = [network.loss(batch_of(r), torch.Generator().manual_seed(1)).item() for r in (rows, rows[:, -9:])]
    assert losses[0] == losses[1]


# --- items of one second ---

NOW = 2_000_000_000  # in 2033


@given(st.lists(st.lists(st.integers(0, 3), min_size=6, max_size=6), min_size=1, max_size=4), st.integers(0, 2**31))
def test_items_are_shuffled_within_their_second(seconds, seed):
    """They stay in order of time, none is lost, and padding, which is of no time, stays in front."""
    times = torch.tensor([sorted(NOW + s for s in row) for row in seconds])
    times[:, :2] = 0  # padding, on the left as in the feed
    items = torch.arange(1, 7).repeat(len(times), 1)
    items[:, :2] = 0
    network = network_of("sasrec", shuffle_ties=True)
    rows = network.rows({"items": items, "times": times}, None, torch.Generator().manual_seed(seed))
    assert (rows[:, 4:] == 0).all()
    for row, of in zip(rows[:, :4].tolist(), times.tolist(), strict=True):
        assert sorted(row) == [3, 4, 5, 6]
        assert [of[i - 1] for i in row] == of[2:]


def test_every_order_of_a_second_is_as_likely():
    times = torch.tensor([[NOW - 1, NOW, NOW, NOW, NOW + 1]]).expand(12_000, -1)
    items = torch.arange(1, 6).expand(12_000, -1)
    network = network_of("gru4rec", shuffle_ties=True)
    rows = network.rows({"items": items, "times": times}, None, torch.Generator().manual_seed(1))
    orders, counts = torch.unique(rows, dim=0, return_counts=True)
    assert orders[:, 0].tolist() == [1] * 6 and orders[:, 4].tolist() == [5] * 6
    assert (counts - 2_000).abs().max() < 4 * np.sqrt(12_000 * 1 / 6 * 5 / 6)


@pytest.mark.parametrize("name", ALL)
def test_a_model_learns_from_shuffled_seconds(name):
    """A row of one second has another loss in every order; where times differ, the loss is the same as without."""
    settings = {"newest_only": 1.0} if name == "bert4rec" else {}  # so that no mask is drawn
    together, apart = torch.full(ROWS.shape, NOW), NOW + torch.arange(6).expand(ROWS.shape)

    def losses(times, **more):
        network = network_of(name, loss="full_softmax", **settings, **more)
        return {network.loss(batch_of(ROWS, times), torch.Generator().manual_seed(s)).item() for s in range(4)}

    assert len(losses(together, shuffle_ties=True)) == 4
    assert len(losses(together)) == 1
    assert losses(apart, shuffle_ties=True) == losses(apart)


# --- dropout ---


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5])
def test_dropout(share):
    torch.manual_seed(1)
    dropout, x = Dropout(share), torch.full((300, 301), 2.0, requires_grad=True)
    out = dropout(x)
    assert (out == 0).float().mean().item() == pytest.approx(share, abs=0.01)
    np.testing.assert_allclose(out.detach()[out > 0].numpy(), 2 / (1 - share), rtol=1e-4)
    out.sum().backward()
    np.testing.assert_allclose(x.grad.numpy(), (out > 0).numpy() / (1 - share), rtol=1e-4)
    assert torch.equal(dropout.eval()(x), x)
    columns = (out == 0).float().mean(dim=0)
    assert columns.std() < 0.05  # no pattern along the 16 bits of a draw
    torch.manual_seed(1)
    assert torch.equal(dropout.train()(x), out)


def test_configs_name_what_they_do_not_know():
    for module in (sasrec, gru4rec, bert4rec, caser):
        with pytest.raises(ValueError, match="loss"):
            module.Config(loss="hinge")
