"""What every ranking model promises, on a checkerboard of impressions, and each model's own formula against numpy."""

from __future__ import annotations

import functools

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch.nn import functional as F

from recsys_spark.errors import ConfigError, DataError
from recsys_spark.evaluation.metrics import evaluate_lists
from recsys_spark.models import RANKERS, load, module_of
from recsys_spark.models.base import NO_OPINION, UserBlock
from recsys_spark.models.features import SERVED_POSITION, FeatureEmbedding, Features, hashed
from recsys_spark.models.moment import Moment
from recsys_spark.models.popularity import Popularity
from recsys_spark.models.ranking import columns_of
from recsys_spark.models.torch_ranker import TorchRanker
from recsys_spark.models.two_stage import TwoStage
from recsys_spark.recommendation.select import recommend_block

SIDE = 20  # users and items of the checkerboard, ids 1..20
LENGTH = 12
LABELS = {"mmoe": ["label_click", "label_purchase"], "ple": ["label_click", "label_purchase"]}
SMALL = {"dim": 8, "learning_rate": 0.02}
PERCEPTRON = {**SMALL, "hidden": [16, 8], "dropout": 0.0}
SETTINGS = {
    "fm": SMALL, "wide_and_deep": PERCEPTRON, "deepfm": PERCEPTRON, "dcn_v2": {**PERCEPTRON, "crosses": 2},
    "din": {**PERCEPTRON, "attention": 8}, "mmoe": {**PERCEPTRON, "tower": 8, "experts": 3, "weight_decay": 0.003},
    "ple": {**PERCEPTRON, "tower": 8, "dropout": 0.3, "weight_decay": 0.0001},
}  # fmt: skip
STEPS = 250
MANIFEST = {
    "n_users": SIDE + 1, "n_items": SIDE + 1, "ids": {"hour": 24, "device": 3, "country": 1, "position": 11},
    "floats": ["user_activity", "item_price"], "labels": ["label_click", "label_purchase"],
    "schema": [["user_id", "int32"], ["history", "list<int32>"]],
}  # fmt: skip
FEATURES = Features.of(MANIFEST)
ENCODING = {
    "scales": {"user_activity": [2.0, 0.5], "item_price": [1.0, 2.0]}, "vocabularies": {"device": ["app", "web"]},
}  # fmt: skip


def checkerboard():
    """Even users like the even items, odd users the odd ones; each user's own number is withheld."""
    return {u: [i for i in range(2 - u % 2, SIDE + 1, 2) if i != u] for u in range(1, SIDE + 1)}


def padded(items):
    return [0] * (LENGTH - len(items)) + items


def impressions(seed=1):
    """Every user is shown every item but their own number, at some hour and place; those of their side are clicked."""
    rng = np.random.default_rng(seed)
    board = checkerboard()
    pairs = [(u, i) for u in board for i in range(1, SIDE + 1) if i != u]
    n = len(pairs)
    user, item = (torch.tensor(c) for c in zip(*pairs, strict=True))
    clicked = ((user + item) % 2 == 0).float()
    return {
        "user_id": user, "item_id": item, "hour": torch.from_numpy(rng.integers(0, 24, n)),
        "device": torch.from_numpy(rng.integers(0, 3, n)), "position": torch.from_numpy(rng.integers(1, 11, n)),
        "user_activity": torch.from_numpy(rng.normal(size=n)).float(),
        "item_price": torch.from_numpy(rng.normal(size=n)).float(),
        "history": torch.tensor([padded([j for j in board[u] if j != i]) for u, i in pairs]),
        "label_click": clicked, "label_purchase": clicked * (item % 3 == 0),
    }  # fmt: skip


def some(batch, rows):
    return {name: values[rows] for name, values in batch.items()}


def network_of(name, schema=FEATURES, **settings):
    torch.manual_seed(3)
    module = module_of(name)
    return module.Network(module.Config.model_validate({**SETTINGS[name], **settings}), schema)


