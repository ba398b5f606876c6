"""The search for parameters: its space, which trials it runs, what it finds on a tiny night, and what it refuses."""

from __future__ import annotations

import datetime as dt
import functools
import itertools
import json
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from mlflow.tracking import MlflowClient
from night import write_config

from recsys_spark import models
from recsys_spark.config import Config, TuneConfig, load_config
from recsys_spark.dataset.build import current_dataset
from recsys_spark.errors import ConfigError
from recsys_spark.evaluation.evaluate import Candidate, score_users
from recsys_spark.pipeline import job, stages
from recsys_spark.pipeline.context import Context
from recsys_spark.pipeline.tuning import tune
from recsys_spark.training.baselines import train_baseline
from recsys_spark.training.launch import StopTraining
from recsys_spark.tuning import trial as trial_module
from recsys_spark.tuning.search import best_of, search
from recsys_spark.tuning.space import search_space
from recsys_spark.tuning.trial import Outcome
from recsys_spark.warehouse import Warehouse

BASE = {"name": "shop", "root": "build/shop", "log": {"path": "log.jsonl"}}
DAY = dt.date(2026, 1, 5)
RANKS, RIDGES = [2, 8], [0.01, 1.0]
ALS = ["tune.model=als", "tune.sampler=grid", f"tune.space={{rank: {RANKS}, regularization: {RIDGES}}}"]


def config_of(tune: dict[str, object], **values: object) -> Config:
    return Config.model_validate({**BASE, "tune": tune, **values})


def space_of(tune: dict[str, object], **values: object):
    return search_space(config_of(tune, **values))


# the space


def test_a_range_is_a_distribution_and_for_a_grid_its_points():
    ranges = {
        "rank": {"low": 4, "high": 11, "step": 3},
        "regularization": {"low": 0.1, "high": 0.35, "step": 0.1},
        "alpha": {"low": 1, "high": 100, "log": True},
    }
    drawn = space_of({"sampler": "random", "space": ranges}).distributions
    assert (drawn["rank"].low, drawn["rank"].high, drawn["rank"].step) == (4, 10, 3)
    assert (drawn["regularization"].high, drawn["regularization"].step) == (0.3, 0.1)
    assert (drawn["alpha"].low, drawn["alpha"].high, drawn["alpha"].log) == (1, 100, True)
    del ranges["alpha"]
    grid = space_of({"sampler": "grid", "space": ranges})
    assert list(grid.listed["rank"].values()) == [4, 7, 10]
    assert list(grid.listed["regularization"].values()) == [0.1, 0.2, 0.3]  # not 0.30000000000000004
    assert grid.points == grid.trials(config_of({"sampler": "grid", "space": ranges})) == 9
    assert list(space_of({"sampler": "grid", "space": {"rank": {"low": 2, "high": 4}}}).listed["rank"].values()) == [
        2, 3, 4,
    ]  # fmt: skip


def test_listed_values_may_be_anything_that_the_model_takes():
    space = space_of({"model": "neumf", "space": {"hidden": [[16, 8], [32]], "dim": [4]}})
    assert space.decode({"hidden": "[32]", "dim": "4"}) == {"hidden": [32], "dim": 4}


@pytest.fixture(scope="module")
def no_night(tmp_path_factory):
    """The tiny night's configuration, of which nothing has run yet."""
    return write_config(tmp_path_factory.mktemp("none"))


