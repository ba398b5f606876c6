"""Bad input at the door of the jobs: one line with cause and remedy, the exit code, what is published stays."""

import shutil
import socket
import subprocess
import sys

import pyarrow.parquet as pq
import pytest
from night import REPOSITORY, environment, published, write_config

from recsys_spark.pipeline import job
from recsys_spark.pipeline.nightly import nightly
from recsys_spark.pipeline.stages import STAGES

pytestmark = pytest.mark.usefixtures("spark")


def run(name, config, *arguments):
    stage = nightly if name == "nightly" else STAGES[name]
    return job.run(name, lambda context, _: stage(context), "", ["--config", str(config), *arguments])


@pytest.fixture(scope="module")
def night(spark, tmp_path_factory):
    """A night that went well, for what comes after it to spoil."""
    config = write_config(tmp_path_factory.mktemp("bad"))
    assert run("nightly", config, "train.deep=[]") == 0
    return config


def own_log(tmp_path, text):
    (tmp_path / "log.jsonl").write_text(text)
    return f"log.path={tmp_path / 'log.jsonl'}", "log.generate=null", "log.items=null"


ROW = '{"user_id": "u", "item_id": "i", "event_type": "view", "timestamp": "2026-01-01T00:00:00Z"}\n'


@pytest.mark.parametrize(
    ("code", "words", "arguments"),
    [
        (2, ["models.als.rnak", "unknown key"], ["models.als.rnak=3"]),
        (2, ["publish.kk", "unknown key"], ["publish.kk=3"]),
        (2, ["publish.k", "integer"], ["publish.k=many"]),
        (2, ["dataset.split", "leave_one_out"], ["dataset.split=randomly"]),
        (2, ["is not an override"], ["publish.k"]),
        (2, ["evaluation.ks needs 10"], ["evaluation.ks=[5]"]),
        (2, ["2024-02-30", "calendar"], ["--date", "2024-02-30"]),
        (2, ["no such model", "bert"], ["train.deep=[bert]"]),
        (3, ["has no day 2031-01-01", "2026-01-01 to 2026-01-05", "--date"], ["--date", "2031-01-01"]),
        (3, ["no such log", "nowhere"], ["log.path=nowhere/events", "log.generate=null"]),
        (3, ["no such item catalogue", "nowhere.jsonl"], ["log.items.path=nowhere.jsonl"]),
        (3, ["log.max_bad_share"], ["log.max_bad_share=0.0001"]),
        (2, ["task slots", "train.ranks"], ["train.ranks=3", "train.deep=[neumf]"]),
        (3, ["dataset.k_core=1000"], ["dataset.k_core=1000"]),
        (3, ["publish.min_coverage"], ["publish.min_coverage=1.0", "publish.k=1", "train.deep=[]"]),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else str(value),
)
def test_one_line_and_the_exit_code(night, capfd, code, words, arguments):
    before = published(night.parent)
    overrides = arguments if any("train.deep" in a for a in arguments) else [*arguments, "train.deep=[]"]
    assert run("nightly", night, *overrides) == code
    lines = [line for line in capfd.readouterr().err.splitlines() if line.startswith(("error", "Traceback"))]
    assert len(lines) == 1, lines
    for word in words:
        assert word in lines[0]
    assert published(night.parent) == before


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "empty"),
        ("rubbish\n" * 20, "most of them malformed"),
        ('{"item_id": "i", "event_type": "view", "timestamp": "2026-01-01"}\n', "no column 'user_id'"),
        (ROW, "nothing to train on"),
    ],
    ids=["empty log", "every row bad", "missing column", "one row"],
)
def test_logs_that_are_none(tmp_path, capfd, text, words):
    config = write_config(tmp_path)
    assert run("nightly", config, *own_log(tmp_path, text)) == 3
    err = capfd.readouterr().err
    (line,) = [line for line in err.splitlines() if line.startswith("error")]
    assert words in line
    assert "Traceback" not in err
    assert published(tmp_path) is None


