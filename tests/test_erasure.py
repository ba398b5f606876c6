"""Erasing people: nothing names them afterwards, nobody else's rows change, and the next night goes on."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from night import REPOSITORY, environment, published, write_config

from recsys_spark.config import LogConfig, load_config
from recsys_spark.erasure import erase as module
from recsys_spark.erasure.people import TOMBSTONE, People
from recsys_spark.erasure.profiles import erase_from_figures, erase_from_sample, hashes_of
from recsys_spark.erasure.quarantined import RowText
from recsys_spark.erasure.rows import FileResult, Task, erase_rows
from recsys_spark.erasure.weights import erase_from_model
from recsys_spark.log.privacy import key_id
from recsys_spark.log.suppression import erased_count
from recsys_spark.models import load, module_of, user_knn
from recsys_spark.models.base import UserBlock
from recsys_spark.models.popularity import Popularity, Segments
from recsys_spark.models.torch_recommender import TorchRecommender
from recsys_spark.models.user_knn import UserKnn
from recsys_spark.pipeline import erasure, job, stages
from recsys_spark.pipeline.context import StageResult
from recsys_spark.pipeline.nightly import nightly
from recsys_spark.reporting.people import people_on
from recsys_spark.tracking.store import open_store
from recsys_spark.warehouse import ERASING, MANIFEST, Warehouse, exclusive
from recsys_spark.warehouse.contents import faults

FAST = ("train.deep=[]", "train.baselines=[popularity]", "evaluation.replicates=100")


def run(stage, config, *arguments, options=None):
    """Run a job in this process: its exit code, its last line and everything that it said."""
    out = io.StringIO()
    alone = stage is erasure.erase_user
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        code = job.run("test", stage, "", ["--config", str(config), *arguments], options=options, alone=alone)
    text = out.getvalue()
    return code, json.loads(text.strip().splitlines()[-1]) if code == 0 else None, text


def erase(config, *people, overrides=()):
    file = config.parent / "people.txt"
    file.write_text("\n".join(people), encoding="utf-8")
    done = run(erasure.erase_user, config, "--users-file", str(file), *overrides, options=erasure.OPTIONS)
    file.unlink()
    assert not any(person in done[2] for person in people), "a job never says a raw id"
    return done


def tables(root):
    """Every Parquet file of a folder, its rows as tuples of text, by path."""
    files = (p for p in root.rglob("*.parquet") if not p.name.startswith("."))
    return {p: [tuple(map(repr, r.values())) for r in pq.ParquetFile(p).read().to_pylist()] for p in files}


def naming(root, person):
    """Files that name a person: in a decoded cell, or as bytes."""
    decoded = {p for p, rows in tables(root).items() if any(person in cell for row in rows for cell in row)}
    return decoded | {p for p in root.rglob("*") if p.is_file() and person.encode() in p.read_bytes()}


@pytest.fixture(scope="module")
def made(tmp_path_factory, spark):
    """A night without deep models, and a saved one planted beside its baselines."""
    root = tmp_path_factory.mktemp("erasure")
    config = write_config(root)
    code, _, text = run(lambda context, _: nightly(context), config, *FAST)
    assert code == 0, text[-3000:]
    warehouse = Warehouse(root / "warehouse" / "tiny")
    users = len(pq.read_table(next(warehouse.root.glob("user_ids/*/data")))) + 1

    def plant(path):
        two_towers(users).save(path)
        return {"model": "two_tower", "dataset": "planted"}

    warehouse.slot("models/two_tower", date="2026-01-05").materialize("2026-01-05-planted", plant)
    return root, config, warehouse


def two_towers(users, items=61):
    settings = module_of("two_tower").Config(dim=4, hidden=4)
    network = module_of("two_tower").Network(settings, users, items)
    return TorchRecommender("two_tower", network, settings, np.ones(users, bool), np.ones(items, bool), 10)


def someone(warehouse, number=0):
    """A person whom a broken quarantined row names, among those with recommendations."""
    files = warehouse.root.glob("quarantine/*/*/data/*.parquet")
    raws = [raw for file in files for raw in pq.read_table(file)["raw"].to_pylist()]
    quarantined = {u for raw in raws for u in re.findall(r"u\d{7}", raw)}
    (serving,) = warehouse.root.glob("serving/*/*/users")
    return sorted(quarantined & set(pq.read_table(serving)["raw_id"].to_pylist()))[number]


def dense_id(warehouse, person):
    rows = pq.read_table(next(warehouse.root.glob("user_ids/*/data"))).to_pylist()
    return next(r["id"] for r in rows if r["raw_id"] == person)


def test_a_person_is_nowhere_and_nobody_else_is_touched(made, monkeypatch):
    root, config, warehouse = made
    person = someone(warehouse)
    dense = dense_id(warehouse, person)
    log = {p: p.read_bytes() for p in (root / "log").rglob("*") if p.is_file()}
    before = tables(warehouse.root) | tables(root / "mlflow")
    held = naming(warehouse.root, person)
    pages = plant_pages(root, warehouse, person)
    (own,) = warehouse.root.glob("reports/date=2026-01-05/*/report.html")
    on_it = person in people_on(own.read_text("utf-8"))  # of the night, which names twenty
    kinds = {p.relative_to(warehouse.root).parts[0] for p in held}
    assert {"events", "quarantine", "user_ids", "serving", "recommendations", "exposures"} <= kinds
    assert naming(root / "mlflow", person)

    unfinished = plant_checkpoint(warehouse)
    carried = next((root / "mlflow").rglob("users/*.parquet"))
    carried.with_name(".erase-5a17").write_text(person)  # of an erasure that was killed
    lists = warehouse.root / "recommendations/.topk-2026-01-05-killed/part.parquet"  # of a night that was
    lists.parent.mkdir()
    lists.write_text(person)
    store = open_store(load_config(config, []))
    store.client.set_registered_model_alias(store.model_name, "kept", "1")
    here = []
    artifacts = module.erase_from_artifacts
    monkeypatch.setattr(module, "erase_from_artifacts", lambda *a: [here.append(a), artifacts(*a)][1])
    code, line, text = erase(config, person, overrides=FAST)
    assert code == 0, text[-3000:]
    assert here, "in this process: an executor may not have the registry's folder, and would find nothing to do"
    assert [page.exists() for page in pages] == [False, True, False, True]
    assert own.exists() == (not on_it)
    assert line["outputs"]["report_again"] == ["2026-01-03", *(["2026-01-05"] if on_it else [])]
    assert line["counts"]["pages"] == line["counts"]["pages_logged"] == 1 + on_it
    assert not unfinished.exists() and not lists.parent.exists() and line["counts"]["models_checkpoints"] == 1
    assert naming(warehouse.root, person) == set() and naming(root / "mlflow", person) == set()
    assert {p: p.read_bytes() for p in log} == log, "the raw log is another's to keep or delete"

    after = tables(warehouse.root) | tables(root / "mlflow")
    assert before.keys() == after.keys() - {p for p in after if "erasures" in p.parts}
    removed = dict.fromkeys(line["counts"], 0)
    for path, rows in before.items():
        table = path.relative_to(warehouse.root).parts[0] if warehouse.root in path.parents else "registry"
        kept = [r for r in rows if not belongs(path, table, r, person, dense)]
        if table == "user_ids":
            assert [r for r in rows if repr(person) not in r] == [r for r in after[path] if TOMBSTONE not in r[0]]
            assert [r[1] for r in rows] == [r[1] for r in after[path]]
        else:
            assert after[path] == kept or (path.parent.name == "users" and table == "feeds"), path
        if table in removed:
            removed[table] += len(rows) - len(kept)
    tables_of_people = ("events", "quarantine", "interactions", "histories", "feeds", "user_metrics")
    for table in (*tables_of_people, "recommendations", "exposures"):
        assert line["counts"][table] == removed[table] > 0, table
    assert line["counts"]["left"] == 0 and line["counts"]["models_warehouse"] == 1

    proof = json.loads(Path(line["outputs"]["proof"]).read_text())
    assert proof["people"] == line["inputs"]["people"] and len(proof["people"][0]) == 8
    assert {t["after"] for t in (*proof["tables"].values(), *proof["others"].values())} == {0}
    assert proof["others"]["models_registry_rows"]["before"] == 1 and proof["others"]["profiles"]["before"] > 0
    assert proof["tables"]["user_ids"]["before"] == 1
    assert [m["aliases"] for m in proof["trained_before"] if m["where"] == "registry"] == [["kept"]]
    assert {(m["where"], m["model"]) for m in proof["trained_before"]} == {
        ("warehouse", "popularity"), ("warehouse", "two_tower"), ("registry", "popularity"),
    }  # fmt: skip
    check_manifests(warehouse)

    model = load(next(warehouse.root.glob("models/two_tower/*/*/")))
    assert not model.users[dense] and model.users.sum() == len(model.users) - 1
    assert not model.network.user.weight[dense].any() and model.network.user.weight[dense - 1].any() == (dense > 1)

    again = erase(config, person, overrides=FAST)[1]["counts"]
    assert {n for name, n in again.items() if name not in ("people", "models_to_train_again")} == {0}


def plant_pages(root, warehouse, person):
    """Leave two nights' pages, in the warehouse and logged to runs; the first of each names the person."""
    found = []
    for date, user in (("2026-01-03", person), ("2026-01-04", "u9999999")):
        page = f'<h3 data-user="{user}">{user}</h3>'
        slot = warehouse.slot("reports", date=date)
        version, _ = slot.materialize(
            f"{date}-planted", lambda p, page=page: {"n": (p / "report.html").write_text(page)}
        )
        found.append(version.path / "report.html")
    for path in list(found):
        run = next((root / "mlflow/artifacts").glob("*/*/artifacts"))
        logged = run.parent.parent / path.parent.name / "artifacts/reports/report.html"
        logged.parent.mkdir(parents=True)
        logged.write_bytes(path.read_bytes())
        found.append(logged)
    return found