@pytest.mark.parametrize(
    ("tune", "said"),
    [
        ({}, "tune.space is empty; name some of rank, "),
        ({"space": {"rnk": [2]}}, "tune.space.rnk: als has no such parameter; it has rank, "),
        ({"space": {"rank": []}}, "tune.space.rank is empty"),
        ({"space": {"rank": {"low": 2}}}, "tune.space.rank needs both low and high"),
        ({"space": {"rank": {}}}, "tune.space.rank needs a list of values, or low and high"),
        ({"space": {"rank": {"low": 9, "high": 2}}}, "tune.space.rank has a low of 9 above its high of 2"),
        ({"space": {"alpha": {"low": 0, "high": 2, "log": True}}}, "tune.space.alpha is drawn over the logarithm"),
        ({"space": {"rank": {"low": 2, "hihg": 4}}}, "tune.space.rank.hihg: unknown key"),
        ({"space": {"rank": 4}}, "tune.space.rank: "),
        ({"space": {"rank": [2, "many"]}}, "tune.space.rank: "),
        ({"space": {"rank": [2, 0]}}, "tune.space.rank: "),
        ({"space": {"rank": {"low": 0, "high": 4}}}, "tune.space.rank: "),
        ({"space": {"rank": {"low": 2, "high": 4.5}}}, "tune.space.rank: is an integer"),
        ({"space": {"implicit": {"low": 0, "high": 1}}}, "tune.space.implicit: is no number"),
        (
            {"sampler": "grid", "space": {"regularization": {"low": 0.1, "high": 1}}},
            "tune.space.regularization: a grid has no points in a continuous range; set step",
        ),
        ({"sampler": "grid", "space": {"rank": {"low": 1, "high": 8, "log": True}}}, "tune.space.rank: a grid"),
        ({"model": "oracle", "space": {"rank": [2]}}, "tune.model: no such model 'oracle'"),
        ({"sampler": "best", "space": {"rank": [2]}}, "tune.sampler: "),
        ({"trials": 0, "space": {"rank": [2]}}, "tune.trials: "),
    ],
)
def test_a_bad_space_is_refused_in_one_line_with_exit_code_2(no_night, capfd, tune, said):
    assert run_job(no_night, f"tune={json.dumps(tune)}") == 2
    lines = [line for line in capfd.readouterr().err.splitlines() if "INFO mlflow" not in line]
    assert len(lines) == 1 and lines[0].startswith("error: ") and said in lines[0]


# the search, without a model


def run_job(config, *arguments):
    return job.run("tune", lambda context, _: tune(context), "", ["--config", str(config), *arguments])


def bowl(number, parameters, report):
    """A figure that is best at rank 5 and alpha 3."""
    value = -((parameters["rank"] - 5) ** 2) - (parameters["alpha"] - 3) ** 2
    return Outcome(value, [], "v", 0.0, False)


def found_by(sampler, trials, run=bowl, seed=1, **given):
    ranges = {"rank": {"low": 1, "high": 9}, "alpha": {"low": 1, "high": 9, "step": 1}}
    config = config_of({"sampler": sampler, "space": ranges})
    return search(config.tune, search_space(config), trials, seed, run, **given)


def test_a_grid_visits_every_point_once_and_the_best_is_the_best():
    done = found_by("grid", 81)
    assert len({tuple(t.parameters.values()) for t in done}) == 81
    assert best_of(done).parameters == {"rank": 5, "alpha": 3.0}
    assert [t.parameters for t in found_by("grid", 10)] == [t.parameters for t in done[:10]]


@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_a_seeded_search_is_the_same_one_however_long_its_trials_take(sampler):
    def slow(number, parameters, report):
        time.sleep(0.02 * ((number * 7) % 3))
        return bowl(number, parameters, report)

    done = [[(t.number, t.parameters) for t in found_by(sampler, 24, run, batch=4, threads=n)]
            for run, n in ((bowl, 1), (slow, 4), (slow, 2))]  # fmt: skip
    assert done[0] == done[1] == done[2]
    assert done[0] != [(t.number, t.parameters) for t in found_by(sampler, 24, seed=2, batch=4)]


def test_bayesian_search_looks_where_it_was_good():
    late = {
        sampler: np.mean([t.value for seed in range(1, 6) for t in found_by(sampler, 40, seed=seed)[20:]])
        for sampler in ("random", "tpe")
    }
    assert late["tpe"] > late["random"] + 3


def test_a_failed_trial_stops_nothing_and_an_interrupt_does():
    def fails(number, parameters, report):
        if number == 1:
            raise ValueError("no")
        return bowl(number, parameters, report)

    for threads in (1, 2):
        done = found_by("random", 6, fails, batch=2, threads=threads)
        assert [t.state for t in done] == ["finished", "failed", *["finished"] * 4]
        assert str(done[1].error) == "no" and best_of(done).value == max(t.value for t in done if t.value is not None)

        def interrupted(number, parameters, report):
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            found_by("random", 6, interrupted, batch=2, threads=threads)


def test_the_first_of_equally_good_trials_is_the_best_and_none_of_failed_ones():
    same = found_by("grid", 5, lambda *_: Outcome(0.5, [], "v", 0.0, False))
    assert best_of(same).number == 0

    def fails(*_):
        raise ConfigError("no")

    assert best_of(found_by("grid", 3, fails)) is None


