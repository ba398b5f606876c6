"""What killed runs have left behind and nothing will go on from; for `expire`, which keeps all jobs out meanwhile.

| what | of | goes |
|---|---|---|
| `.tmp-…` | a version that was not finished | always |
| `.spark-checkpoints/…` | a Spark session that is over | always |
| `checkpoints/NAME/DATE-…` | a training that was not finished | with its date: until then a run may go on from it |
"""

from __future__ import annotations

import os
from pathlib import Path

_UNFINISHED = ".tmp-"


def leftovers(root: Path, oldest: str | None) -> list[Path]:
    """Return the folders that may go.

    Args:
        oldest: first date whose trainings stay, `YYYY-MM-DD`; None = all.
    """
    found = sorted((root / ".spark-checkpoints").glob("*"))
    if oldest is not None:
        found += sorted(
            p for p in (root / "checkpoints").glob("*/*") if p.is_dir() and p.name.lstrip(".")[:10] < oldest
        )
    for folder, inner, _ in os.walk(root):
        found += sorted(Path(folder) / name for name in inner if name.startswith(_UNFINISHED))
        inner[:] = [name for name in inner if not name.startswith(_UNFINISHED)]
    return found
