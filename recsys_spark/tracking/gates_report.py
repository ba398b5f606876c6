"""What the gates found, as a table, as text and as a picture."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from recsys_spark.config import GatesConfig
from recsys_spark.log.gates import GateResult, shown
from recsys_spark.log.profile import Profile

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLORS = {"pass": "#4c78a8", "warn": "#f2a93b", "stop": "#c8443c", "not judged": "#c9c9c9"}
_QUIET = "#8a8a8a"


def gates_table(results: Sequence[GateResult]) -> pd.DataFrame:
    """Return one row per gate: status, value and limits as numbers, and the line that explains it."""
    rows = [(r.gate, r.status, r.value, r.warn, r.stop, r.text) for r in results]
    table = pd.DataFrame(rows, columns=["gate", "status", "value", "warn", "stop", "text"])
    return table.astype({"value": float, "warn": float, "stop": float})


def gates_markdown(results: Sequence[GateResult]) -> str:
    """Return what was found in a few lines, for the description on a run's page."""
    lines = [f"**{summary(results)}**", ""]
    lines += [f"- **{r.status}** {r.gate}: {r.text}" for r in results if r.status in ("stop", "warn")]
    return "\n".join(lines) + "\n"


def summary(results: Sequence[GateResult]) -> str:
    """Count the gates by what they found.

    >>> summary([GateResult("mix", 0.1, 0.25, None, "pass", "")])
    '1 pass, 0 warn, 0 stop, 0 not judged'
    """
    found = [r.status for r in results]
    return ", ".join(f"{found.count(status)} {status}" for status in _COLORS)  # type: ignore[arg-type]


def gates_plot(
    results: Sequence[GateResult], profile: Profile, trailing: Sequence[Profile], config: GatesConfig, path: Path
) -> None:
    """Draw the events of the day and of the days before it, and the drift of every column, with the limits."""
    from matplotlib.figure import Figure

    drifts = [r for r in results if r.kind in ("mix", "drift")]
    figure = Figure(figsize=(12, max(3.6, 0.42 * len(drifts) + 1.6)), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1.25, 1))
    _draw_volume(left, results, profile, trailing, config)
    _draw_drift(right, drifts)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)


def _draw_volume(
    axes: Axes, results: Sequence[GateResult], profile: Profile, trailing: Sequence[Profile], config: GatesConfig
) -> None:
    found = [r for r in results if r.kind in ("volume_drop", "volume_rise")]
    worst = max((r.status for r in found), key=("not judged", "pass", "warn", "stop").index)
    days = [*trailing, profile]
    labels = [p.batch[5:] if p.day else "whole log" for p in days]
    colors = [_COLORS["not judged"]] * len(trailing) + [_COLORS["pass" if worst == "not judged" else worst]]
    bars = axes.bar(labels, [p.events for p in days], color=colors, width=0.7)
    axes.set_xlim(-0.6, max(len(days), 4) - 0.4)  # a few bars are not made as wide as eight
    shown_events = [""] * len(trailing) + [f"{profile.events:,}"]
    # in the bar where it is long enough: above it is where the median runs on most days
    inside = profile.events > 0.2 * max(p.events for p in days)
    placed = {"padding": -14, "color": "white", "fontsize": 9} if inside else {"padding": 2}
    axes.bar_label(bars, shown_events, fontweight="bold", **placed)
    if found[0].value is not None:
        usual = statistics.median(p.events for p in trailing)
        drop, rise = config.volume_drop, config.volume_rise
        lines = [(usual, f"median {usual:,.0f}", "#333333", "-")]
        lines += [(usual * (1 - b), f"{s}: −{shown('', b)}", _COLORS[s], "--")
                  for s, b in (("warn", drop.warn), ("stop", drop.stop)) if b is not None]  # fmt: skip
        highest = max(p.events for p in days)
        lines += [(usual * (1 + b), f"{s}: +{shown('', b)}", _COLORS[s], "--")
                  for s, b in (("warn", rise.warn), ("stop", rise.stop))
                  if b is not None and usual * (1 + b) < 1.5 * highest]  # fmt: skip
        for height, label, color, style in lines:
            axes.axhline(height, color=color, linestyle=style, linewidth=1.2)
            axes.annotate(label, (1, height), xycoords=("axes fraction", "data"), xytext=(4, 0), va="center",
                          textcoords="offset points", color=color, fontsize=9)  # fmt: skip
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.set_title(f"events of the day, {profile.batch}" if profile.day else "events", loc="left", fontsize=11)


def _draw_drift(axes: Axes, drifts: Sequence[GateResult]) -> None:
    names = ["event types, trailing days" if r.kind == "mix" else r.gate.split(".", 1)[1] for r in drifts]
    limits = sorted({(s, b) for r in drifts for s, b in (("warn", r.warn), ("stop", r.stop)) if b is not None})
    end = 1.3 * max([b for _, b in limits], default=0.25)
    end = min(2 * end, max(end, 1.1 * max(r.value or 0.0 for r in drifts)))  # what is far beyond is cut
    for y, result in enumerate(drifts):
        value = result.value or 0.0
        axes.barh(y, min(value, end), color=_COLORS[result.status], height=0.6)
        label = result.status if result.value is None else f"{value:.3f}" + (" ▸" if value > end else "")
        axes.annotate(label, (min(value, end), y), xytext=(-4 if value > 0.8 * end else 4, 0), va="center",
                      ha="right" if value > 0.8 * end else "left", textcoords="offset points", fontsize=9,
                      color=_QUIET if result.value is None else "#222222",
                      bbox={"facecolor": "none" if value > 0.8 * end else "white", "edgecolor": "none", "pad": 1}
                      )  # fmt: skip
    for status, bound in limits:
        axes.axvline(bound, color=_COLORS[status], linestyle="--", linewidth=1.2, zorder=0.5)
        axes.annotate(f"{status} {bound:g}", (bound, 1), xycoords=("data", "axes fraction"), xytext=(0, 3),
                      textcoords="offset points", ha="center", color=_COLORS[status], fontsize=9)  # fmt: skip
    axes.set_yticks(range(len(drifts)), names)
    axes.invert_yaxis()
    axes.set_xlim(0, end)
    axes.set_xlabel("PSI", color=_QUIET)
    axes.set_title("drift", loc="left", fontsize=11)
