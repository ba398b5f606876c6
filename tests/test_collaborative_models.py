"""BPR, AutoRec, Mult-VAE and LightGCN: the papers' formulas in numpy, and what is left of an erased person."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch

from recsys_spark.config import load_config
from recsys_spark.erasure.weights import erase_from_model
from recsys_spark.models import autorec, bpr, check_models, lightgcn, load, losses, mult_vae
from recsys_spark.models.base import NO_OPINION, UserBlock
from recsys_spark.models.negatives import NegativeSampler, draw_hardest
from recsys_spark.models.torch_recommender import TorchRecommender

N_USERS, N_ITEMS = 6, 8
HAD = {1: [1, 2, 3], 2: [2, 5], 3: [1, 2, 4, 6], 4: [6], 5: [3, 6]}  # item 7 and user 0 have no row
PAIRS = [(u, i) for u, items in HAD.items() for i in items]
POSITIVES = torch.tensor([u * N_ITEMS + i for u, i in PAIRS])
COUNTS = torch.bincount(torch.tensor([i for _, i in PAIRS]), minlength=N_ITEMS)
BATCH = {
    "user_id": torch.tensor([1, 3, 5], dtype=torch.int32),
    "item_id": torch.tensor([2, 6, 3], dtype=torch.int32),
    "length": torch.tensor([3, 4, 2], dtype=torch.int32),
}


def network_of(module, std=0.6, **settings):
    torch.manual_seed(4)
    network = module.Network(module.Config.model_validate({"dim": 3, **settings}), N_USERS, N_ITEMS)
    for parameter in network.parameters():  # far from the small initial values
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=std)
    network.prepare(COUNTS, POSITIVES)
    return network


def arrays_of(network):
    return {name: value.detach().double().numpy() for name, value in network.named_parameters()}


def recommender(name, network):
    return TorchRecommender(name, network, network.config, np.arange(N_USERS) > 0, COUNTS.numpy() > 0, 4)


def log_sigmoid(x):
    return -np.log1p(np.exp(-x))


# --- BPR ---


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("negatives", [1, 3])
def test_bpr_loss_is_the_papers(bias, negatives):
    """-log σ(x_ui - x_uj) with x_ui = p_u . q_i + b_i, and ½ λ ‖.‖² of what a row touches."""
    network = network_of(bpr, bias=bias, negatives=negatives, regularization=0.3)
    loss = network.loss(BATCH, torch.Generator().manual_seed(3)).item()
    drawn = network.sampler(BATCH["user_id"].long(), negatives, torch.Generator().manual_seed(3)).tolist()
    p = arrays_of(network)
    b = p["item_bias.weight"][:, 0] if bias else np.zeros(N_ITEMS)
    terms, touched = [], []
    for u, i, others in zip(BATCH["user_id"].tolist(), BATCH["item_id"].tolist(), drawn, strict=True):
        x = p["item.weight"] @ p["user.weight"][u] + b
        terms += [-log_sigmoid(x[i] - x[j]) for j in others]
        rows = [i, *others]
        touched.append(np.square(p["user.weight"][u]).sum() + np.square(p["item.weight"][rows]).sum())
        touched[-1] += np.square(b[rows]).sum()
    assert loss == pytest.approx(np.mean(terms) + 0.3 * np.mean(touched) / 2, rel=1e-5)


def test_bpr_scores_have_the_items_bias_in_their_vectors():
    network = network_of(bpr)
    p = arrays_of(network)
    users = torch.arange(N_USERS)
    expected = p["user.weight"] @ p["item.weight"].T + p["item_bias.weight"][:, 0]
    np.testing.assert_allclose(network.score(users, users[:, None]).detach(), expected, rtol=1e-5, atol=1e-6)
    assert network.user_vectors(users).shape == (N_USERS, 4) and network.item_vectors().shape == (N_ITEMS, 4)


def test_the_hardest_negatives_are_the_models_favourites_among_the_drawn():
    sampler = NegativeSampler(N_ITEMS)
    sampler.prepare(COUNTS, POSITIVES)
    users, liking = torch.tensor([1, 2, 4]), torch.tensor([0.0, 5, 1, 7, 2, 6, 4, 9])

    def kept(candidates):
        return draw_hardest(sampler, users, 2, candidates, lambda i: liking[i], torch.Generator().manual_seed(8))

    drawn = sampler(users, 6, torch.Generator().manual_seed(8))
    for row, all_drawn in zip(kept(6).tolist(), drawn.tolist(), strict=True):
        assert sorted(liking[row].tolist()) == sorted(liking[all_drawn].tolist())[-2:]
    first_two = sampler(users, 2, torch.Generator().manual_seed(8))
    for few in (None, 1, 2):
        assert torch.equal(kept(few), first_two)


@pytest.mark.parametrize("module", [bpr, lightgcn])
def test_choosing_hard_negatives_has_no_gradient_of_its_own(module):
    """The loss of the chosen ones is that of a plain draw that happened to be them."""
    network = network_of(module, candidates=5, regularization=0.0)
    network.loss(BATCH, torch.Generator().manual_seed(2)).backward()
    found = network.item.weight.grad.clone()
    users = BATCH["user_id"].long()
    vectors = network.spread() if module is lightgcn else None

    def like(items):
        if vectors is not None:
            return losses.products(vectors[users], vectors[N_USERS + items])
        return losses.products(network.user_vectors(users), network.item_vectors(items))

    chosen = draw_hardest(network.sampler, users, 1, 5, like, torch.Generator().manual_seed(2))
    network.zero_grad()
    positive, negative = like(BATCH["item_id"].long()[:, None]), like(chosen)
    losses.bpr(positive[:, 0], negative).backward()
    torch.testing.assert_close(network.item.weight.grad, found)


def test_l2_is_half_the_squared_length_per_row():
    assert losses.l2(torch.tensor([[3.0], [4.0]]), torch.tensor([[[1.0, 1.0]], [[0.0, 2.0]]])).item() == (25 + 6) / 4


# --- AutoRec ---


def reconstruction(parameters, x):
    """The paper's h(r), of a vector with an entry per item."""
    p = parameters
    hidden = 1 / (1 + np.exp(-(x @ p["item.weight"] + p["item_bias"])))
    return p["decoder.weight"] @ hidden + p["decoder.bias"]


