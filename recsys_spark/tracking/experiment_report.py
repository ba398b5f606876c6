"""What an experiment came to, as Markdown and as a picture."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib.dates as mdates
import numpy as np

from recsys_spark.evaluation.ab.daily import METRICS
from recsys_spark.evaluation.ab.effect import Effect
from recsys_spark.evaluation.ab.plan import Plan
from recsys_spark.evaluation.ab.read_out import ReadOut
from recsys_spark.evaluation.bootstrap import Interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLORS = ("#4c78a8", "#f2a93b", "#5b9f63", "#8d6cab")
_QUIET = "#8a8a8a"


def experiment_markdown(found: ReadOut) -> str:
    """Return the report: the verdicts first, then the figures that they rest on."""
    lines = [f"# Experiment, {found.first} to {found.last}", ""]
    for arm, verdict in found.verdicts.items():
        lines += [f"**{arm}**: {verdict.text}", ""]
    sizes = ", ".join(
        f"{a} {n:,} (expected {found.mismatch.expected[a]:,.0f})" for a, n in found.mismatch.users.items()
    )
    lines += [f"Users: {sizes}; chance of such sizes {found.mismatch.p_value:.3g}."]
    if found.crossed:
        lines += [f"{found.crossed:,} users were given more than one arm and are left out."]
    lines += [""]
    for arm, effects in found.effects.items():
        lines += [
            f"## {arm} beside {found.control}", "",
            f"| metric | {found.control} | {arm} | change | holds at every look | at this look alone | spread left | "
            "guardrail |",
            "|---|---|---|---|---|---|---|---|",
        ]  # fmt: skip
        for name, e in effects.items():
            state = found.verdicts[arm].guardrails.get(name, "primary" if name == found.primary else "")
            lines.append(
                f"| {name} | {_figure(e.control.value)} | {_figure(e.treatment.value)} | {_percent(e.lift.value)} | "
                f"{_span(e.always)} | {_span(e.once)} | {e.variance_left:.0%} | {state} |"
            )
        lines += ["", *(_can_see(name, e) for name, e in effects.items() if e.users_needed is not None), ""]
    lines += [
        "A change is relative to the control, after CUPED. Decide by the intervals that hold at every look; the others "
        "hold only at one look that was planned before the start. *Spread left* is the variance with CUPED / without.",
        "",
        *(f"- **{name}**: {metric.label}" for name, metric in METRICS.items()),
    ]
    return "\n".join(lines) + "\n"


def plan_markdown(plans: Mapping[str, Plan], days: int) -> str:
    """Return what experiments would need, as a table."""
    lifts = sorted({lift for p in plans.values() for lift in p.needed})
    head = " | ".join(f"users for {_percent(lift)}" for lift in lifts)
    lines = [
        f"# What an experiment of {days} days needs", "",
        f"| metric | now | users | can be seen | spread left | {head} |",
        "|---" * (5 + len(lifts)) + "|",
    ]  # fmt: skip
    for name, p in plans.items():
        needed = " | ".join(f"{p.needed[lift]:,}" for lift in lifts)
        lines.append(
            f"| {name} | {_figure(p.value)} | {p.users:,} | {_percent(p.detectable)} | {p.variance_left:.0%} | "
            f"{needed} |"
        )
    return "\n".join(lines) + "\n"


def experiment_plot(found: ReadOut, path: Path) -> None:
    """Draw the change of every metric at the last look, and of the primary one day by day."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 0.9 * len(METRICS) + 1.6), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.25))
    _draw_metrics(left, found)
    _draw_days(right, found)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)


def _draw_metrics(axes: Axes, found: ReadOut) -> None:
    for number, (arm, effects) in enumerate(found.effects.items()):
        for y, effect in enumerate(effects.values()):
            if effect.always.low == effect.always.low:
                _bar(axes, effect.always, y + 0.16 * number, _COLORS[number % len(_COLORS)])
        axes.plot([], [], color=_COLORS[number % len(_COLORS)], linewidth=3, label=arm)
    axes.axvline(0, color="#333333", linewidth=1)
    axes.set_yticks(range(len(METRICS)), list(METRICS))
    axes.set_ylim(len(METRICS) - 0.4, -0.6)
    axes.xaxis.set_major_formatter(lambda value, _: f"{100 * value:+g} %")
    axes.set_title(f"change at the end of {found.last}", loc="left", fontsize=11)
    if len(found.effects) > 1:
        axes.legend(frameon=False, fontsize=9)


def _bar(axes: Axes, interval: Interval, y: float, color: str) -> None:
    axes.plot([interval.low, interval.high], [y, y], color=color, linewidth=3, solid_capstyle="butt")
    axes.plot([interval.mean], [y], marker="o", color=color, markeredgecolor="white", markersize=8)
    axes.annotate(f"{100 * interval.mean:+.1f} %", (interval.mean, y), xytext=(0, 8), textcoords="offset points",
                  ha="center", fontsize=9, color=color)  # fmt: skip


def _draw_days(axes: Axes, found: ReadOut) -> None:
    for number, arm in enumerate(found.effects):
        known = [(d, e[arm][found.primary].always) for d, e in found.by_day.items()]
        known = [(day, i) for day, i in known if i.low == i.low]
        color = _COLORS[number % len(_COLORS)]
        days = np.array([day for day, _ in known], "datetime64[D]")
        axes.fill_between(
            days, [i.low for _, i in known], [i.high for _, i in known], color=color, alpha=0.2, linewidth=0
        )
        axes.plot(days, [i.mean for _, i in known], color=color, marker="o", markersize=4, label=arm)
    axes.axhline(0, color="#333333", linewidth=1)
    axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:+g} %")
    # the first days know next to nothing: what they would need is cut
    last = [e[found.primary].always for e in found.effects.values()]
    reach = max([abs(x) for i in last for x in (i.low, i.high) if x == x], default=0.1)
    axes.set_ylim(-3 * reach, 3 * reach)
    axes.xaxis.set_major_locator(mdates.AutoDateLocator(maxticks=8))
    axes.xaxis.set_major_formatter(mdates.DateFormatter("%d %b"))
    axes.set_title(f"{found.primary}, change with the interval that holds at every look", loc="left", fontsize=11)
    axes.tick_params(colors=_QUIET)


def _can_see(name: str, effect: Effect) -> str:
    users, seen = f"{effect.lift.n:,}", _percent(effect.detectable)
    return (
        f"- {name}: one planned look at {users} users shows a change of {seen} or more; for the expected lift it takes "
        f"{effect.users_needed:,}."
    )


def _figure(value: float) -> str:
    return f"{value:.4g}" if value == value else "-"


def _percent(share: float) -> str:
    return f"{100 * share:+.2g} %" if share == share else "-"


def _span(interval: Interval) -> str:
    return f"{_percent(interval.low)} to {_percent(interval.high)}" if interval.low == interval.low else "-"
