"""What the training process tells of its epochs while a listener comes and goes."""

import io
from types import SimpleNamespace

import pytest
from night import write_config
from tqdm import tqdm

from recsys_spark.config import load_config
from recsys_spark.errors import ConfigError, DataError, RunError
from recsys_spark.log.suppression import FINISHED, TABLE
from recsys_spark.models import check_models, neumf
from recsys_spark.training.job import STOP, Epoch, read_epochs, write_epochs
from recsys_spark.training.launch import StopTraining, _Report, feed_of, training_job
from recsys_spark.training.ranks import failure
from recsys_spark.warehouse import Warehouse


def epoch(number):
    return Epoch(number, 0.5, 0.1, 1000.0, 0.01, 300.0, 1.0)


def test_an_epoch_that_could_not_be_tracked_is_told_again_and_training_goes_on(tmp_path, capsys):
    heard, away = [], True

    def listen(done):
        if away:
            raise ConnectionError("the tracking server is away")
        heard.append(done.epoch)

    report = _Report(tqdm(total=3, file=io.StringIO()), tmp_path, listen)
    report(epoch(0))
    away = False
    report(epoch(1))
    assert heard == [1]
    assert "epoch 0 is not tracked yet, training goes on: the tracking server is away" in capsys.readouterr().err
    report.catch_up()
    assert heard == [1, 0]
    assert report.bar.n == 2


def test_a_server_that_stays_away_fails_the_job_after_the_training(tmp_path):
    def refuse(done):
        raise ConnectionError("away")

    report = _Report(tqdm(total=1, file=io.StringIO()), tmp_path, refuse)
    report(epoch(0))
    with pytest.raises(ConnectionError):
        report.catch_up()


def test_who_listens_can_stop_the_training_and_hears_of_no_further_epoch(tmp_path):
    heard = []

    def enough(done):
        heard.append(done.epoch)
        if done.epoch == 1:
            raise StopTraining("enough")

    report = _Report(tqdm(total=3, file=io.StringIO()), tmp_path, enough)
    report(epoch(0))
    assert report.stopped is None and not (tmp_path / STOP).exists()
    report(epoch(1))
    assert (tmp_path / STOP).exists() and str(report.stopped) == "enough"
    report(epoch(2))  # that one had begun
    report.catch_up()
    assert heard == [0, 1]


def test_epochs_survive_the_disk(tmp_path):
    assert read_epochs(tmp_path) == []
    epochs = [epoch(0), epoch(1)]
    write_epochs(tmp_path, epochs)
    assert read_epochs(tmp_path) == epochs
    assert [p.name for p in tmp_path.iterdir()] == ["epochs.jsonl"]


LOST = "[0]<stderr>:horovod.common.exceptions.HorovodInternalError: Connection closed by peer\n"


@pytest.mark.parametrize(
    ("said", "kind", "line"),
    [
        (
            LOST + "[1]<stderr>:Traceback (most recent call last):\n"
            '[1]<stderr>:  File "loop.py", line 3, in train\n'
            "[1]<stderr>:recsys_spark.errors.DataError: neumf: the loss is nan in epoch 3\n"
            "[0]<stderr>:RuntimeError: Horovod has been shut down. This was caused by\n",
            DataError,
            "neumf: the loss is nan in epoch 3",
        ),
        (
            "[0]<stderr>:RuntimeError: failed finding central directory\n[0]<stderr>:\n"
            "[0]<stderr>:The above exception was the direct cause of the following exception:\n"
            "[0]<stderr>:recsys_spark.errors.DataError: last.pt: the checkpoint cannot be read\n" + LOST,
            DataError,
            "last.pt: the checkpoint cannot be read",
        ),
        (LOST + "[1]<stderr>:ValueError: no such row\n", RunError, "training neumf failed: ValueError: no such row; "),
        (LOST + "[1]<stdout>:epoch 3\n", RunError, "training neumf failed: rank 1 died without a word"),
        (
            "[0]<stderr>:RuntimeError: [/build/gloo/transport/tcp/pair.cc:589] Connection closed by peer\n",
            RunError,
            "training neumf failed: rank 1 died without a word",
        ),
        ("nothing to see\n", RunError, "training neumf failed: a slot was lost; "),
    ],
    ids=[
        "the user's to mend",
        "the same, made of another error",
        "a fault",
        "killed",
        "killed before Horovod noticed",
        "nothing",
    ],
)
def test_the_cause_of_a_failed_training_is_what_the_first_rank_says_that_lost_no_other(tmp_path, said, kind, line):
    log = tmp_path / "ranks.log"
    log.write_text(said)
    error = failure("neumf", log, RuntimeError("a slot\nwas lost"), 2)
    assert type(error) is kind and str(error).startswith(line) and "\n" not in str(error)


def test_another_reader_is_another_version(tmp_path):
    config = load_config(write_config(tmp_path), [])
    pairs = SimpleNamespace(path=tmp_path)
    parts = {"feed": pairs, "feeds": {"pairs": pairs}, "histories": SimpleNamespace(data="rows")}
    dataset = SimpleNamespace(name="2026-01-05-0123456789ab", **parts)
    made = {}
    for reader, workers in (("petastorm", 1), ("petastorm", 2), ("arrow", 1)):
        train = config.train.model_copy(update={"reader": reader, "feed_workers": workers})
        with_it = config.model_copy(update={"train": train})
        job, version = training_job(Warehouse(tmp_path), with_it, dataset, "neumf")
        assert (job.reader, job.feed_workers) == (reader, workers)
        made.setdefault(version, []).append(reader)
    assert list(made.values()) == [["petastorm", "petastorm"], ["arrow"]]


def test_after_an_erasure_the_same_data_is_trained_again(tmp_path):
    warehouse, config = Warehouse(tmp_path), load_config(write_config(tmp_path), [])
    pairs = SimpleNamespace(path=tmp_path)
    parts = {"feed": pairs, "feeds": {"pairs": pairs}, "histories": SimpleNamespace(data="rows")}
    dataset = SimpleNamespace(name="2026-01-05-0123456789ab", **parts)

    def version_after(name, rows, finished):
        warehouse.slot(TABLE).materialize(name, lambda _: {"rows": rows, FINISHED: finished})
        return training_job(warehouse, config, dataset, "neumf")[1]

    before = training_job(warehouse, config, dataset, "neumf")[1]
    assert version_after("v000001", 1, 0) == before, "killed, it has not taken all there is to learn from"
    first = version_after("v000002", 1, 1)
    assert first != before and version_after("v000003", 2, 2) not in (before, first)


def test_a_model_whose_feed_the_data_set_lacks_says_which(tmp_path, monkeypatch):
    monkeypatch.setattr(neumf.Network, "feed", "sequences", raising=False)
    pairs = SimpleNamespace(path=tmp_path)
    with pytest.raises(ConfigError, match=r"neumf trains on .* sequences, which .*; add sequences to dataset\.feeds"):
        feed_of("neumf", SimpleNamespace(feeds={"pairs": pairs}))
    config = load_config(write_config(tmp_path), [])
    with pytest.raises(ConfigError, match=r"neumf trains on the feed sequences: add it to dataset\.feeds"):
        check_models(config)
    check_models(load_config(write_config(tmp_path), ["dataset.feeds=[pairs, sequences]"]))
