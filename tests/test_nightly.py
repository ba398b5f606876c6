"""The whole night in this process: contract, idempotence, tracking, and what a second night does."""

import importlib
import json
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
from browser import browser
from mlflow.tracking import MlflowClient
from night import REPOSITORY, STAGES, published, write_config

from recsys_spark.pipeline import backfill, job
from recsys_spark.pipeline.cross_validation import cross_validate
from recsys_spark.pipeline.nightly import nightly
from recsys_spark.pipeline.stages import STAGES as PIPELINE
from recsys_spark.pipeline.stages import rollback
from recsys_spark.reporting.explore import drift_by_day, sessions, skew, volumes
from recsys_spark.reporting.page import SECTIONS
from recsys_spark.reporting.people import people_on
from recsys_spark.warehouse import Warehouse

pytestmark = pytest.mark.usefixtures("spark")


def run(config, *arguments):
    return job.run("nightly", lambda context, _: nightly(context), "", ["--config", str(config), *arguments])


@pytest.fixture(scope="module")
def night(tmp_path_factory):
    """One night, run through; the folder, and its output."""
    root = tmp_path_factory.mktemp("night")
    config = write_config(root)
    import contextlib
    import io

    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        assert run(config) == 0
    return root, config, out.getvalue()


def client(root):
    return MlflowClient(f"sqlite:///{root}/mlflow/mlflow.db", f"sqlite:///{root}/mlflow/mlflow.db")


def test_stages_are_the_documented_ones():
    assert tuple(PIPELINE) == STAGES


def test_last_line_is_the_contract(night):
    _, _, out = night
    line = json.loads(out.strip().splitlines()[-1])
    assert set(line) == {"stage", "run_date", "inputs", "outputs", "counts", "metrics", "seconds"}
    assert (line["stage"], line["run_date"]) == ("nightly", "2026-01-05")
    counts = line["counts"]
    assert counts["rows_in"] == sum(counts[k] for k in ("events", "duplicates", "quarantined", "bots"))
    assert counts["quarantined"] > 0
    assert set(line["metrics"]["ndcg@10"]) == {"popularity", "als", "neumf"}


def test_table_for_people_names_what_they_ask_for(night):
    _, _, out = night
    for wanted in ("rows in", "quarantined", "champion", "recommendations", "five users", "make ui", "als", "neumf"):
        assert wanted in out, wanted


def test_published_lists_are_whole(night):
    root, _, _ = night
    by_user = {}
    for user, rank, item, *_ in published(root):
        by_user.setdefault(user, []).append((rank, item))
    assert len(by_user) > 50
    for ranks in by_user.values():
        assert [r for r, _ in sorted(ranks)] == [1, 2, 3, 4, 5]
        assert len({i for _, i in ranks}) == 5


def test_runs_and_registry(night):
    root, _, _ = night
    mlflow = client(root)
    experiment = mlflow.get_experiment_by_name("tiny")
    runs = mlflow.search_runs([experiment.experiment_id])
    by_name = {r.data.tags["mlflow.runName"]: r for r in runs}
    parent = by_name["nightly 2026-01-05"]
    children = {n: r for n, r in by_name.items() if r.data.tags.get("mlflow.parentRunId") == parent.info.run_id}
    assert set(children) == {
        "check_log",
        "train popularity",
        "train als",
        "train neumf",
        "evaluate",
        "promote",
        "recommend",
        "report",
    }
    assert {r.info.status for r in runs} == {"FINISHED"}

    neumf = children["train neumf"]
    assert len(mlflow.get_metric_history(neumf.info.run_id, "epoch/valid_ndcg_at_10")) == 2
    for metric in ("epoch/samples_per_second", "epoch/feed_wait_share", "epoch/rss_mb", "test_ndcg_at_10"):
        assert metric in neumf.data.metrics
    assert neumf.data.params["dim"] == "8"
    assert (
        "| als&ensp; |" in parent.data.tags["mlflow.note.content"]
        and "beats" in parent.data.tags["mlflow.note.content"]
    )
    assert experiment.tags["mlflow.experimentKind"] == "custom_model_development"
    assert neumf.data.tags["recsys.dataset"].startswith("2026-01-05-")
    assert "mlflow.source.git.commit" in neumf.data.tags
    assert [f.path for f in mlflow.list_artifacts(neumf.info.run_id, "feed")] == ["feed/_manifest.json"]
    assert {f.path.split("/")[-1] for f in mlflow.list_artifacts(parent.info.run_id, "comparison")} == {
        "comparison.csv", "comparison.json", "comparison.png",
    }  # fmt: skip

    versions = mlflow.search_model_versions("name = 'recsys-tiny'")
    assert {v.tags["recsys.model"] for v in versions} == {"popularity", "als", "neumf"}


