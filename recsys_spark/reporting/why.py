"""One user's lists, and why they differ: which items each has at which rank, and of which kinds they are."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from recsys_spark.reporting.people import Item, Person


def side_by_side(person: Person) -> pd.DataFrame:
    """Return the titles of the newest part of the history, of the published list, and of each model's, by rank."""
    lists = {"history": person.history, f"published, by {person.by}": person.published, **person.said}
    titles = {name: pd.Series([item.title for item in items], dtype=str) for name, items in lists.items()}
    table = pd.DataFrame(titles).fillna("")
    return table.set_axis(range(1, len(table) + 1))


def ranks(person: Person) -> pd.DataFrame:
    """Return one row per item of any list: title, kind, and its rank with each model; best ranks first."""
    places: dict[str, dict[str, object]] = {}
    for model, items in person.said.items():
        for rank, item in enumerate(items, start=1):
            row = places.setdefault(item.item_id, {"title": item.title, "kind": item.kind})
            row[model] = rank
    table = pd.DataFrame(places.values(), columns=["title", "kind", *person.said])
    best = table[[*person.said]].min(axis=1)
    return table.iloc[best.argsort(kind="stable")].reset_index(drop=True).astype(dict.fromkeys(person.said, "Int64"))


def overlap(person: Person) -> pd.DataFrame:
    """Return the share of each model's list (rows) that stands in each other's (columns)."""
    of = {model: {item.item_id for item in items} for model, items in person.said.items() if items}
    return pd.DataFrame({b: {a: len(of[a] & of[b]) / len(of[a]) for a in of} for b in of})


def kinds(person: Person) -> pd.DataFrame:
    """Return the share of each kind of item in the newest part of the history, and in each list."""
    lists = {"history": person.history, **{m: items for m, items in person.said.items() if items}}
    return pd.DataFrame({name: _shares(items) for name, items in lists.items()}).fillna(0.0)


def _shares(items: Sequence[Item]) -> pd.Series:
    return pd.Series([item.kind or "none" for item in items], dtype=str).value_counts(normalize=True)
