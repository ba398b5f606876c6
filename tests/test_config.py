"""The configuration is refused before anything starts, in one line that names the file and the key."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import pytest
import yaml

from recsys_spark.config import Config, load_config, parse_date
from recsys_spark.errors import ConfigError
from recsys_spark.models import check_models

SHIPPED = Path(__file__).parents[1] / "conf"
CONF = sorted(SHIPPED.glob("*.yaml"))
MODELS = sorted((SHIPPED / "models").glob("*.yaml"))
BASE = {"name": "shop", "root": "build/shop", "log": {"path": "log.jsonl"}}
COLUMNS = {"user_id": "user", "item_id": "item", "timestamp": "time", "event_type": "kind"}


def write(folder: Path, values: object, name: str = "conf.yaml") -> Path:
    path = folder / name
    path.write_text(values if isinstance(values, str) else yaml.safe_dump(values), encoding="utf-8")
    return path


def refusal(path: Path, overrides: list[str] | None = None) -> str:
    """The message of the `ConfigError`, which has to be one line."""
    with pytest.raises(ConfigError) as error:
        load_config(path, overrides)
    message = str(error.value)
    assert "\n" not in message and message.strip() == message and message
    assert error.value.exit_code == 2
    return message


def with_log(**values: object) -> dict[str, object]:
    return {**BASE, "log": {**BASE["log"], **values}}


def test_the_least_configuration_has_the_documented_defaults(tmp_path):
    config = load_config(write(tmp_path, BASE))
    assert (config.seed, config.dataset.k_core, config.evaluation.ks) == (42, 5, [10, 20])
    assert config.log.event_types == {"rating": 1.0} and config.log.generate is None
    with pytest.raises(ValueError, match="frozen"):
        config.seed = 1  # type: ignore[misc]


@pytest.mark.parametrize("path", CONF, ids=lambda p: p.stem)
def test_every_configuration_that_is_shipped_is_valid(path):
    check_models(load_config(path))


@pytest.mark.parametrize("path", MODELS, ids=lambda p: p.stem)
def test_every_models_parameters_go_with_a_night(path, tmp_path):
    night = write(tmp_path, {"extends": [str(SHIPPED / "movielens-100k-reference.yaml"), str(path)]})
    config = load_config(night)
    check_models(config)
    assert path.stem in config.models and path.stem in (*config.train.deep, *config.train.rankers)


def test_there_are_configurations_to_check():
    assert CONF and MODELS


@pytest.mark.parametrize(
    ("values", "key"),
    [
        ({**BASE, "sed": 1}, "sed: unknown key"),
        ({**BASE, "dataset": {"kcore": 3}}, "dataset.kcore: unknown key"),
        (with_log(generate={"dirt": {"mud": 0.1}}), "log.generate.dirt.mud: unknown key"),
        ({**BASE, "seed": "1"}, "seed: "),
        ({**BASE, "seed": True}, "seed: "),
        ({**BASE, "seed": 1.5}, "seed: "),
        ({**BASE, "seed": 0}, "seed: "),
        ({**BASE, "name": "a b"}, "name: "),
        ({**BASE, "name": 7}, "name: "),
        ({**BASE, "root": None}, "root: "),
        ({**BASE, "dataset": []}, "dataset: "),
        ({**BASE, "dataset": {"split": "by chance"}}, "dataset.split: "),
        ({**BASE, "dataset": {"feeds": ["sequences"]}}, "dataset.feeds needs 'pairs'"),
        ({**BASE, "dataset": {"history_length": 4, "sequence_stride": 5}}, "dataset.sequence_stride 5"),
        ({**BASE, "evaluation": {"ks": [10, "20"]}}, "evaluation.ks.1: "),
        ({**BASE, "evaluation": {"confidence": 1}}, "evaluation.confidence: "),
        ({**BASE, "evaluation": {"slices": ["age"]}}, "evaluation.slices names 'age'"),
        ({**BASE, "promotion": {"max_gain": 1}}, "promotion.max_gain: "),
        ({**BASE, "spark": {"conf": {"spark.ui.enabled": False}}}, "spark.conf.spark.ui.enabled: "),
        (with_log(max_bad_share=1.01), "log.max_bad_share: "),
        (with_log(path=5), "log.path"),
        (with_log(generate={"start": "soon"}), "log.generate.start: "),
        ({k: v for k, v in BASE.items() if k != "root"}, "root is missing"),
        ({**BASE, "log": {}}, "log.path is missing"),
        ({}, "name is missing"),
    ],
)
def test_unknown_keys_wrong_types_and_missing_keys_are_named(tmp_path, values, key):
    path = write(tmp_path, values)
    assert refusal(path).startswith(f"{path}: {key}")


@pytest.mark.parametrize(
    ("values", "key"),
    [
        ({**BASE, "dataset": {"split": "column"}}, "dataset.split"),
        ({**with_log(columns=COLUMNS), "dataset": {"split": "column"}}, "dataset.split"),
        (with_log(default_type="view"), "log.default_type 'view'"),
        (with_log(event_types={}), "log.event_types"),
        (with_log(event_types={"view": 0}), "log.event_types"),
        (with_log(columns={"user_id": "u"}), "log.columns does not map item_id, timestamp"),
        (with_log(columns={k: v for k, v in COLUMNS.items() if k != "event_type"}), "event_type"),
        ({**BASE, "train": {"baselines": ["als"]}}, "train.baselines"),
    ],
)
def test_a_clash_between_two_keys_is_named(tmp_path, values, key):
    path = write(tmp_path, values)
    message = refusal(path)
    assert message.startswith(f"{path}: ") and key in message


def test_what_clashes_alone_agrees_with_its_counterpart(tmp_path):
    columns = {k: v for k, v in COLUMNS.items() if k != "event_type"} | {"split": "part"}
    values = with_log(columns=columns, default_type="view", event_types={"view": 1}) | {"dataset": {"split": "column"}}
    assert load_config(write(tmp_path, values)).dataset.split == "column"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("a: [1", "not valid YAML in line 1"),
        ("name: x\n\tb: 2", "not valid YAML in line 2"),
        ("name: a\x00b", "not valid YAML"),
        ("", "not a mapping"),
        ("- a", "not a mapping"),
        ("just words", "not a mapping"),
        ("1: x\nname: y\nroot: z\nlog: {path: p}", ""),
    ],
)
def test_bad_yaml_is_one_line(tmp_path, text, why):
    path = write(tmp_path, text)
    message = refusal(path)
    assert message.startswith(f"{path}: ") and why in message


def test_a_file_that_cannot_be_read_is_one_line(tmp_path):
    assert "no such configuration file" in refusal(tmp_path / "none.yaml")
    assert str(tmp_path) in refusal(tmp_path)
    (tmp_path / "latin.yaml").write_bytes(b"name: caf\xe9")
    assert "latin.yaml" in refusal(tmp_path / "latin.yaml")


def test_extends_starts_from_another_file(tmp_path):
    (tmp_path / "base").mkdir()
    write(tmp_path / "base", {**BASE, "seed": 7, "dataset": {"k_core": 3, "valid_days": 2}}, "grand.yaml")
    write(tmp_path / "base", {"extends": "grand.yaml", "evaluation": {"ks": [5, 50]}}, "parent.yaml")
    child = {"extends": "base/parent.yaml", "name": "child", "dataset": {"k_core": 2}, "evaluation": {"ks": [10, 1]}}
    config = load_config(write(tmp_path, child))
    # mappings are merged key by key, a list takes the other's place, and paths are relative to the file that says them
    assert (config.name, config.seed, config.root) == ("child", 7, "build/shop")
    assert (config.dataset.k_core, config.dataset.valid_days, config.evaluation.ks) == (2, 2, [10, 1])


def test_extends_takes_several_files_the_later_over_the_earlier(tmp_path):
    write(tmp_path, {**BASE, "seed": 7, "models": {"als": {"rank": 8, "alpha": 2.0}}}, "night.yaml")
    write(tmp_path, {"models": {"als": {"rank": 16}}}, "tuned.yaml")
    config = load_config(write(tmp_path, {"extends": ["night.yaml", "tuned.yaml"], "name": "child"}))
    assert (config.name, config.seed, config.models) == ("child", 7, {"als": {"rank": 16, "alpha": 2.0}})
    back = load_config(write(tmp_path, {"extends": ["tuned.yaml", "night.yaml"]}))
    assert back.models == {"als": {"rank": 8, "alpha": 2.0}}
    own = {"extends": ["night.yaml", "tuned.yaml"], "models": {"als": {"rank": 4}}}
    assert load_config(write(tmp_path, own)).models["als"]["rank"] == 4
    assert "gone.yaml: no such" in refusal(write(tmp_path, {"extends": ["night.yaml", "gone.yaml"]}))
    write(tmp_path, {"extends": ["night.yaml", "b.yaml"]}, "a.yaml")
    write(tmp_path, {"extends": ["a.yaml"]}, "b.yaml")
    assert "extends itself" in refusal(tmp_path / "a.yaml")
    assert load_config(write(tmp_path, {**BASE, "extends": []})).name == "shop"


def test_extends_names_the_file_that_is_at_fault(tmp_path):
    path = write(tmp_path, {**BASE, "extends": "gone.yaml"})
    assert "gone.yaml: no such" in refusal(path)
    write(tmp_path, {"extends": "b.yaml"}, "a.yaml")
    write(tmp_path, {"extends": "c.yaml"}, "b.yaml")
    write(tmp_path, {"extends": "a.yaml"}, "c.yaml")
    assert "extends itself" in refusal(tmp_path / "a.yaml")
    assert "extends itself" in refusal(write(tmp_path, {"extends": "self.yaml"}, "self.yaml"))
    # twice the same parent on two levels is no circle
    write(tmp_path, BASE, "root.yaml")
    write(tmp_path, {"extends": "root.yaml"}, "left.yaml")
    assert load_config(write(tmp_path, {"extends": "left.yaml"})).name == "shop"


def test_overrides_come_last_and_are_read_as_yaml(tmp_path):
    path = write(tmp_path, {**BASE, "publish": {"active_days": 3}, "tracking": None, "dataset": {"k_core": 3}})
    overrides = [
        "dataset.k_core=1", "dataset.k_core=2", "evaluation.ks=[10, 5]", "publish.active_days=null", "name=other",
        "tracking.uri=http://127.0.0.1:5000/?a=b", "models.als.rank=8", "log.event_types={view: 1, buy: 2.5}",
    ]  # fmt: skip
    config = load_config(path, overrides)
    assert config.dataset.k_core == 2 and config.evaluation.ks == [10, 5] and config.publish.active_days is None
    assert config.name == "other" and config.tracking.uri == "http://127.0.0.1:5000/?a=b"
    assert config.models == {"als": {"rank": 8}} and config.log.event_types == {"view": 1.0, "buy": 2.5}
    assert load_config(path, ["publish.active_days=", "tracking={}"]).publish.active_days is None


@pytest.mark.parametrize(
    ("override", "why"),
    [
        ("seed", "'seed'"),
        ("=1", "'=1'"),
        ("", "''"),
        ("seed=[1", "'seed=[1'"),
        ("name.sub=1", "name is not a section"),
        ("evaluation.ks.first=1", "ks is not a section"),
        ("dataset.kcore=1", "dataset.kcore: unknown key"),
        ("dataset.k_core=many", "dataset.k_core: "),
        ("dataset.k_core=1\n2", "dataset.k_core"),
        ("dataset..k_core=1", "dataset."),
        ("root=null", "root: "),
    ],
)
def test_bad_overrides_are_named(tmp_path, override, why):
    path = write(tmp_path, {**BASE, "evaluation": {"ks": [10]}})
    assert why in refusal(path, [override])


def test_dates_are_days_of_the_calendar():
    assert parse_date("2024-02-29") == dt.date(2024, 2, 29)
    for text in ("2024-02-30", "2023-02-29", "2024-13-01", "today", "", "2024-1-1", "2024-01-01T00:00"):
        with pytest.raises(ConfigError) as error:
            parse_date(text)
        assert "--date" in str(error.value) and repr(text) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("values", "key"),
    [
        ({"models": {"als": {"xyz": 1}}}, "models.als.xyz"),
        ({"models": {"als": {"rank": "many"}}}, "models.als.rank"),
        ({"models": {"oracle": {}}}, "'oracle'"),
        ({"train": {"baselines": ["popularity", "oracle"]}}, "train.baselines"),
        ({"train": {"deep": ["als"]}}, "train.deep"),
        ({"models": {"hybrid": {"parts": ["als", "hybrid"]}}}, "models.hybrid.parts"),
        ({"train": {"baselines": ["popularity", "hybrid", "als", "ease"]}}, "hybrid builds on als: name it before"),
        ({"train": {"baselines": ["popularity", "als", "hybrid"]}}, "hybrid builds on ease"),
    ],
)
def test_model_parameters_are_checked_against_the_model(values, key):
    with pytest.raises(ConfigError) as error:
        check_models(Config.model_validate({**BASE, **values}))
    assert key in str(error.value) and "\n" not in str(error.value)


def test_of_several_paths_the_first_that_exists_is_taken(tmp_path):
    (tmp_path / "here").touch()
    log = Config.model_validate(with_log(path=[str(tmp_path / "gone"), str(tmp_path / "here")])).log
    assert log.resolve() == tmp_path / "here"
    log = Config.model_validate(with_log(path=[str(tmp_path / "gone"), str(tmp_path / "lost")])).log
    assert log.resolve() == tmp_path / "gone"


def test_a_key_that_stands_twice_is_refused(tmp_path):
    path = tmp_path / "twice.yaml"
    path.write_text("name: a\nroot: b\nname: c\n")
    with pytest.raises(ConfigError, match=r"twice\.yaml: is not valid YAML in line 1: the key 'name' stands twice"):
        load_config(path)