def test_the_decision_is_kept_with_the_version_that_it_is_about(night):
    root, _, _ = night
    mlflow = client(root)
    (promote,) = (
        r for r in mlflow.search_runs([mlflow.get_experiment_by_name("tiny").experiment_id])
        if r.data.tags["mlflow.runName"] == "promote"
    )  # fmt: skip
    files = {f.path for f in mlflow.list_artifacts(promote.info.run_id, "decision")}
    assert files == {"decision/decision.json", "decision/decision.md"}
    with open(mlflow.download_artifacts(promote.info.run_id, "decision/decision.json")) as file:
        record = json.load(file)
    assert record["promoted"] == bool(promote.data.metrics["promoted"])
    assert record["opponent"] == "popularity" and record["difference"]["n"] > 10
    assert "0 stop" in record["data_gates"] and record["off_policy"] is None
    assert {"ndcg@10", "recall@20", "novelty@10"} <= record["metrics"].keys()
    assert {name.partition("=")[0] for name in record["slices"]} == {"activity", "tenure", "user", "item"}
    (decided,) = (
        v for v in mlflow.search_model_versions("name = 'recsys-tiny'") if v.tags.get("recsys.decision_run")
    )  # fmt: skip
    assert decided.tags["recsys.decision_run"] == promote.info.run_id
    assert str(decided.version) == record["challenger"]["number"]
    assert decided.tags["recsys.decision"] == record["why"] and decided.description.startswith(f"**{record['why']}**")


def test_slices_are_measured_and_the_worst_are_named(night, capfd):
    root, config, _ = night
    mlflow = client(root)
    by_name = {
        r.data.tags["mlflow.runName"]: r
        for r in mlflow.search_runs([mlflow.get_experiment_by_name("tiny").experiment_id])
    }
    run_id = by_name["evaluate"].info.run_id
    table = pd.read_json(mlflow.download_artifacts(run_id, "slices.json"), orient="split")
    assert set(table["model"]) == {"popularity", "als", "neumf"}
    assert {"item=head", "item=tail", "user=warm"} <= set(table["slice"])
    assert (table["low"] <= table["ndcg@10"]).all() and (table["ndcg@10"] <= table["high"]).all()
    assert "Worst slices by ndcg@10" in by_name["evaluate"].data.tags["mlflow.note.content"]
    arguments = ["--config", str(config), "promotion.min_slice_users=5", "evaluation.slices=[device,activity]"]
    assert job.run("evaluate", lambda context, _: PIPELINE["evaluate"](context), "", arguments) == 0
    line = json.loads(capfd.readouterr().out.strip().splitlines()[-1])
    assert set(line["outputs"]["worst_slices"]) == {"popularity", "als", "neumf"}
    manifest = json.loads(
        (
            root / f"warehouse/tiny/user_metrics/date=2026-01-05/{line['outputs']['user_metrics']}/_manifest.json"
        ).read_text()
    )
    assert {s.partition("=")[0] for s in manifest["slices"]["als"]["test"]} == {"device", "activity"}
    assert job.run("evaluate", lambda context, _: PIPELINE["evaluate"](context), "", arguments[:2]) == 0  # as it was


def test_the_night_ends_with_its_page(night, capfd):
    root, config, out = night
    path = Path(json.loads(out.strip().splitlines()[-1])["outputs"]["report"])
    assert path.parent.name == (root / "warehouse/tiny/reports/date=2026-01-05/_current").read_text().strip()
    page = path.read_text("utf-8")
    for wanted in ("als", "neumf", "popularity", "item=tail", "epoch", "volume_drop"):
        assert wanted in page, wanted
    assert "No gates" not in page and "logged the steps" not in page, "what the stages left was found"
    assert len(people_on(page)) == 20 and people_on(page) <= {row[0] for row in published(root)}
    mlflow = client(root)
    runs = {r.data.tags["mlflow.runName"]: r for r in
            mlflow.search_runs([mlflow.get_experiment_by_name("tiny").experiment_id])}  # fmt: skip
    logged = mlflow.download_artifacts(runs["nightly 2026-01-05"].info.run_id, "reports/report.html")
    assert Path(logged).read_bytes() == path.read_bytes()
    assert {"als_gap_activity", "als_tail_exposure_ratio"} & runs["evaluate"].data.metrics.keys()
    for metric in ("diversity", "serendipity", "freshness", "repeat_rate", "popularity_lift", "gini", "entropy"):
        assert f"test_{metric}_at_10" in runs["train als"].data.metrics, metric

    assert job.run("report", lambda context, _: PIPELINE["report"](context), "", ["--config", str(config)]) == 0
    line = json.loads(capfd.readouterr().out.strip().splitlines()[-1])
    assert line["outputs"] == {"report": str(path), "reused": True}
    assert job.run("report", lambda context, _: PIPELINE["report"](context), "",
                   ["--config", str(config), "--date", "2025-01-01"]) == 3  # fmt: skip
    assert "run jobs/evaluate.py --date 2025-01-01" in capfd.readouterr().err


