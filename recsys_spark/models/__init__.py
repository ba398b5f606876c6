"""The models, one per file; a new one is a file here and a line in `BASELINES` or `DEEP`.

A baseline's module has `Config`, `fit(data, config)`, which learns from a `TrainingData` on Spark, `load(path)`,
`needs(config)` where it learns from more than the interactions. A deep model's has `Config` and `Network`, a torch
module that `recsys_spark.training` trains: see `torch_recommender`. Either has `SHARES` where part of its code is in
files that other models have too.
Modules are imported when they are needed, so that a Spark executor that serves popularity never loads torch.
"""

from __future__ import annotations

import functools
import importlib
from pathlib import Path
from types import ModuleType
from typing import Any

from pydantic import ValidationError

from recsys_spark.config import Config, Section, first_error
from recsys_spark.errors import ConfigError
from recsys_spark.models.base import Recommender, read_card

BASELINES = ("popularity", "als", "item_knn", "user_knn", "ease", "content", "hybrid")
DEEP = ("neumf", "two_tower", "bpr", "mult_vae", "lightgcn", "sasrec", "gru4rec", "bert4rec", "caser")


def module_of(name: str) -> ModuleType:
    """Import the module of a model.

    Raises:
        ConfigError: there is no such model.
    """
    if name not in (*BASELINES, *DEEP):
        raise ConfigError(f"no model {name!r}; there are {', '.join((*BASELINES, *DEEP))}")
    return importlib.import_module(f"{__name__}.{name}")


def model_config(name: str, config: Config) -> Any:
    """Return a model's typed config from the `models` section."""
    try:
        return module_of(name).Config.model_validate(config.models.get(name, {}))
    except ValidationError as error:
        raise ConfigError(f"models.{name}.{first_error(error)}") from None


def needs_of(name: str, settings: Any) -> tuple[str, ...]:
    """Return what a baseline learns from beside the interactions: see `TrainingData`."""
    module = module_of(name)
    return tuple(module.needs(settings)) if hasattr(module, "needs") else ()


def code_of(name: str) -> tuple[str, ...]:
    """Return a model's code for `fingerprint`: its file or folder, and what its module says that it `SHARES`."""
    module = module_of(name)
    own = f"models/{name}" if hasattr(module, "__path__") else f"models/{name}.py"
    return own, *getattr(module, "SHARES", ())


def feed_of(name: str) -> str:
    """Return the kind of feed that a deep model trains on."""
    return getattr(module_of(name).Network, "feed", "pairs")


def check_models(config: Config) -> None:
    """Check every model that the configuration names, and that none builds on one that comes after it."""
    for kind, names, known in (("baselines", config.train.baselines, BASELINES), ("deep", config.train.deep, DEEP)):
        for name in names:
            if name not in known:
                raise ConfigError(f"train.{kind}: no such model {name!r}; there are {', '.join(known)}")
    for name in (*config.models, *config.train.baselines, *config.train.deep):
        model_config(name, config)
    for name in config.train.deep:
        if feed_of(name) not in config.dataset.feeds:
            raise ConfigError(f"{name} trains on the feed {feed_of(name)}: add it to dataset.feeds")
    for place, name in enumerate(config.train.baselines):
        for need in needs_of(name, model_config(name, config)):
            kind, _, part = need.partition("/")
            if kind == "models" and part not in config.train.baselines[:place]:
                raise ConfigError(f"{name} builds on {part}: name it before {name} in train.baselines")


@functools.lru_cache(maxsize=2)
def load(path: Path) -> Recommender:
    """Read a saved model of any kind; kept in memory, because Spark asks once per block of users."""
    name = read_card(path)["model"]
    if name in DEEP:
        return importlib.import_module(f"{__name__}.torch_recommender").load(path)
    return module_of(name).load(path)


__all__ = ["BASELINES", "DEEP", "Recommender", "Section", "check_models", "load", "model_config", "module_of"]
