"""What every model promises, checked on a checkerboard for all of them, and each model's own formulas."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch

from recsys_spark.errors import DataError
from recsys_spark.models import (
    BASELINES,
    DEEP,
    als,
    feed_of,
    load,
    module_of,
    needs_of,
    negatives,
    neumf,
    popularity,
    two_tower,
)  # fmt: skip
from recsys_spark.models.base import NO_OPINION, TrainingData, UserBlock
from recsys_spark.models.negatives import NegativeSampler
from recsys_spark.models.torch_recommender import TorchRecommender
from recsys_spark.recommendation.select import recommend_block

ALL = (*BASELINES, *DEEP)
SIDE = 20  # users and items of the checkerboard, ids 1..20
UNTRAINED = SIDE + 1  # an item that has an id but no training row
LENGTH = 12  # of the padded histories; a user of the checkerboard has 9 items
SETTINGS = {
    "popularity": {},
    "als": {"rank": 2, "iterations": 4, "regularization": 0.05, "alpha": 10.0, "blocks": 2},
    "item_knn": {},
    "user_knn": {},
    "ease": {"regularization": 1.0, "blocks": 2},
    "content": {},
    "hybrid": {"parts": ["als", "ease"], "candidates": 8},
    "neumf": {"dim": 8, "hidden": [16, 8], "dropout": 0.0, "learning_rate": 0.01},
    "two_tower": {"dim": 8, "hidden": 16, "dropout": 0.0, "temperature": 0.5, "learning_rate": 0.01},
    "bpr": {"dim": 8, "learning_rate": 0.01},
    "autorec": {"dim": 8, "learning_rate": 0.01},
    "mult_vae": {"dim": 8, "hidden": 16, "learning_rate": 0.01, "anneal_steps": 100},
    "lightgcn": {"dim": 8, "layers": 2, "learning_rate": 0.01},
    "sasrec": {"dim": 8, "hidden": 16, "dropout": 0.0, "learning_rate": 0.01, "length": LENGTH},
    "gru4rec": {"dim": 8, "hidden": 16, "dropout": 0.0, "learning_rate": 0.01},
    "bert4rec": {"dim": 8, "hidden": 16, "dropout": 0.0, "learning_rate": 0.01, "length": LENGTH},
    "caser": {"dim": 8, "horizontal": 4, "vertical": 2, "dropout": 0.0, "learning_rate": 0.01},
}
SEQUENTIAL = {"sasrec", "gru4rec", "bert4rec", "caser"}
STEPS = {
    "neumf": 300,
    "two_tower": 100,
    "bpr": 200,
    "autorec": 200,
    "mult_vae": 200,
    "lightgcn": 150,
    **dict.fromkeys(SEQUENTIAL, 200),
}  # of Adam; on so small a board more would be learnt by heart


def checkerboard():
    """Even users like the even items, odd users the odd ones; each user's own number is withheld."""
    return {u: [i for i in range(2 - u % 2, SIDE + 1, 2) if i != u] for u in range(1, SIDE + 1)}


def board_block():
    board = checkerboard()
    return UserBlock.of(list(board), list(board.values()))


def train(network, batches, steps, learning_rate):
    """Plain Adam on the network's own loss; returns the losses."""
    generator = torch.Generator().manual_seed(1)
    optimizer = torch.optim.Adam(network.parameters(), lr=learning_rate)
    losses = []
    network.train()
    for step in range(steps):
        optimizer.zero_grad()
        loss = network.loss(batches[step % len(batches)], generator)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    network.eval()
    return losses


def pair_batches(board):
    """The feed of pairs: each item of a user, with the others as the history."""
    rows = [(u, i, [0] * (LENGTH - len(b) + 1) + [j for j in b if j != i]) for u, b in board.items() for i in b]
    user, item, history = (torch.tensor(column) for column in zip(*rows, strict=True))
    parts = torch.randperm(len(user), generator=torch.Generator().manual_seed(1)).split(60)
    return [{"user_id": user[p], "item_id": item[p], "history": history[p]} for p in parts]


def sequence_batches(board):
    """The feed of sequences: each user's items, in a new order in every batch."""
    rng, batches = np.random.default_rng(1), []
    for _ in range(20):
        rows = [[0] * (LENGTH - len(b)) + rng.permutation(b).tolist() for b in board.values()]
        items = torch.tensor(rows, dtype=torch.int32)
        batches.append({
            "user_id": torch.tensor(list(board), dtype=torch.int32), "items": items, "weights": (items > 0).float(),
            "times": (items > 0).long().cumsum(dim=1), "length": (items > 0).sum(dim=1, dtype=torch.int32),
        })  # fmt: skip
    return batches


