"""What must not happen with hostile names, files and tags; and that the code has none of the calls that let it."""

from __future__ import annotations

import ast
import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from recsys_spark import models
from recsys_spark.config import Config, ExportConfig, LogConfig, parse_date
from recsys_spark.errors import ConfigError, DataError
from recsys_spark.log.privacy import _warn_of_readers, read_key_file
from recsys_spark.models.base import write_card
from recsys_spark.pipeline import prometheus
from recsys_spark.pipeline.context import Context
from recsys_spark.pipeline.night import champion_path
from recsys_spark.tracking.registry import CHAMPION, Registered, _create_model, find, resolve
from recsys_spark.tracking.store import open_store
from recsys_spark.warehouse import Slot, Warehouse

ROOT = Path(__file__).parents[1]
SOURCES = sorted(
    f for d in ("recsys_spark", "jobs", "scripts", "benchmarks", "airflow_dags") for f in (ROOT / d).rglob("*.py")
)
ITS_OWN = {
    "recsys_spark/evaluation/bootstrap_rows.py": ["pickle.loads"],
    "scripts/run_notebooks.py": ["exec", "eval"],
}
"""Unpickles what this job's own tasks have just sent, as PySpark does with every row of an RDD; runs the cells of this
repository's notebooks."""


# --- the code ---


def name_of(call):
    return ast.unparse(call.func)


def keyword(call, name):
    return next((ast.unparse(k.value) for k in call.keywords if k.arg == name), None)


def unsafe(source):
    """The calls in a source that run, or may run, what they are given."""
    found = []
    for call in (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)):
        name = name_of(call)
        bad = (
            name in ("eval", "exec", "os.system", "os.popen", "pickle.load", "pickle.loads", "pickle.Unpickler")
            or name.split(".")[0] in ("joblib", "dill", "marshal", "shelve", "cloudpickle")
            or (name == "torch.load" and keyword(call, "weights_only") != "True")
            or (name in ("np.load", "numpy.load") and keyword(call, "allow_pickle") not in (None, "False"))
            or (name == "yaml.load" and "_Loader" not in map(ast.unparse, call.args))
            or name in ("yaml.unsafe_load", "yaml.full_load", "pd.read_pickle", "tempfile.mktemp")
            or keyword(call, "shell") not in (None, "False")
        )
        found += [name] if bad else []
    return found


@pytest.mark.parametrize(
    "line",
    ["eval('1')", "pickle.load(f)", "torch.load(p)", "torch.load(p, weights_only=False)", "joblib.load(p)",
     "np.load(p, allow_pickle=True)", "yaml.load(t, yaml.Loader)", "subprocess.run(c, shell=True)", "os.system(c)"],
)  # fmt: skip
def test_the_audit_sees_what_it_is_for(line):
    assert len(unsafe(line)) == 1


@pytest.mark.parametrize(
    "line",
    ["torch.load(p, weights_only=True)", "np.load(p)", "yaml.load(t, _Loader)", "yaml.safe_load(t)", "network.eval()"],
)
def test_the_audit_lets_pass_what_is_safe(line):
    assert unsafe(line) == []


def test_no_code_runs_what_it_reads():
    found = {f.relative_to(ROOT).as_posix(): unsafe(f.read_text("utf-8")) for f in SOURCES}
    assert {path: calls for path, calls in found.items() if calls} == ITS_OWN


def test_sql_of_another_server_is_never_put_together_from_text():
    """What reaches PostgreSQL is a literal, or composed by psycopg, which quotes."""
    tree = ast.parse((ROOT / "recsys_spark/export/postgres.py").read_text("utf-8"))
    calls = [n for n in ast.walk(tree) if isinstance(n, ast.Call) and name_of(n).endswith((".execute", ".copy"))]
    assert len(calls) > 5
    for call in calls:
        first = call.args[0]
        composed = isinstance(first, ast.Call) and name_of(first).startswith("sql.")
        assert composed or (isinstance(first, ast.Constant) and isinstance(first.value, str)), ast.unparse(call)


