"""The space of a search: from the section `tune` to distributions, checked against the model's own parameters."""

from __future__ import annotations

import json
import math
import typing
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from pydantic import ValidationError

from recsys_spark import models
from recsys_spark.config import Config, SpaceConfig, first_error
from recsys_spark.errors import ConfigError

_DRAWN = 20
"""Trials of a search that draws and does not say how many."""


@dataclass(frozen=True)
class Space:
    """What may be chosen. A sampler sees listed values as text, because it knows no lists and no mappings."""

    distributions: dict[str, BaseDistribution]
    listed: dict[str, dict[str, Any]]
    """By parameter whose values are listed: text -> value."""

    def decode(self, drawn: dict[str, Any]) -> dict[str, Any]:
        """Turn what a sampler drew into parameters, in the order of the configuration."""
        return {name: self.listed[name][drawn[name]] if name in self.listed else drawn[name] for name in self.listing}

    @property
    def listing(self) -> list[str]:
        """The parameters' names, in the order of the configuration."""
        return list(self.distributions)

    @property
    def points(self) -> int:
        """How many points a grid has."""
        return math.prod(len(values) for values in self.listed.values())

    def trials(self, config: Config) -> int:
        """How many trials are asked for: `tune.trials`, never more than a grid's points."""
        if config.tune.sampler == "grid":
            return min(config.tune.trials or self.points, self.points)
        return config.tune.trials or _DRAWN


def search_space(config: Config) -> Space:
    """Return the space of `tune.space`.

    Raises:
        ConfigError: it is empty; it names what is no parameter of the model or gives it a value that it refuses;
            a grid has a range without steps.
    """
    tune = config.tune
    known = (*models.BASELINES, *models.DEEP)
    if tune.model not in known:
        raise ConfigError(f"tune.model: no such model {tune.model!r}; there are {', '.join(known)}")
    fields = models.module_of(tune.model).Config.model_fields
    if not tune.space:
        raise ConfigError(f"tune.space is empty; name some of {', '.join(fields)} of {tune.model}")
    distributions: dict[str, BaseDistribution] = {}
    listed: dict[str, dict[str, Any]] = {}
    for name, space in tune.space.items():
        if name not in fields:
            raise ConfigError(f"tune.space.{name}: {tune.model} has no such parameter; it has {', '.join(fields)}")
        if space.values is not None:
            values = space.values
        else:
            integer = _is_integer(name, fields[name].annotation)
            ends = _range(name, space, integer, stepped=tune.sampler == "grid")
            values = ends if isinstance(ends, list) else [ends.low, ends.high]  # type: ignore[attr-defined]
        for value in values:
            _check(config, name, value)
        if space.values is not None or isinstance(ends, list):
            listed[name] = {json.dumps(value, default=str): value for value in values}
            distributions[name] = CategoricalDistribution(tuple(listed[name]))
        else:
            distributions[name] = ends
    return Space(distributions, listed)


def _is_integer(name: str, annotation: Any) -> bool:
    kinds = {annotation, *typing.get_args(annotation)}
    if not kinds & {int, float}:
        raise ConfigError(f"tune.space.{name}: is no number, so it has no range; list its values")
    return float not in kinds


def _range(name: str, space: SpaceConfig, integer: bool, stepped: bool) -> list[Any] | BaseDistribution:
    """Return the points of a range for a grid, else its distribution."""
    assert space.low is not None and space.high is not None
    if integer and not all(float(x).is_integer() for x in (space.low, space.high, space.step or 1)):
        raise ConfigError(f"tune.space.{name}: is an integer; low, high and step have to be integers too")
    step = space.step or (1 if integer and not space.log else None)
    if stepped and step is None:
        raise ConfigError(
            f"tune.space.{name}: a grid has no points in a continuous range; set step, or list the values"
        )
    if step is None:
        if integer:
            return IntDistribution(int(space.low), int(space.high), log=True)
        return FloatDistribution(space.low, space.high, log=space.log)
    # in decimals, so that 0.1 and two steps of 0.1 are 0.3
    first, width = Decimal(str(space.low)), Decimal(str(step))
    count = int((Decimal(str(space.high)) - first) / width) + 1
    if stepped:
        return [int(p) if integer else float(p) for p in (first + i * width for i in range(count))]
    last = first + (count - 1) * width
    if integer:
        return IntDistribution(int(first), int(last), step=int(step))
    return FloatDistribution(float(first), float(last), step=step)


def _check(config: Config, name: str, value: Any) -> None:
    """Hold one value against the parameter; what only clashes with another parameter fails the trial it is in."""
    model = config.tune.model
    try:
        models.module_of(model).Config.model_validate({**config.models.get(model, {}), name: value})
    except ValidationError as error:
        if error.errors()[0]["loc"][:1] == (name,):
            raise ConfigError(f"tune.space.{first_error(error)}") from None