@functools.cache
def trained(name):
    """A deep model trained on the checkerboard, and its losses; the last item has no training row."""
    torch.manual_seed(1)
    torch.set_num_threads(1)
    board = checkerboard()
    user = torch.tensor([u for u, items in board.items() for _ in items])
    item = torch.tensor([i for items in board.values() for i in items])
    module = module_of(name)
    config = module.Config.model_validate(SETTINGS[name])
    n_items = UNTRAINED + 1
    network = module.Network(config, SIDE + 1, n_items)
    counts = torch.bincount(item, minlength=n_items)
    network.prepare(counts, torch.sort(user * n_items + item).values)
    batches = {"pairs": pair_batches, "sequences": sequence_batches}[feed_of(name)](board)
    losses = train(network, batches, STEPS[name], config.learning_rate)
    users = np.arange(SIDE + 1) > 0
    return TorchRecommender(name, network, config, users, counts.numpy() > 0, LENGTH), losses


def board_rows(spark):
    pairs = [(u, i, 1.0, None) for u, items in checkerboard().items() for i in items]
    return spark.createDataFrame(pairs, "user_id int, item_id int, weight float, rating float")


def board_items(spark):
    """Every item bears its side of the board in its words; the last one has no training row."""
    rows = [(i, f"item {i} {('even', 'odd')[i % 2]}", None, [("even", "odd")[i % 2]]) for i in range(1, UNTRAINED + 1)]
    return spark.createDataFrame(rows, "item_id int, title string, description string, categories array<string>")


def board_histories(spark):
    """What each user has had, and their own number, which was held out."""
    rows = [("train", u, b, [1.0] * len(b), [float("nan")] * len(b), [u]) for u, b in checkerboard().items()]
    types = "items array<int>, weights array<float>, ratings array<float>, held_out array<int>"
    return spark.createDataFrame(rows, f"known string, user_id int, {types}")


def data_of(rows, seed=1, **more):
    return TrainingData(rows, seed, Path(tempfile.mkdtemp()), **more)


def saved(model):
    folder = Path(tempfile.mkdtemp())
    model.save(folder)
    return folder


@pytest.fixture(scope="module")
def fitted(request):
    """A function from a model's name to the model on the checkerboard, made once."""
    made = {}

    def get(name):
        if name not in made and name in DEEP:
            made[name] = trained(name)[0]
        elif name not in made:
            spark = request.getfixturevalue("spark")
            module = module_of(name)
            config = module.Config.model_validate(SETTINGS[name])
            wanted = needs_of(name, config)
            more = {
                "items": board_items(spark) if "items" in wanted else None,
                "histories": board_histories(spark) if "histories" in wanted else None,
                "models": {n[7:]: saved(get(n[7:])) for n in wanted if n.startswith("models/")},
            }
            made[name] = module.fit(data_of(board_rows(spark), **more), config)
        return made[name]

    return get


# --- contract 3, for every model ---


@pytest.mark.parametrize("name", ALL)
def test_checkerboard(fitted, name):
    items, scores = recommend_block(fitted(name), board_block(), 3)
    if name == "popularity":  # all items are equally popular: the unseen ones in order
        for u, seen in checkerboard().items():
            assert items[u - 1].tolist() == [i for i in range(1, SIDE + 1) if i not in seen][:3]
    else:
        assert items[:, 0].tolist() == list(checkerboard())
        assert (scores[:, 0] > scores[:, 1]).all()


@pytest.mark.parametrize("name", ALL)
def test_a_block_scores_like_its_users_one_by_one(fitted, name):
    users, model = board_block(), fitted(name)
    together = model.score(users)
    assert together.shape == (SIDE, model.n_items)
    assert together.dtype == np.float32
    apart = np.concatenate([model.score(users.take(b, b + 1)) for b in range(SIDE)])
    np.testing.assert_allclose(together, apart, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ALL)
def test_saved_and_loaded_it_scores_the_same(fitted, name, tmp_path):
    model = fitted(name)
    model.save(tmp_path)
    again = load(tmp_path)
    assert (again.name, again.n_items, again.dot_product, again.rates) == (
        name, model.n_items, model.dot_product, model.rates,
    )  # fmt: skip
    np.testing.assert_array_equal(again.score(board_block()), model.score(board_block()))


