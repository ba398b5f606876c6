"""The page on adding a model, followed to the letter."""

from __future__ import annotations

import importlib.util
import re
import sys
import textwrap

import numpy as np
import pytest
import test_models
import yaml
from night import REPOSITORY, write_config

from recsys_spark import models
from recsys_spark.config import load_config

PAGE = (REPOSITORY / "docs" / "adding-a-model.md").read_text(encoding="utf-8")
FILE, TEST = re.findall(r"```python\n(.*?)```", PAGE, re.S)
(YAML,) = re.findall(r"## The configuration\n\n((?:    .*\n)+)", PAGE)


@pytest.fixture
def fism(tmp_path, monkeypatch):
    """The file where it would be found, the line in `DEEP`, and the lines of the suite."""
    path = tmp_path / "fism.py"
    path.write_text(FILE, encoding="utf-8")
    spec = importlib.util.spec_from_file_location("recsys_spark.models.fism", path)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    monkeypatch.setattr(models, "DEEP", (*models.DEEP, "fism"))
    suite = {name: getattr(test_models, name).copy() for name in ("SETTINGS", "STEPS", "NEEDS_HISTORY")}
    exec(TEST, suite)
    for name in ("SETTINGS", "STEPS", "NEEDS_HISTORY"):
        monkeypatch.setattr(test_models, name, suite[name])
    return test_models.trained("fism")[0]


def test_it_passes_the_shared_suite(fism, tmp_path):
    for check in (
        test_models.test_checkerboard,
        test_models.test_a_block_scores_like_its_users_one_by_one,
        test_models.test_items_without_training_rows_get_no_opinion,
        test_models.test_users_it_cannot_know,
        test_models.test_items_newer_than_the_model_are_ignored,
        test_models.test_a_block_of_nobody,
    ):
        check(lambda name: fism, "fism")
    test_models.test_saved_and_loaded_it_scores_the_same(lambda name: fism, "fism", tmp_path)
    assert fism.dot_product
    users = test_models.board_block()
    scores, product = fism.score(users), fism.user_vectors(users) @ fism.item_vectors().T
    stated = np.isfinite(scores)
    np.testing.assert_allclose(product[stated], scores[stated], rtol=1e-5, atol=1e-6)


def test_a_configuration_may_name_it(fism, tmp_path):
    path = write_config(tmp_path)
    merged = {**yaml.safe_load(path.read_text()), **yaml.safe_load(textwrap.dedent(YAML))}
    path.write_text(yaml.safe_dump(merged), encoding="utf-8")
    config = load_config(path)
    models.check_models(config)
    assert models.model_config("fism", config).dim == 32 and models.feed_of("fism") == "pairs"
