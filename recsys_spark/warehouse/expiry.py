"""Which versions are no longer wanted: neither live, nor new, nor what one of these was made from.

| version | stays |
|---|---|
| live, in a slot without a date | always |
| one of the newest `versions` of such a slot | yes: the way back |
| of `erasures` | always: who is not to come back |
| of a date that is not older than `days` days | the live one, and the newest `versions` of the slot |
| named by an alias of the registry | always |
| what one that stays was made from, and what that was made from | always, see below |

A version's own table is left out of the last rule: a dictionary names the one before it, and a model may start from
that of the night before; if these counted, no night would ever go.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable

from recsys_spark.warehouse import pointer
from recsys_spark.warehouse.lineage import graph, reach, table_of
from recsys_spark.warehouse.root import Warehouse
from recsys_spark.warehouse.slot import Slot, Version

_DATE = "date="
_FOR_EVER = ("erasures",)


def expired(
    warehouse: Warehouse, versions: int, days: int | None, today: dt.date, named: Iterable[str] = ()
) -> list[tuple[Slot, Version]]:
    """Return what may go, by slot and age.

    Args:
        versions: how many of the newest of a slot stay.
        days: how many days before `today` a date stays; None = every date stays.
        named: versions that stay whatever their date, by `Warehouse.id_of`.
    """
    slots = warehouse.slots()
    held = {slot: slot.versions() for slot in slots}
    staying = {warehouse.id_of(v) for slot in slots for v in _own(slot, held[slot], versions, days, today)}
    edges = {
        child: [p for p in parents if table_of(p) != table_of(child)] for child, parents in graph(warehouse).items()
    }
    kept = reach({*staying, *named}, edges)
    return [(slot, v) for slot in slots for v in held[slot] if warehouse.id_of(v) not in kept]


def _own(slot: Slot, found: list[Version], versions: int, days: int | None, today: dt.date) -> list[Version]:
    """Return the versions of a slot that stay by themselves."""
    if slot.path.name in _FOR_EVER:
        return found
    dated = slot.path.name.startswith(_DATE)
    if dated and days is not None and slot.path.name.removeprefix(_DATE) < str(today - dt.timedelta(days=days)):
        return []
    live = pointer.read(slot.path)
    return [v for v in found if v.name == live or v in found[-versions:]]