def plant_checkpoint(warehouse):
    """Leave what a killed training leaves: a checkpoint, and one that was being written."""
    folder = warehouse.root / "checkpoints/two_tower/2026-01-05-killed"
    folder.mkdir(parents=True)
    for name in ("last.pt", "best.pt", ".last.pt.5a17", "epochs.jsonl"):
        (folder / name).write_text("{}")
    return folder


def belongs(path, table, row, person, dense):
    """Whether a row, its cells as text, is the person's."""
    if table == "quarantine":
        return person in row[0]
    if table in ("events", "bots", "recommendations", "exposures", "serving", "registry"):
        return repr(person) in row
    columns = pq.read_schema(path).names
    return "user_id" in columns and row[columns.index("user_id")] == repr(dense)


def check_manifests(warehouse):
    """The counts in every manifest are those of the files, and so are the checksums."""
    versions = [version for slot in warehouse.slots() for version in slot.versions()]
    assert len(versions) > 10
    for version in versions:
        assert faults(version.path, version.manifest["contents"]) == [], version.path
    assert not list(warehouse.root.rglob(".becomes-*"))
    for path in warehouse.root.glob("*/*/*/" + MANIFEST):
        manifest, folder = json.loads(path.read_text()), path.parent
        rows = {f.name: len(pq.read_table(f)) for f in folder.glob("data/*.parquet")}
        if manifest.get("table") in ("events", "quarantine"):
            counts = manifest["counts"]
            assert (
                counts.get("erased", 0) >= 0
                and sum(rows.values()) == counts["events" if manifest["table"] == "events" else "quarantined"]
            )
            parts = ("events", "duplicates", "quarantined", "bots", "erased")
            assert counts["rows_in"] == sum(counts.get(part, 0) for part in parts)
        if "feed" in manifest.get("table", ""):
            assert {f["file"]: f["rows"] for f in manifest["files"]} == {n: r for n, r in rows.items() if r}
            assert manifest["rows"] == sum(rows.values())
            assert {pq.ParquetFile(f).num_row_groups for f in folder.glob("data/*.parquet") if rows[f.name]} == {1}
        if manifest.get("table") == "interactions":
            assert manifest["rows"] == sum(rows.values()) == sum(manifest["parts"].values())


