"""The models, one per file; a new one is a file here and a line in `BASELINES`, `DEEP` or `RANKERS`.

A baseline's module has `Config`, `fit(data, config)`, which learns from a `TrainingData` on Spark, `load(path)`,
`needs(config)` where it learns from more than the interactions. A deep model's has `Config` and `Network`, a torch
module that `recsys_spark.training` trains: see `torch_recommender`. A ranker's has the same, see `ranking`; it orders
the candidates of another model, together with which it is the model `two_stage`. Each has `SHARES` where part of its
code is in files that other models have too.
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
DEEP = ("neumf", "two_tower", "bpr", "autorec", "mult_vae", "lightgcn", "sasrec", "gru4rec", "bert4rec", "caser")
RANKERS = ("fm", "wide_and_deep", "deepfm", "dcn_v2", "din", "mmoe", "ple")
TWO_STAGE = "two_stage"


def module_of(name: str) -> ModuleType:
    """Import the module of a model.

    Raises:
        ConfigError: there is no such model.
    """
    known = (*BASELINES, *DEEP, *RANKERS, TWO_STAGE)
    if name not in known:
        raise ConfigError(f"no model {name!r}; there are {', '.join(known)}")
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
    """Return the kind of feed that a deep model or a ranker trains on."""
    return getattr(module_of(name).Network, "feed", "pairs")


def stages_of(config: Config) -> Any:
    """Return the config of `two_stage`, its ranker named; None where no ranker is trained.

    Raises:
        ConfigError: one of the two models is none of the night's.
    """
    train = config.train
    if not train.rankers:
        return None
    settings = model_config(TWO_STAGE, config)
    settings = settings.model_copy(update={"ranker": settings.ranker or train.rankers[0]})
    retrievers = (*train.baselines, *train.deep)
    for key, name, trained in (
        ("retriever", settings.retriever, retrievers),
        ("ranker", settings.ranker, train.rankers),
    ):
        if name not in trained:
            raise ConfigError(f"models.two_stage.{key}: {name!r} is none of what is trained: {', '.join(trained)}")
    return settings


def check_models(config: Config) -> None:
    """Check every model that the configuration names, and that none builds on one that comes after it."""
    train = config.train
    named = (("baselines", train.baselines, BASELINES), ("deep", train.deep, DEEP), ("rankers", train.rankers, RANKERS))
    for kind, names, known in named:
        for name in names:
            if name not in known:
                raise ConfigError(f"train.{kind}: no such model {name!r}; there are {', '.join(known)}")
    for name in (*config.models, *train.baselines, *train.deep, *train.rankers):
        model_config(name, config)
    stages_of(config)
    for name in (*train.deep, *train.rankers):
        if feed_of(name) not in config.dataset.feeds:
            raise ConfigError(f"{name} trains on the feed {feed_of(name)}: add it to dataset.feeds")
    for place, name in enumerate(config.train.baselines):
        for need in needs_of(name, model_config(name, config)):
            kind, _, part = need.partition("/")
            if kind == "models" and part not in config.train.baselines[:place]:
                raise ConfigError(f"{name} builds on {part}: name it before {name} in train.baselines")


@functools.lru_cache(maxsize=4)
def load(path: Path, moment: Path | None = None) -> Recommender:
    """Read a saved model of any kind; kept in memory, because Spark asks once per block of users.

    Args:
        moment: a folder with the features of users and items, for a model that ranks by them.
    """
    name = read_card(path)["model"]
    if name == TWO_STAGE:
        return module_of(name).load(path, moment)
    if name in DEEP:
        return importlib.import_module(f"{__name__}.torch_recommender").load(path)
    return module_of(name).load(path)


__all__ = [
    "BASELINES", "DEEP", "RANKERS", "TWO_STAGE", "Recommender", "Section", "check_models", "load", "model_config",
    "module_of",
]  # fmt: skip