def curves(number, parameters, report):
    """Trials 0 to 4 are good, 5 bad from the start, 6 good again, 7 bad in its first epoch alone."""
    told = []
    for epoch in range(4):
        bad = number == 5 or (number == 7 and epoch == 0)
        value = (0.01 if bad else 0.1 + 0.01 * number) * (epoch + 1)
        told.append((epoch, value))
        try:
            report(epoch, value)
        except StopTraining:
            return Outcome(None, told, "v", 0.0, False)
    return Outcome(max(v for _, v in told), told, "v", 0.0, False)


def test_a_trial_below_the_median_is_ended_after_its_second_epoch():
    done = found_by("random", 8, curves)
    assert [t.state for t in done] == [*["finished"] * 5, "pruned", "finished", "finished"]
    assert [epoch for epoch, _ in done[5].outcome.reports] == [0, 1]
    assert done[5].value is None and best_of(done).number == 7


def test_nothing_is_ended_where_pruning_is_off_or_too_few_have_finished():
    for prune_after in (None, 6):
        config = config_of({"sampler": "random", "prune_after": prune_after, "space": {"rank": {"low": 1, "high": 9}}})
        done = search(config.tune, search_space(config), 6, 1, curves)
        assert {t.state for t in done} == {"finished"}


def test_what_was_found_done_counts_for_the_median_too():
    def found(number, parameters, report):
        if number < 5:
            told = [(e, 0.1 * (e + 1)) for e in range(4)]
            return Outcome(0.4, told, "v", 0.0, True)
        return curves(5, parameters, report)

    assert found_by("random", 6, found)[5].state == "pruned"


# on a night


@pytest.fixture(scope="module")
def night(spark, tmp_path_factory):
    """A data set of the tiny night, with the night's als."""
    root = tmp_path_factory.mktemp("tune")
    path = write_config(root)
    context = Context(load_config(path), "tests")
    for stage in (stages.generate_log, stages.ingest, stages.build_dataset):
        stage(context)
    dataset = current_dataset(context.warehouse, DAY)
    train_baseline(spark, context.warehouse, context.config, dataset, "als")
    return root, path


def last(capfd):
    output = capfd.readouterr()
    return json.loads(output.out.strip().splitlines()[-1]), output


def client(root):
    return MlflowClient(f"sqlite:///{root}/mlflow/mlflow.db", f"sqlite:///{root}/mlflow/mlflow.db")


def children(root, name):
    mlflow = client(root)
    experiment = mlflow.get_experiment_by_name("tiny").experiment_id
    parent = mlflow.search_runs([experiment], f"tags.`mlflow.runName` = '{name}'")[0]
    trials = mlflow.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'")
    return parent, {r.data.tags["mlflow.runName"]: r for r in trials}


@pytest.fixture(scope="module")
def by_hand(night, spark):
    """NDCG@10 on valid of each of the four, fitted and measured as a night does it, in a warehouse of their own."""
    _, path = night
    config = load_config(path)
    warehouse = Warehouse(Path(config.root))
    dataset = current_dataset(warehouse, DAY)
    apart = Warehouse(Path(config.root).with_name("apart"))
    apart.root.mkdir()
    (apart.root / "item_ids").symlink_to(warehouse.root.absolute() / "item_ids")
    fitted = []
    for rank, ridge in itertools.product(RANKS, RIDGES):
        given = {**config.models["als"], "rank": rank, "regularization": ridge}
        version, made = train_baseline(
            spark, apart, config.model_copy(update={"models": {"als": given}}), dataset, "als"
        )
        assert made
        fitted.append(Candidate(f"{rank} {ridge}", version.name, version.path))
    histories = spark.read.parquet(dataset.histories.data)
    scored = [score_users(histories, candidate, "valid", config.evaluation, 64) for candidate in fitted]
    rows = functools.reduce(lambda a, b: a.union(b), scored).select("model", "metrics").toPandas()
    values = rows["metrics"].map(lambda metrics: metrics["ndcg@10"]).groupby(rows["model"]).mean()
    return {(rank, ridge): values[f"{rank} {ridge}"] for rank, ridge in itertools.product(RANKS, RIDGES)}


