"""What is written down of a soak: a table on the screen, Markdown for the documents, JSON for machines."""

from __future__ import annotations

import datetime as dt
import importlib.metadata
import json
import os
import platform
import subprocess
from dataclasses import asdict, dataclass, field
from pathlib import Path

import psutil

_BEGIN, _END = "<!-- soak:begin -->", "<!-- soak:end -->"
_PACKAGES = ("pyspark", "pyarrow", "torch", "horovod", "petastorm", "mlflow")


@dataclass
class Row:
    """A night, and what befell it."""

    night: str
    fault: str
    seen: str
    remedy: str
    seconds: float
    survived: bool
    checks: str = ""
    mb: float = 0.0
    """Of the warehouse after `expire`."""
    tracking_mb: float = 0.0
    """Of the MLflow store, which no policy bounds."""
    rss_mb: dict[str, float] = field(default_factory=dict)
    """Of the servers that live on from night to night."""


def machine() -> str:
    """Say what it ran on."""
    memory = psutil.virtual_memory().total / 2**30
    java = subprocess.run(["java", "-version"], capture_output=True, text=True).stderr.splitlines()[0].split('"')[1]
    packages = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in _PACKAGES)
    cores = len(os.sched_getaffinity(0))
    return f"{cores} cores, {memory:.0f} GB, Python {platform.python_version()}, Java {java}, {packages}"


def show(row: Row) -> None:
    """Print a night's line as soon as it is over."""
    mark = "survived" if row.survived else "NOT SURVIVED"
    print(f"{row.night}  {mark:<12}  {row.seconds:5.0f} s  {row.fault}: {row.seen}", flush=True)
    if row.checks:
        print(f"{'':12}{row.checks}; warehouse {row.mb:.1f} MB, MLflow {row.tracking_mb:.0f} MB", flush=True)


def survived(rows: list[Row], invariants: dict[str, str]) -> bool:
    """Tell whether every night was survived, and no invariant was seen broken."""
    return all(row.survived for row in rows) and not any(said.startswith("**no**") for said in invariants.values())


def write(folder: Path, seed: int, rows: list[Row], invariants: dict[str, str], seconds: float) -> None:
    """Write `soak.md` and `soak.json`."""
    facts = {
        "seed": seed, "machine": machine(), "seconds": round(seconds), "ended": dt.datetime.now(dt.UTC).isoformat(),
        "survived": survived(rows, invariants),
        "invariants": invariants, "nights": [asdict(row) for row in rows],
    }  # fmt: skip
    (folder / "soak.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    nights = len({row.night for row in rows}) - 1
    head = f"`make soak SEED={seed} NIGHTS={nights}`, {seconds / 60:.0f} minutes on {machine()}:\n\n"
    (folder / "soak.md").write_text(head + markdown(rows, invariants), encoding="utf-8")


def into(document: Path, folder: Path) -> None:
    """Put the tables of a soak into a document, between its two marks."""
    text, tables = document.read_text(encoding="utf-8"), (folder / "soak.md").read_text(encoding="utf-8")
    before, _, rest = text.partition(_BEGIN)
    document.write_text(f"{before}{_BEGIN}\n\n{tables}\n{_END}{rest.partition(_END)[2]}", encoding="utf-8")


def markdown(rows: list[Row], invariants: dict[str, str]) -> str:
    """Return the two tables of docs/reliability.md."""
    lines = ["| night | fault | what was seen | what mended it | survived | seconds |", "|---|---|---|---|---|---|"]
    for row in rows:
        cells = (row.night, row.fault, row.seen, row.remedy, "yes" if row.survived else "**no**", f"{row.seconds:.0f}")
        lines.append("| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |")
    lines += ["", "| what has to hold | did it |", "|---|---|"]
    lines += [f"| {name} | {found} |" for name, found in invariants.items()]
    return "\n".join(lines) + "\n"
