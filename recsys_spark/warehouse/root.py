"""All tables of one data set: their slots, and how versions are called across them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from recsys_spark.warehouse import pointer
from recsys_spark.warehouse.contents import MANIFEST
from recsys_spark.warehouse.slot import Slot, Version

_NO_TABLES = ("champions", "checkpoints", "tuned")
"""Folders of the warehouse that hold no versions of its own."""
PARENTS = "parents"
"""The manifest's entry that names the versions it was made from."""


@dataclass(frozen=True)
class Warehouse:
    """All tables of one data set."""

    root: Path

    def slot(self, table: str, **key: object) -> Slot:
        """Return the slot of a table, or of one partition: `slot("events", batch="2026-01-01")`."""
        return Slot(self.root.absolute() / table / "/".join(f"{k}={v}" for k, v in key.items()))

    def keys(self, table: str, key: str) -> list[str]:
        """Return the values of a table's key that have a live version, sorted."""
        found = (p for p in (self.root / table).glob(f"{key}=*") if pointer.read(p) is not None)
        return sorted(p.name.removeprefix(f"{key}=") for p in found)

    def slots(self) -> list[Slot]:
        """Return every slot that there is, sorted by path."""
        root, found = self.root.absolute(), set()
        for folder, inner, names in os.walk(root):
            path = Path(folder)
            if MANIFEST in names:
                found.add(path.parent)
                inner.clear()
                continue
            if pointer.POINTER in names:
                found.add(path)
            top = _NO_TABLES if path == root else ()
            inner[:] = [name for name in inner if not name.startswith(".") and name not in top]
        return [Slot(path) for path in sorted(found)]

    def id_of(self, version: Version | Path) -> str:
        """Name a version across the warehouse: `events/batch=2026-01-01/2026-01-01-0a1b2c3d4e5f`."""
        path = version.path if isinstance(version, Version) else version
        return path.absolute().relative_to(self.root.absolute()).as_posix()

    def find(self, name: str) -> Version | None:
        """Return the version that `id_of` calls so, or None where it is gone."""
        table, _, version = name.rpartition("/")
        return Slot(self.root.absolute() / table).version(version)

    def parents(self, *made_from: Version | Path | None) -> dict[str, list[str]]:
        """Return the manifest's entry about what a version was made from; what is no version here is left out."""
        root = self.root.absolute()
        paths = {v.path.absolute() if isinstance(v, Version) else v.absolute() for v in made_from if v is not None}
        return {PARENTS: sorted(self.id_of(p) for p in paths if root in p.parents and (p / MANIFEST).exists())}