@pytest.mark.parametrize(("dropout", "unobserved"), [(0.0, 1.0), (0.4, 0.2)])
def test_autorec_loss_is_the_weighted_squared_error_of_all_items(dropout, unobserved):
    network = network_of(autorec, dropout=dropout, unobserved=unobserved)
    loss = network.loss(BATCH, torch.Generator().manual_seed(7)).item()
    draws = torch.Generator().manual_seed(7)
    torch.rand(3, generator=draws)  # which rows are taken: all, because their windows are whole histories
    users = BATCH["user_id"].tolist()
    kept = torch.rand(sum(len(HAD[u]) for u in users), generator=draws).double().numpy() >= dropout
    total, at = 0.0, 0
    for u in users:
        r, seen = np.zeros(N_ITEMS), np.zeros(N_ITEMS)
        r[HAD[u]], seen[HAD[u]] = 1, kept[at : at + len(HAD[u])] / (1 - dropout)
        at += len(HAD[u])
        weights = np.where(r > 0, 1, unobserved)
        total += weights @ (r - reconstruction(arrays_of(network), seen)) ** 2
    assert loss == pytest.approx(total / len(users), rel=1e-5)


def test_autorec_folds_in_users_whom_it_never_saw():
    network = network_of(autorec)
    histories = [[6, 2], [4], [5, 1, 2, 3, 6]]  # longer than the padded histories of the feed
    scores = recommender("autorec", network).score(UserBlock.of([77, 0, 88], histories))
    for row, items in zip(scores, histories, strict=True):
        x = np.zeros(N_ITEMS)
        x[items] = 1
        np.testing.assert_allclose(row[1:7], reconstruction(arrays_of(network), x)[1:7], rtol=1e-4, atol=1e-5)