@pytest.mark.slow
def test_the_next_night_goes_on_without_the_person(made):
    root, config, warehouse = made
    gone = {u for u in (f"u{n:07d}" for n in range(130)) if not naming_events(warehouse, u)}
    person = someone(warehouse, 1)
    assert erase(config, person, overrides=FAST)[0] == 0
    code, line, text = run(lambda context, _: nightly(context), config, *FAST)
    assert code == 0, text[-3000:]
    users = {row[0] for row in published(root)}
    assert users and not users & {person, *gone}
    # measured anew and lists made anew, from the tables as they are now
    over = (*FAST, "publish.k=4", "evaluation.replicates=101")
    for stage in (stages.evaluate, stages.recommend):
        code, line, text = run(lambda context, _, stage=stage: stage(context), config, *over)
        assert code == 0, text[-3000:]
    assert not line["outputs"]["reused"] and {row[0] for row in published(root)} == users


def naming_events(warehouse, person):
    files = warehouse.root.glob("events/*/*/data/*.parquet")
    return any(person in pq.read_table(f, columns=["user_id"])["user_id"].to_pylist() for f in files)


def test_rows_that_come_back_and_manifests_that_were_not_reached_are_mended_by_the_next_run(made, monkeypatch):
    _, config, warehouse = made
    person = someone(warehouse)
    dense = dense_id(warehouse, person)

    def rows():
        files = (p for p in warehouse.root.glob("interactions/*/*/data/*.parquet"))
        return {p: p.read_bytes() for p in files if dense in pq.read_table(p)["user_id"].to_pylist()}

    before = rows()
    assert before

    def write_back(*_):
        for path, content in before.items():
            path.write_bytes(content)

    with monkeypatch.context() as patched:
        patched.setattr(module, "update_manifests", write_back)
        code, _, text = erase(config, person, overrides=FAST)
    assert code == 1 and "rows were written" in text and rows().keys() == before.keys()
    assert erase(config, person, overrides=FAST)[0] == 0
    assert rows() == {} and naming(warehouse.root, person) == set()
    check_manifests(warehouse)