@pytest.mark.parametrize("name", ALL)
def test_items_without_training_rows_get_no_opinion(fitted, name):
    model = fitted(name)
    scores = model.score(board_block())
    assert (scores[:, 0] == NO_OPINION).all()
    assert (scores[:, UNTRAINED:] == NO_OPINION).all()
    assert np.isfinite(scores[:, 1:UNTRAINED]).all()


NEEDS_ID = {"neumf", "bpr", "lightgcn"}
NEEDS_HISTORY = {
    "als", "item_knn", "user_knn", "ease", "content", "hybrid", "two_tower", "autorec", "mult_vae", *SEQUENTIAL,
}  # fmt: skip


@pytest.mark.parametrize("name", ALL)
def test_users_it_cannot_know(fitted, name):
    """The unknown user, one newer than the model, and a known one without a history."""
    model = fitted(name)
    scores = model.score(UserBlock.of([0, 10_000, 3, 0, 10_000], [[], [], [], [2, 4], [2, 4]]))
    has_history, has_id = np.array([0, 0, 0, 1, 1], bool), np.array([0, 0, 1, 0, 0], bool)
    silent = np.zeros(5, bool)
    if name in NEEDS_ID:
        silent |= ~has_id
    if name in NEEDS_HISTORY:
        silent |= ~has_history
    assert (scores[silent] == NO_OPINION).all()
    assert np.isfinite(scores[~silent, 1:UNTRAINED]).all()
    assert recommend_block(model, UserBlock.of([0], [[]]), 5)[0].any() == (name == "popularity")


@pytest.mark.parametrize("name", ALL)
def test_items_newer_than_the_model_are_ignored(fitted, name):
    model = fitted(name)
    plain = UserBlock.of([1, 2, 3], [[3, 5], [4, 6, 8], [1]])
    newer = UserBlock.of([1, 2, 3], [[999, 3, 5], [4, UNTRAINED, 6, 8], [1, 12_345]])
    np.testing.assert_allclose(model.score(newer), model.score(plain), rtol=1e-5, atol=1e-6)
    only = model.score(UserBlock.of([1], [[999, UNTRAINED]]))
    assert (only == NO_OPINION).all() == (name in NEEDS_HISTORY)
    items, _ = recommend_block(model, newer, model.n_items + 3)  # and none of them breaks the mask
    assert not (set(items[0].tolist()) & {3, 5, 999})


@pytest.mark.parametrize("name", ALL)
def test_a_block_of_nobody(fitted, name):
    model = fitted(name)
    assert model.score(UserBlock.of([], [])).shape == (0, model.n_items)


@pytest.mark.parametrize("name", ALL)
def test_vectors_multiply_to_the_scores(fitted, name):
    model = fitted(name)
    assert model.dot_product == (name in {"als", "two_tower", "bpr", "lightgcn", *SEQUENTIAL})
    if not model.dot_product:
        return
    users = UserBlock.of([1, 2, 0, 10_000], [[3, 5], [4, 6, 999], [1], [7, 8]])
    scores = model.score(users)
    product = model.user_vectors(users) @ model.item_vectors().T
    assert product.shape == scores.shape
    stated = scores > NO_OPINION
    assert stated.sum() == (2 if name in NEEDS_ID else len(users)) * SIDE
    np.testing.assert_allclose(product[stated], scores[stated], rtol=1e-5, atol=1e-6)


# --- popularity ---


def test_popularity_counts_and_damped_means(spark):
    rows = spark.createDataFrame(
        [(1, 1, 1.0, 5.0), (2, 1, 4.0, 3.0), (3, 1, 1.0, None), (1, 2, 9.0, 1.0), (2, 4, 0.5, None)],
        "user_id int, item_id int, weight float, rating float",
    )
    by_users = popularity.fit(data_of(rows), popularity.Config(damping=2.0))
    assert by_users.counts.tolist() == [0, 3, 1, 0, 1]
    by_weight = popularity.fit(data_of(rows), popularity.Config(by="weight"))
    assert by_weight.counts.tolist() == [0, 6, 9, 0, 0.5]
    # damped mean of item i = (sum of its ratings + damping * global mean) / (how many + damping); the mean is 3
    expected = [3, (8 + 2 * 3) / (2 + 2), (1 + 2 * 3) / (1 + 2), 3, 3]
    assert by_users.rates
    np.testing.assert_allclose(by_users.rate(UserBlock.of([1, 2], [[1], []])), [expected] * 2, rtol=1e-6)


