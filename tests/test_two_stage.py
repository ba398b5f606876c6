"""Retrieve, rank, filter: in Spark's tasks, in evaluation, behind a registered model, and through a whole night."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from night import REPOSITORY, environment, last_line, published, write_config
from test_ranking_models import (
    ENCODING,
    LENGTH,
    SIDE,
    board_block,
    checkerboard,
    moment,
    network_of,
    trained,
    two_stage,
)

from recsys_spark.config import Config, EvaluationConfig, LogConfig, load_config
from recsys_spark.erasure.weights import erase_from_model, user_tables
from recsys_spark.errors import ConfigError, DataError
from recsys_spark.evaluation.evaluate import Candidate, score_users
from recsys_spark.models import RANKERS, check_models, fm, load, stages_of
from recsys_spark.models.base import UserBlock
from recsys_spark.models.features import Features, hashed
from recsys_spark.models.popularity import Popularity
from recsys_spark.models.torch_ranker import TorchRanker
from recsys_spark.pipeline import job, stages
from recsys_spark.recommendation.select import recommend_block
from recsys_spark.recommendation.topk import top_k
from recsys_spark.schemas import HISTORIES
from recsys_spark.tracking import registry
from recsys_spark.tracking.pyfunc import RecommenderModel
from recsys_spark.tracking.store import open_store


def write_moment(folder):
    """The moment of the checkerboard, as the data set has it."""
    at, ids = moment(), pa.array(range(1, SIDE + 1), pa.int32())
    users = {"user_id": ids, **{n: pa.array(v[:-1].tolist()) for n, v in at.users.items()}}
    users["taste"] = pa.array([[] for _ in ids], pa.map_(pa.string(), pa.float64()))
    category = {"category": pa.nulls(SIDE, pa.string()), "categories": pa.nulls(SIDE, pa.list_(pa.string()))}
    items = {"item_id": ids, "item_price": pa.array(at.items["item_price"][:-1], from_pandas=True), **category}
    for name, table in (("of_users", users), ("of_items", items)):
        (folder / name).mkdir(parents=True)
        pq.write_table(pa.table(table), folder / name / "part.parquet")
    return folder


@pytest.fixture(scope="module", params=[0.0, 0.4])
def saved(request, tmp_path_factory):
    """A saved model of two stages, the ranker's order or a blend, its data set's moments, and what it recommends."""
    root = tmp_path_factory.mktemp("two")
    model = two_stage(trained("deepfm")[0], candidates=6)
    model.weight, falling = request.param, np.append(0, np.arange(SIDE, 0, -1)).astype(np.float32)
    model.retriever = Popularity(falling, model.retriever.ratings)
    (root / "model").mkdir()
    model.save(root / "model")
    for known in ("train", "valid"):
        write_moment(root / "moments" / f"known={known}")
    return root, recommend_block(model, board_block(), 4)


def history_rows(spark, known):
    board = checkerboard()
    nan = float("nan")
    rows = [(known, u, b, [1.0] * len(b), [nan] * len(b), [u], [nan], None) for u, b in board.items()]
    return spark.createDataFrame(rows, HISTORIES.schema).repartition(2)


def test_spark_ranks_what_it_retrieves(spark, saved, tmp_path):
    root, (items, scores) = saved
    history_rows(spark, "valid").drop("known").write.parquet(str(tmp_path / "known=valid"))
    at = root / "moments" / "known=valid"
    found = top_k(spark, tmp_path / "known=valid", root / "model", 4, 7, tmp_path / "lists", moment=at).collect()
    assert {r.user_id: r["items"] for r in found} == {u: items[u - 1].tolist() for u in checkerboard()}
    for r in found:
        np.testing.assert_allclose(r.scores, scores[r.user_id - 1], rtol=1e-4, atol=1e-5)
        assert r.model == "two_stage"


def test_evaluation_measures_what_would_be_served(spark, saved):
    root, (items, _) = saved
    candidate = Candidate("two_stage", "v", root / "model")
    measured = score_users(
        history_rows(spark, "valid"), candidate, "test", EvaluationConfig(ks=[4, 6]), 8, moments=root / "moments"
    )
    rows = measured.collect()
    assert {r.user_id: r["items"][:4] for r in rows} == {u: items[u - 1].tolist() for u in checkerboard()}
    # popularity offers the first six unseen items, so that only some of the users' own numbers can be found
    assert {r.user_id: r.metrics["recall@4"] for r in rows} == {
        u: float(u in items[u - 1].tolist()) for u in checkerboard()
    }


def test_a_registered_model_ranks_by_the_moment_that_it_carries(saved, tmp_path):
    root, (items, scores) = saved
    board = checkerboard()
    one = pa.array([[1.0] * len(b) for b in board.values()], pa.list_(pa.float32()))
    users = {
        "id": pa.array(board, pa.int32()), "raw_id": [f"u{u}" for u in board],
        "items": pa.array(board.values(), pa.list_(pa.int32())), "weights": one, "ratings": one,
    }  # fmt: skip
    for name, table in (("users", users), ("items", {"id": list(board), "raw_id": [f"i{i}" for i in board]})):
        pq.write_table(pa.table(table), tmp_path / f"{name}.parquet")
    artifacts = {
        "model": str(root / "model"), "popularity": str(root / "model" / "retriever"),
        "users": str(tmp_path / "users.parquet"), "items": str(tmp_path / "items.parquet"),
        "moment": str(root / "moments" / "known=valid"),
    }  # fmt: skip
    served = RecommenderModel()
    served.load_context(SimpleNamespace(artifacts=artifacts))
    asked = pd.DataFrame({"user_id": ["u3", "u8"], "k": [4, 2]})
    found = served.predict(None, asked)
    assert found["items"].tolist() == [[f"i{i}" for i in items[2]], [f"i{i}" for i in items[7][:2]]]
    np.testing.assert_allclose(found["scores"][0], scores[2], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", RANKERS)
def test_a_person_is_erased_from_a_ranker(name, tmp_path):
    known = np.arange(SIDE + 1) > 0
    two_stage(TorchRanker(name, network_of(name), known, known, ENCODING, LENGTH)).save(tmp_path)
    assert all("user_id" in table for table in user_tables(name)) and user_tables(name)
    assert erase_from_model(tmp_path, [3, 99]) == 1 and erase_from_model(tmp_path, [3]) == 0
    again = load(tmp_path).ranker
    assert not again.users[3] and again.users[4]
    for table in user_tables(name):
        rows = again.network.state_dict()[table]
        assert not rows[3].any() and rows[4].any()


def test_of_a_hashed_table_the_shared_row_goes(tmp_path):
    network = fm.Network(fm.Config(buckets=10), Features.of_ids(1000, 5))
    with torch.no_grad():
        for table in (network.embed, network.linear.embed):
            table.tables["user_id"].weight[1:] = 1
    known = np.ones(1000, bool)
    TorchRanker("fm", network, known, np.ones(5, bool), {"scales": {}, "vocabularies": {}}, 3).save(tmp_path)
    assert erase_from_model(tmp_path, [77]) == 1
    state = torch.load(tmp_path / "weights.pt", weights_only=True)
    row = int(hashed(torch.tensor([77]), 10))
    for table in user_tables("fm"):
        assert [i for i in range(1, 10) if not state[table][i].any()] == [row]


def config_of(**train):
    log = LogConfig(path="logs", event_types={"impression": 0, "click": 1})
    sections = {"train": {"deep": [], **train.pop("train", {})}, **train}
    return Config.model_validate({"name": "t", "root": "build/t", "log": log, **sections})


def test_a_configuration_of_two_stages():
    both = {"dataset": {"feeds": ["pairs", "impressions"]}, "train": {"rankers": ["din", "fm"]}}
    check_models(config_of(**both))
    found = stages_of(config_of(**both))
    assert (found.retriever, found.ranker, found.candidates) == ("als", "din", 200)
    assert stages_of(config_of()) is None
    for change, says in (
        ({"dataset": {"feeds": ["pairs"]}}, "din trains on the feed impressions: add it to dataset.feeds"),
        ({"train": {"rankers": ["als"]}}, r"train\.rankers: no such model 'als'; there are fm, "),
        ({"models": {"two_stage": {"retriever": "sasrec"}}}, r"models\.two_stage\.retriever: 'sasrec' is none of what"),
        ({"models": {"two_stage": {"ranker": "ple"}}}, r"models\.two_stage\.ranker: 'ple' is none of what is trained"),
        ({"models": {"two_stage": {"candidates": 0}}}, r"models\.two_stage\.candidates"),
        ({"models": {"mmoe": {"worth": [1]}}}, "worth has 1 numbers for 2 labels"),
    ):
        with pytest.raises(ConfigError, match=says):
            check_models(config_of(**{**both, **change}))


def test_features_that_are_not_there_are_one_line(saved):
    root, _ = saved
    with pytest.raises(ConfigError, match=r"add impressions to dataset\.feeds"):
        recommend_block(load(root / "model"), UserBlock.of([1], [[2]]), 3)
    with pytest.raises(DataError, match=r"no features of users and items, .* add impressions to dataset\.feeds"):
        load(root / "model", root / "nowhere")


NIGHT = (
    "train.baselines=[popularity,als]", "train.deep=[]", "train.rankers=[din,mmoe]", "train.ranks=2",
    "dataset.feeds=[pairs,impressions]", "models.din={epochs: 2, dim: 8, batch_size: 256}",
    "models.mmoe={epochs: 1, dim: 8, batch_size: 256}", "models.two_stage={candidates: 20}",
)  # fmt: skip
CHAIN = ("generate_log", "ingest", "build_dataset", "train_baseline", "train_deep", "evaluate", "promote", "recommend")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_night_of_two_stages(tmp_path, capsys):
    """The chain ends in a table of two stages, once they are champion; without impressions it says what is missing."""
    config = write_config(tmp_path)

    def run(name, *more):
        code = job.run(
            name, lambda context, _: stages.STAGES[name](context), "", ["--config", str(config), *NIGHT, *more]
        )
        return code, capsys.readouterr()

    said = {}
    for name in CHAIN[:-2]:
        code, out = run(name)
        assert code == 0, out.err
        said[name] = last_line(out.out)
    assert {"test_gauc_click", "test_auc_click"} <= said["train_deep"]["metrics"]["din"].keys()
    assert set(said["evaluate"]["metrics"]) == {"popularity", "als", "two_stage"}
    versions = said["train_deep"]["outputs"]
    assert set(versions) == {"din", "mmoe", "two_stage"} and said["evaluate"]["inputs"]["models"].keys() == {
        "popularity", "als", "two_stage",
    }  # fmt: skip
    store = open_store(load_config(config, list(NIGHT)))
    registry.set_alias(store, registry.CHAMPION, registry.find(store, versions["two_stage"]))
    code, out = run("recommend")
    assert code == 0, out.err
    line = last_line(out.out)
    assert line["metrics"]["model"] == "two_stage" and line["outputs"]["live"]
    assert {row[4] for row in published(tmp_path)} <= {"two_stage", "popularity"}
    code, out = run("recommend")
    assert code == 0 and last_line(out.out)["outputs"]["reused"]
    code, out = run("report")
    assert code == 0, out.err
    page = Path(last_line(out.out)["outputs"]["report"]).read_text("utf-8")
    for wanted in ("din: chance of a click", "mmoe: chance of a", "calibration of the rankers", "<h4>two_stage"):
        assert wanted in page, wanted

    warehouse = tmp_path / "warehouse" / "tiny"
    oracle = [sys.executable, "benchmarks/ranking_oracle.py", "--config", str(config), "--night", str(warehouse)]
    files = {"--out": tmp_path / "oracle.json", "--plot": tmp_path / "oracle.png"}
    options = [str(word) for pair in files.items() for word in pair]
    done = subprocess.run(
        [*oracle, *options, *NIGHT], cwd=REPOSITORY, capture_output=True, text=True, env=environment()
    )
    assert done.returncode == 0, done.stderr
    rows = {row["work"]: row for row in json.loads(files["--out"].read_text("utf-8"))["rows"]}
    assert set(rows) == {f"{name}, {which}" for name in ("din", "mmoe") for which in ("all", "new to the user")}
    # As far as both measure the same: the night's own GAUC of a ranker, on all test impressions.
    assert rows["din, all"]["ours"] == pytest.approx(said["train_deep"]["metrics"]["din"]["test_gauc_click"], abs=1e-6)
    assert all(row["peer_value"] > 0.6 for row in rows.values()), "the oracle knows what people like"
    assert files["--plot"].stat().st_size > 5_000
    shutil.rmtree(next((warehouse / "feeds" / "impressions").glob("date=*")))
    code, out = run("recommend", "publish.k=4")
    assert code == 2 and "add impressions to dataset.feeds" in out.err, out.err