def test_the_best_of_a_grid_is_the_best_of_fitting_each_by_hand(night, by_hand, capfd):
    root, config = night
    live = (root / "warehouse/tiny/models/als").glob("date=*/_current")
    before = {p: p.read_text() for p in live}
    assert run_job(config, *ALS, "tune.parallel=2") == 0
    line, output = last(capfd)
    best = max(by_hand, key=by_hand.__getitem__)
    assert len(set(by_hand.values())) == 4, "the four have to differ for the choice to mean anything"
    assert line["outputs"]["parameters"] == dict(zip(("rank", "regularization"), best, strict=True))
    assert line["metrics"]["ndcg@10"] == pytest.approx(by_hand[best], abs=1e-12)
    assert line["counts"] == {"trials": 4, "finished": 4, "pruned": 0, "failed": 0, "found": 0}
    assert "[trial 4/4]" in output.err and "als: ndcg@10 on valid" in output.out

    parent, trials = children(root, "tune als 2026-01-05")
    assert set(trials) == {f"trial {n}" for n in range(4)} and {r.info.status for r in trials.values()} == {"FINISHED"}
    for run in trials.values():
        key = int(run.data.params["rank"]), float(run.data.params["regularization"])
        assert run.data.metrics["valid_ndcg_at_10"] == pytest.approx(by_hand[key], abs=1e-12)
    artifacts = {f.path for f in client(root).list_artifacts(parent.info.run_id)}
    assert artifacts == {"trials.csv", "trials.json", "trials.png", "best.yaml"}
    table = pd.read_csv(client(root).download_artifacts(parent.info.run_id, "trials.csv"))
    assert table["ndcg@10"].max() == pytest.approx(by_hand[best]) and list(table["trial"]) == [0, 1, 2, 3]

    # what a night serves has not changed, and no night sees the trials
    assert before == {p: p.read_text() for p in before} and before
    assert not list((root / "warehouse/tiny/models/als").glob("date=*/.2*")), "nothing but versions is left"


def test_the_yaml_gives_a_night_these_parameters_and_the_night_finds_the_model(night, capfd, spark):
    root, path = night
    assert run_job(path, *ALS) == 0
    line, _ = last(capfd)
    best = root / "warehouse/tiny/tuned/als.yaml"
    assert line["outputs"]["best"] == str(best) and best.read_text().startswith("# ndcg@10 0.")
    base = load_config(path).models["als"]
    assert yaml.safe_load(best.read_text()) == {"models": {"als": {**base, **line["outputs"]["parameters"]}}}

    nightly = root / "tuned.yaml"
    nightly.write_text("extends: [tiny.yaml, warehouse/tiny/tuned/als.yaml]\nseed: 42\n")
    config = load_config(nightly)
    settings = models.model_config("als", config)
    assert {n: getattr(settings, n) for n in line["outputs"]["parameters"]} == line["outputs"]["parameters"]
    assert config.models["neumf"] == load_config(path).models["neumf"]
    warehouse = Warehouse(Path(config.root))
    dataset = current_dataset(warehouse, DAY)
    version, made = train_baseline(spark, warehouse, config, dataset, "als")
    assert not made and version.name == line["outputs"]["version"]


@pytest.mark.slow
def test_a_search_that_is_run_again_runs_no_finished_trial_again(night, capfd, monkeypatch):
    """Interrupted in its third trial; then a fourth is to be fitted, and no other."""
    _, path = night
    fitted = []
    whole = trial_module.train_baseline

    def counted(spark, warehouse, config, *rest, **given):
        if len(fitted) == 2 and not resumed:
            raise KeyboardInterrupt
        fitted.append(config.models["als"]["rank"])
        return whole(spark, warehouse, config, *rest, **given)

    monkeypatch.setattr(trial_module, "train_baseline", counted)
    arguments = ["tune.sampler=grid", "tune.space={rank: [3, 4, 5, 6]}"]
    resumed = False
    assert run_job(path, *arguments) == 1
    output = capfd.readouterr()
    assert "interrupted; run the same command again" in output.err and len(fitted) == 2
    resumed = True
    assert run_job(path, *arguments) == 0
    line, _ = last(capfd)
    assert sorted(fitted) == [3, 4, 5, 6]
    assert line["counts"] == {"trials": 4, "finished": 4, "pruned": 0, "failed": 0, "found": 2}
    chosen = line["outputs"]["parameters"], line["metrics"]
    assert run_job(path, *arguments) == 0
    line, _ = last(capfd)
    assert len(fitted) == 4 and line["counts"]["found"] == 4
    assert (line["outputs"]["parameters"], line["metrics"]) == chosen