def test_popularity_without_damping_or_ratings(spark):
    rows = spark.createDataFrame(
        [(1, 1, 1.0, 5.0), (2, 1, 1.0, 4.0), (1, 2, 1.0, None)],
        "user_id int, item_id int, weight float, rating float",
    )
    plain = popularity.fit(data_of(rows), popularity.Config(damping=0.0))
    assert plain.rate(UserBlock.of([1], [[]])).tolist() == [[4.5, 4.5, 4.5]]  # no rating of its own: the global mean
    assert not popularity.fit(data_of(rows.where("rating is null")), popularity.Config()).rates


def test_popularity_refuses_a_negative_damping():
    with pytest.raises(ValueError, match="damping"):
        popularity.Config(damping=-1.0)


def dated(spark, rows):
    """Interactions of (user, item, weight, age in days)."""
    rows = [(u, i, w, 3.0, 1_700_000_000 - round(age * 86_400)) for u, i, w, age in rows]
    return spark.createDataFrame(rows, "user_id int, item_id int, weight float, rating float, timestamp long")


AGES = [(1, 1, 2.0, 0.0), (2, 1, 1.0, 3.0), (1, 2, 4.0, 6.9), (2, 2, 1.0, 7.0), (3, 4, 8.0, 7.1), (3, 1, 1.0, 30.0)]


def test_popularity_of_the_last_days(spark):
    """Item 4 was trained, but long ago: popular by 0, which is an opinion; item 3 was not trained."""
    rows = dated(spark, AGES)
    lately = popularity.fit(data_of(rows), popularity.Config(days=7))
    assert lately.counts.tolist() == [0, 2, 1, 0, 0]
    assert lately.known.tolist() == [False, True, True, False, True]
    assert lately.score(UserBlock.of([1], [[]])).tolist() == [[NO_OPINION, 2, 1, NO_OPINION, 0]]
    items, _ = recommend_block(lately, UserBlock.of([1], [[]]), 4)
    assert items.tolist() == [[1, 2, 4, 0]]
    assert popularity.fit(data_of(rows), popularity.Config(days=7, by="weight")).counts.tolist() == [0, 3, 4, 0, 0]
    everything = popularity.fit(data_of(rows), popularity.Config(days=40))
    assert everything.counts.tolist() == popularity.fit(data_of(rows), popularity.Config()).counts.tolist()
    again = load(saved(lately))
    assert again.known.tolist() == lately.known.tolist()
    np.testing.assert_array_equal(lately.ratings, everything.ratings)  # a mean rating knows no window


@pytest.mark.parametrize("by", ["users", "weight"])
@pytest.mark.parametrize("days", [None, 7])
def test_popularity_halves_with_age(spark, by, days):
    expected = np.zeros(5)
    for _, item, weight, age in AGES:
        if days is None or age < days:
            expected[item] += (weight if by == "weight" else 1) * 0.5 ** (age / 2.5)
    config = popularity.Config(by=by, days=days, half_life_days=2.5)
    model = popularity.fit(data_of(dated(spark, AGES)), config)
    np.testing.assert_allclose(model.counts, expected, rtol=1e-6)
    mixed = popularity.fit(data_of(dated(spark, AGES[::-1]).repartition(3)), config)
    np.testing.assert_array_equal(model.counts, mixed.counts)


def test_popularity_by_segment_against_counts_by_hand(spark):
    """Users 1 and 2 are of FI, 3 of DE, 4 of nothing; item 3 is popular by everyone and never by DE."""
    of = {1: "FI", 2: "FI", 3: "DE"}
    pairs = [(1, 1), (2, 1), (1, 3), (2, 3), (4, 3), (3, 2), (3, 4), (4, 4)]
    rows = dated(spark, [(u, i, 1.0, 0.0) for u, i in pairs])
    segments = spark.createDataFrame(list(of.items()), "user_id int, segment string")
    config = popularity.Config(segment="country", segment_prior=4.0)
    assert list(popularity.needs(config)) == ["segments/country"] and not [*popularity.needs(popularity.Config())]
    model = popularity.fit(data_of(rows, segments=segments), config)
    everyone = np.array([sum(j == i for _, j in pairs) for i in range(5)])
    expected = {None: everyone}
    for name in ("DE", "FI"):
        own = np.array([sum(j == i and of.get(u) == name for u, j in pairs) for i in range(5)])
        expected[name] = own + 4 * everyone / everyone.sum()
    for each in (model, load(saved(model))):
        for user in (0, 1, 2, 3, 4, 99):  # the last has come since
            scores = each.score(UserBlock.of([user], [[]]))[0]
            assert scores[0] == NO_OPINION
            np.testing.assert_allclose(scores[1:], expected[of.get(user)][1:], rtol=1e-6)
    assert recommend_block(model, UserBlock.of([3, 1], [[], []]), 2)[0].tolist() == [[4, 2], [3, 1]]


