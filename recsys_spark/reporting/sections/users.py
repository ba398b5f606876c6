"""Twenty users: what they had, what was published to them, and what each model says, side by side."""

from __future__ import annotations

from collections.abc import Sequence

from recsys_spark.reporting.html import Fragment, empty, number, text, together
from recsys_spark.reporting.night import Night
from recsys_spark.reporting.people import Item, Person

TITLE = "Twenty users"


def users(night: Night) -> Fragment:
    """Return a card for each user."""
    if not night.people:
        return empty("No lists of this night are in the warehouse, or none of their users is known any more.")
    about = "Chosen by a hash of the id, so mostly the same ones every night. Scores compare within a list only; "
    about += "marked items are in the published list, too."
    if night.pseudonyms:
        about += " Ids are pseudonyms."
    return together(text(about), *(_card(person, night.measured.models) for person in night.people))


def _card(person: Person, order: Sequence[str]) -> Fragment:
    said = sorted(person.said, key=lambda name: (name not in order, order.index(name) if name in order else 0, name))
    shown = frozenset(i.item_id for i in person.published)
    columns = [
        _list("history, newest first", f"{person.n_history} items", person.history, 0, frozenset()),
        _list("published", f"by {person.by}", person.published, 3, frozenset()),
        *(_list(name, "", person.said[name], 3, shown if name != person.by else frozenset()) for name in said),
    ]
    return Fragment(
        '<article class="user"><h3 data-user="{}">{}</h3><div class="scroll" role="region" tabindex="0" '
        'aria-label="lists of one user"><div class="lists">{}</div></div></article>'
    ).format(person.user_id, person.user_id, Fragment("\n").join(columns))


def _list(title: str, about: str, items: Sequence[Item], digits: int, known: frozenset[str]) -> Fragment:
    head = Fragment('<div class="list"><h4>{} <span class="ends">{}</span></h4>').format(title, about)
    if not items:
        return head + Fragment('<p class="empty">does not know the user</p></div>')
    line = Fragment('<li class="{}"><span class="score">{}</span><span class="title">{}</span> <span>{}</span></li>')
    rows = [line.format("too" if i.item_id in known else "", number(i.score, digits), i.title, i.kind) for i in items]
    return head + Fragment("<ol>{}</ol></div>").format(Fragment("\n").join(rows))