def test_a_failed_trial_is_reported_and_all_failed_is_exit_1_with_the_first_cause(night, capfd, monkeypatch):
    root, path = night
    whole = trial_module.train_baseline

    def some(spark, warehouse, config, *rest, **given):
        if config.models["als"]["rank"] in failing:
            raise ConfigError(f"rank {config.models['als']['rank']} is too much")
        return whole(spark, warehouse, config, *rest, **given)

    monkeypatch.setattr(trial_module, "train_baseline", some)
    failing = {7}
    arguments = ["tune.sampler=grid", "tune.space={rank: [7, 9]}"]
    assert run_job(path, *arguments) == 0
    line, output = last(capfd)
    assert line["counts"] | {"found": 0} == {"trials": 2, "finished": 1, "pruned": 0, "failed": 1, "found": 0}
    assert "rank=7: failed: ConfigError: rank 7 is too much" in output.err
    _, trials = children(root, "tune als 2026-01-05")
    assert sorted(r.info.status for r in trials.values()) == ["FAILED", "FINISHED"]

    failing = {10, 11}
    before = (root / "warehouse/tiny/tuned/als.yaml").read_bytes()
    assert run_job(path, "tune.sampler=grid", "tune.space={rank: [10, 11]}") == 1
    error = capfd.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: no trial of 2 finished; trial 0 failed first: ConfigError: rank 1")
    assert (root / "warehouse/tiny/tuned/als.yaml").read_bytes() == before


def test_trials_look_at_the_valid_part_alone(night, capfd, monkeypatch, tmp_path):
    """With what is held out from the test part, and what stands in it, out of reach."""
    root, path = night
    (histories,) = (root / "warehouse/tiny/histories").glob("date=*/2*/data")
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    for known in ("valid", "test"):
        (histories / f"known={known}").rename(hidden / known)
    try:
        assert run_job(path, "tune.sampler=grid", "tune.space={rank: [12]}") == 0
    finally:
        for known in ("valid", "test"):
            (hidden / known).rename(histories / f"known={known}")


def test_without_a_data_set_it_says_which_job_makes_one(no_night, capfd):
    assert run_job(no_night, *ALS) == 3
    assert "run jobs/build_dataset.py first" in capfd.readouterr().err


def test_under_horovodrun_it_is_refused(night, monkeypatch, capfd):
    monkeypatch.setenv("HOROVOD_RANK", "0")
    assert run_job(night[1], *ALS) == 2
    assert "without horovodrun" in capfd.readouterr().err


@pytest.mark.slow
def test_a_deep_trial_that_does_worse_is_ended_and_leaves_no_model(night, capfd):
    """A learning rate of nothing learns nothing. With this seed the good one comes first."""
    root, path = night
    arguments = [
        "tune.model=neumf", "tune.sampler=grid", "tune.prune_after=1", "seed=1", "train.ranks=1",
        "tune.space={learning_rate: [0.01, 1.0e-09]}", "models.neumf.epochs=30", "train.patience=30",
    ]  # fmt: skip
    assert run_job(path, *arguments) == 0
    line, output = last(capfd)
    assert line["outputs"]["parameters"] == {"learning_rate": 0.01}
    assert line["counts"] == {"trials": 2, "finished": 1, "pruned": 1, "failed": 0, "found": 0}
    assert "pruned after epoch " in output.err
    _, trials = children(root, "tune neumf 2026-01-05")
    by_state = {r.data.tags["recsys.trial"]: r for r in trials.values()}
    told = {s: client(root).get_metric_history(r.info.run_id, "epoch/valid_ndcg_at_10") for s, r in by_state.items()}
    assert len(told["finished"]) == 30 and 2 <= len(told["pruned"]) < 30
    assert line["metrics"]["ndcg@10"] == max(m.value for m in told["finished"])
    versions = [p.name for p in (root / "warehouse/tiny/models/neumf").glob("date=*/2*")]
    assert versions == [line["outputs"]["version"]]
    assert not list((root / "warehouse/tiny/checkpoints/neumf").glob("2*")), "nor checkpoints"
    # neither is trained again
    assert run_job(path, *arguments) == 0
    line, _ = last(capfd)
    assert line["counts"] == {"trials": 2, "finished": 1, "pruned": 1, "failed": 0, "found": 2}


def test_the_section_has_the_documented_defaults():
    tune = TuneConfig()
    assert (tune.model, tune.sampler, tune.trials, tune.parallel, tune.prune_after) == ("als", "tpe", None, 1, 5)
    assert space_of({"space": {"rank": [2, 3]}}).trials(config_of({"space": {"rank": [2, 3]}})) == 20