def test_popularity_in_segments_that_nobody_has(spark):
    rows, nobody = dated(spark, AGES), spark.createDataFrame([], "user_id int, segment string")
    with pytest.raises(DataError, match=r"no training event has a tenure; choose another models\.popularity\.segment"):
        popularity.fit(data_of(rows, segments=nobody), popularity.Config(segment="tenure"))


def test_popularity_of_nothing(spark):
    with pytest.raises(DataError, match="no interaction"):
        popularity.fit(data_of(dated(spark, AGES).limit(0)), popularity.Config(days=7))


def test_popularity_saved_before_it_knew_of_windows(tmp_path):
    old = popularity.Popularity(np.array([0, 2, 0], np.float32), np.full(3, np.nan, np.float32))
    old.save(tmp_path)
    np.savez(tmp_path / "popularity.npz", counts=old.counts, ratings=old.ratings)
    assert load(tmp_path).score(UserBlock.of([1], [[]])).tolist() == [[NO_OPINION, 2, NO_OPINION]]


# --- ALS ---


def als_rows(spark):
    rng = np.random.default_rng(3)
    rows = []
    for u in range(1, 31):
        for i in rng.choice(np.arange(1, 26), rng.integers(3, 12), replace=False):
            rating = float(rng.integers(1, 6)) if rng.random() < 0.8 else None
            rows.append((u, int(i), float(rng.integers(1, 5)), rating))
    return rows, spark.createDataFrame(rows, "user_id int, item_id int, weight float, rating float")


def als_block(rows):
    users = sorted({u for u, *_ in rows})
    of = {u: [(i, w, np.nan if r is None else r) for v, i, w, r in rows if v == u] for u in users}
    return UserBlock.of(users, *([[entry[c] for entry in of[u]] for u in users] for c in range(3)))


@pytest.mark.parametrize("implicit", [True, False])
def test_als_folds_in_to_what_mllib_trained(spark, implicit):
    """The training history's vector is MLlib's own user factor; and so are the scores its predictions."""
    from pyspark.ml.recommendation import ALS

    rows, frame = als_rows(spark)
    config = als.Config(
        rank=4, iterations=2, regularization=0.1, alpha=3.0, implicit=implicit, blocks=2, engine="mllib"
    )
    model = als.fit(data_of(frame, 7), config)
    value = "weight" if implicit else "rating"
    oracle = ALS(
        rank=4, maxIter=2, regParam=0.1, alpha=3.0, implicitPrefs=implicit, userCol="user_id", itemCol="item_id",
        ratingCol=value, seed=7, numUserBlocks=2, numItemBlocks=2,
    ).fit(frame.where(f"{value} is not null"))  # fmt: skip
    theirs = oracle.userFactors.toPandas().set_index("id")["features"]
    users = als_block(rows)
    at = np.flatnonzero(np.isin(users.user_id, theirs.index))
    ours = model.user_vectors(users)[at]
    np.testing.assert_allclose(ours, np.stack(theirs.loc[users.user_id[at]]), rtol=1e-3, atol=1e-4)

    predicted = oracle.transform(frame.select("user_id", "item_id")).toPandas()
    scores = model.rate(users)
    row = np.searchsorted(users.user_id, predicted["user_id"])
    mine = scores[row, predicted["item_id"]]
    known = predicted["prediction"].notna().to_numpy()
    np.testing.assert_allclose(mine[known], predicted["prediction"][known], rtol=1e-3, atol=1e-3)


def test_explicit_als_predicts_ratings(spark):
    """Ratings are a user's mood plus an item's quality: a low rank finds them back on the withheld pairs."""
    rng = np.random.default_rng(5)
    mood, quality = rng.uniform(-1, 1, 30), rng.uniform(-1, 1, 20)
    full = [(u + 1, i + 1, 1.0, float(3 + mood[u] + quality[i])) for u in range(30) for i in range(20)]
    held = set(rng.choice(len(full), 100, replace=False).tolist())
    rows = [r for n, r in enumerate(full) if n not in held]
    frame = spark.createDataFrame(rows, "user_id int, item_id int, weight float, rating float")
    model = als.fit(data_of(frame), als.Config(rank=3, iterations=10, regularization=0.005, implicit=False, blocks=2))
    assert model.rates
    predicted = model.rate(als_block(rows))
    errors = [predicted[full[n][0] - 1, full[n][1]] - full[n][3] for n in held]
    assert np.sqrt(np.mean(np.square(errors))) < 0.15  # predicting 3 for everyone is off by about 0.8


