"""Going back to an older version of a table, with the tables that are live together with it."""

from __future__ import annotations

from recsys_spark.dataset.build import FEEDS
from recsys_spark.errors import ConfigError, DataError
from recsys_spark.schemas import BOTS, EVENTS, HISTORIES, INTERACTIONS, ITEM_IDS, QUARANTINE, USER_IDS
from recsys_spark.warehouse import Slot, Version, Warehouse, pointer
from recsys_spark.warehouse.contents import require_intact

_FEEDS = tuple(f"feeds/{kind}" for kind in FEEDS)
_TOGETHER = (
    (INTERACTIONS.name, HISTORIES.name, *_FEEDS),
    (EVENTS.name, QUARANTINE.name, BOTS.name),
)
"""Tables whose versions bear one name and are live together."""
_FORWARD = {
    USER_IDS.name: "an id that was given stays given",
    ITEM_IDS.name: "an id that was given stays given",
    "erasures": "who was erased stays erased",
}
"""Tables that do not go back, and why."""


def roll_back(warehouse: Warehouse, slot: Slot, target: str | None) -> tuple[str | None, list[str]]:
    """Make an older version the live one, once every file of it has been held against its manifest.

    The tables of a data set go back together, and so do those of a batch of the log: half a data set is none.

    Args:
        target: name of the version; None = the one before the live one.

    Returns:
        The version that was live, and those that are now.

    Raises:
        ConfigError: a table that only goes forward.
        DataError: no such version, or it is damaged; nothing has changed.
    """
    name = warehouse.id_of(slot.path)
    table, _, key = name.rpartition("/") if "=" in name else (name, "", "")
    if table in _FORWARD:
        raise ConfigError(f"{table} is not rolled back: {_FORWARD[table]}")
    left = pointer.read(slot.path)
    wanted = target or _before(warehouse, slot, left)
    if slot.version(wanted) is None:
        raise DataError(f"{name}: has no version {wanted}; `list --table {name}` shows what there is")
    flips: list[tuple[Slot, Version]] = []
    retired: list[Slot] = []
    for other in next((group for group in _TOGETHER if table in group), (table,)):
        place = Slot(warehouse.root.absolute() / other / key)
        version = place.version(wanted)
        if version is not None:
            require_intact(version.path, "choose another --version")
            flips.append((place, version))
        elif other in _FEEDS:  # a data set need not have every kind
            retired.append(place)
        else:
            raise DataError(f"{other}/{key}: has no version {wanted}, which {table} is live together with; run the job")
    for place in retired:
        place.retire()
    for place, version in flips:
        place.flip(version)
    return left, [warehouse.id_of(version) for _, version in flips]


def _before(warehouse: Warehouse, slot: Slot, live: str | None) -> str:
    names = [v.name for v in slot.versions()]
    older = names[: names.index(live)] if live in names else names
    if not older:
        raise DataError(f"{warehouse.id_of(slot.path)}: has no version before {live}; there is nothing to go back to")
    return older[-1]
