"""Pieces of HTML. Whatever is put into one is escaped: ids and titles are input."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from markupsafe import Markup

from recsys_spark.evaluation.bootstrap import Interval

NOTHING = "–"


class Fragment(Markup):
    """HTML that a page takes as it is, and that a notebook shows as what it is."""

    def _repr_html_(self) -> str:
        return str(self)


def number(value: float | int | None, digits: int = 4) -> str:
    """Return a figure as people read it: whole numbers with commas, others with so many digits behind the point.

    >>> number(12345), number(0.21891), number(None), number(float("nan")), number(1234.5)
    ('12,345', '0.2189', '–', '–', '1,234')
    """
    if value is None or not math.isfinite(value):
        return NOTHING
    whole = isinstance(value, int) or abs(value) >= 1_000
    return (f"{value:,.0f}" if whole else f"{value:.{digits}f}").replace("-", "−")


def signed(value: float | None, digits: int = 4) -> str:
    """Return a difference with its sign.

    >>> signed(0.01), signed(-0.5, 2), signed(None)
    ('+0.0100', '−0.50', '–')
    """
    if value is None or not math.isfinite(value):
        return NOTHING
    return f"{value:+.{digits}f}".replace("-", "−")


def chance(p: float | None) -> str:
    """Return a p-value.

    >>> chance(0.03), chance(1e-9)
    ('0.0300', 'below 0.0001')
    """
    return "below 0.0001" if p is not None and p < 1e-4 else number(p)


def percent(value: float | None) -> str:
    """Return a share.

    >>> percent(0.256), percent(None)
    ('25.6%', '–')
    """
    return NOTHING if value is None or not math.isfinite(value) else f"{100 * value:.1f}%"


def interval(found: Interval | None, digits: int = 4) -> Fragment:
    """Return a mean with its interval behind it, smaller."""
    if found is None or number(found.mean) == NOTHING:
        return Fragment(NOTHING)
    ends = f"{number(found.low, digits)} – {number(found.high, digits)}" if number(found.low) != NOTHING else ""
    return Fragment('{} <span class="ends">{}</span>').format(number(found.mean, digits), ends)


def table(head: Sequence[object], rows: Iterable[Sequence[object]], name: str, left: int = 1) -> Fragment:
    """Return a table in a box of its own, which scrolls where the page is narrow.

    Args:
        name: what it is a table of, for those who do not see it.
        left: how many of the first columns are text; the others are figures.
    """
    cell = '<{tag} class="text">{}</{tag}>', "<{tag}>{}</{tag}>"

    def line(cells: Sequence[object], tag: str) -> Fragment:
        return Fragment("").join(Fragment(cell[i >= left]).format(c, tag=tag) for i, c in enumerate(cells))

    body = Fragment("\n").join(Fragment("<tr>{}</tr>").format(line(row, "td")) for row in rows)
    return Fragment(
        '<div class="scroll" role="region" aria-label="{}" tabindex="0"><table><thead><tr>{}</tr></thead>\n'
        "<tbody>{}</tbody></table></div>"
    ).format(name, line(head, "th"), body)


def text(words: object) -> Fragment:
    """Return a paragraph."""
    return Fragment("<p>{}</p>").format(words)


def empty(why: str) -> Fragment:
    """Return the one line of a section that has nothing to show."""
    return Fragment('<p class="empty">{}</p>').format(why)


def side_by_side(*parts: Markup) -> Fragment:
    """Lay figures beside each other where there is room, below each other where there is none."""
    return Fragment('<div class="tiles">{}</div>').format(Fragment("\n").join(parts))


def together(*parts: Markup) -> Fragment:
    """Put pieces one below the other."""
    return Fragment("\n").join(parts)