def test_explicit_als_without_a_rating_says_so(spark):
    with pytest.raises(DataError, match="rating") as error:
        als.fit(data_of(board_rows(spark)), als.Config(implicit=False))
    assert "\n" not in str(error.value)


def test_implicit_als_trusts_weights(spark):
    """A heavier interaction pulls the vector further towards its item."""
    _, frame = als_rows(spark)
    model = als.fit(data_of(frame, 7), als.Config(rank=4, iterations=2, regularization=0.1, alpha=3.0, blocks=2))
    light, heavy = model.score(UserBlock.of([1, 1], [[3, 9], [3, 9]], [[1, 1], [50, 1]]))
    assert heavy[3] > light[3]


# --- NeuMF ---


def neumf_network(**settings):
    torch.manual_seed(4)
    network = neumf.Network(neumf.Config(**{"dim": 5, "hidden": [7, 6, 3], **settings}), 9, 11)
    for parameter in network.parameters():  # far from the small initial values, where everything is about 0
        torch.nn.init.normal_(parameter, std=0.7)
    return network.eval()


@pytest.mark.parametrize("pairs_at_once", [1, 11 * 7 * 2, 1 << 24])
@pytest.mark.parametrize("hidden", [[7], [7, 6, 3]])
def test_neumf_whole_catalogue_equals_pair_by_pair(monkeypatch, pairs_at_once, hidden):
    monkeypatch.setitem(neumf._AT_ONCE, "cpu", pairs_at_once)
    network = neumf_network(hidden=hidden)
    users, items = torch.arange(9), torch.arange(11)
    with torch.inference_mode():
        whole = network.score(users, torch.zeros(9, 1, dtype=torch.long))
        pairs = torch.stack([torch.stack([network(u, i) for i in items]) for u in users])
        together = network(users[:, None], items)
    assert whole.shape == (9, 11)
    assert float(pairs.std()) > 0.1
    torch.testing.assert_close(whole, pairs, rtol=0, atol=1e-5)
    torch.testing.assert_close(together, pairs, rtol=0, atol=1e-5)


def test_neumf_forward_is_the_papers_formula():
    """w_gmf . (p_u * q_i) + w_mlp . mlp([p'_u; q'_i]) + b, in numpy."""
    network = neumf_network(hidden=[7, 6])
    p = {name: value.detach().double().numpy() for name, value in network.named_parameters()}
    u, i = 3, 8
    first = np.concatenate([p["user_in.weight"], p["item_in.weight"]], axis=1)  # one layer on [u; i]
    x = np.concatenate([p["user_mlp.weight"][u], p["item_mlp.weight"][i]])
    x = np.maximum(first @ x + p["user_in.bias"], 0)
    x = np.maximum(p["tower.2.weight"] @ x + p["tower.2.bias"], 0)
    gmf = p["out_gmf.weight"][0] @ (p["user_gmf.weight"][u] * p["item_gmf.weight"][i])
    expected = gmf + p["out_mlp.weight"][0] @ x + p["out_mlp.bias"][0]
    assert network(torch.tensor(u), torch.tensor(i)).item() == pytest.approx(expected, abs=1e-5)


COUNTS_3 = torch.tensor([0, 0, 2, 0, 0, 1, 0, 4, 0, 0, 0])  # items 2, 5 and 7 have training rows


@pytest.mark.parametrize("kind", ["softmax", "bce"])
def test_neumf_loss_is_that_of_each_positive_against_its_negatives(kind):
    network = neumf_network(negatives=3, loss=kind)
    network.prepare(COUNTS_3)
    batch = {"user_id": torch.tensor([1, 2], dtype=torch.int32), "item_id": torch.tensor([2, 7], dtype=torch.int32)}
    loss = network.loss(batch, torch.Generator().manual_seed(3))
    draw = torch.randint(3, (2, 3), generator=torch.Generator().manual_seed(3))
    drawn = np.array([2, 5, 7])[draw.numpy()]
    terms = []
    for u, i, against in ((1, 2, drawn[0]), (2, 7, drawn[1])):
        own, *others = (network(torch.tensor(u), torch.tensor(j)).item() for j in (i, *against.tolist()))
        if kind == "softmax":
            terms.append(np.log(np.sum(np.exp([own, *others]))) - own)
        else:
            terms += [np.log1p(np.exp(-own)), *np.log1p(np.exp(others))]
    assert loss.item() == pytest.approx(np.mean(terms), rel=1e-5)