def test_what_people_type_into_airflow_cannot_end_a_shells_quote():
    """With RECSYS_OPERATOR=bash a parameter stands between single quotes."""
    checked = 0
    for file in (ROOT / "airflow_dags").glob("*.py"):
        tree = ast.parse(file.read_text("utf-8"))
        named = {ast.unparse(n.targets[0]): n.value for n in ast.walk(tree) if isinstance(n, ast.Assign)}
        for call in (n for n in ast.walk(tree) if isinstance(n, ast.Call) and name_of(n) == "Param"):
            given = {k.arg: named.get(ast.unparse(k.value), k.value) for k in call.keywords}
            if "format" in given:
                assert ast.literal_eval(given["format"]) == "date"
            else:
                pattern = re.compile(ast.literal_eval(given["pattern"]))
                assert pattern.pattern.startswith("^") and pattern.pattern.endswith("$")
                for text in ("a'b", "'; rm -rf /; '", "$(id)", "a b", "a\nb"):
                    assert not pattern.search(text), (file.name, text)
            checked += 1
    assert checked >= 5


# --- names ---

HOSTILE = st.lists(
    st.sampled_from([*"./\\_a '\";`%$~é\n\0", "..", "B-1", "--"]),
    max_size=6,
).map("".join)
TEXT = st.one_of(HOSTILE, st.text(max_size=30))
HARMLESS = re.compile(r"[A-Za-z0-9._-]+")


def fits(make, text):
    try:
        return make(text)
    except ValueError:
        return None


@given(TEXT)
def test_a_name_that_is_taken_is_one_folder_and_no_sql(text):
    config = fits(lambda t: Config(name=t, root="build/warehouse/x", log=LogConfig(path="log")), text)
    if config is not None:
        assert HARMLESS.fullmatch(config.name)
        assert Path(os.path.normpath(Path("/artifacts") / config.name)).parent == Path("/artifacts")
        assert not config.name.startswith((".", "-"))
    export = fits(lambda t: ExportConfig(name=t), text)
    if export is not None:
        assert re.fullmatch(r"[a-z][a-z0-9_]*", export.name)


@pytest.mark.parametrize("name", ["embedded", "movielens-100k", "a", "A.b_c-1"])
def test_names_of_today_are_still_names(name):
    assert Config(name=name, root="r", log=LogConfig(path="log")).name == name


@given(TEXT)
def test_a_date_is_written_in_one_way(text):
    try:
        assert str(parse_date(text)) == text
    except ConfigError as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize("text", ["20260105", "2026-W01-1", "2026-1-5", "2026-02-30", "../2026-01-05"])
def test_other_ways_to_write_a_day_are_refused(text):
    with pytest.raises(ConfigError, match="is not a day of the calendar"):
        parse_date(text)


@pytest.fixture(scope="module")
def slot(tmp_path_factory):
    """A slot with one version, and a version of another table and of another root that paths could lead to."""
    root = tmp_path_factory.mktemp("root")
    for place in (root / "other", root.parent / "a", root / "mine" / "B-1"):
        place.mkdir(exist_ok=True, parents=True)
        (place / "_manifest.json").write_text("{}")
    return Slot(root / "mine")


@given(TEXT)
def test_a_version_is_never_found_elsewhere(slot, text):
    found = slot.version(text)
    assert found is None or (found.path.parent == slot.path and os.path.normpath(found.path) == str(found.path))


def test_paths_that_lead_to_a_manifest_are_no_versions(slot):
    assert slot.version("B-1") is not None
    for name in ("../other", "B-1/../../other", str(slot.path.parent / "other"), "./B-1", ".", "..", "", "B-1/"):
        assert slot.version(name) is None, name


# --- files ---