# --- Mult-VAE ---


def elbo(network, users, kept, noise, beta):
    """The paper's objective row by row on dense rows, [n_items] each; what it calls a loss is its negative."""
    p = arrays_of(network)
    D, total = network.config.dim, 0.0
    for b, u in enumerate(users):
        x = np.zeros(N_ITEMS)
        x[HAD[u]] = 1
        seen = x / np.linalg.norm(x) * kept[b]
        hidden = np.tanh(seen @ p["item.weight"] + p["item_bias"])
        out = p["latent.weight"] @ hidden + p["latent.bias"]
        mean, log_var = out[:D], out[D:]
        z = mean + np.exp(log_var / 2) * noise[b] if network.config.variational else mean
        inner = np.tanh(p["decoder.0.weight"] @ z + p["decoder.0.bias"])
        logits = p["decoder.2.weight"] @ inner + p["decoder.2.bias"]
        total += x @ (logits - np.log(np.exp(logits).sum()))
        if network.config.variational:
            total -= beta * 0.5 * np.sum(np.exp(log_var) + mean**2 - 1 - log_var)
    return total / len(users)


@pytest.mark.parametrize("variational", [True, False])
def test_mult_vae_loss_is_the_papers_elbo(variational):
    network = network_of(
        mult_vae, hidden=4, dropout=0.4, variational=variational, kl_weight=0.5, anneal_steps=4
    )  # fmt: skip
    users = BATCH["user_id"].tolist()
    for step, beta in enumerate([0, 0.125, 0.25, 0.375, 0.5, 0.5]):
        loss = network.loss(BATCH, torch.Generator().manual_seed(step)).item()
        draws = torch.Generator().manual_seed(step)
        torch.rand(3, generator=draws)  # which rows are taken: all, because their windows are whole histories
        flat = torch.rand(sum(len(HAD[u]) for u in users), generator=draws).numpy() >= 0.4
        kept, at = np.zeros((3, N_ITEMS)), 0
        for b, u in enumerate(users):
            kept[b, HAD[u]] = flat[at : at + len(HAD[u])] / 0.6
            at += len(HAD[u])
        noise = torch.randn(3, 3, generator=draws).numpy() if variational else np.zeros((3, 3))
        assert loss == pytest.approx(-elbo(network, users, kept, noise, beta), rel=1e-5)
    assert network.steps.item() == (6 if variational else 0)


def test_mult_vae_takes_a_user_of_many_windows_about_once():
    network = network_of(mult_vae, hidden=4)
    windows = torch.tensor([1, 1, 1, 2, 3, 3])  # of one item each, of the whole history, and of half of it
    length = torch.tensor([1, 1, 1, 2, 2, 2])
    draws = torch.Generator().manual_seed(1)
    taken = torch.cat([network.each_user_once(windows, length, draws) for _ in range(2000)])
    shares = torch.bincount(taken, minlength=N_USERS) / 2000
    np.testing.assert_allclose(shares[1:4], [1, 1, 1], atol=0.06)
    one = torch.tensor([3])
    assert all(len(network.each_user_once(one, torch.tensor([1]), draws)) == 1 for _ in range(20)), "an empty batch"


@pytest.mark.parametrize("variational", [True, False])
def test_mult_vae_folds_in_users_whom_it_never_saw(variational):
    """The decoder of μ, and padding, place in the block and the id make no difference."""
    network = network_of(mult_vae, hidden=4, variational=variational)
    model, p = recommender("mult_vae", network), arrays_of(network)
    histories = [[6, 2], [4], [5, 1, 2, 3, 6]]  # longer than the padded histories of the feed
    scores = model.score(UserBlock.of([77, 0, 88], histories))
    for row, items in zip(scores, histories, strict=True):
        hidden = np.tanh(p["item.weight"][items].sum(axis=0) / np.sqrt(len(items)) + p["item_bias"])
        mean = (p["latent.weight"] @ hidden + p["latent.bias"])[:3]
        inner = np.tanh(p["decoder.0.weight"] @ mean + p["decoder.0.bias"])
        expected = p["decoder.2.weight"] @ inner + p["decoder.2.bias"]
        np.testing.assert_allclose(row[1:7], expected[1:7], rtol=1e-4, atol=1e-5)