@pytest.mark.parametrize("cells", [negatives._CELLS, 0])
def test_negatives_are_trained_items_that_the_user_has_not_had(cells, monkeypatch):
    """Whether there is a table of all pairs or not."""
    monkeypatch.setattr(negatives, "_CELLS", cells)
    n_items, n = 40, 400
    had = {1: [3, 5, 7], 2: list(range(1, 31, 2)), 3: []}
    pairs = sorted(u * n_items + i for u, items in had.items() for i in items)
    counts = torch.ones(n_items, dtype=torch.long)
    counts[[0, *range(31, n_items)]] = 0
    sampler = NegativeSampler(n_items)
    sampler.prepare(counts, torch.tensor(pairs))
    assert (len(sampler.table) > 0, len(sampler.positives) > 0) == (cells > 0, cells == 0), "one or the other"
    drawn = sampler(torch.tensor([1, 2, 3]), n, torch.Generator().manual_seed(1))
    assert drawn.shape == (3, n)
    assert set(drawn.flatten().tolist()) <= set(range(1, 31))
    for row, (u, items) in zip(drawn, had.items(), strict=True):
        share = np.isin(row, items).mean()  # each of four redraws leaves the user's share of the catalogue
        assert share <= 2 * (len(items) / 30) ** 5, f"user {u}"
        assert set(row.tolist()) >= set(range(1, 31)) - set(items)
    again = sampler(torch.tensor([1, 2, 3]), n, torch.Generator().manual_seed(1))
    assert torch.equal(drawn, again)


def test_negatives_of_who_has_had_everything_are_still_items():
    sampler = NegativeSampler(4)
    sampler.prepare(torch.tensor([0, 1, 1, 1]), torch.tensor([1 * 4 + 1, 1 * 4 + 2, 1 * 4 + 3]))
    drawn = sampler(torch.tensor([1]), 20, torch.Generator().manual_seed(1))
    assert set(drawn.flatten().tolist()) == {1, 2, 3}


@pytest.mark.parametrize(("avoid", "share"), [(True, 1 - (2 / 3) ** 5), (False, 1 / 3)])
def test_neumf_avoids_positives_if_told_to(avoid, share):
    """The user has had 2 of 3 items: one draw and four redraws find the third but for (2/3)^5."""
    network = neumf_network(avoid_positives=avoid)
    network.prepare(COUNTS_3, torch.tensor([1 * 11 + 2, 1 * 11 + 7]))
    drawn = network.sampler(torch.tensor([1]), 2000, torch.Generator().manual_seed(2))
    assert (drawn == 5).float().mean().item() == pytest.approx(share, abs=0.05)


# --- two-tower ---


def towers(**settings):
    torch.manual_seed(4)
    config = two_tower.Config(**{"dim": 5, "hidden": 6, "dropout": 0.0, "temperature": 0.3, **settings})
    return two_tower.Network(config, 9, 11)


BATCH = {
    "user_id": torch.tensor([1, 2, 3, 4]),
    "item_id": torch.tensor([5, 7, 5, 2]),  # 5 twice: neither is the other's negative
    "history": torch.tensor([[0, 0, 1], [0, 3, 4], [6, 7, 8], [0, 0, 9]]),
}
COUNTS = torch.tensor([0, 0, 3, 0, 1, 9, 2, 5, 0, 0, 0])


def softmax_loss(network, batch, seed, counts):
    """The batch softmax of Yi et al. 2019 with logQ correction, row by row in numpy."""
    keep = (torch.rand(len(batch["user_id"]), generator=torch.Generator().manual_seed(seed)) < 0.5).numpy()
    p = {name: value.detach().double().numpy() for name, value in network.named_parameters()}

    def tower(side, x):
        x = np.maximum(p[f"{side}.0.weight"] @ x + p[f"{side}.0.bias"], 0)
        x = p[f"{side}.3.weight"] @ x + p[f"{side}.3.bias"]
        return x / np.linalg.norm(x)

    items = batch["item_id"].tolist()
    q = {i: counts[i].item() / counts.sum().item() for i in items}
    losses = []
    for b, (user, history) in enumerate(zip(batch["user_id"].tolist(), batch["history"].tolist(), strict=True)):
        taste = np.mean([p["item.weight"][i] for i in history if i], axis=0)
        x = tower("user_tower", np.concatenate([p["user.weight"][user] * keep[b], taste])) / network.temperature
        logit = [x @ tower("item_tower", p["item.weight"][i]) - np.log(q[i]) for i in items]
        others = [logit[c] for c in range(len(items)) if c == b or items[c] != items[b]]
        losses.append(np.log(np.sum(np.exp(others))) - logit[b])
    return float(np.mean(losses))


