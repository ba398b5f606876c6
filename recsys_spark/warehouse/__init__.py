"""Versioned tables on a shared disk: write aside, check, write a manifest, rename, flip a pointer.

    <root>/<table>[/<key>=<value>]/<version>/…data… + _manifest.json
                                   _current        the pointer: the live version's name
                                   _spare          the same once more, for readers who find `_current` half written

A version is written under a hidden name and renamed when it is whole; its manifest comes last, so a version that can
be seen is whole. Its name ends in a fingerprint of everything it was made from; asking for a version that stands
already returns it, which makes every station idempotent and lets a killed night go on where it stopped.

| file | holds |
|---|---|
| `slot.py` | a place that holds versions: build, find, flip, remove |
| `pointer.py` | which version is live, readable at any moment |
| `contents.py` | a version's files with sizes, rows and checksums, and whether they are still so |
| `locks.py` | who may write, and the lease of a running job |
| `root.py` | all tables of one data set |
| `lineage.py` | what was made from what |
| `expiry.py` | which versions are no longer wanted |
| `fingerprints.py` | a name for everything that a version is made from |
"""

from recsys_spark.warehouse.fingerprints import fingerprint
from recsys_spark.warehouse.locks import ERASING, Busy, exclusive, shared
from recsys_spark.warehouse.pointer import POINTER
from recsys_spark.warehouse.root import Warehouse
from recsys_spark.warehouse.slot import MANIFEST, Slot, Version

__all__ = [
    "ERASING",
    "MANIFEST",
    "POINTER",
    "Busy",
    "Slot",
    "Version",
    "Warehouse",
    "exclusive",
    "fingerprint",
    "shared",
]