@pytest.mark.slow
def test_killed_with_sigkill_the_next_run_finishes(made, tmp_path):
    _, config, warehouse = made
    person = someone(warehouse)
    proved, files = erased_count(warehouse), {p: p.stat().st_ino for p in tables(warehouse.root)}
    command = [sys.executable, "jobs/erase_user.py", "--config", str(config), "--user", person, *FAST]
    messages = tmp_path / "messages"
    with messages.open("w") as log:
        process = subprocess.Popen(
            command, cwd=REPOSITORY, env=environment(), stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
        while all(path.stat().st_ino == number for path, number in files.items()):
            assert process.poll() is None, messages.read_text()[-2000:]
            time.sleep(0.005)  # polling a real process: there is nothing to wait on
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert naming(warehouse.root / "user_ids", person), "killed before it was through"
    assert erased_count(warehouse) == proved

    code, line, text = erase(config, person, overrides=FAST)
    assert code == 0 and line["counts"]["rows"] > 0, text[-3000:]
    assert naming(warehouse.root, person) == set() and not list(warehouse.root.rglob(".erase-*"))
    check_manifests(warehouse)
    assert erased_count(warehouse) == proved + 1


def test_delivered_again_the_log_does_not_bring_anyone_back(made, spark):
    root, config, warehouse = made
    entries = pq.read_table(warehouse.slot("erasures").current().data)
    assert len(entries) > 0
    day = next((root / "log/events").glob("date=2026-01-03/*.jsonl"))
    people = sorted({u for u in re.findall(r"u\d{7}", day.read_text())})
    gone = {u for u in people if not naming_events(warehouse, u)}
    assert gone
    day.touch()  # another delivery, as far as ingest can tell
    code, line, text = run(lambda context, _: stages.ingest(context), config)
    assert code == 0 and line["outputs"]["built"] == 1, text[-3000:]
    assert not any(naming(warehouse.root / table, person) for person in gone for table in ("events", "quarantine"))


def test_it_is_refused_while_another_run_writes(made):
    _, config, warehouse = made
    for folder in (warehouse.root / "recommendations", warehouse.root / ".night"):
        with exclusive(folder):
            code, _, text = erase(config, "u0000001", overrides=FAST)
        assert code == 1 and "another run is writing it" in text


def test_jobs_run_beside_each_other_and_never_beside_an_erasure(made, monkeypatch):
    root, config, warehouse = made
    codes = {}

    def beside(name, result):
        """Start a job that only notes that it ran, and an erasure."""
        other = f"seed={len(codes) + 43}"  # the same command is not run beside itself
        codes[name] = run(lambda *_: StageResult(), config, other), erase(config, "u0000001", overrides=FAST)
        return result

    assert run(lambda *_: beside("a job", StageResult()), config)[0] == 0
    job_code, (code, _, text) = codes["a job"][0][0], codes["a job"][1]
    assert (job_code, code) == (0, 1) and "another run is writing it" in text

    original = module.find_registry  # the first thing that an erasure reads
    monkeypatch.setattr(module, "find_registry", lambda store: beside("an erasure", original(store)))
    nobody = "nobody-at-all"
    assert run(erasure.erase_user, config, "--user", nobody, *FAST, options=erasure.OPTIONS)[0] == 0
    (code, _, text), (second, _, _) = codes["an erasure"]
    assert (code, second) == (1, 1) and "people are being erased from it; wait" in text and "Traceback" not in text

    with exclusive(warehouse.root / ERASING):
        monkeypatch.setenv("HOROVOD_RANK", "1")  # rank 0 speaks for the others
        assert job.run("test", lambda *_: StageResult(), "", ["--config", str(config)]) == 0

    monkeypatch.undo()
    code, _, text = erase(config, nobody, overrides=[f"root={root}/warehouse/mistyped"])
    assert code == 1 and "no such warehouse" in text


def test_arguments_that_name_nobody_are_refused(made, tmp_path, monkeypatch):
    _, config, _ = made
    assert run(erasure.erase_user, config, options=erasure.OPTIONS)[0] == 2
    assert run(erasure.erase_user, config, "--user", " ", options=erasure.OPTIONS)[0] == 2
    monkeypatch.setattr("sys.stdin", io.StringIO("nobody-at-all\n"))
    unfinished = plant_checkpoint(made[2])
    assert run(erasure.erase_user, config, "--users-file", "-", options=erasure.OPTIONS)[1]["counts"]["rows"] == 0
    assert not (unfinished / ".last.pt.5a17").exists()
    assert (unfinished / "last.pt").exists(), "nobody's training is thrown away for a person who was not there"
    missing = str(tmp_path / "nobody")
    code, _, text = run(erasure.erase_user, config, "--users-file", missing, options=erasure.OPTIONS)
    assert code == 2 and missing in text
    monkeypatch.setenv("PYSPARK_GATEWAY_PORT", "1")
    code, _, text = run(erasure.erase_user, config, "--users-file", "-", options=erasure.OPTIONS)
    assert code == 2 and "spark-submit" in text


def test_with_pseudonyms_no_raw_id_is_written_and_the_key_finds_the_person(made, tmp_path, monkeypatch):
    root, config, _ = made
    monkeypatch.setenv("RECSYS_PSEUDONYM_KEY", "5a" * 32)
    over = [f"root={tmp_path / 'warehouse/tiny'}", "log.privacy.pseudonymise=true"]
    code, _, text = run(lambda context, _: stages.ingest(context), config, "--date", "2026-01-02", *over)
    assert code == 0, text[-3000:]
    warehouse = Warehouse(tmp_path / "warehouse/tiny")
    cells = {c for rows in tables(warehouse.root).values() for row in rows for c in row}
    assert not any(re.search(r"\bu\d{7}\b", cell) for cell in cells)
    person = re.findall(r"u\d{7}", next((root / "log/events").glob("date=2026-01-02/*.jsonl")).read_text())[0]
    monkeypatch.setenv("RECSYS_PSEUDONYM_KEY", "a5" * 32)
    (unreachable,) = erase(config, person, overrides=over)[1]["outputs"]["unreachable"]
    assert f"6 versions of events, bots, quarantine under the key {key_id(bytes.fromhex('5a' * 32))}" in unreachable
    (tmp_path / "old.key").write_text("5a" * 32)
    code, line, text = erase(config, person, overrides=[*over, f"log.privacy.old_key_files=[{tmp_path / 'old.key'}]"])
    assert code == 0 and line["counts"]["events"] > 0 and line["outputs"]["unreachable"] == [], text[-3000:]
    monkeypatch.setenv("RECSYS_PSEUDONYM_KEY", "5a" * 32)
    assert erase(config, person, overrides=over)[1]["counts"]["rows"] == 0


def dictionary(tmp_path, *users):
    """A warehouse of a dictionary alone, and its configuration."""
    config, warehouse = write_config(tmp_path), Warehouse(tmp_path / "warehouse/tiny")

    def build(path):
        (path / "data").mkdir()
        columns = {"raw_id": list(users), "id": pa.array(range(1, len(users) + 1), pa.int32())}
        pq.write_table(pa.table(columns), path / "data/part.parquet")
        return {"table": "user_ids"}

    warehouse.slot("user_ids").materialize("v000001", build)
    return config, warehouse


def test_there_is_no_proof_while_a_second_look_finds_the_person(spark, tmp_path, monkeypatch):
    config, warehouse = dictionary(tmp_path, "ada", "bert")
    with monkeypatch.context() as patched:
        patched.setattr(module, "blank_names", lambda path, *_: FileResult(str(path), 2, 1))
        code, _, text = erase(config, "ada")
    assert code == 1 and "rows were written" in text and erased_count(warehouse) == 0
    code, line, _ = erase(config, "ada")
    assert code == 0 and line["counts"]["user_ids"] == 1 and line["counts"]["left"] == 0
    assert erased_count(warehouse) == 1

    first = Path(line["outputs"]["proof"]).read_text()
    for person in ("bert", "cora"):  # what was proved once stands in every later version
        latest = Path(erase(config, person)[1]["outputs"]["proof"])
    assert (latest.parent / "proofs/v000002.json").read_text() == first and erased_count(warehouse) == 3
    assert len(list((latest.parent / "proofs").iterdir())) == 2


def people_of(*names):
    return People.of(names, LogConfig(path="log").privacy, "5a17")


JSON = RowText(False, ",", ("who", "user_id"), None)


def test_a_rewritten_file_is_the_same_to_spark(spark, tmp_path):
    made = spark.range(100).selectExpr(
        "concat('u', id) user_id", "timestamp'2026-01-01 00:00:00.123456' t", "date'1970-01-02' d",
        "map('a', cast(null as string)) m", "array(cast(1 as float)) a", "named_struct('x', 1) s",
    )  # fmt: skip
    made.repartition(1).write.parquet(str(tmp_path / "t"))
    (path,) = (tmp_path / "t").glob("part-*.parquet")
    rows, schema = sorted(map(str, made.where("user_id != 'u7'").collect())), pq.read_schema(path)
    result = erase_rows(path, "anything", Task(people_of("u7", "nobody"), (), JSON))
    assert (result.before, result.removed) == (100, 1)
    assert pq.read_schema(path) == schema
    assert schema.metadata.items() <= pq.read_schema(path).metadata.items(), "Spark's own description of the types"
    assert sorted(map(str, spark.read.parquet(str(tmp_path / "t")).collect())) == rows
    assert erase_rows(path, "anything", Task(people_of("u7"), (), JSON)).removed == 0
    every = Task(people_of(*(f"u{i}" for i in range(100))), (), JSON)
    assert erase_rows(path, "anything", every).after == 0
    assert spark.read.parquet(str(tmp_path / "t")).count() == 0
    assert not list(tmp_path.rglob(".erase-*"))


def test_the_counts_of_a_feed_keep_their_largest_id(tmp_path):
    folder = tmp_path / "users"
    folder.mkdir()
    columns = {"user_id": pa.array([3, 5, 9], pa.int32()), "count": pa.array([1, 2, 4], pa.int32())}
    pq.write_table(pa.table(columns), folder / "part.parquet")
    task = Task(people_of("x"), (3, 9), JSON)
    assert erase_rows(folder / "part.parquet", "feed", task).removed == 2
    assert pq.read_table(folder / "part.parquet").to_pydict() == {"user_id": [5, 9], "count": [2, 0]}
    assert erase_rows(folder / "part.parquet", "feed", task).removed == 0


def test_user_knn_forgets_what_a_user_had(tmp_path):
    rows = np.array([0, 0, 2, 3, 5]), np.array([1, 2, 3, 1, 4], np.int32), np.arange(1, 6, dtype=np.float32)
    UserKnn(*rows, 5, user_knn.Config()).save(tmp_path)
    assert erase_from_model(tmp_path, [2, 99, 0]) == 1 and erase_from_model(tmp_path, [2, 99, 0]) == 0
    left = UserKnn.load(tmp_path)
    assert [array.tolist() for array in left.rows] == [[0, 0, 2, 2, 4], [1, 2, 1, 4], [1, 2, 4, 5]]
    assert left.known.tolist() == [False, True, True, False, True]
    assert erase_from_model(tmp_path, []) == 0


def test_popularity_forgets_which_segment_a_user_is_of(tmp_path):
    counts = np.array([0, 3, 1], np.float32)
    segments = Segments(["DE", "FI"], np.array([0, 2, 1], np.int32), np.array([[0, 1, 9], [0, 9, 1]], np.float32))
    Popularity(counts, np.full(3, np.nan, np.float32), segments=segments).save(tmp_path)
    assert erase_from_model(tmp_path, [2, 99, 0]) == 1 and erase_from_model(tmp_path, [2, 99, 0]) == 0
    left = Popularity.load(tmp_path)
    assert left.score(UserBlock.of([1, 2], [[], []]))[:, 1:].tolist() == [[9, 1], [3, 1]]


@pytest.mark.parametrize("name", ["two_tower", "neumf"])
def test_a_model_forgets_a_row(tmp_path, name):
    torch.manual_seed(1)
    settings = module_of(name).Config(dim=4, hidden=[6, 4] if name == "neumf" else 4)
    network = module_of(name).Network(settings, 6, 5)
    model = TorchRecommender(name, network, settings, np.ones(6, bool), np.ones(5, bool), 10)
    model.save(tmp_path)
    before = torch.load(tmp_path / "weights.pt", weights_only=True)

    assert erase_from_model(tmp_path, [3, 99]) == 1 and erase_from_model(tmp_path, [3, 99]) == 0
    after = torch.load(tmp_path / "weights.pt", weights_only=True)
    tables = {"two_tower": ["user.weight"], "neumf": ["user_gmf.weight", "user_mlp.weight"]}[name]
    for key, old in before.items():
        expected = old.clone()
        if key in tables:
            assert expected[3].any()
            expected[3] = 0
        assert torch.equal(after[key], expected), key
    load.cache_clear()
    scores = load(tmp_path).score(UserBlock.of([2, 3], [[1], [1]]))
    assert np.isfinite(scores[0]).any() and (name == "two_tower") == bool(np.isfinite(scores[1]).any())


def test_a_hash_in_a_sample_gives_its_place_to_another(spark, tmp_path):
    hashes = hashes_of(spark, people_of("u1"))
    sample = np.sort(np.array([5, 2**63, 2**64 - 1, hashes[0]], np.uint64))
    np.save(tmp_path / "users.npy", sample)
    assert erase_from_sample(tmp_path / "users.npy", hashes) == 1
    new = np.load(tmp_path / "users.npy")
    assert len(new) == 4 and (np.diff(new.astype(float)) > 0).all() and hashes[0] not in new
    assert len(np.intersect1d(new, sample)) == 3
    assert erase_from_sample(tmp_path / "users.npy", hashes) == 0


def test_an_id_in_a_histogram_becomes_another_value(tmp_path):
    def histogram(**values):
        return {"numeric": False, "values": values, "other": 1, "missing": 0}

    path = tmp_path / "profile.json"
    path.write_text(
        json.dumps({"events": 9, "histograms": {"seller": histogram(u1=2, u12=3), "user_id": histogram(u5=3)}})
    )
    assert erase_from_figures(path, people_of("u1")) == 2
    assert json.loads(path.read_text())["histograms"] == {
        "seller": histogram(u12=3) | {"other": 3}, "user_id": histogram() | {"other": 4},
    }  # fmt: skip
    assert erase_from_figures(path, people_of("u1")) == 0


def test_what_is_said_of_people_tells_nobody():
    people = people_of("u1", "u2 ")
    assert repr(people) == str(people) == "People(2)"
    assert people.raw == {"u1", "u2"} and all(len(r) == 8 for r in people.references)
    assert hashlib.sha256(b"5a17u1").hexdigest()[:8] not in people.references