class Bomb:
    """Pickled, it makes a file when it is read."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_a_models_files_run_nothing(tmp_path):
    """Pickles in the place of weights and of arrays: refused, and not read to their end."""
    deep, popular, fired = tmp_path / "deep", tmp_path / "popular", tmp_path / "fired"
    deep.mkdir()
    write_card(deep, "neumf", config={"dim": 4, "hidden": [4]}, length=None)
    np.savez(deep / "trained.npz", users=np.ones(3, bool), items=np.ones(3, bool))
    torch.save({"weight": Bomb(fired)}, deep / "weights.pt")
    with pytest.raises(Exception, match=r"(?i)weights.only"):
        models.load(deep)
    popular.mkdir()
    write_card(popular, "popularity")
    np.savez(popular / "popularity.npz", counts=np.array([Bomb(fired)], object))
    with pytest.raises(ValueError, match="allow_pickle"):
        models.load(popular)
    write_card(popular, "../../evil")
    with pytest.raises(ConfigError, match="no model"):
        models.load(popular)
    assert not fired.exists()


def context_of(tmp_path):
    return Context(Config(name="t", root=str(tmp_path / "w" / "t"), log=LogConfig(path="log")), "recommend")


def test_a_model_that_is_not_as_it_was_written_is_not_loaded(tmp_path):
    def build(path):
        (path / "weights.npy").write_bytes(b"x" * 1000)
        return {"dataset": "d"}

    context = context_of(tmp_path)
    slot = Warehouse(Path(context.config.root)).slot("models/als", date="2026-01-01")
    version, _ = slot.materialize("2026-01-01-abc", build)
    champion = Registered("1", "als", version.name, "2026-01-01")
    assert champion_path(context, champion) == version.path
    weights, manifest = version.path / "weights.npy", version.path / "_manifest.json"
    weights.write_bytes(b"y" * 1000)
    os.utime(manifest, ns=(1, 1))  # this process has read it once: as a later one
    with pytest.raises(DataError, match=r"weights\.npy: has other bytes than were written; move .* away"):
        champion_path(context, champion)
    weights.write_bytes(b"x" * 1000)
    os.utime(manifest, ns=(2, 2))
    assert champion_path(context, champion) == version.path
    (version.path / "more.npy").write_bytes(b"z")
    os.utime(manifest, ns=(3, 3))
    with pytest.raises(DataError, match=r"more\.npy: is in no manifest"):
        champion_path(context, champion)


@pytest.mark.parametrize(
    ("tag", "value"),
    [
        ("recsys.version", "../../../etc"),
        ("recsys.model", "../als"),
        ("recsys.night", "2026-01-01/.."),
        ("recsys.model", None),
    ],
)
def test_tags_of_the_registry_are_no_paths(tmp_path, tag, value):
    store = open_store(context_of(tmp_path).config)
    _create_model(store)
    tags = {"recsys.model": "als", "recsys.version": "v1", "recsys.night": "2026-01-01", tag: value}
    tags = {k: v for k, v in tags.items() if v is not None}
    made = store.client.create_model_version(store.model_name, "file:///nowhere", tags=tags)
    store.client.set_registered_model_alias(store.model_name, CHAMPION, made.version)
    with pytest.raises(DataError, match=re.escape(f"its tag {tag} is {value!r}")) as error:
        resolve(store, CHAMPION)
    assert "\n" not in str(error.value)
    assert find(store, "v2") is None


def test_a_key_that_everybody_can_read_is_said_once(tmp_path, capfd):
    key = tmp_path / "key"
    key.write_text("ab" * 32)
    for mode, times in ((0o600, 0), (0o640, 0), (0o644, 1)):
        key.chmod(mode)
        _warn_of_readers.cache_clear()
        for _ in range(2):
            assert len(read_key_file(str(key), "log.privacy.key_file")) == 32
        said = capfd.readouterr().err
        assert said.count("every user of this machine can read the key") == times
        assert "abab" not in said


def test_figures_are_for_the_exporter_whatever_the_mask(tmp_path):
    before = os.umask(0o077)
    try:
        prometheus.write(tmp_path, "night", [("recsys_rows", {}, 1.0)])
    finally:
        os.umask(before)
    (file,) = tmp_path.iterdir()
    assert file.stat().st_mode & 0o777 == 0o644


def test_the_manifest_says_what_json_can_hold(tmp_path):
    """A manifest is data: read by json alone, and one that is none is no version."""
    (tmp_path / "v").mkdir()
    (tmp_path / "v" / "_manifest.json").write_text("__import__('os').abort()")
    assert Slot(tmp_path).version("v") is None
    (tmp_path / "v" / "_manifest.json").write_text(json.dumps({"contents": {}}))
    assert Slot(tmp_path).version("v") is not None
