"""What was made from what: every version's manifest names its parents."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping

from recsys_spark.warehouse.root import PARENTS, Warehouse

Graph = dict[str, list[str]]
"""Parents of every version, both by `Warehouse.id_of`."""


def graph(warehouse: Warehouse) -> Graph:
    """Read the parents of every version that stands."""
    return {warehouse.id_of(v): v.manifest.get(PARENTS, []) for slot in warehouse.slots() for v in slot.versions()}


def children(made_from: Mapping[str, list[str]]) -> Graph:
    """Turn a graph around: by version, what was made from it.

    >>> children({"c": ["a", "b"], "b": ["a"]})
    {'a': ['b', 'c'], 'b': ['c']}
    """
    found: dict[str, list[str]] = defaultdict(list)
    for child in sorted(made_from):
        for parent in made_from[child]:
            found[parent].append(child)
    return dict(sorted(found.items()))


def reach(start: Iterable[str], edges: Mapping[str, list[str]]) -> set[str]:
    """Return `start` and all that is reached from there.

    >>> sorted(reach(["c"], {"c": ["b"], "b": ["a"], "d": ["a"]}))
    ['a', 'b', 'c']
    """
    found: set[str] = set()
    waiting = list(start)
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += edges.get(name, [])
    return found


def table_of(name: str) -> str:
    """Return the table of a version that `Warehouse.id_of` has named.

    >>> table_of("feeds/pairs/date=2026-01-05/2026-01-05-abc"), table_of("user_ids/v000001")
    ('feeds/pairs', 'user_ids')
    """
    return "/".join(part for part in name.split("/")[:-1] if "=" not in part)