def test_no_configuration(tmp_path, capfd):
    assert run("ingest", tmp_path / "none.yaml") == 2
    assert "no such configuration file" in capfd.readouterr().err


def test_jobs_out_of_order_say_what_to_run_first(tmp_path, capfd):
    config = write_config(tmp_path)
    for name, remedy in (("build_dataset", "jobs/ingest.py"), ("train_baseline", "jobs/build_dataset.py")):
        assert run(name, config) == 3
        (line,) = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error")]
        assert remedy in line


def test_unreachable_tracking_server(tmp_path, capfd):
    with socket.socket() as probe:  # a port that nobody listens on
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    config = write_config(tmp_path)
    assert run("nightly", config, f"tracking.uri=http://127.0.0.1:{port}") == 1
    (line,) = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error")]
    assert "no tracking server answers" in line and "tracking.uri" in line


def test_no_java(tmp_path):
    """Outside spark-submit, where no script has looked for Java before."""
    config = write_config(tmp_path)
    (tmp_path / "bin").mkdir()
    for tool in ("bash", "sh", "dirname", "env", "git", "uname"):
        (tmp_path / "bin" / tool).symlink_to(shutil.which(tool))
    env = {**environment(), "PATH": str(tmp_path / "bin")}
    env.pop("JAVA_HOME", None)
    done = subprocess.run(
        [sys.executable, "jobs/generate_log.py", "--config", str(config)], cwd=REPOSITORY, env=env,
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "Java" in done.stderr.splitlines()[-1]


def test_help_teaches():
    done = subprocess.run(
        [sys.executable, "jobs/promote.py", "--help"], cwd=REPOSITORY, env=environment(), capture_output=True, text=True
    )
    assert done.returncode == 0
    for word in ("--rollback", "key.sub=value", "exit code", "YYYY-MM-DD"):
        assert word in done.stdout


@pytest.mark.parametrize("fault", ["truncated", "other columns"])
def test_a_damaged_feed_ends_before_the_ranks_start(night, capfd, fault):
    before = published(night.parent)
    (pointer,) = (night.parent / "warehouse/tiny/feeds/pairs").glob("date=2026-01-05/_current")
    (file, *_) = sorted((pointer.parent / pointer.read_text().strip() / "data").glob("*.parquet"))
    content = file.read_bytes()
    if fault == "truncated":
        file.write_bytes(content[:-50])
    else:
        pq.write_table(pq.read_table(file).drop_columns(["item_id"]), file)
    try:
        assert run("train_deep", night, "train.deep=[neumf]") == 3
    finally:
        file.write_bytes(content)
    (line,) = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error")]
    expected = "cannot be read" if fault == "truncated" else "no column 'item_id'"
    assert str(file) in line and "the feed's manifest" in line and expected in line
    assert published(night.parent) == before


def test_models_of_other_data_are_not_measured(night, capfd):
    """The data set of the date was built anew, the models were not."""
    before = published(night.parent)
    arguments = ["dataset.k_core=1", "train.deep=[]"]
    assert run("build_dataset", night, *arguments) == 0
    assert run("evaluate", night, *arguments) == 3
    (line,) = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error")]
    assert "was trained on" in line and "train it again" in line
    assert published(night.parent) == before


def test_without_validation_users_no_epoch_is_chosen(tmp_path, capfd):
    config = write_config(tmp_path)
    rows = [
        f'{{"user_id": "u{u}", "item_id": "i{i}", "event_type": "view", "timestamp": "2020-01-0{1 + i % 3}T00:00:00Z", '
        f'"split": "{"test" if i == u % 6 else "train"}"}}\n'
        for u in range(12)
        for i in range(6)
    ]
    columns = "{user_id: user_id, item_id: item_id, event_type: event_type, timestamp: timestamp, split: split}"
    arguments = [*own_log(tmp_path, "".join(rows)), f"log.columns={columns}", "dataset.split=column"]
    assert run("nightly", config, *arguments) == 3
    (line,) = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error")]
    assert "validation part" in line and "dataset.split" in line
