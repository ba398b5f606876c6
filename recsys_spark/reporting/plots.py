"""Plots as inline SVG: plain functions from numbers to a figure, readable in light and dark, without a script.

A plot is 360 wide, so that a phone shows it at its own size and a wide page lays several side by side. Colours are the
page's variables; what stands behind the comma is for where the page's style is not, such as a notebook.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from recsys_spark.reporting.html import Fragment, number

WIDTH = 360
_ROW, _PLOT = 20, 190
_CHARACTER = 6.6  # width of a wide letter of 11 px
_COLORS = ("#2567b0", "#c2571a", "#2b8a57", "#7d56c2", "#b3365f", "#6b7785", "#8a6d1d", "#1c8a99")
STATUS = {"pass": "var(--ok,#2567b0)", "warn": "var(--warn,#b87503)", "stop": "var(--bad,#c0392b)"}
_KEY = "white-space:nowrap;margin-right:1em"
_INK, _QUIET, _GRID = "var(--ink,#1d2129)", "var(--quiet,#5b6470)", "var(--grid,#dde1e6)"

Scale = Callable[[float], float]
Series = Mapping[str, Sequence[tuple[float, float]]]
"""By name the points (x, y), in their order."""


@dataclass(frozen=True)
class Dot:
    """A figure with its interval, one line of `dots`."""

    label: str
    value: float
    low: float
    high: float
    series: int = 0


@dataclass(frozen=True)
class Bar:
    """A figure, one line of `bars`; `color` is one of `STATUS`, or that of a series."""

    label: str
    value: float | None
    color: str
    said: str
    """What stands beside it."""


def color(series: int) -> str:
    """Return the colour of a series."""
    return f"var(--s{series % len(_COLORS)},{_COLORS[series % len(_COLORS)]})"


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Return round numbers from `low` to `high`, `most` + 1 at the most.

    >>> ticks(0.0, 0.23), ticks(3.0, 3.0)
    ([0.0, 0.05, 0.1, 0.15, 0.2], [3.0])
    """
    if not high - low > 1e-12 * max(1.0, abs(low), abs(high)):
        return [low]
    raw = (high - low) / most
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * m for m in (1, 2, 5, 10) if power * m >= raw * (1 - 1e-9))
    return [round(n * step, 12) for n in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def dots(rows: Sequence[Dot], title: str, said: str) -> Fragment:
    """Draw one line per row: a dot, its interval, and the figure.

    Args:
        said: the text alternative's last sentence: what the figures are.
    """
    known = [row for row in rows if math.isfinite(row.value)]
    ends = [x for row in known for x in (row.value, row.low, row.high) if math.isfinite(x)]
    low, high = min([0.0, *ends]), max([0.0, *ends])
    high = high if high > low else low + 1
    left = _margin([row.label for row in rows])
    at = _scale(low, high, left, WIDTH - 52)
    height = len(rows) * _ROW + 24
    parts = _vertical_grid(low, high, at, height - 20)
    parts.append(_line(at(0.0), 0, at(0.0), height - 20, _QUIET))
    for n, row in enumerate(rows):
        y = n * _ROW + 10.0
        parts.append(_label(left - 6, y + 4, row.label, left))
        if not math.isfinite(row.value):
            continue
        if math.isfinite(row.low):
            parts.append(_line(at(row.low), y, at(row.high), y, color(row.series), 2))
        parts.append(Fragment('<circle cx="{:.1f}" cy="{:.1f}" r="4" style="fill:{}"/>').format(
            at(row.value), y, color(row.series)
        ))  # fmt: skip
        parts.append(_text(WIDTH, y + 4, number(row.value), "end"))
    listed = "; ".join(f"{row.label} {number(row.value)} [{number(row.low)}, {number(row.high)}]" for row in known)
    return figure(title, parts, height, f"{said} {listed}.")


def bars(rows: Sequence[Bar], title: str, said: str, limits: Mapping[str, float] | None = None) -> Fragment:
    """Draw one bar per row from 0, and a line for each limit; what is far beyond the limits is cut."""
    limits = limits or {}
    values = [abs(row.value) for row in rows if row.value is not None and math.isfinite(row.value)]
    most = max([*values, *limits.values()], default=1.0) or 1.0
    if limits:
        most = min(most, 2 * max(limits.values()))
    left, top = _margin([row.label for row in rows]), 14 if limits else 0
    wide = max([len(row.said) for row in rows], default=0) * _CHARACTER + 8
    at = _scale(0.0, most, left, WIDTH - wide)
    height = top + len(rows) * _ROW + 6
    parts = [_line(left, top, left, height - 4, _GRID)]
    for name, bound in limits.items():
        parts.append(_line(at(bound), top, at(bound), height - 4, STATUS.get(name, _QUIET), 1, dashed=True))
        parts.append(_text(at(bound), 10, f"{name} {bound:g}", "middle", STATUS.get(name, _QUIET)))
    for n, row in enumerate(rows):
        y = top + n * _ROW
        parts.append(_label(left - 6, y + 14, row.label, left))
        length = 0.0
        if row.value is not None and math.isfinite(row.value):
            length = at(min(abs(row.value), most)) - left
            parts.append(_rectangle(left, y + 4, length, 12, row.color))
        parts.append(_text(left + length + 5, y + 14, row.said))
    listed = "; ".join(f"{row.label} {row.said}" for row in rows)
    return figure(title, parts, height, f"{said} {listed}.")


def lines(
    series: Series, title: str, said: str, x: str, y: str, diagonal: bool = False, from_zero: bool = True,
    marked: bool = False,
) -> Fragment:  # fmt: skip
    """Draw a line per series, with a legend.

    Args:
        x, y: what the axes say.
        diagonal: draw where x and y are equal, too, on equal axes.
        from_zero: whether the y axis begins at 0 where all values are above it.
        marked: draw the points as well.
    """
    series = {name: [p for p in of if all(map(math.isfinite, p))] for name, of in series.items()}
    points = [p for of in series.values() for p in of]
    xs, ys = [p[0] for p in points] or [0.0], [p[1] for p in points] or [0.0]
    (x0, x1), (y0, y1) = (min(xs), max(xs)), (min(ys), max(ys))
    if from_zero and y0 > 0:
        y0 = 0.0
    if diagonal:
        x0, y0, x1, y1 = 0.0, 0.0, max(x1, y1), max(x1, y1)
    x1, y1 = x1 if x1 > x0 else x0 + 1, y1 if y1 > y0 else y0 + 1
    labels = [_short(v) for v in ticks(y0, y1)]
    left, height = max(len(v) for v in labels) * _CHARACTER + 10, _PLOT + 34
    across, down = _scale(x0, x1, left, WIDTH - 10), _scale(y0, y1, _PLOT, 18)
    parts = [_text(0, 10, y, color=_QUIET), _text(WIDTH - 10, height - 4, x, "end", _QUIET)]
    for value, label in zip(ticks(y0, y1), labels, strict=True):
        parts += [_line(left, down(value), WIDTH - 10, down(value), _GRID)]
        parts += [_text(left - 5, down(value) + 4, label, "end", _QUIET)]
    whole = all(x == int(x) for x in xs)  # there is no epoch 1.5
    marks = [v for v in ticks(x0, x1) if v == int(v) or not whole]
    parts += [_text(across(v), _PLOT + 14, _short(v), "middle", _QUIET) for v in marks]
    if diagonal:
        parts.append(_line(across(x0), down(x0), across(x1), down(x1), _QUIET, 1, dashed=True))
    for n, of in enumerate(series.values()):
        path = " ".join(f"{across(a):.1f},{down(b):.1f}" for a, b in of)
        parts.append(Fragment('<polyline points="{}" style="fill:none;stroke:{};stroke-width:2"/>').format(
            path, color(n)
        ))  # fmt: skip
        if marked or len(of) == 1:
            parts += [
                Fragment('<circle cx="{:.1f}" cy="{:.1f}" r="3" style="fill:{}"/>').format(across(a), down(b), color(n))
                for a, b in of
            ]
    listed = "; ".join(
        f"{name} from {_short(of[0][1])} to {_short(of[-1][1])} in {len(of)} points"
        for name, of in series.items()
        if of
    )
    return figure(title, parts, height, f"{said} {listed}.", list(series) if len(series) > 1 else [])


def columns(labels: Sequence[str], series: Mapping[str, Sequence[float]], title: str, said: str) -> Fragment:
    """Draw upright columns, those of the series beside each other under each label."""
    most = max((v for of in series.values() for v in of), default=1.0) or 1.0
    left, height, top = 34.0, 140, 8
    down = _scale(0.0, most, height - 22, top)
    wide = (WIDTH - left) / max(len(labels), 1)
    parts = []
    for value in ticks(0.0, most, 3):
        parts += [_line(left, down(value), WIDTH, down(value), _GRID)]
        parts += [_text(left - 4, down(value) + 4, f"{100 * value:.3g}%", "end", _QUIET)]
    each = wide * 0.8 / max(len(series), 1)
    for s, of in enumerate(series.values()):
        for n, value in enumerate(of):
            x = left + n * wide + wide * 0.1 + s * each
            parts.append(_rectangle(x, down(value), max(each - 0.5, 0.5), down(0.0) - down(value), color(s)))
    every = max(1, math.ceil(max((len(v) for v in labels), default=1) * _CHARACTER / wide))
    for n in range(0, len(labels), every):
        parts.append(_text(left + (n + 0.5) * wide, height - 6, _cut(labels[n], wide * every), "middle", _QUIET))
    listed = "; ".join(
        f"{label} {', '.join(f'{100 * of[n]:.1f}%' for of in series.values())}" for n, label in enumerate(labels)
    )
    return figure(title, parts, height, f"{said} {listed}.", list(series) if len(series) > 1 else [])


def figure(title: str, parts: Sequence[Fragment], height: float, said: str, legend: Sequence[str] = ()) -> Fragment:
    """Put a drawing into a figure with its title, its text alternative and a legend."""
    keys = Fragment("").join(
        Fragment('<span class="key" style="{}"><span style="color:{}">■</span> {}</span> ').format(_KEY, color(n), name)
        for n, name in enumerate(legend)
    )
    return Fragment(
        '<figure style="margin:0;max-width:480px"><figcaption>{}</figcaption>\n'
        '<svg viewBox="0 0 {} {:.0f}" role="img" aria-label="{}" style="width:100%;height:auto;font:11px system-ui,'
        'sans-serif">\n{}\n</svg>{}</figure>'
    ).format(title, WIDTH, height, f"{title}. {said}", Fragment("\n").join(parts), keys)


def _scale(low: float, high: float, first: float, last: float) -> Scale:
    """Return what maps low..high onto first..last."""
    return lambda value: first + (value - low) / ((high - low) or 1.0) * (last - first)


def _margin(labels: Sequence[str]) -> float:
    return min(150.0, max([len(label) for label in labels], default=0) * _CHARACTER + 8)


def _vertical_grid(low: float, high: float, at: Scale, bottom: float) -> list[Fragment]:
    parts = []
    for value in ticks(low, high, 4):
        parts.append(_line(at(value), 0, at(value), bottom, _GRID))
        parts.append(_text(at(value), bottom + 13, _short(value), "middle", _QUIET))
    return parts


def _line(x0: float, y0: float, x1: float, y1: float, stroke: str, width: float = 1, dashed: bool = False) -> Fragment:
    return Fragment(
        '<line x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}" style="stroke:{};stroke-width:{}{}"/>'
    ).format(x0, y0, x1, y1, stroke, width, ";stroke-dasharray:4 3" if dashed else "")


def _rectangle(x: float, y: float, width: float, height: float, fill: str) -> Fragment:
    return Fragment('<rect x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}" style="fill:{}"/>').format(
        x, y, max(width, 0.0), max(height, 0.0), fill
    )


def _text(x: float, y: float, words: str, anchor: str = "start", color: str = _INK) -> Fragment:
    return Fragment('<text x="{:.1f}" y="{:.1f}" text-anchor="{}" style="fill:{}">{}</text>').format(
        x, y, anchor, color, words
    )


def _label(x: float, y: float, words: str, room: float) -> Fragment:
    return _text(x, y, _cut(words, room), "end")


def _cut(words: str, room: float) -> str:
    most = max(2, int(room / _CHARACTER))
    return words if len(words) <= most else words[: most - 1] + "…"


def _short(value: float) -> str:
    """Return a number for an axis.

    >>> _short(0.25), _short(12000.0), _short(2500000.0)
    ('0.25', '12k', '2.5M')
    """
    for size, unit in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= 10 * size or (abs(value) >= size and unit == "M"):
            return f"{value / size:.3g}{unit}"
    return f"{value:.4g}"