def test_mult_vae_has_no_rows_of_users_and_goes_on_with_its_schedule():
    network = network_of(mult_vae, dim=5, hidden=4, anneal_steps=10)
    for _ in range(4):
        network.loss(BATCH, torch.Generator().manual_seed(1))
    state = network.state_dict()
    assert not {"items", "offsets"} & set(state)
    assert all(N_USERS not in value.shape for value in state.values())
    again = network_of(mult_vae, dim=5, hidden=4, anneal_steps=10)
    again.load_state_dict(state)
    one, other = (n.loss(BATCH, torch.Generator().manual_seed(2)).item() for n in (network, again))
    assert one == other


# --- LightGCN ---


def dense_spread(network):
    """1/(K + 1) Σ_k (D^-½ A D^-½)^k e⁰ with a dense matrix of zeros and ones."""
    p = arrays_of(network)
    A = np.zeros((N_USERS + N_ITEMS, N_USERS + N_ITEMS))
    for u, i in PAIRS:
        A[u, N_USERS + i] = A[N_USERS + i, u] = 1
    degree = A.sum(axis=1)
    scale = np.diag([d**-0.5 if d else 0 for d in degree])
    G, x = scale @ A @ scale, np.concatenate([p["user.weight"], p["item.weight"]])
    powers = [np.linalg.matrix_power(G, k) for k in range(network.config.layers + 1)]
    return np.mean(powers, axis=0), np.mean(powers, axis=0) @ x


@pytest.mark.parametrize("layers", [0, 1, 2, 3])
def test_lightgcn_spreads_by_powers_of_the_normalised_graph(layers):
    network = network_of(lightgcn, layers=layers)
    operator, expected = dense_spread(network)
    np.testing.assert_allclose(network.spread().detach(), expected, rtol=1e-5, atol=1e-6)
    weight = torch.randn(N_USERS + N_ITEMS, 3, generator=torch.Generator().manual_seed(1))
    (network.spread() * weight).sum().backward()
    gradient = operator.T @ weight.double().numpy()
    found = torch.cat([network.user.weight.grad, network.item.weight.grad])
    np.testing.assert_allclose(found, gradient, rtol=1e-5, atol=1e-6)


def test_lightgcn_loss_is_the_papers():
    """BPR on what the graph made of the embeddings, and ½ λ ‖.‖² of the embeddings themselves."""
    network = network_of(lightgcn, layers=2, regularization=0.3)
    loss = network.loss(BATCH, torch.Generator().manual_seed(3)).item()
    users = BATCH["user_id"].long()
    drawn = network.sampler(users, 1, torch.Generator().manual_seed(3))[:, 0].tolist()
    e, p, terms, touched = dense_spread(network)[1], arrays_of(network), [], []
    for u, i, j in zip(users.tolist(), BATCH["item_id"].tolist(), drawn, strict=True):
        terms.append(-log_sigmoid(e[u] @ e[N_USERS + i] - e[u] @ e[N_USERS + j]))
        touched.append(sum(np.square(v).sum() for v in (p["user.weight"][u], p["item.weight"][[i, j]])))
    assert loss == pytest.approx(np.mean(terms) + 0.3 * np.mean(touched) / 2, rel=1e-5)


