"""Figures of a job in the text format of Prometheus, for the textfile collector of its node exporter.

Two files for each job, `recsys_DATASET_JOB.prom` and `recsys_DATASET_JOB_run.prom`. The first is of the last run that
went well and stays where one fails, so that a panel shows the night that is published; the second is of the last run
however it ended, so that an alert can tell the two apart.

The format: https://prometheus.io/docs/instrumenting/exposition_formats/
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

Sample = tuple[str, dict[str, str], float]
"""Name of the metric, labels, value."""

HELP = {
    "recsys_rows": "What a stage counted: rows, users, files.",
    "recsys_seconds": "How long a stage took.",
    "recsys_figure": "Any other number of a stage's last line, by its path in there.",
    "recsys_gate_value": "What a gate of check_log measured.",
    "recsys_gate_warned": "Whether the gate warned, 0 or 1; one that stops the night fails the stage.",
    "recsys_feed_wait_share": "Share of the training time that the ranks waited for the feed.",
    "recsys_model_age_days": "Days between the night of the model that is served and the run date.",
    "recsys_run_date_seconds": "The run date, as seconds since 1970.",
    "recsys_last_success_seconds": "When the job last went well, as seconds since 1970.",
    "recsys_last_run_seconds": "When the job last ended, as seconds since 1970.",
    "recsys_exit_code": "Exit code of the job's last run: 0 done, 2 configuration, 3 data, 1 anything else.",
}


def text(samples: Iterable[Sample]) -> str:
    r"""Write samples as text, by metric, each with its help and type.

    >>> print(text([("recsys_rows", {"kind": 'a"b'}, 3.0)]), end="")
    # HELP recsys_rows What a stage counted: rows, users, files.
    # TYPE recsys_rows gauge
    recsys_rows{kind="a\"b"} 3.0
    """
    by_name: dict[str, list[str]] = {}
    for name, labels, value in samples:
        inner = ",".join(f'{key}="{_escaped(label)}"' for key, label in labels.items())
        by_name.setdefault(name, []).append(f"{name}{{{inner}}} {float(value)!r}")
    lines = []
    for name, found in by_name.items():
        lines += [f"# HELP {name} {HELP[name]}", f"# TYPE {name} gauge", *found]
    return "".join(f"{line}\n" for line in lines)


def of_stage(
    dataset: str, stage: str, counts: Mapping[str, int], metrics: Mapping[str, Any], seconds: float
) -> list[Sample]:
    """Return the samples of a stage that went well."""
    own = {"dataset": dataset, "stage": stage}
    samples: list[Sample] = [("recsys_rows", {**own, "kind": kind}, n) for kind, n in counts.items()]
    samples.append(("recsys_seconds", own, seconds))
    for path, value in _numbers(metrics):
        if stage == "check_log":
            samples.append(("recsys_gate_value", {"dataset": dataset, "gate": path}, value))
        elif path.endswith("feed_wait_share"):
            samples.append(("recsys_feed_wait_share", {"dataset": dataset, "model": path.split("/")[0]}, value))
        elif path == "model_age_days":
            samples.append(("recsys_model_age_days", {"dataset": dataset}, value))
        else:
            samples.append(("recsys_figure", {**own, "name": path}, value))
    return samples


def of_gates(dataset: str, gates: Iterable[str], warned: Iterable[str]) -> list[Sample]:
    """Return which gates of `check_log` warned."""
    noisy = set(warned)
    return [("recsys_gate_warned", {"dataset": dataset, "gate": g}, float(g in noisy)) for g in gates]


def write(folder: Path, name: str, samples: Iterable[Sample]) -> None:
    """Replace the file of a job in one step: the exporter must never read half of it."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{re.sub(r'[^A-Za-z0-9_.-]', '_', name)}.prom"
    aside = folder / f".{path.name}.{os.getpid()}"
    aside.write_text(text(samples), encoding="utf-8")
    aside.chmod(0o644)  # whatever the process' mask: the exporter is another user, and figures tell of nobody
    os.replace(aside, path)


def _numbers(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, float]]:
    found = []
    for key, value in values.items():
        if isinstance(value, Mapping):
            found += _numbers(value, f"{prefix}{key}/")
        elif isinstance(value, int | float):
            found.append((f"{prefix}{key}", float(value)))
    return found


def _escaped(label: str) -> str:
    return label.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
