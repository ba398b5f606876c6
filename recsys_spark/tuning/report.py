"""What a search found: a table of the trials, a picture, and the YAML that a night's configuration takes."""

from __future__ import annotations

import json
import os
import uuid
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from recsys_spark.tracking.promotion import METRIC
from recsys_spark.tuning.search import Trial


def table(trials: list[Trial]) -> pd.DataFrame:
    """Return one row per trial in the order of their numbers: state, NDCG@10 on valid, its parameters, seconds."""
    rows = []
    for trial in trials:
        outcome = trial.outcome
        row: dict[str, Any] = {"trial": trial.number, "state": trial.state, METRIC: trial.value}
        row |= {name: _cell(value) for name, value in trial.parameters.items()}
        row |= {
            "epochs": len(outcome.reports) if outcome else 0,
            "seconds": round(outcome.seconds, 3) if outcome else None,
            "found": outcome.reused if outcome else False,
            "version": outcome.version if outcome else None,
            "error": cause(trial.error) if trial.error else None,
        }
        rows.append(row)
    return pd.DataFrame(rows)


def cause(error: Exception) -> str:
    """Return an error in one line."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else 'no message'}"


def markdown(trials: list[Trial], best: Trial, day: str) -> str:
    """Return the finished trials, best first, for the description on the run's page."""
    names = list(best.parameters)
    lines = [f"| trial | {METRIC} | {' | '.join(names)} |", "|---" * (len(names) + 2) + "|"]
    finished = sorted((t for t in trials if t.value is not None), key=lambda t: (-(t.value or 0.0), t.number))
    for trial in finished:
        values = " | ".join(str(_cell(trial.parameters[n])) for n in names)
        lines.append(f"| {trial.number} | {trial.value:.4f} | {values} |")
    return "\n".join(lines) + f"\n\nValid part of {day}, full catalogue.\n"


def plot(trials: list[Trial], path: Path) -> None:
    """Draw NDCG@10 over the trials with the best so far, and over each parameter."""
    from matplotlib.figure import Figure

    finished = [t for t in trials if t.value is not None]
    names = list(finished[0].parameters)
    figure = Figure(figsize=(4.0 * (len(names) + 1), 3.6), layout="constrained")
    first, *others = figure.subplots(1, len(names) + 1, sharey=True, squeeze=False)[0]
    numbers, values = [t.number for t in finished], [t.value for t in finished]
    first.plot(numbers, values, "o", color="#4c78a8", label="finished")
    first.step(numbers, pd.Series(values).cummax(), where="post", color="#333333", linewidth=1, label="best so far")
    for state, colour in (("pruned", "#f58518"), ("failed", "#e45756")):
        at = [t.number for t in trials if t.state == state]
        if at:
            first.plot(at, [min(v for v in values if v is not None)] * len(at), "x", color=colour, label=state)
    first.set_xlabel("trial")
    first.set_ylabel(f"{METRIC.upper()} on valid")
    first.legend(fontsize=8, frameon=False)
    for axes, name in zip(others, names, strict=True):
        drawn = [t.parameters[name] for t in finished]
        numeric = all(isinstance(v, int | float) and not isinstance(v, bool) for v in drawn)
        axes.plot(drawn if numeric else [str(_cell(v)) for v in drawn], values, "o", color="#4c78a8")
        if numeric and min(drawn) > 0 and max(drawn) / min(drawn) >= 100:
            axes.set_xscale("log")
        axes.set_xlabel(name)
    for axes in (first, *others):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)


def best_yaml(model: str, parameters: dict[str, Any], about: str) -> str:
    """Return the configuration of a model's parameters, for `extends:` of another.

    >>> print(best_yaml("als", {"rank": 16}, "ndcg@10 0.1"), end="")
    # ndcg@10 0.1
    # Written by jobs/tune.py. A night takes it by `extends: [its own file, this file]`.
    models:
      als:
        rank: 16
    """
    comment = f"# {about}\n# Written by jobs/tune.py. A night takes it by `extends: [its own file, this file]`.\n"
    return comment + yaml.safe_dump({"models": {model: parameters}}, sort_keys=False)


def write_best(path: Path, text: str) -> None:
    """Write a file in one step: a night that reads it meanwhile sees the old one or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    aside.write_text(text, encoding="utf-8")
    os.replace(aside, path)


def _cell(value: Any) -> Any:
    return value if isinstance(value, int | float | str) else json.dumps(value, default=str)