def test_lightgcn_scores_without_the_graph(tmp_path):
    """A network that never saw the graph has the scores of the one that did; and no row of it is saved."""
    network = network_of(lightgcn)
    model = recommender("lightgcn", network)  # which turns it to evaluation
    expected = dense_spread(network)[1]
    scores = model.score(UserBlock.of([1, 4], [[], []]))
    np.testing.assert_allclose(scores[:, 1:7], (expected[[1, 4]] @ expected[N_USERS:].T)[:, 1:7], rtol=1e-4)
    model.save(tmp_path)
    again = load(tmp_path)
    assert again.network.graph.numel() == 0
    np.testing.assert_array_equal(again.score(UserBlock.of([1, 4], [[], []])), scores)
    again.network.train()
    again.network.eval()  # without a graph there is nothing to make them of
    np.testing.assert_array_equal(again.score(UserBlock.of([1, 4], [[], []])), scores)
    assert "graph" not in network.state_dict()


@pytest.mark.parametrize("module", [autorec, bpr, lightgcn, mult_vae])
def test_training_goes_on_as_if_it_had_not_stopped(module):
    """Two epochs, or one, a checkpoint in evaluation mode, and the other in a new process."""

    def epoch(network, optimizer, number):
        draws = torch.Generator().manual_seed(number)
        network.train()
        for _ in range(3):
            optimizer.zero_grad()
            network.loss(BATCH, draws).backward()
            optimizer.step()
        network.eval()

    def start():
        network = network_of(module)
        return network, torch.optim.Adam(network.parameters(), lr=0.05)

    whole, whole_optimizer = start()
    epoch(whole, whole_optimizer, 0)
    state = {name: value.clone() for name, value in whole.state_dict().items()}
    kept = copy.deepcopy(whole_optimizer.state_dict())
    resumed, resumed_optimizer = start()
    resumed.load_state_dict(state)
    resumed_optimizer.load_state_dict(kept)
    for network, optimizer in ((whole, whole_optimizer), (resumed, resumed_optimizer)):
        epoch(network, optimizer, 1)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    assert any(not torch.equal(value, state[name]) for name, value in whole.state_dict().items())


# --- erasure ---


@pytest.mark.parametrize(
    ("module", "tables"), [(bpr, ["user.weight"]), (lightgcn, ["user.weight", "user_spread.weight"])]
)
def test_an_erased_person_leaves_rows_of_zeros(tmp_path, module, tables):
    name = module.__name__.rpartition(".")[2]
    recommender(name, network_of(module)).save(tmp_path)
    before = torch.load(tmp_path / "weights.pt", weights_only=True)
    assert erase_from_model(tmp_path, [3, 99]) == 1 and erase_from_model(tmp_path, [3, 99]) == 0
    after = torch.load(tmp_path / "weights.pt", weights_only=True)
    for key, old in before.items():
        expected = old.clone()
        if key in tables:
            assert old[3].any()
            expected[3] = 0
        assert torch.equal(after[key], expected), key
    assert set(tables) == {key for key in before if key.startswith("user")}
    scores = load(tmp_path).score(UserBlock.of([2, 3], [[1], [1]]))
    assert np.isfinite(scores[0]).any() and (scores[1] == NO_OPINION).all()


@pytest.mark.parametrize("module", [autorec, mult_vae])
def test_autoencoders_hold_nothing_of_a_person_but_that_they_were_there(tmp_path, module):
    recommender(module.__name__.rpartition(".")[2], network_of(module)).save(tmp_path)
    before = torch.load(tmp_path / "weights.pt", weights_only=True)
    assert erase_from_model(tmp_path, [3]) == 1 and erase_from_model(tmp_path, [3]) == 0
    after = torch.load(tmp_path / "weights.pt", weights_only=True)
    assert all(torch.equal(after[key], value) for key, value in before.items())


# --- the parameters that are kept for them ---


@pytest.mark.parametrize("name", ["autorec", "bpr", "mult_vae", "lightgcn"])
def test_the_kept_parameters_load_on_top_of_a_nights(tmp_path, name):
    conf = Path(__file__).parents[1] / "conf"
    path = tmp_path / "night.yaml"
    path.write_text(f"extends: [{conf}/movielens-100k-reference.yaml, {conf}/models/{name}.yaml]\n", encoding="utf-8")
    config = load_config(path)
    check_models(config)
    assert config.train.deep == [name] and config.models.keys() >= {name, "item_knn"}