def test_two_tower_loss_is_the_corrected_batch_softmax():
    network = towers()
    network.prepare(COUNTS)
    for seed in (1, 2):
        loss = network.loss(BATCH, torch.Generator().manual_seed(seed)).item()
        assert loss == pytest.approx(softmax_loss(network, BATCH, seed, COUNTS), rel=1e-4)


def test_two_tower_prepare_is_log_of_the_sampling_probability():
    network = towers()
    network.prepare(COUNTS)
    np.testing.assert_allclose(network.log_q[[2, 5]].numpy(), np.log([3 / 20, 9 / 20]), rtol=1e-6)
    assert torch.isfinite(network.log_q).all()  # items that never occur


def test_two_tower_vectors_have_the_length_of_the_temperature():
    network = towers().eval()
    with torch.inference_mode():
        users = network.user_vectors(BATCH["user_id"], BATCH["history"])
        items = network.item_vectors()
    np.testing.assert_allclose(users.norm(dim=1), 1 / 0.3, rtol=1e-5)
    np.testing.assert_allclose(items.norm(dim=1), 1, rtol=1e-5)


def test_two_tower_padding_does_not_change_a_user():
    network = towers().eval()
    wide = torch.nn.functional.pad(BATCH["history"], (4, 0))
    torch.testing.assert_close(
        network.user_vectors(BATCH["user_id"], wide), network.user_vectors(BATCH["user_id"], BATCH["history"])
    )


# --- training of all ---


@pytest.mark.parametrize(
    ("name", "share"), [("neumf", 0.75), ("two_tower", 0.9), *((n, 0.9) for n in sorted(SEQUENTIAL))]
)
def test_loss_decreases(name, share):
    losses = trained(name)[1]
    assert np.mean(losses[-20:]) < share * np.mean(losses[:5])


def gradients(network, batch):
    network.zero_grad()
    network.loss(batch, torch.Generator().manual_seed(1)).backward()
    return {name: p.grad for name, p in network.named_parameters()}


def touched(table):
    return set(table.abs().sum(dim=1).nonzero().squeeze(1).tolist())


def test_neumf_gradients_touch_the_batch_and_the_negatives():
    network = neumf_network(hidden=[16, 12], negatives=3, loss="bce")  # no gradient of a bias in a softmax
    network.prepare(COUNTS_3)
    batch = {"user_id": torch.tensor([1, 2]), "item_id": torch.tensor([2, 7])}
    found = gradients(network, batch)
    assert all(g is not None and torch.isfinite(g).all() and g.any() for g in found.values())
    assert touched(found["user_gmf.weight"]) == touched(found["user_mlp.weight"]) == {1, 2}
    assert {2, 7} <= touched(found["item_gmf.weight"]) <= {2, 5, 7}


def test_two_tower_gradients_touch_items_and_histories_but_no_padding():
    network = towers()
    network.prepare(COUNTS)
    found = gradients(network, BATCH)
    assert all(g is not None and torch.isfinite(g).all() and g.any() for g in found.values())
    assert touched(found["item.weight"]) == {1, 2, 3, 4, 5, 6, 7, 8, 9}
    keep = torch.rand(4, generator=torch.Generator().manual_seed(1)) < 0.5
    assert touched(found["user.weight"]) == set(BATCH["user_id"][keep].tolist())
    assert 0 < len(touched(found["user.weight"])) < 4


@pytest.mark.parametrize("name", DEEP)
def test_prepared_state_is_not_saved(name):
    """Sampling state follows from the feed; a saved model is its parameters, and where a schedule of its stood."""
    network = trained(name)[0].network
    assert network.state_dict().keys() - {"steps"} == dict(network.named_parameters()).keys()


def test_scoring_switches_dropout_off():
    network = neumf.Network(neumf.Config(dim=4, hidden=[4], dropout=0.9), 5, 5)
    model = TorchRecommender("neumf", network, None, np.ones(5, bool), np.ones(5, bool), 3)
    users = UserBlock.of([1, 2], [[1], [2]])
    np.testing.assert_array_equal(model.score(users), model.score(users))
