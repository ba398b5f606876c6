"""The whole page: its sections in their order, in one file that needs nothing else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from recsys_spark.reporting.html import Fragment
from recsys_spark.reporting.night import Night
from recsys_spark.reporting.sections import (
    beyond,
    calibration,
    curves,
    drift,
    gates,
    metrics,
    popularity,
    slices,
    summary,
    users,
)

TABLE = "reports"
"""Slot of the pages in the warehouse, by date."""
FILE = "report.html"
SECTIONS: tuple[ModuleType, ...] = (
    summary, metrics, slices, curves, calibration, beyond, popularity, drift, gates, users,
)  # fmt: skip
"""Each has a `TITLE`, and a function of its own name from a night to HTML."""
_HERE = Path(__file__).parent


def render(night: Night) -> str:
    """Return the page of a night as one HTML document."""
    env = Environment(loader=FileSystemLoader(_HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    parts = [(name_of(module), module.TITLE, _draw(module)(night)) for module in SECTIONS]
    style = Fragment((_HERE / "page.css").read_text(encoding="utf-8"))
    return env.get_template("page.html").render(night=night, sections=parts, style=style)


def name_of(module: ModuleType) -> str:
    """Return a section's name, which is also its anchor."""
    return module.__name__.rpartition(".")[2]


def _draw(module: ModuleType) -> Callable[[Night], Fragment]:
    draw: Callable[[Night], Fragment] = getattr(module, name_of(module))
    return draw