@functools.cache
def trained(name):
    """A ranker trained on the board, and its losses."""
    torch.set_num_threads(1)
    network = network_of(name)
    rows = impressions()
    generator = torch.Generator().manual_seed(1)
    config = network.config
    optimizer = torch.optim.Adam(network.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    losses = []
    network.train()
    for _ in range(STEPS):
        optimizer.zero_grad()
        batch = some(rows, torch.randint(len(rows["user_id"]), (128,), generator=generator))
        loss = network.loss(batch, generator)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    known = np.arange(SIDE + 1) > 0
    return TorchRanker(name, network, known, known, ENCODING, LENGTH), losses


def moment(users=range(1, SIDE + 1), items=range(1, SIDE + 1)):
    rng = np.random.default_rng(5)
    of_users = pa.table({
        "user_id": pa.array(users, pa.int32()), "hour": pa.array([u % 24 for u in users], pa.int32()),
        "device": pa.array([[None, "app", "web", "tv"][u % 4] for u in users]),
        "user_activity": rng.normal(size=len(users)),
        "taste": pa.array([[] for _ in users], pa.map_(pa.string(), pa.float64())),
    })  # fmt: skip
    prices = [None if i % 5 == 0 else float(i) for i in items]
    of_items = pa.table({
        "item_id": pa.array(items, pa.int32()), "category": pa.nulls(len(items), pa.string()),
        "categories": pa.nulls(len(items), pa.list_(pa.string())),
        "item_price": pa.array(prices, pa.float64()),
    })  # fmt: skip
    return Moment.of(of_users, of_items)


def two_stage(ranker, candidates=SIDE, at=None):
    counts = np.append(0, np.ones(SIDE)).astype(np.float32)
    retriever = Popularity(counts, np.full(SIDE + 1, np.nan, np.float32))
    return TwoStage(retriever, ranker, candidates, at or moment())


def board_block():
    board = checkerboard()
    return UserBlock.of(list(board), list(board.values()))


# --- for every model ---


@pytest.mark.parametrize("name", RANKERS)
def test_checkerboard(name):
    """Of all that a user has not had, their own number comes first: NDCG 1."""
    found, scores = recommend_block(two_stage(trained(name)[0]), board_block(), 3)
    assert np.nanmean(evaluate_lists(found, [[u] for u in checkerboard()], [3])["ndcg@3"]) == 1.0
    assert (scores[:, 0] > scores[:, 1]).all()


@pytest.mark.parametrize("name", RANKERS)
def test_a_block_ranks_like_its_users_and_their_items_one_by_one(name):
    model, users, at = trained(name)[0], board_block(), moment()
    items = np.tile(np.arange(1, SIDE + 1), (SIDE, 1))
    together = model.rank(users, items, at)
    assert together.shape == (SIDE, SIDE) and together.dtype == np.float32
    for b in (0, 7, 19):
        alone = [model.rank(users.take(b, b + 1), items[b : b + 1, c : c + 1], at)[0, 0] for c in range(SIDE)]
        np.testing.assert_allclose(alone, together[b], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", RANKERS)
def test_saved_and_loaded_it_ranks_the_same(name, tmp_path):
    model = two_stage(trained(name)[0])
    model.save(tmp_path)
    again = load(tmp_path)
    assert again.ranker.name == name and again.candidates == model.candidates and again.name == "two_stage"
    with pytest.raises(ConfigError, match=r"add impressions to dataset\.feeds"):
        again.score(board_block())
    items = np.tile(np.arange(SIDE + 1), (SIDE, 1))
    at = moment()
    np.testing.assert_array_equal(
        again.ranker.rank(board_block(), items, at), model.ranker.rank(board_block(), items, at)
    )


@pytest.mark.parametrize("name", RANKERS)
def test_the_gradient_reaches_every_parameter(name):
    network = network_of(name)
    network.train()
    network.loss(impressions(), torch.Generator().manual_seed(1)).backward()
    for parameter, values in network.named_parameters():
        assert values.grad is not None and torch.isfinite(values.grad).all(), parameter
        assert values.grad.any(), f"{parameter} never learns"


@pytest.mark.parametrize("name", RANKERS)
def test_two_ranks_step_as_one_with_the_doubled_batch(name):
    """The mean of two halves' gradients is the gradient of the whole: no layer looks over the batch."""
    rows = some(impressions(), torch.randperm(380, generator=torch.Generator().manual_seed(2))[:128])
    gradients = []
    for batch in (rows, some(rows, slice(64)), some(rows, slice(64, None))):
        network = network_of(name, **({} if name == "fm" else {"dropout": 0.0}))
        network.train()
        network.loss(batch, torch.Generator().manual_seed(1)).backward()
        gradients.append({n: p.grad for n, p in network.named_parameters()})
    whole, one, other = gradients
    for n in whole:
        torch.testing.assert_close((one[n] + other[n]) / 2, whole[n], rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("name", RANKERS)
def test_the_loss_falls_and_is_the_cross_entropy_of_its_labels(name):
    losses = trained(name)[1]
    assert np.mean(losses[-20:]) < 0.5 * np.mean(losses[:5])
    network, rows = network_of(name).eval(), impressions()
    logits = network.logits(rows).detach().reshape(380, -1).double().numpy()
    labels = LABELS.get(name, ["label_click"])
    expected = 0.0
    for t, label in enumerate(labels):
        p, y = 1 / (1 + np.exp(-logits[:, t])), rows[label].numpy()
        expected += -np.mean(y * np.log(p) + (1 - y) * np.log(1 - p))
    assert network.loss(rows, torch.Generator()).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", RANKERS)
def test_a_position_is_read_in_training_and_is_the_first_when_asked(name):
    network, rows = network_of(name, **({} if name == "fm" else {"dropout": 0.0})), impressions()
    elsewhere = {**rows, "position": rows["position"] % 10 + 1}
    network.train()
    assert not torch.allclose(network.logits(rows), network.logits(elsewhere))
    first = network.logits({**rows, "position": torch.full_like(rows["position"], SERVED_POSITION)})
    network.eval()
    assert torch.equal(network.logits(rows), network.logits(elsewhere))
    torch.testing.assert_close(network.logits(rows), first)


@pytest.mark.parametrize("name", RANKERS)
def test_users_and_items_that_it_was_not_trained_on_are_the_unknown(name):
    model = trained(name)[0]
    at = moment(users=[1, 2, 500], items=[1, 2, 3, 900])
    users = UserBlock.of([0, 499, 500, 10_000], [[], [1, 999], [3], []])
    scores = model.rank(users, np.array([[1, 2, 900, 0]] * 4), at)
    assert np.isfinite(scores[:, :3]).all() and (scores[:, 3] == NO_OPINION).all()
    np.testing.assert_array_equal(scores[0], scores[3])  # nothing is known of either
    known = model.rank(UserBlock.of([1], [[1]]), np.array([[1]]), at)
    untrained = model.rank(UserBlock.of([1], [[1, 700]]), np.array([[1]]), at)
    np.testing.assert_allclose(known, untrained, rtol=1e-5)


@pytest.mark.parametrize("name", RANKERS)
def test_what_the_feed_lacks_is_one_line(name):
    module = module_of(name)
    config = module.Config()
    assert columns_of(name, module.Network, config, MANIFEST) == network_of(name).columns
    key = "labels" if name in LABELS else "label"
    odd = {key: ["label_like", "label_click"] if name in LABELS else "label_like"}
    with pytest.raises(ConfigError, match=rf"^{name} learns 'label_like', and .* it has label_click, label_purchase"):
        columns_of(name, module.Network, module.Config(**odd), MANIFEST)
    with pytest.raises(ConfigError, match=rf"^{name} reads 'mood', and the feed .* it has user_id, item_id, hour"):
        columns_of(name, module.Network, module.Config(features=["user_id", "mood"]), MANIFEST)
    few = module.Config(features=["user_id", "item_id"])
    if name == "din":
        with pytest.raises(ConfigError, match=r"^models\.din\.features: din cannot do without 'history'; add it"):
            columns_of(name, module.Network, few, MANIFEST)
    else:
        found = columns_of(name, module.Network, few, MANIFEST)
        assert found == (*few.features, *few.labels) == module.Network(few, FEATURES).columns


def test_a_moment_without_a_feature_is_one_line():
    at = moment()
    lacking = Moment(
        {n: v for n, v in at.users.items() if n != "hour"}, at.items, at.user_rows, at.item_rows, at.tastes,
        at.categories, at.categories_of,
    )  # fmt: skip
    with pytest.raises(DataError, match="fm reads 'hour', which the data set has not"):
        trained("fm")[0].rank(board_block(), np.ones((SIDE, 2), int), lacking)


# --- two stages ---


def test_only_candidates_that_the_user_has_not_had_are_ranked():
    """Popularity offers the first unseen items; the ranker orders these alone."""
    model = two_stage(trained("fm")[0], candidates=4)
    found, scores = recommend_block(model, board_block(), 3)
    full = model.score(board_block())
    for u, seen in checkerboard().items():
        offered = [i for i in range(1, SIDE + 1) if i not in seen][:4]
        best = sorted(offered, key=lambda i: (-full[u - 1, i], i))[:3]
        assert found[u - 1].tolist() == best
        np.testing.assert_allclose(scores[u - 1], full[u - 1, best], rtol=1e-5)
    assert (full[:, 0] == NO_OPINION).all() and np.isfinite(full[:, 1:]).all()


def test_more_items_than_candidates_may_be_asked_for():
    found, _ = recommend_block(two_stage(trained("fm")[0], candidates=2), UserBlock.of([1], [[]]), SIDE + 5)
    assert sorted(found[0].tolist()) == [0] * 5 + list(range(1, SIDE + 1))


def test_whom_the_retriever_does_not_know_gets_nothing():
    model = two_stage(trained("fm")[0])
    silent = TwoStage(Popularity(np.zeros(SIDE + 1, np.float32), model.retriever.ratings), model.ranker, 5, moment())
    assert not recommend_block(silent, UserBlock.of([1], [[2]]), 3)[0].any()
    assert (silent.score(UserBlock.of([1], [[2]])) == NO_OPINION).all()


# --- features ---


def test_features_are_encoded_and_looked_up_as_a_row_says():
    """A pair's columns, put together from a moment, against the rows that they stand for."""
    model = trained("deepfm")[0]
    at = moment()
    users = UserBlock.of([3, 6], [[5, 7], []])
    items = np.array([[5, 8], [10, 1]])
    scores = model.rank(users, items, at)
    activity = {u: at.users["user_activity"][u - 1] for u in (3, 6)}
    for b, (u, history) in enumerate(((3, [5, 7]), (6, []))):
        for c, i in enumerate(items[b].tolist()):
            price = float("nan") if i % 5 == 0 else float(i)
            row = {
                "user_id": u, "item_id": i, "hour": u % 24, "device": {1: 1, 2: 2}.get(u % 4, 0), "position": 7,
                "user_activity": (activity[u] - 2.0) / 0.5,
                "item_price": 0.0 if price != price else (price - 1.0) / 2.0, "history": padded(history),
            }  # fmt: skip
            batch = {n: torch.tensor([v]) for n, v in row.items()}
            batch |= {n: batch[n].float() for n in ("user_activity", "item_price")}
            with torch.inference_mode():
                assert scores[b, c] == pytest.approx(model.network.logits(batch).item(), rel=1e-4, abs=1e-5)


def test_a_taste_is_that_of_the_candidates_categories():
    taste = [[("a", 0.75), ("b", 0.25)], [("gone", 1.0)], []]
    users = pa.table({
        "user_id": pa.array([4, 2, 9], pa.int32()), "taste": pa.array(taste, pa.map_(pa.string(), pa.float64())),
    })  # fmt: skip
    categories = pa.array([["b"], ["a"], None, ["c", "b", "a"], ["c", None]], pa.list_(pa.string()))
    at = Moment.of(users, pa.table({"item_id": pa.array([3, 1, 2, 5, 4], pa.int32()), "categories": categories}))
    rows, of_items = at.user_rows[[4, 2, 9, 0]], at.item_rows[[1, 2, 3, 4, 5, 0]]
    found = at.user_taste(rows, np.tile(of_items, (4, 1)))
    assert found.tolist() == [[0.75, 0, 0.25, 0, 1, 0], [0] * 6, [0] * 6, [0] * 6]


def test_a_catalogue_without_categories_says_nothing_of_tastes():
    users = pa.table(
        {"user_id": pa.array([1], pa.int32()), "taste": pa.array([[]], pa.map_(pa.string(), pa.float64()))}
    )
    none = pa.nulls(2, pa.list_(pa.string()))
    at = Moment.of(users, pa.table({"item_id": pa.array([1, 2], pa.int32()), "categories": none}))
    assert at.user_taste(np.array([0]), np.array([[0, 1, -1]])).tolist() == [[0, 0, 0]]
    assert at.user_taste(np.zeros(0, int), np.zeros((0, 3), int)).shape == (0, 3)


def test_the_schema_of_a_feed_leaves_out_what_says_nothing():
    assert FEATURES.columns == (
        "user_id", "item_id", "hour", "device", "position", "history", "user_activity", "item_price",
    )  # fmt: skip
    assert Features.of_json(FEATURES.to_json()) == FEATURES
    assert FEATURES.only(["hour", "item_price"]).tables == {"hour": 24}
    with pytest.raises(ConfigError, match="no feature 'country'"):
        FEATURES.only(["country"])


def test_fields_are_vectors_means_and_multiples():
    torch.manual_seed(2)
    embed = FeatureEmbedding(FEATURES, 4, 100).eval()
    rows = some(impressions(), slice(3))
    rows["history"] = torch.tensor([[0] * 12, [0] * 11 + [4], [0] * 10 + [4, 999]])
    found = embed(rows).detach().numpy()
    tables = {n: t.weight.detach().numpy() for n, t in embed.tables.items()}
    assert found.shape == (3, 8, 4) and embed.fields == 8
    for b in range(3):
        for f, name in enumerate(("user_id", "item_id", "hour", "device")):
            np.testing.assert_array_equal(found[b, f], tables[name][rows[name][b]])
        np.testing.assert_array_equal(found[b, 4], tables["position"][1])
        mean = [np.zeros(4), tables["item_id"][4], tables["item_id"][4] / 2][b]  # an item beyond the table is unknown
        np.testing.assert_allclose(found[b, 5], mean, rtol=1e-6)
        for f, name in enumerate(("user_activity", "item_price")):
            slope = embed.slopes.detach().numpy()[f]
            np.testing.assert_allclose(found[b, 6 + f], rows[name][b].item() * slope, rtol=1e-6)
    assert not tables["user_id"][0].any() and not tables["item_id"][0].any() and tables["hour"][0].any()


def test_ids_of_a_large_table_are_hashed():
    embed = FeatureEmbedding(Features.of_ids(10**6, 50), 4, 100)
    assert {n: len(t.weight) for n, t in embed.tables.items()} == {"user_id": 100, "item_id": 50}
    ids = torch.arange(10**6)
    found = hashed(ids, 100)
    assert found[0] == 0 and found[1:].min() == 1 and found.max() == 99
    counts = torch.bincount(found[1:], minlength=100)[1:].double()
    assert counts.min() / counts.mean() > 0.9 and counts.max() / counts.mean() < 1.1
    torch.testing.assert_close(embed.look_up("user_id", ids[77:78]), embed.tables["user_id"](found[77:78]))
    assert network_of("fm", Features.of_ids(10**6, 50), buckets=100).logits(
        {"user_id": ids[:5], "item_id": ids[:5]}
    ).shape == (5,)


# --- each model's formula ---


def parameters(network):
    return {n: p.detach().double().numpy() for n, p in network.named_parameters()}


def relu(x):
    return np.maximum(x, 0)


def perceptron_of(p, prefix, x):
    """Two layers, with dropout behind each."""
    for layer in (0, 3):
        x = relu(x @ p[f"{prefix}.{layer}.weight"].T + p[f"{prefix}.{layer}.bias"])
    return x


def first_order(linear, rows):
    return linear(rows).detach().numpy()


ROWS = 6


@pytest.fixture
def rows():
    return some(impressions(4), slice(0, 380, 70))


@pytest.mark.parametrize("name", ["fm", "deepfm"])
def test_fm_is_every_pair_of_features(name, rows):
    network = network_of(name).eval()
    with torch.no_grad():
        network.linear.bias += 0.3
    fields, p = network.embed(rows).detach().double().numpy(), parameters(network)
    B, N, _ = fields.shape
    for b in range(B):
        pairs = sum(fields[b, i] @ fields[b, j] for i in range(N) for j in range(i))
        expected = first_order(network.linear, rows)[b] + pairs
        if name == "deepfm":
            expected += perceptron_of(p, "deep", fields[b].ravel()) @ p["out.weight"][0]
        assert network.logits(rows)[b].item() == pytest.approx(expected, rel=1e-4, abs=1e-6)
    ones = network.linear.embed(rows).detach().numpy()
    np.testing.assert_allclose(first_order(network.linear, rows), 0.3 + ones.sum(axis=(1, 2)), rtol=1e-5)


def test_wide_and_deep_is_their_sum(rows):
    network = network_of("wide_and_deep").eval()
    fields, p = network.embed(rows).detach().double().numpy(), parameters(network)
    deep = perceptron_of(p, "deep", fields.reshape(ROWS, -1)) @ p["out.weight"][0]
    np.testing.assert_allclose(network.logits(rows).detach(), first_order(network.wide, rows) + deep, rtol=1e-4)


def test_dcn_v2_multiplies_with_its_input(rows):
    network = network_of("dcn_v2").eval()
    p = parameters(network)
    for b, fields in enumerate(network.embed(rows).detach().double().numpy()):
        first = x = fields.ravel()
        for layer in range(2):
            x = first * (p[f"crosses.{layer}.weight"] @ x + p[f"crosses.{layer}.bias"]) + x
        both = np.concatenate([x, perceptron_of(p, "deep", first)])
        expected = both @ p["out.weight"][0] + p["out.bias"][0]
        assert network.logits(rows)[b].item() == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_din_weighs_the_history_by_the_candidate(rows):
    network = network_of("din").eval()
    rows["history"][2] = 0
    p = parameters(network)
    table = p["embed.tables.item_id.weight"]
    found = network.interest(rows["item_id"], rows["history"]).detach().numpy()
    for b in range(ROWS):
        c, total = table[rows["item_id"][b]], np.zeros(8)
        for item in rows["history"][b].tolist():
            if item:
                h = table[item]
                hidden = p["attention.0.weight"] @ np.concatenate([h, c, h - c, h * c]) + p["attention.0.bias"]
                hidden = np.where(hidden > 0, hidden, p["attention.1.weight"][0] * hidden)
                total += (p["attention.2.weight"][0] @ hidden + p["attention.2.bias"][0]) * h
        np.testing.assert_allclose(found[b], total, rtol=1e-4, atol=1e-7)
    assert not found[2].any()
    wider = F.pad(rows["history"], (5, 0))
    torch.testing.assert_close(network.logits({**rows, "history": wider}), network.logits(rows))


def softmax(x):
    e = np.exp(x - x.max())
    return e / e.sum()


def tower(p, t, x):
    hidden = relu(p[f"towers.{t}.0.0.weight"] @ x + p[f"towers.{t}.0.0.bias"])
    return p[f"towers.{t}.1.weight"][0] @ hidden + p[f"towers.{t}.1.bias"][0]


def test_mmoe_mixes_shared_experts_by_a_gate_for_each_label(rows):
    network = network_of("mmoe").eval()
    p = parameters(network)
    logits = network.logits(rows).detach().numpy()
    for b, fields in enumerate(network.embed(rows).detach().double().numpy()):
        x = fields.ravel()
        opinions = [perceptron_of(p, f"experts.{e}", x) for e in range(3)]
        for t in range(2):
            gate = softmax(p[f"gates.{t}.weight"] @ x)
            mixed = sum(g * o for g, o in zip(gate, opinions, strict=True))
            assert logits[b, t] == pytest.approx(tower(p, t, mixed), rel=1e-4, abs=1e-6)


def test_ple_passes_each_label_and_the_shared_path_through_its_levels(rows):
    network = network_of("ple").eval()
    p = parameters(network)
    logits = network.logits(rows).detach().numpy()
    for b, fields in enumerate(network.embed(rows).detach().double().numpy()):
        paths = [fields.ravel()] * 3
        for level in range(2):
            at = f"levels.{level}"
            own = [[perceptron_of(p, f"{at}.own.{2 * t + e}", paths[t]) for e in range(2)] for t in range(2)]
            shared = [perceptron_of(p, f"{at}.shared.{e}", paths[2]) for e in range(2)]
            heard = [(f"{at}.gates.{t}", paths[t], own[t] + shared) for t in range(2)]
            if level == 0:
                heard.append((f"{at}.shared_gate", paths[2], own[0] + own[1] + shared))
            paths = [
                sum(g * o for g, o in zip(softmax(p[f"{gate}.weight"] @ x), opinions, strict=True))
                for gate, x, opinions in heard
            ]
        for t in range(2):
            assert logits[b, t] == pytest.approx(tower(p, t, paths[t]), rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("name", ["mmoe", "ple"])
def test_the_score_of_several_labels_is_their_expected_worth(name, rows):
    network = network_of(name, worth=[1.0, 5.0]).eval()
    p = torch.sigmoid(network.logits(rows))
    torch.testing.assert_close(network.score(rows), p[:, 0] + 5 * p[:, 1])
    with pytest.raises(ValueError, match="worth has 3 numbers for 2 labels"):
        module_of(name).Config(worth=[1.0, 2.0, 3.0])