def test_what_the_notebooks_show_is_what_the_tables_say(night):
    warehouse = Warehouse(night[0] / "warehouse/tiny")
    days = warehouse.keys("events", "batch")
    rows = {d: pq.read_table(warehouse.slot("events", batch=d).current().data).to_pandas() for d in days}
    counted = volumes(warehouse)
    assert counted["events"].to_dict() == {d: len(of) for d, of in rows.items()}
    parts = ["events", "duplicates", "bots", "erased", "quarantined"]
    assert (counted["rows_in"] == counted[[p for p in parts if p in counted]].sum(axis=1)).all()
    every = pd.concat(rows.values(), keys=rows, names=["batch"]).reset_index("batch")
    for column, curve in skew(warehouse).items():
        by = sorted(every.groupby(f"{column[:-1]}_id").size())
        assert curve[len(curve) // 2][1] == pytest.approx(
            sum(by[: round(curve[len(curve) // 2][0] * len(by))]) / sum(by)
        )
    of = every.groupby(["batch", "user_id", "session_id"])
    found = sessions(warehouse)
    assert found.loc["count", "events"] == of.ngroups and found.loc["max", "events"] == of.size().max()
    length = of["timestamp"].max() - of["timestamp"].min()
    assert found.loc["mean", "minutes"] == pytest.approx(length.dt.total_seconds().mean() / 60)
    assert drift_by_day(warehouse).index.tolist() == days[1:]


@pytest.mark.slow
def test_the_page_in_a_browser(night, tmp_path):
    """Without a word on its console, without a request, and no wider than the window."""
    page = next((night[0] / "warehouse/tiny/reports").rglob("report.html"))
    with browser() as seen:
        for width, scheme in ((1280, "light"), (1280, "dark"), (390, "light"), (390, "dark")):
            seen.open(page, width, scheme)
            assert seen.complaints() == []
            assert [r for r in seen.requests() if not r.startswith("data:")] == [page.as_uri()]
            assert seen.value("document.documentElement.scrollWidth") <= width
            assert seen.value("document.querySelectorAll('main > section').length") == len(SECTIONS)
            # whatever is wider than its section has a box of its own that scrolls
            wide = seen.value("""[...document.querySelectorAll('section *')].filter(e => !e.closest('.scroll') &&
                e.getBoundingClientRect().right > innerWidth).map(e => e.outerHTML.slice(0, 80))""")
            assert wide == []
            dark = seen.value("getComputedStyle(document.body).backgroundColor") == "rgb(20, 23, 28)"
            assert dark == (scheme == "dark")
            # letters of a plot are no smaller than 9 px, and stay within their drawing
            small = seen.value("""[...document.querySelectorAll('svg')].filter(s =>
                s.getBoundingClientRect().width / 360 * 11 < 9).length""")
            assert small == 0
            outside = seen.value("""[...document.querySelectorAll('svg text')].filter(t => {
                const a = t.getBoundingClientRect(), b = t.ownerSVGElement.getBoundingClientRect()
                return a.left < b.left - 2 || a.right > b.right + 2}).map(t => t.textContent)""")
            assert outside == []


@pytest.mark.slow
@pytest.mark.parametrize("path", sorted((REPOSITORY / "notebooks").glob("*.ipynb")), ids=lambda p: p.stem)
def test_a_notebook_looks_at_the_night(night, path, monkeypatch):
    monkeypatch.setenv("RECSYS_CONFIG", str(night[1]))
    monkeypatch.chdir(REPOSITORY)
    monkeypatch.syspath_prepend(str(REPOSITORY / "scripts"))
    done = importlib.import_module("run_notebooks").execute(json.loads(path.read_text("utf-8")), path.stem)
    cells = [cell for cell in done["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] for cell in cells), "every cell shows something"
    assert str(night[0]) not in json.dumps(done)


def test_second_run_publishes_the_identical_table(night):
    root, config, _ = night
    before, pointer = published(root), (root / "warehouse/tiny/recommendations/_current").read_text()
    versions = len(client(root).search_model_versions("name = 'recsys-tiny'"))
    assert run(config) == 0
    assert published(root) == before
    assert (root / "warehouse/tiny/recommendations/_current").read_text() == pointer
    assert len(client(root).search_model_versions("name = 'recsys-tiny'")) == versions


@pytest.mark.slow
def test_an_earlier_day_leaves_the_later_one_published(night):
    root, config, _ = night
    before = published(root)
    champion = client(root).get_registered_model("recsys-tiny").aliases.get("champion")
    assert run(config, "--date", "2026-01-04") == 0
    assert published(root) == before
    assert client(root).get_registered_model("recsys-tiny").aliases.get("champion") == champion


def backfilled(config, *arguments):
    return job.run("backfill", backfill.backfill, "", ["--config", str(config), *arguments], options=backfill.OPTIONS)


@pytest.mark.slow
def test_a_backfill_runs_its_days_in_their_order(night, capfd):
    root, config, _ = night
    before = published(root)
    assert backfilled(config, "--first", "2026-01-04", "--last", "2026-01-05") == 0
    said = capfd.readouterr()
    assert [line for line in said.err.splitlines() if line.startswith("[night ")] == [
        "[night 1/2] 2026-01-04",
        "[night 2/2] 2026-01-05",
    ]
    line = json.loads(said.out.strip().splitlines()[-1])
    assert line["counts"] == {"nights": 2} and set(line["outputs"]) == {"2026-01-04", "2026-01-05"}
    assert not line["outputs"]["2026-01-04"]["live"] and published(root) == before


@pytest.mark.parametrize(
    ("words", "arguments"),
    [
        ("needs --first and --last", ["--first", "2026-01-04"]),
        ("needs --first and --last", ["--first", "2026-01-04", "--last", "2026-01-05", "--date", "2026-01-05"]),
        ("swap them", ["--first", "2026-01-05", "--last", "2026-01-04"]),
        ("calendar", ["--first", "2026-01-05", "--last", "2026-02-30"]),
    ],
)
def test_a_range_that_is_none(night, capfd, words, arguments):
    assert backfilled(night[1], *arguments) == 2
    assert words in capfd.readouterr().err


def test_cross_validation_measures_each_fold_as_its_night_was_and_publishes_nothing(night, capfd):
    root, config, _ = night
    mlflow = client(root)
    before, versions = published(root), len(mlflow.search_model_versions("name = 'recsys-tiny'"))
    arguments = ["--config", str(config), "evaluation.folds=2", "train.deep=[]"]
    assert job.run("cross_validate", lambda context, _: cross_validate(context), "", arguments) == 0
    line = json.loads(capfd.readouterr().out.strip().splitlines()[-1])
    assert line["inputs"] == {"folds": ["2026-01-04", "2026-01-05"]} and set(line["metrics"]) == {"als", "popularity"}

    experiment = mlflow.get_experiment_by_name("tiny")
    runs = {r.data.tags["mlflow.runName"]: r for r in mlflow.search_runs([experiment.experiment_id])}
    found = runs["cross-validation 2026-01-05"]
    split = mlflow.download_artifacts(found.info.run_id, "folds.json")
    table = pd.read_json(split, orient="split", convert_dates=False).set_index(["day", "model"])["ndcg@10"]
    for model in ("als", "popularity"):
        night_of_the_last = runs[f"train {model}"].data.metrics["test_ndcg_at_10"]
        assert table["2026-01-05", model] == pytest.approx(night_of_the_last, abs=1e-9)
        folds = table[:, model]
        assert line["metrics"][model]["mean"] == pytest.approx(folds.mean())
        assert line["metrics"][model]["std"] == pytest.approx(abs(folds.diff().iloc[1]) / 2**0.5)
    assert published(root) == before
    assert len(mlflow.search_model_versions("name = 'recsys-tiny'")) == versions
    assert (
        job.run("cross_validate", lambda context, _: cross_validate(context), "", [*arguments, "dataset.split=random"])
        == 2
    )


@pytest.mark.slow
def test_made_again_from_nothing_it_is_the_same_table(night, tmp_path):
    """Not by finding versions standing: another warehouse, the same log and seed."""
    root, _, _ = night
    config = write_config(tmp_path)
    assert run(config) == 0
    assert published(tmp_path) == published(root)


def test_what_was_rolled_back_is_not_promoted_again(night):
    root, config, _ = night
    registry = client(root)
    good = registry.get_model_version_by_alias("recsys-tiny", "champion").version
    other = next(v.version for v in registry.search_model_versions("name='recsys-tiny'") if v.version != good)
    registry.set_registered_model_alias("recsys-tiny", "previous", other)
    assert job.run("promote", lambda c, _: rollback(c), "", ["--config", str(config)]) == 0
    assert registry.get_model_version_by_alias("recsys-tiny", "champion").version == other
    assert run(config) == 0
    assert registry.get_model_version_by_alias("recsys-tiny", "champion").version == other
