"""Reading a configuration file: `extends`, overrides, and one line for whatever is wrong."""

from __future__ import annotations

import contextlib
import datetime as dt
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from recsys_spark.config.root import Config
from recsys_spark.errors import ConfigError


def load_config(path: str | Path, overrides: list[str] | None = None) -> Config:
    """Read and check a configuration file.

    Args:
        path: a YAML file; its key `extends` may name another, relative to itself, to start from, or a list of them,
            of which a later one replaces what an earlier one says.
        overrides: `key.sub=value` strings, applied last; the value is read as YAML.

    Raises:
        ConfigError: one line that names the file and the key.
    """
    values = _read(Path(path), seen=())
    for override in overrides or []:
        _override(values, override)
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise ConfigError(f"{path}: {first_error(error)}") from None


class _Loader(yaml.SafeLoader):
    """Refuses a key that stands twice in a mapping, where YAML would silently take the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value]
        twice = next((k for k in keys if keys.count(k) > 1), None)
        if twice is not None:
            raise yaml.constructor.ConstructorError(None, None, f"the key {twice!r} stands twice", node.start_mark)
        return super().construct_mapping(node, deep)


def _read(path: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    if path.resolve() in seen:
        raise ConfigError(f"{path}: extends itself; break the circle")
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), _Loader)  # a SafeLoader
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such configuration file; the ready ones are in conf/") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" in line {mark.line + 1}" if mark else ""
        problem = " ".join(str(getattr(error, "problem", error)).split())
        raise ConfigError(f"{path}: is not valid YAML{where}: {problem}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: is not a mapping of keys to values")
    bases = values.pop("extends", None)
    merged: dict[str, Any] = {}
    for base in bases if isinstance(bases, list) else [bases] if bases is not None else []:
        merged = _merge(merged, _read(path.parent / str(base), (*seen, path.resolve())))
    return _merge(merged, values)


def _merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Merge nested mappings; anything else in `over` replaces what `base` has.

    >>> _merge({"a": {"b": 1, "c": 2}}, {"a": {"b": 3}})
    {'a': {'b': 3, 'c': 2}}
    """
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def _override(values: dict[str, Any], override: str) -> None:
    key, sep, text = override.partition("=")
    if not sep or not key:
        raise ConfigError(f"{override!r}: is not an override; write key.sub=value")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        raise ConfigError(f"{override!r}: the value is not valid YAML; quote it") from None
    *parents, last = key.split(".")
    node = values
    for parent in parents:
        if node.get(parent) is None:
            node[parent] = {}
        node = node[parent]
        if not isinstance(node, dict):
            raise ConfigError(f"{override!r}: {parent} is not a section")
    node[last] = value


def first_error(error: ValidationError) -> str:
    """One line for the first of pydantic's findings, with the key's full path."""
    found = error.errors()[0]
    key = ".".join(str(part) for part in found["loc"])
    if found["type"] == "extra_forbidden":
        return f"{key}: unknown key; see the configuration reference in README.md"
    if found["type"] == "missing":
        return f"{key} is missing"
    message = found["msg"].removeprefix("Value error, ")
    return f"{key}: {message}, got {found['input']!r}" if key and found["type"] != "value_error" else message


def parse_date(text: str) -> dt.date:
    """Parse `YYYY-MM-DD`; another way to write a day, or a day that the calendar lacks, is a `ConfigError`."""
    with contextlib.suppress(ValueError):
        day = dt.date.fromisoformat(text)
        if day.isoformat() == text:  # leases and folders are named after what was written
            return day
    raise ConfigError(f"--date {text!r}: is not a day of the calendar; write YYYY-MM-DD")
