"""What every benchmark prints and writes: both sides of each row measured in the same run."""

from __future__ import annotations

import argparse
import json
import os
import platform
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Row:
    """One measured piece of work."""

    work: str
    ours: float
    unit: str
    peer: str | None = None
    """What `peer_value` was measured on; None where there is no other side."""
    peer_value: float | None = None
    ratio: float | None = None
    """Ours against the peer, as the unit has it: above 1 is better for a rate, below 1 for seconds."""
    bar: str | None = None
    """What the ratio, or our figure, has to be."""
    holds: bool | None = None


def machine() -> dict[str, Any]:
    """Describe what was measured on."""
    packages = ("pyspark", "petastorm", "torch", "horovod", "pyarrow", "mlflow", "numpy")
    return {
        "processor": platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(psutil.virtual_memory().total / 2**30, 1),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {p: version(p) for p in packages},
    }


def parser(about: str) -> argparse.ArgumentParser:
    """Return the options that every benchmark has."""
    options = argparse.ArgumentParser(description=about)
    options.add_argument("--out", type=Path, help="write the figures to this JSON file")
    return options


def finish(name: str, rows: list[Row], out: Path | None) -> None:
    """Print the rows as a table and write them as JSON."""
    host = machine()
    grid = Table(title=f"{name}: {host['cores']} cores, {host['memory_gb']} GB", title_justify="left")
    for column in ("work", "ours", "unit", "peer", "its value", "ratio", "bar", "holds"):
        grid.add_column(column, justify="right" if column in ("ours", "its value", "ratio") else "left")
    for row in rows:
        values = (row.work, row.ours, row.unit, row.peer, row.peer_value, row.ratio, row.bar, row.holds)
        grid.add_row(*(_cell(v) for v in values))
    Console(width=120).print(grid)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        result = {"name": name, "machine": host, "rows": [asdict(row) for row in rows]}
        out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        print(f"written to {out}")


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "NO"
    if isinstance(value, float):
        return f"{value:,.2f}" if abs(value) >= 0.1 or not value else f"{value:.4f}"
    return str(value)
